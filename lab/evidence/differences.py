"""Is a difference between two variants real? Corrected for the number of questions, and told in one sentence."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from lab.evidence.interval import FEWEST_CLUSTERS, FEWEST_SEEDS, LEVEL, Interval


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values corrected for a family (Holm 1979): the k-th smallest of m times m - k + 1, none below one before it.

    What is nan stays nan and does not count in the family.
    """
    known = sorted((p_value, index) for index, p_value in enumerate(p_values) if p_value == p_value)
    corrected = [float("nan")] * len(p_values)
    largest = 0.0
    for rank, (p_value, index) in enumerate(known):
        largest = max(largest, min(1.0, p_value * (len(known) - rank)))
        corrected[index] = largest
    return corrected


def verdict(
    difference: Interval, p_holm: float, name: str, reference: str, unit: str = "nats", clusters: str = "documents"
) -> str:
    """One sentence: better, worse, no difference larger than x, or that nobody can tell. Lower is better.

    Better or worse needs a corrected p-value below LEVEL and an interval without 0; otherwise x is the far end of the
    interval. Of fewer than FEWEST_SEEDS seeds it says that it speaks of these runs alone, and of fewer than
    FEWEST_CLUSTERS clusters nothing but how many there are.

    Args:
        clusters: what they are called.
    """
    low, high, mean = difference.low, difference.high, difference.mean
    both = f"{name} and {reference}"
    if difference.clusters < FEWEST_CLUSTERS:
        return f"{both}: cannot tell ({difference.clusters} {clusters}; {FEWEST_CLUSTERS} are needed)"
    if not np.isfinite([low, high, p_holm]).all():
        return f"{both}: cannot tell (a loss is not finite)"
    if low == high == 0:  # which bounds no difference: of eight keys that nobody finds there is none
        told = f"{both}: equal in each of {difference.clusters} {clusters}"
    elif p_holm < LEVEL and low * high > 0:
        nearest, farthest = sorted((abs(low), abs(high)))
        told = (
            f"{name} is {'better' if mean < 0 else 'worse'} than {reference} by {number(abs(mean))} {unit} "
            f"({number(nearest)} to {number(farthest)})"
        )
    else:
        told = f"{both}: no difference larger than {number(max(abs(low), abs(high)))} {unit}"
    if difference.over_seeds:
        return told
    seeds = f"{difference.seeds} seed{'s' * (difference.seeds > 1)}"
    return f"cannot tell for other seeds ({difference.seeds} of {FEWEST_SEEDS}); in {seeds}: {told}"


def number(value: float) -> str:
    """With three decimals, and more where these would be none."""
    return f"{value:.3f}" if value == 0 or abs(value) >= 0.0005 else f"{value:.1g}"


def noise_floor(values: Float[np.ndarray, "seeds clusters"]) -> float:
    """The largest difference of two seeds of one variant, means over clusters; nan for one seed."""
    means = values.mean(axis=1)
    return float(np.ptp(means)) if len(means) > 1 else float("nan")
