from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lab.base.errors import UserError
from lab.data.stream.weights import furthest_behind, whole_weights

WEIGHTS = st.lists(st.decimals("0.0001", "1000000", places=4).map(float), min_size=2, max_size=6)
LENGTHS = st.lists(st.integers(1, 10_000), min_size=1, max_size=200)


@given(weights=WEIGHTS, lengths=LENGTHS)
def test_after_every_document_two_subsets_differ_by_less_than_one_document(weights, lengths):
    names = [str(index) for index in range(len(weights))]
    shares = whole_weights(names, dict(zip(names, weights, strict=True)))
    tokens, last = [0] * len(shares), [0] * len(shares)
    for length in lengths:
        subset = furthest_behind(tokens, shares)
        tokens[subset] += length
        last[subset] = length
        done = [Fraction(taken, share) for taken, share in zip(tokens, shares, strict=True)]
        for ahead in range(len(shares)):
            assert done[ahead] - min(done) <= Fraction(last[ahead], shares[ahead])


@given(weights=WEIGHTS)
def test_whole_weights_keep_the_ratios_of_the_decimal_numbers_exactly(weights):
    names = [str(index) for index in range(len(weights))]
    shares = whole_weights(names, dict(zip(names, weights, strict=True)))
    assert all(isinstance(share, int) and share > 0 for share in shares)
    for weight, share in zip(weights, shares, strict=True):
        assert Fraction(str(weight)) * shares[0] == Fraction(str(weights[0])) * share


def test_a_tenth_is_a_tenth_and_not_the_nearest_binary_fraction():
    assert whole_weights(["a", "b", "c"], {"a": 0.1, "b": 0.2, "c": 0.7}) == (1, 2, 7)
    assert whole_weights(["a", "b"], {"a": 1e-3, "b": 1}) == (1, 1000)


def test_weights_follow_the_order_of_the_subsets_and_not_of_the_mapping():
    assert whole_weights(["a", "b"], {"b": 3, "a": 1}) == (1, 3)


def test_the_first_of_equals_is_taken():
    assert furthest_behind((0, 0, 0), (1, 5, 9)) == 0
    assert furthest_behind((7, 6, 3), (2, 2, 1)) == 1
    assert furthest_behind((9, 6, 3), (3, 2, 1)) == 0


def test_shares_beyond_the_precision_of_floats_are_compared_exactly():
    assert furthest_behind((2**60 + 1, 2**60), (1, 1)) == 1
    assert furthest_behind((3 * 10**18 + 1, 10**18), (3, 1)) == 1


def test_one_subset_needs_no_weights():
    assert whole_weights([""], None) == (1,)
    assert whole_weights(["a"], None) == (1,)


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        (None, r"weights is missing: give each of a, b a share"),
        ({"a": 1}, r"weights\.b is missing"),
        ({"a": 1, "b": 1, "c": 1}, r"weights\.c: the corpus has no such subset; it has a, b"),
        ({"a": 1, "b": 0}, r"weights\.b is 0: give a number above 0"),
        ({"a": -0.5, "b": 1}, r"weights\.a is -0\.5: give a number above 0"),
        ({"a": 1, "b": float("nan")}, r"weights\.b is nan: give a number above 0"),
        ({"a": 1, "b": float("inf")}, r"weights\.b is inf: give a number above 0"),
        ({"a": 1, "b": None}, r"weights\.b is None: give a number above 0"),
        ({"a": 1, "b": "much"}, r"weights\.b is much: give a number above 0"),
        ({"a": 1, "b": "1/0"}, r"weights\.b is 1/0: give a number above 0"),
    ],
)
def test_weights_that_make_no_mixture_are_refused_by_name(weights, message):
    with pytest.raises(UserError, match=message):
        whole_weights(["a", "b"], weights)


def test_weights_for_a_corpus_without_subsets_are_refused():
    with pytest.raises(UserError, match=r"weights is given, but the corpus has no subsets; leave it out"):
        whole_weights([""], {"web": 1})


def test_all_that_is_wrong_with_weights_is_told_at_once():
    with pytest.raises(UserError) as error:
        whole_weights(["books", "web"], {"webb": 1, "web": 0})
    assert str(error.value).splitlines() == [
        "weights.webb: the corpus has no such subset; it has books, web",
        "weights.books is missing: give the subset a share, or leave out its files",
        "weights.web is 0: give a number above 0, or leave out its files",
    ]
