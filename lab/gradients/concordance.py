"""How well a number tells those who are right from those who are not: the area under the ROC curve, within strata."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float64


class Concordance(NamedTuple):
    """Of all pairs of one stratum of which one is right and the other not, the share in which the right one's number is
    the greater (equal numbers count half): 0.5 by chance.

    Attributes:
        pairs: how many; of none nothing is known, and ``share`` is nan.
        pseudo: of each person a jackknife pseudo-value, n share - (n - 1) share without that person: their mean is the
            share but for the jackknife's correction, and their spread that of its estimate (Efron and Stein 1981).
            Nan where leaving somebody out leaves no pair.
    """

    share: float
    pairs: int
    pseudo: Float64[np.ndarray, "people"]


def concordance(
    scores: Float64[np.ndarray, "people strata"],
    right: Bool[np.ndarray, "people strata"],
    known: Bool[np.ndarray, "people strata"],
    strata: Sequence[int] | None = None,
) -> Concordance:
    """Pairs lie within a stratum, so that what differs between strata alone tells nothing.

    Args:
        known: where there is a number; others are in no pair.
        strata: that are counted together; None: all.
    """
    people = len(scores)
    greater, pairs = np.zeros(people), np.zeros(people)  # of the pairs that a person is in
    for stratum in range(scores.shape[1]) if strata is None else strata:
        told, good = known[:, stratum], right[:, stratum]
        above, below = np.flatnonzero(told & good), np.flatnonzero(told & ~good)
        greater[above] += _below(scores[above, stratum], scores[below, stratum])
        greater[below] += len(above) - _below(scores[below, stratum], scores[above, stratum])
        pairs[above] += len(below)
        pairs[below] += len(above)
    # Each pair was counted with both of its people; in one stratum nobody is in a pair with themselves.
    every, won_every = pairs.sum() / 2, greater.sum() / 2
    if not every:
        return Concordance(float("nan"), 0, np.full(people, np.nan))
    share = won_every / every
    left = every - pairs
    without = np.divide(won_every - greater, left, out=np.full(people, np.nan), where=left > 0)
    return Concordance(float(share), int(every), people * share - (people - 1) * without)


def _below(these: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Of each number how many of the others are less; equal ones count half."""
    ordered = np.sort(others)
    found: np.ndarray = (np.searchsorted(ordered, these, "left") + np.searchsorted(ordered, these, "right")) / 2
    return found
