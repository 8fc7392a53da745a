"""Positional vectors, mean vectors and positional bases from the sums of a decomposition; how far they are known."""

from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lab.base.errors import UserError
from lab.observe.fold import Fold

FIRST = 4  # positions that agreement leaves out: they are points apart, and agree in any sample
Half = Literal[0, 1] | None


class Vectors:
    """The vectors of every layer; layer 0 is what enters the first block.

    Args:
        fold: of :class:`lab.analysis.decomposition.Decomposition`.
        context: C, over which the mean vector is formed.
        window: keys that a query of the decoder sees, None for all.
        estimator: ``mean`` or ``additive``.

    Attributes:
        beside: further vectors of the same decoder, by the names that a study gives them.
        origin: of a derived run, the vectors of the run that it is of, where they are asked for.
        layers: one more than there are blocks.
        length: T, positions that there are vectors of.
        windows: that they are over.

    Raises:
        UserError: a half has no window.
    """

    def __init__(self, fold: Fold, context: int, window: int | None = None, estimator: str = "mean") -> None:
        self.fold, self.context, self.window, self.estimator = fold, context, window, estimator
        self.layers = sum(key.startswith("state0/") for key in fold.keys)
        counts = [int(fold.count(f"state{half}/0")[0]) for half in (0, 1)]
        if min(counts) < 1:
            raise UserError(f"{sum(counts)} windows are too few: each of two halves needs one")
        self.windows = sum(counts)
        self.length = len(fold.count("state0/0"))
        self.origin: Vectors | None = None
        self.beside: dict[str, Vectors] = {}
        self._found: dict[tuple[int, Half], Tensor] = {}
        self._nearest: dict[int, Tensor] = {}

    def p(self, layer: int, half: Half = None) -> Float[Tensor, "length width"]:
        """The positional vectors, float64; of a half of the windows, or of all."""
        if (layer, half) not in self._found:
            total, count = self._sum(f"state{{}}/{layer}", half), self._count(layer, half)
            if self.estimator == "mean":
                self._found[layer, half] = total / count[:, None]
            else:
                tokens, pairs = self._sum(f"token{{}}/{layer}", half), self._sum("pairs{}", half)
                self._found[layer, half] = additive(total, tokens, pairs)
        return self._found[layer, half]

    def _sum(self, key: str, half: Half) -> Tensor:
        halves = (0, 1) if half is None else (half,)
        return torch.stack([self.fold.total(key.format(each)) for each in halves]).sum(0)

    def _count(self, layer: int, half: Half) -> Tensor:
        halves = (0, 1) if half is None else (half,)
        return torch.stack([self.fold.count(f"state{each}/{layer}") for each in halves]).sum(0)

    def u(self, layer: int, half: Half = None) -> Float[Tensor, "width"]:
        """The mean vector: of the positions inside C."""
        return self.p(layer, half)[: self.context].mean(0)

    def m(self, layer: int, half: Half = None) -> Float[Tensor, "length width"]:
        """The positional basis."""
        return self.p(layer, half) - self.u(layer, half)

    def told_apart(self, layer: int) -> Float[Tensor, "context"]:
        """Whether each position inside C is nearest, of all in the other half's table of bases, to itself within 1 % of
        C: 1, 0, or 1/2 if only from one of the halves to the other."""
        one, other = (self.m(layer, half)[: self.context] for half in (0, 1))
        distances = torch.cdist(one, other)
        at = torch.arange(self.context)
        right = [((distances.argmin(dim) - at).abs() <= self.context // 100).double() for dim in (0, 1)]
        return (right[0] + right[1]) / 2

    def nearest_inside(self, layer: int) -> Int[Tensor, "length"]:
        """Of each position the one inside C whose positional vector is nearest to its own."""
        if layer not in self._nearest:
            p = self.p(layer)
            self._nearest[layer] = torch.cdist(p, p[: self.context]).argmin(1)
        return self._nearest[layer]

    def cosines_of_halves(self, layer: int) -> Float[Tensor, "length"]:
        """At each position the cosine between the bases of the two halves; nan where one of them is 0."""
        one, other = self.m(layer, 0), self.m(layer, 1)
        return (one * other).sum(-1) / (one.norm(dim=-1) * other.norm(dim=-1))

    def agreement(self, layer: int) -> float:
        """The mean cosine between the two halves' bases over positions from FIRST to C."""
        return float(self.cosines_of_halves(layer)[FIRST : self.context].mean())

    def predicted_agreement(self, layer: int) -> float:
        """What :meth:`agreement` of means should be: S / (S + v), S being |m|^2 without its noise and v the variance of
        a half's mean, averaged over positions."""
        totals = [self.fold.total(f"square{half}/{layer}") for half in (0, 1)]
        squares = (totals[0] + totals[1])[FIRST : self.context] / self.windows
        p, m = self.p(layer)[FIRST : self.context], self.m(layer)[FIRST : self.context]
        variance = (squares - p.square().sum(-1)).clamp(min=0)  # of one state about its position's mean
        signal = (m.square().sum(-1) - variance / self.windows).clamp(min=0)
        return float((signal / (signal + 2 * variance / self.windows).clamp(min=1e-300)).mean())


def additive(
    states: Float[Tensor, "length width"],
    tokens: Float[Tensor, "effects width"],
    pairs: Float[Tensor, "length effects"],
) -> Float[Tensor, "length width"]:
    """p of the least squares fit h = p(t) + c(v) + rest.

    The normal equations are n(t) p(t) + sum_v N(t, v) c(v) = S(t) and n(v) c(v) + sum_t N(t, v) p(t) = S(v). With c
    put into the first, (D - N E N') p = S - N E S', D and E being the diagonals of n(t) and 1 / n(v). A constant is
    free: sum_v n(v) c(v) = 0 fixes it, so that the mean of p is that of all states.

    Args:
        states: S(t), the sum of states at each position.
        tokens: S(v), the sum of states of each token effect.
        pairs: N(t, v), how often token v stood at position t.
    """
    at, of = pairs.sum(1), pairs.sum(0)
    kept = of > 0
    pairs, tokens, of = pairs[:, kept], tokens[kept], of[kept]
    weighted = pairs / of
    system = torch.diag(at) - weighted @ pairs.T
    # One eigenvalue is 0, of the constant: a multiple of its projection makes the system positive definite.
    system += at.mean() / len(at) * torch.ones_like(system)
    right = states - weighted @ tokens
    p: Tensor = torch.linalg.solve(system, right)
    return p + (states.sum(0) - (at[:, None] * p).sum(0)) / at.sum()
