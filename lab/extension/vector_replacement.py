"""Positional vector replacement: in one layer a state gets the positional vector of an earlier position.

h(t) <- h(t) - p(t) + alpha p~(t) at a block's output, p~ being the vectors of positions inside C stretched by r (Dong
et al. 2024, arXiv 2405.18009). The first tokens, whose vectors are points apart, are left as they are.
"""

from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from scipy.interpolate import CubicSpline
from torch import Tensor

from lab.base.errors import UserError
from lab.model.decoder import Decoder


class VectorReplacement:
    """Adds ``table`` to the states that leave a block.

    Args:
        layer: the block, counted from 1, so that p of that layer is of its output.
        table: alpha p~(t) - p(t) of each position t.
        how: the other keys, by which the table was made.
    """

    def __init__(self, layer: int, table: Float[Tensor, "length width"], **how: Any) -> None:
        self.layer, self.table = layer, table

    def __call__(self, decoder: Decoder) -> None:
        if not 1 <= self.layer <= len(decoder.blocks):
            raise UserError(f"extension.layer is {self.layer}, and the decoder has layers 1 to {len(decoder.blocks)}")
        width = decoder.embedding.shape[1]
        if self.table.shape[1] != width:
            raise UserError(f"a table of vectors of width {self.table.shape[1]} is none of a decoder of width {width}")
        block = decoder.blocks[self.layer - 1]
        block.register_buffer("replacement", self.table.float(), persistent=False)  # goes where the decoder goes
        block.register_forward_hook(_add)


def _add(block: Any, given: tuple[Any, ...], states: Tensor) -> Tensor:
    positions = given[2]
    if int(positions[-1]) >= len(block.replacement):
        raise UserError(
            f"positional vectors are replaced at {len(block.replacement):,} positions, and the text has "
            f"{int(positions[-1]) + 1:,} tokens: make the derived run with greater extension.contexts"
        )
    return states + block.replacement[positions].to(states.dtype)


def replacement_table(
    p: Float[Tensor, "length width"],
    context: int,
    *,
    ratio: float,
    alpha: float,
    first: int,
    stretch: str,
    beyond: str,
) -> Float[Tensor, "length width"]:
    """alpha p~(t) - p(t), 0 for the first tokens.

    Args:
        p: positional vectors of one layer.
        context: C.
        ratio: r.
        first: tokens that are left as they are.
        stretch: ``linear`` or ``cubic``.
        beyond: what is p(t) past C: ``measured``, or ``extrapolated``: the straight line that is nearest to those of
            [C/2, C).
    """
    before = p.clone()
    if beyond == "extrapolated":
        before[context:] = extrapolated(p[:context], len(p))[context:]
    table = alpha * stretched(p[:context], ratio, first, len(p), stretch) - before
    table[:first] = 0
    return table


def stretched(
    p: Float[Tensor, "context width"], ratio: float, first: int, length: int, kind: str
) -> Float[Tensor, "length width"]:
    """The vectors behind the first ones, r times as long, held at their end.

    As torch's ``interpolate`` (align_corners=False): number i lies between those at (i + 1/2) / r - 1/2.

    Args:
        kind: ``linear``, or ``cubic``: splines with continuous second derivatives.
    """
    count = len(p) - first
    at = np.clip((np.arange(length - first) + 0.5) / ratio - 0.5, 0, count - 1)
    own = p[first:].numpy()
    if kind == "cubic":
        found = CubicSpline(np.arange(count), own)(at)
    else:
        low = np.minimum(at.astype(int), count - 2)
        part = (at - low)[:, None]
        found = (1 - part) * own[low] + part * own[low + 1]
    return torch.cat([p[:first], torch.from_numpy(found)])


def extrapolated(p: Float[Tensor, "context width"], length: int) -> Float[Tensor, "length width"]:
    """Each coordinate goes on along the straight line that is nearest, by least squares, to that of [C/2, C)."""
    half = len(p) // 2
    at = np.arange(half, len(p))
    slope, start = np.polyfit(at, p[half:].numpy(), 1)
    line = start + slope * np.arange(len(p), length)[:, None]
    return torch.cat([p, torch.from_numpy(line)])
