"""The mixture of a corpus's subsets: exact by tokens, in whole numbers, without chance."""

import math
from collections.abc import Mapping, Sequence
from fractions import Fraction

from lab.base.errors import UserError


def whole_weights(subsets: Sequence[str], weights: Mapping[str, float] | None) -> tuple[int, ...]:
    """The weights of `subsets` in their order, as whole numbers of the same ratios.

    Without weights a corpus may have one subset only. Raises UserError if a subset has no weight, a weight has
    no subset, or is not above 0.
    """
    if weights is None:
        if len(subsets) > 1:
            raise UserError(f"weights is missing: give each of {', '.join(subsets)} a share of the tokens")
        return (1,)
    if subsets == [""] and weights:
        raise UserError("weights is given, but the corpus has no subsets; leave it out (null)")
    known = ", ".join(subsets) or "none"
    mistakes = [
        f"weights.{name}: the corpus has no such subset; it has {known}" for name in weights if name not in subsets
    ]
    fractions = []
    for name in subsets:
        if name not in weights:
            mistakes.append(f"weights.{name} is missing: give the subset a share, or leave out its files")
            continue
        try:
            # By way of its decimal notation: 0.1 is one tenth, not the nearest binary fraction.
            fraction = Fraction(str(weights[name]))
        except (ValueError, ZeroDivisionError):
            fraction = Fraction(0)
        if fraction <= 0:
            mistakes.append(f"weights.{name} is {weights[name]}: give a number above 0, or leave out its files")
        fractions.append(fraction)
    if mistakes:
        raise UserError(*mistakes)
    scale = math.lcm(*(fraction.denominator for fraction in fractions))
    return tuple(int(fraction * scale) for fraction in fractions)


def furthest_behind(tokens: Sequence[int], weights: Sequence[int]) -> int:
    """The index with the smallest tokens / weight; the first of equals."""
    best = 0
    for index in range(1, len(tokens)):
        if tokens[index] * weights[best] < tokens[best] * weights[index]:
            best = index
    return best
