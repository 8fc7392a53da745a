"""What Position Interpolation says of attention scores (Chen et al. 2023, arXiv 2306.15595, theorem 2.1), in numbers.

A score at distance s is a(s) = Re sum_j h_j e^(i s theta_j), theta_j = c^(-2j/d), over the d/2 pairs of a head.
"""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lab.extension.rope_rules import plain_frequencies

BASE = 10_000.0


def score(h: np.ndarray, distances: np.ndarray, dims: int) -> np.ndarray:
    return (h[None] * np.exp(1j * np.outer(distances, plain_frequencies(BASE, dims)))).real.sum(1)


def bound(h: np.ndarray, dims: int, after: np.ndarray, before: np.ndarray) -> np.ndarray:
    """max|h_j| (s - s1)(s2 - s) / (2 (1 - c^(-4/d))): |a''| is at most max|h_j| times the sum of theta_j^2."""
    return np.abs(h).max() * after * before / (2 * (1 - BASE ** (-4 / dims)))


def published(h: np.ndarray, dims: int, after: np.ndarray, before: np.ndarray) -> np.ndarray:
    """d max|h_j| (s - s1)(s2 - s) / (8 ln c): the same with 1 - c^(-4/d) = 4 ln(c) / d, which is so of large d."""
    return dims * np.abs(h).max() * after * before / (8 * math.log(BASE))


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from([8, 64, 128]), st.integers(0, 100_000))
def test_between_whole_distances_a_score_is_no_farther_from_the_straight_line_than_the_bound(
    seed: int, dims: int, first: int
) -> None:
    random = np.random.default_rng(seed)
    h = random.normal(size=dims // 2) + 1j * random.normal(size=dims // 2)
    part = np.linspace(0, 1, 21)
    low, high = score(h, np.array([first, first + 1]), dims)
    deviation = np.abs(score(h, first + part, dims) - ((1 - part) * low + part * high))
    assert (deviation <= bound(h, dims, part, 1 - part) + 1e-9).all()


def test_the_published_constant_is_that_of_large_heads_and_too_small_by_a_sixth_at_128_dimensions() -> None:
    half, h = np.array([0.5]), np.ones(64)
    assert float(published(h, 128, half, half)[0]) == pytest.approx(128 / 294.73, rel=1e-4)
    assert float(bound(h, 128, half, half)[0] / published(h, 128, half, half)[0]) == pytest.approx(1.15, abs=0.01)
    assert float(bound(h, 4_096, half, half)[0] / published(h, 4_096, half, half)[0]) == pytest.approx(1, abs=0.01)
    # Scores that are as large as they can be go beyond it, though hardly.
    low, middle, high = score(h, np.array([0.0, 0.5, 1.0]), 128)
    assert 1 < (middle - (low + high) / 2) / float(published(h, 128, half, half)[0]) < 1.15


def partial_sums(distance: float, dims: int) -> float:
    """sum_k |A_k(s)|, A_k being the sum of the first k of the e^(i s theta_j): of RoFormer's bound of any score,
    2 max|h| times as much."""
    return float(np.abs(np.cumsum(np.exp(1j * distance * plain_frequencies(BASE, dims)))).sum())


def test_the_bound_of_extrapolation_is_about_600_times_that_of_interpolation() -> None:
    dims = 128
    over_d = np.array([partial_sums(each, dims) / dims for each in range(1, 4_097)])
    assert over_d.min() > 1  # so it is at least 2 d max|h|
    ratio = 2 * dims / (dims / 294.73)
    assert ratio == pytest.approx(589, abs=1)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_scores_that_are_small_inside_explode_when_extrapolated_and_stay_small_when_interpolated(seed: int) -> None:
    # As the paper's figure: coefficients by least squares for random scores of at most 1 within L.
    dims, inside = 128, 2_048
    wanted = np.random.default_rng(seed).uniform(-1, 1, inside)
    angles = np.outer(np.arange(inside), plain_frequencies(BASE, dims))
    found = np.linalg.lstsq(np.concatenate((np.cos(angles), np.sin(angles)), axis=1), wanted, rcond=1e-8)[0]
    h = found[: dims // 2] - 1j * found[dims // 2 :]
    within = np.abs(score(h, np.arange(inside), dims)).max()
    assert within < 1
    assert np.abs(score(h, np.arange(inside, 2 * inside), dims)).max() > 8_000  # as much as the paper tells
    assert np.abs(score(h, np.arange(2 * inside - 1) / 2, dims)).max() < 1.5 * within
