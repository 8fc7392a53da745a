"""Differences, their correction, and what is said about them."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from lab.base.errors import UserError
from lab.evidence.differences import (
    Difference,
    coverage,
    document_difference,
    hierarchical_difference,
    holm,
    noise_floor,
    verdict,
)
from lab.evidence.interval import document_interval


def named(values) -> dict[str, float]:
    return {f"document {index:02d}": float(value) for index, value in enumerate(values)}


def slow_bootstrap_t(sample: np.ndarray, resamples: int, seed: int) -> tuple[float, float]:
    """Efron and Tibshirani's algorithm in loops: one resample at a time."""
    draw = np.random.default_rng(seed)
    chosen = draw.integers(0, len(sample), (resamples, len(sample)))
    error = np.std(sample, ddof=1) / np.sqrt(len(sample))
    found = []
    for indices in chosen:
        resample = [sample[index] for index in indices]
        if len(set(resample)) > 1:
            spread = np.std(resample, ddof=1) / np.sqrt(len(resample))
            found.append((np.mean(resample) - np.mean(sample)) / spread)
    return (
        np.mean(sample) - np.quantile(found, 0.975) * error,
        np.mean(sample) - np.quantile(found, 0.025) * error,
    )


def test_the_interval_of_a_difference_is_that_of_the_paired_documents():
    draw = np.random.default_rng(3)
    variant, reference = draw.normal(3, 1, 12), draw.normal(2.5, 1, 12)
    found = document_difference(named(variant), named(reference), resamples=400)
    low, high = slow_bootstrap_t(variant - reference, 400, seed=0)
    assert (found.low, found.high) == pytest.approx((low, high), abs=1e-12)
    assert found.mean == pytest.approx(np.mean(variant - reference))
    assert found.documents == 12


def test_the_order_in_which_documents_are_given_does_not_matter():
    draw = np.random.default_rng(4)
    variant, reference = named(draw.normal(size=9)), named(draw.normal(size=9))
    backwards = dict(reversed(variant.items()))
    assert document_difference(variant, reference) == document_difference(backwards, reference)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(-40, 40), min_size=5, max_size=20, unique=True), st.integers(-3, 3))
def test_swapping_the_variants_mirrors_the_interval_and_a_shift_of_both_changes_nothing(values, shift):
    zero = named([0.0] * len(values))
    one = document_difference(named(values), zero, resamples=300)
    other = document_difference(zero, named(values), resamples=300)
    assert (other.low, other.high) == pytest.approx((-one.high, -one.low), abs=1e-9)
    assert other.p_value == pytest.approx(one.p_value)
    moved = document_difference(named([value + shift for value in values]), named([shift] * len(values)), resamples=300)
    assert (moved.low, moved.high) == pytest.approx((one.low, one.high), abs=1e-4)


def test_the_p_value_is_below_one_in_twenty_exactly_where_the_interval_leaves_out_zero():
    draw = np.random.default_rng(5)
    agreed = 0
    for _ in range(200):
        interval = document_interval(list(draw.normal(0.4, 1, 15)), resamples=2000)
        outside = interval.low > 0 or interval.high < 0
        near = 0.045 < interval.p_value < 0.055  # a resample or two decide
        agreed += near or (interval.p_value < 0.05) == outside
    assert agreed == 200


def test_documents_that_only_one_variant_was_scored_on_are_refused_by_name():
    with pytest.raises(UserError, match="document 03 was scored for one of two variants only"):
        document_difference(named(range(4)), named(range(3)))


def test_too_few_documents_have_a_mean_and_no_interval():
    found = document_difference(named([1.0, 2.0, 3.0]), named([0.0, 0.0, 0.0]))
    assert found.mean == 2.0
    assert np.isnan([found.low, found.high, found.p_value]).all()


# Coverage.


@pytest.mark.parametrize("documents", [40, 66, 100])
def test_the_interval_covers_the_truth_in_93_to_97_percent_of_samples_from_40_documents_on(documents):
    assert 0.93 <= coverage(documents, samples=1000, resamples=500) <= 0.97


def test_the_told_coverage_is_that_of_the_interval_itself():
    draw = np.random.default_rng(11)
    covered = 0
    for _ in range(400):
        interval = document_interval(list(draw.standard_exponential(11)), resamples=1000)
        covered += interval.low <= 1 <= interval.high
    assert coverage(11) == pytest.approx(covered / 400, abs=0.035)


@pytest.mark.parametrize(
    ("seed", "document", "rest", "skewed", "least", "most"),
    [
        (1.0, 0.2, 0.2, False, 0.93, 0.97),
        (0.1, 1.0, 0.2, False, 0.93, 0.97),
        (0.3, 1.0, 1.0, False, 0.93, 0.97),
        (0.02, 0.05, 1.0, False, 0.95, 0.995),
        (0.1, 1.0, 0.2, True, 0.91, 0.97),
        (1.0, 0.2, 0.2, True, 0.85, 0.97),
    ],
)
def test_the_hierarchical_interval_covers_as_its_docstring_says(seed, document, rest, skewed, least, most):
    draw = np.random.default_rng(12)

    def effect(size, *shape):
        return size * (draw.standard_exponential(shape) - 1 if skewed else draw.standard_normal(shape))

    covered = 0
    for _ in range(1500):
        table = effect(seed, 5, 1) + effect(document, 1, 40) + effect(rest, 5, 40)
        found = hierarchical_difference(table, np.zeros_like(table))
        covered += found.low <= 0 <= found.high
    assert least <= covered / 1500 <= most


def test_seeds_that_differ_widen_the_hierarchical_interval():
    draw = np.random.default_rng(13)
    rest = draw.normal(0, 0.1, (5, 40))
    steady = hierarchical_difference(rest + 1, np.zeros((5, 40)))
    shaken = hierarchical_difference(rest + 1 + draw.normal(0, 0.5, (5, 1)), np.zeros((5, 40)))
    assert (shaken.high - shaken.low) > 5 * (steady.high - steady.low)
    assert (steady.seeds, steady.documents) == (5, 40)


def test_the_two_way_variance_is_that_of_the_mean_squares():
    draw = np.random.default_rng(14)
    table = draw.normal(size=(6, 1)) + draw.normal(size=(1, 9)) + 0.3 * draw.normal(size=(6, 9))
    by_seed = 9 * np.var([np.mean(table[s]) for s in range(6)], ddof=1)
    by_document = 6 * np.var([np.mean(table[:, d]) for d in range(9)], ddof=1)
    squares = sum(
        (table[s, d] - np.mean(table[s]) - np.mean(table[:, d]) + np.mean(table)) ** 2
        for s in range(6)
        for d in range(9)
    )
    variance = (by_seed + by_document - squares / 40) / 54
    found = hierarchical_difference(table, np.zeros((6, 9)))
    parts = [by_seed / 54, by_document / 54, squares / 40 / 54]
    freedom = variance**2 / sum(part**2 / own for part, own in zip(parts, [5, 8, 40], strict=True))
    half = stats.t.ppf(0.975, freedom) * np.sqrt(variance)
    assert (found.low, found.high) == pytest.approx((np.mean(table) - half, np.mean(table) + half))
    assert found.p_value == pytest.approx(2 * stats.t.sf(abs(np.mean(table)) / np.sqrt(variance), freedom))


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(2, 7), st.integers(2, 12))
def test_swapping_mirrors_the_hierarchical_interval_and_orders_and_shifts_change_nothing(seed, seeds, documents):
    draw = np.random.default_rng(seed)
    one, other = draw.normal(size=(2, seeds, documents))
    found, mirrored = hierarchical_difference(one, other), hierarchical_difference(other, one)
    assert (mirrored.low, mirrored.high) == pytest.approx((-found.high, -found.low), abs=1e-9)
    assert mirrored.p_value == pytest.approx(found.p_value)
    order = np.ix_(draw.permutation(seeds), draw.permutation(documents))
    for same in (hierarchical_difference(one[order], other[order]), hierarchical_difference(one + 3, other + 3)):
        assert (same.low, same.high, same.p_value) == pytest.approx((found.low, found.high, found.p_value), abs=1e-9)


def test_few_documents_and_much_rest_do_not_make_the_hierarchical_interval_hold_everything():
    draw = np.random.default_rng(16)
    for table in draw.normal(size=(500, 5, 4)):
        found = hierarchical_difference(table, np.zeros_like(table))
        assert found.high - found.low < 2 * stats.t.ppf(0.975, 3) * table.std(ddof=1)


# What is said.


def test_holm_is_his_worked_example():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.5, 0.9]) == pytest.approx([1.0, 1.0])
    assert holm([]) == []


def test_what_cannot_be_told_does_not_count_in_the_family():
    corrected = holm([0.02, float("nan"), 0.03])
    assert np.isnan(corrected[1])
    assert [corrected[0], corrected[2]] == pytest.approx([0.04, 0.04])


def test_verdicts():
    better = Difference(-1.2, -1.31, -1.1, 0.001, 11)
    assert verdict(better, 0.002, "alibi", "rope") == "alibi is better than rope by 1.200 nats (1.100 to 1.310)"
    worse = Difference(0.5, 0.4, 0.6, 0.001, 11)
    assert verdict(worse, 0.002, "nope", "rope") == "nope is worse than rope by 0.500 nats (0.400 to 0.600)"
    assert verdict(worse, 0.06, "nope", "rope") == "nope and rope: no difference larger than 0.600 nats"
    small = Difference(0.001, -0.003, 0.002, 0.5, 11)
    assert verdict(small, 1.0, "a", "b") == "a and b: no difference larger than 0.003 nats"
    unknown = Difference(1.0, float("nan"), float("nan"), float("nan"), 3)
    assert verdict(unknown, float("nan"), "a", "b") == "a and b: too few documents to tell (3)"


def test_fewer_than_four_documents_tell_nothing_however_equal_they_are_and_however_many_the_seeds():
    equal = document_difference(named([1.0, 2.0]), named([2.0, 3.0]))
    draw = np.random.default_rng(15)
    seeded = hierarchical_difference(draw.normal(-5, 0.1, (5, 3)), draw.normal(0, 0.1, (5, 3)))
    for difference in (equal, seeded):
        assert difference.p_value <= 0.5
        assert "too few documents to tell" in verdict(difference, difference.p_value, "a", "b")


def test_equal_documents_are_told_as_equal_and_bound_no_difference():
    nobody_found_a_key = document_difference(named([1.0] * 8), named([1.0] * 8))
    told = verdict(nobody_found_a_key, 1.0, "a", "b", "of the keys")
    assert told == "a and b: equal in each of 8 documents"


@pytest.mark.parametrize(("count", "better"), [(4, False), (8, True)])
def test_the_same_difference_everywhere_is_as_sure_as_a_sign_test(count, better):
    all_and_none = document_difference(named([0.0] * count), named([1.0] * count))
    assert all_and_none.p_value == pytest.approx(2 * 0.5**count)
    assert ("is better" in verdict(all_and_none, all_and_none.p_value, "a", "b")) == better


def test_an_interval_that_holds_zero_is_no_verdict_whatever_the_p_value():
    difference = Difference(-0.01, -0.03, 0.0005, 0.049, 20)
    assert "no difference larger than 0.030" in verdict(difference, 0.049, "a", "b")


def test_the_noise_floor_is_over_pairs_of_seeds():
    floor = noise_floor(np.array([[1.0, 3.0], [2.0, 4.0], [5.0, 7.0]]))  # means 2, 3, 6
    assert (floor.largest, floor.mean) == pytest.approx((4.0, (1 + 4 + 3) / 3))
    assert floor.deviation == pytest.approx(np.std([2, 3, 6], ddof=1))
    assert np.isnan(noise_floor(np.ones((1, 4))).largest)
