"""The correction of differences, and what is said about them."""

import numpy as np
import pytest

from lab.evidence.differences import holm, noise_floor, verdict
from lab.evidence.interval import Interval, mean_interval

ALL = (1,) * 11


def interval(mean: float, low: float, high: float, documents=ALL, seeds: int = 5, over_seeds: bool = True) -> Interval:
    return Interval(mean, low, high, 0.001, documents, seeds, over_seeds)


def test_holm_is_his_worked_example():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.5, 0.9]) == pytest.approx([1.0, 1.0])
    assert holm([]) == []


def test_what_cannot_be_told_does_not_count_in_the_family():
    corrected = holm([0.02, float("nan"), 0.03])
    assert np.isnan(corrected[1])
    assert [corrected[0], corrected[2]] == pytest.approx([0.04, 0.04])


def test_verdicts_over_seeds():
    better = interval(-1.2, -1.31, -1.1)
    assert verdict(better, 0.002, "alibi", "rope") == "alibi is better than rope by 1.200 nats (1.100 to 1.310)"
    worse = interval(0.5, 0.4, 0.6)
    assert verdict(worse, 0.002, "nope", "rope") == "nope is worse than rope by 0.500 nats (0.400 to 0.600)"
    assert verdict(worse, 0.06, "nope", "rope") == "nope and rope: no difference larger than 0.600 nats"
    small = interval(0.001, -0.003, 0.002)
    assert verdict(small, 1.0, "a", "b") == "a and b: no difference larger than 0.003 nats"
    tiny = interval(0.00001, -0.00003, 0.00002)
    assert verdict(tiny, 1.0, "a", "b") == "a and b: no difference larger than 3e-05 nats"


def test_fewer_than_five_seeds_speak_of_these_runs_alone_and_say_so():
    fixed = interval(0.5, 0.4, 0.6, seeds=3, over_seeds=False)
    assert verdict(fixed, 0.002, "nope", "rope") == (
        "cannot tell for other seeds (3 of 5); in 3 seeds: nope is worse than rope by 0.500 nats (0.400 to 0.600)"
    )
    one = interval(0.5, -0.4, 0.6, seeds=1, over_seeds=False)
    assert verdict(one, 0.9, "a", "b").startswith("cannot tell for other seeds (1 of 5); in 1 seed: a and b: no diff")


def test_fewer_than_six_clusters_tell_nothing_and_how_many_are_needed_is_told():
    few = mean_interval(np.full((5, 4), 2.0), [3] * 4)
    assert verdict(few, few.p_value, "a", "b", clusters="authors") == "a and b: cannot tell (4 authors; 6 are needed)"
    nothing = mean_interval(np.array([[1.0, 2, 3, 4, 5, float("nan")]]), [1] * 6)
    assert verdict(nothing, float("nan"), "a", "b") == "a and b: cannot tell (a loss is not finite)"


def test_equal_clusters_are_told_as_equal_and_bound_no_difference():
    nobody_found_a_key = mean_interval(np.zeros((5, 8)), [1] * 8)
    told = verdict(nobody_found_a_key, 1.0, "a", "b", "of the keys")
    assert told == "a and b: equal in each of 8 documents"


@pytest.mark.parametrize(("count", "better"), [(6, True), (5, False)])
def test_the_same_difference_everywhere_is_as_sure_as_a_sign_test(count, better):
    all_and_none = mean_interval(np.full((5, count), -1.0), [1] * count)
    assert ("is better" in verdict(all_and_none, all_and_none.p_value, "a", "b")) == better


def test_an_interval_that_holds_zero_is_no_verdict_whatever_the_p_value():
    assert "no difference larger than 0.030" in verdict(interval(-0.01, -0.03, 0.0005), 0.049, "a", "b")


def test_the_noise_floor_is_the_largest_difference_of_two_seeds():
    assert noise_floor(np.array([[1.0, 3.0], [2.0, 4.0], [5.0, 7.0]])) == pytest.approx(4.0)  # means 2, 3, 6
    assert np.isnan(noise_floor(np.ones((1, 4))))
