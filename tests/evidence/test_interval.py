"""The interval over seeds and clusters of documents: how often it holds the truth, and when it cannot know."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from lab.evidence.interval import COVERED, FEWEST_CLUSTERS, FEWEST_SEEDS, mean_interval, widening

# Documents of each author in the test split of sotu, and sets in which every document is a cluster of its own.
SOTU = (4, 1, 3, 4, 4, 2, 4, 3, 3, 7, 4, 3)
DESIGNS = [(5, SOTU), (1, SOTU), (5, (1,) * 12), (1, (1,) * 12), (5, (1,) * 6), (8, (2,) * 20)]


def drawn(draw: np.random.Generator, kind: str, shape: tuple[int, ...]) -> np.ndarray:
    """Of mean 0 and variance 1."""
    if kind == "normal":
        return draw.normal(size=shape)
    if kind == "heavy":
        return draw.standard_t(3, shape) / math.sqrt(3)
    return draw.exponential(size=shape) - 1


def a_table(draw: np.random.Generator, kind: str, share: float, of_seeds: float, seeds: int, documents) -> np.ndarray:
    """Means of clusters [seeds, clusters] as a study would see them; the true mean is 0. A document at a time."""
    seed_effects = math.sqrt(of_seeds) * drawn(draw, kind, (seeds,))
    table = np.empty((seeds, len(documents)))
    for cluster, count in enumerate(documents):
        author = math.sqrt(share) * drawn(draw, kind, ())
        own = math.sqrt(1 - share) * drawn(draw, kind, (count,))
        for seed in range(seeds):
            table[seed, cluster] = np.mean(author + own) + seed_effects[seed] + 0.5 * drawn(draw, kind, ())
    return table


@pytest.mark.parametrize("kind", ["normal", "heavy", "skewed"])
@pytest.mark.parametrize(("share", "of_seeds"), [(0.0, 0.5), (0.5, 0.0), (0.25, 4.0), (0.5, 1.0)])
def test_the_interval_covers_93_percent_of_samples_of_the_pilots_design(kind, share, of_seeds):
    draw = np.random.default_rng(7)
    held = 0
    for _ in range(1500):
        found = mean_interval(a_table(draw, kind, share, of_seeds, 5, SOTU), SOTU)
        held += found.low <= 0 <= found.high
    assert held / 1500 >= COVERED - 0.013  # two standard errors of a share of 1500


@pytest.mark.parametrize("kind", ["normal", "heavy", "skewed"])
def test_the_interval_at_fixed_seeds_covers_the_mean_over_clusters_of_these_runs(kind):
    draw = np.random.default_rng(8)
    held = 0
    for _ in range(1500):
        table = a_table(draw, kind, 0.25, 0.0, 1, SOTU)
        found = mean_interval(table, SOTU, over_seeds=False)
        held += found.low <= 0 <= found.high
    assert held / 1500 >= COVERED - 0.013


@pytest.mark.parametrize(("seeds", "documents"), DESIGNS)
def test_the_told_widening_covers_and_is_no_wider_than_that_needs(seeds, documents):
    factor, coverage = widening(seeds, documents)
    assert 1 <= factor < 1.7
    assert coverage >= COVERED
    assert factor == 1 or coverage < COVERED + 0.005


def slow_interval(table: np.ndarray) -> tuple[float, float, float]:
    """Half-width without widening, standard error and freedom of the two-way layout, in loops."""
    seeds, clusters = table.shape
    mean = np.mean(table)
    of_seeds = clusters * np.var([np.mean(table[s]) for s in range(seeds)], ddof=1)
    of_clusters = seeds * np.var([np.mean(table[:, c]) for c in range(clusters)], ddof=1)
    squares = sum(
        (table[s, c] - np.mean(table[s]) - np.mean(table[:, c]) + mean) ** 2
        for s in range(seeds)
        for c in range(clusters)
    )
    rest = squares / (seeds - 1) / (clusters - 1)
    variance = max(of_seeds + of_clusters - rest, of_seeds, of_clusters) / table.size
    parts = [each / table.size for each in (of_seeds, of_clusters, rest)]
    freedoms = [seeds - 1, clusters - 1, (seeds - 1) * (clusters - 1)]
    freedom = variance**2 / sum(part**2 / own for part, own in zip(parts, freedoms, strict=True))
    freedom = max(freedom, *[min(freedoms)] * 2)
    return stats.t.ppf(0.975, freedom) * np.sqrt(variance), np.sqrt(variance), freedom


@pytest.mark.parametrize("rest", [0.1, 1.0, 5.0])
def test_the_interval_is_that_of_the_mean_squares_widened(rest):
    draw = np.random.default_rng(14)
    table = 2 + draw.normal(size=(6, 1)) + draw.normal(size=(1, 9)) + rest * draw.normal(size=(6, 9))
    found = mean_interval(table, [1] * 9)
    half, error, freedom = slow_interval(table)
    factor = widening(6, (1,) * 9).factor
    assert (found.low, found.high) == pytest.approx((np.mean(table) - factor * half, np.mean(table) + factor * half))
    assert found.p_value == pytest.approx(2 * stats.t.sf(abs(np.mean(table)) / error / factor, freedom))
    assert (found.seeds, found.clusters, found.over_seeds) == (6, 9, True)


def test_at_fixed_seeds_it_is_students_over_the_clusters_means():
    draw = np.random.default_rng(15)
    table = draw.normal(1, 1, (3, 9))
    found = mean_interval(table, [2] * 9)
    means = table.mean(axis=0)
    half = widening(1, (2,) * 9).factor * stats.t.ppf(0.975, 8) * means.std(ddof=1) / 3
    assert (found.low, found.high) == pytest.approx((means.mean() - half, means.mean() + half))
    assert not found.over_seeds


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 7), st.integers(6, 12), st.floats(-3, 3), st.floats(0.1, 10))
def test_shift_scale_sign_and_order_carry_over(seed, seeds, clusters, shift, scale):
    draw = np.random.default_rng(seed)
    table = draw.normal(size=(seeds, clusters))
    found = mean_interval(table, [1] * clusters)
    moved = mean_interval(table * scale + shift, [1] * clusters)
    assert (moved.low, moved.high) == pytest.approx((found.low * scale + shift, found.high * scale + shift), abs=1e-9)
    mirrored = mean_interval(-table, [1] * clusters)
    assert (mirrored.low, mirrored.high, mirrored.p_value) == pytest.approx((-found.high, -found.low, found.p_value))
    ordered = mean_interval(table[np.ix_(draw.permutation(seeds), draw.permutation(clusters))], [1] * clusters)
    assert (ordered.low, ordered.high) == pytest.approx((found.low, found.high))
    assert (found.p_value < 0.05) == (found.low > 0 or found.high < 0)


def test_seeds_that_differ_widen_the_interval_over_seeds_and_not_that_at_fixed_seeds():
    draw = np.random.default_rng(13)
    rest = draw.normal(0, 0.1, (5, 40))
    shaken = rest + draw.normal(0, 0.5, (5, 1))
    over = [mean_interval(each, [1] * 40) for each in (rest, shaken)]
    fixed = [mean_interval(each, [1] * 40, over_seeds=False) for each in (rest, shaken)]
    assert (over[1].high - over[1].low) > 5 * (over[0].high - over[0].low)
    assert (fixed[1].high - fixed[1].low) == pytest.approx(fixed[0].high - fixed[0].low)


@pytest.mark.parametrize("clusters", range(1, FEWEST_CLUSTERS))
def test_fewer_than_six_clusters_have_a_mean_and_no_interval_however_many_the_seeds(clusters):
    found = mean_interval(np.arange(8 * clusters, dtype=float).reshape(8, clusters), [3] * clusters)
    assert found.mean == (8 * clusters - 1) / 2
    assert np.isnan([found.low, found.high, found.p_value]).all()
    assert not found.known


def test_fewer_than_five_seeds_are_held_fixed_and_have_no_interval_over_seeds():
    table = np.random.default_rng(1).normal(size=(FEWEST_SEEDS - 1, 9))
    assert mean_interval(table, [1] * 9).known
    assert not mean_interval(table, [1] * 9).over_seeds
    assert not mean_interval(table, [1] * 9, over_seeds=True).known


@pytest.mark.parametrize("seeds", [1, 5])
def test_equal_clusters_have_an_interval_of_no_width_and_the_p_value_of_a_sign_test(seeds):
    found = mean_interval(np.full((seeds, 11), 0.1), [1] * 11)
    assert found.low == found.high == found.mean == pytest.approx(0.1)
    assert found.p_value == 2 * 0.5**11
    assert mean_interval(np.zeros((seeds, 11)), [1] * 11).p_value == 1


@pytest.mark.parametrize("loss", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_leaves_no_interval(loss):
    found = mean_interval(np.array([[1.0, 2.0, 3.0, 4.0, 5.0, 6.0, loss]]), [1] * 7)
    assert not math.isfinite(found.mean)
    assert not found.known
