"""The area under the ROC curve within strata, and its jackknife."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from lab.gradients.concordance import concordance

numbers = st.integers(0, 4).map(float)  # few values: many are equal


@st.composite
def tables(draw):
    people, strata = draw(st.integers(2, 8)), draw(st.integers(1, 3))

    def table(values):
        row = st.lists(values, min_size=strata, max_size=strata)
        return np.array(draw(st.lists(row, min_size=people, max_size=people)))

    return table(numbers), table(st.booleans()), table(st.booleans())


def slow(scores, right, known, left_out=None):
    """(share, pairs) by loops over pairs."""
    won = pairs = 0.0
    for stratum in range(scores.shape[1]):
        for one in range(len(scores)):
            for other in range(len(scores)):
                if left_out in (one, other) or not (known[one, stratum] and known[other, stratum]):
                    continue
                if right[one, stratum] and not right[other, stratum]:
                    pairs += 1
                    difference = scores[one, stratum] - scores[other, stratum]
                    won += 1.0 if difference > 0 else 0.5 if difference == 0 else 0.0
    return (won / pairs if pairs else float("nan")), pairs


@given(tables())
def test_it_is_the_share_of_pairs_within_strata_and_its_pseudo_values_leave_one_out(table):
    scores, right, known = table
    found = concordance(scores, right, known)
    share, pairs = slow(scores, right, known)
    assert found.pairs == pairs
    assert found.share == pytest.approx(share, nan_ok=True)
    people = len(scores)
    for person in range(people):
        without, _ = slow(scores, right, known, person)
        assert found.pseudo[person] == pytest.approx(people * share - (people - 1) * without, nan_ok=True)


@given(st.lists(st.tuples(numbers, st.booleans()), min_size=2, max_size=30))
def test_in_one_stratum_it_is_the_area_under_the_roc_curve(people):
    scores, right = (np.array(each)[:, None] for each in zip(*people, strict=True))
    found = concordance(scores, right, np.ones_like(right))
    if found.pairs:
        assert found.share == pytest.approx(roc_auc_score(right[:, 0], scores[:, 0]))
    else:
        assert right.all() or not right.any()


def test_what_differs_between_strata_alone_tells_nothing():
    """One attribute is answered by all and scored high, the other by none and scored low."""
    scores = np.column_stack((np.full(50, 1.0), np.zeros(50)))
    right = np.column_stack((np.ones(50, bool), np.zeros(50, bool)))
    assert concordance(scores, right, np.ones_like(right)).pairs == 0
    right[0, 0] = False
    assert concordance(scores, right, np.ones_like(right)).share == 0.5


def test_the_spread_of_pseudo_values_is_that_of_the_area_over_draws_of_people():
    draw = np.random.default_rng(0)
    shares, errors = [], []
    for _ in range(300):
        right = draw.random((60, 2)) < 0.4
        scores = draw.normal(size=(60, 2)) + right
        found = concordance(scores, right, np.ones_like(right))
        shares.append(found.share)
        errors.append(found.pseudo.std(ddof=1) / np.sqrt(60))
        assert found.pseudo.mean() == pytest.approx(found.share, abs=0.02)
    assert np.mean(errors) == pytest.approx(np.std(shares), rel=0.1)
