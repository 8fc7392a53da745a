"""Attention whose keys turn anew with every query: each position has the rotations of the text that ends with it.

It is what a cache of unrotated keys computes, a token at a time, for a text whose rotations are scaled to its length.
Queries share no turned keys, so that this costs several times what attention does otherwise; the first ones, whose
texts are turned as the shortest is (such as all within the training context), are served together by a kernel.
"""

import math

import torch
from jaxtyping import Complex, Float, Int
from torch import Tensor

from lab.model import kernels
from lab.model.elementwise import Rotation
from lab.model.kernels.reference import visible
from lab.model.position import PositionEncoding

ROWS = 16  # queries whose turned keys are there at a time


def attend_turning(
    query: Float[Tensor, "batch heads time head_dim"],
    key: Float[Tensor, "batch kv_heads keys head_dim"],
    value: Float[Tensor, "batch kv_heads keys head_dim"],
    position: PositionEncoding,
    start: int,
    *,
    window: int | None,
    scale: float,
    documents: Int[Tensor, "batch keys"] | None,
    kernel: str,
) -> Float[Tensor, "batch heads time head_dim"]:
    """softmax(scale q k^T) v over the keys that a query sees, both turned as in the text that ends with the query.

    Args:
        query, key: unrotated.
        start: position of the first query; keys end with the last query.
    """
    time, keys = query.shape[2], key.shape[2]
    offset = keys - time
    places = torch.arange(start - offset, start + time, device=query.device)  # of keys
    alike = sum(position.version(start + row + 1) == position.version(1) for row in range(time))
    parts = []
    if alike:
        phases = position.phases([1], places[: offset + alike])[0]
        cosines, sines = phases.real, phases.imag
        parts.append(
            kernels.attend(
                Rotation.apply(query[:, :, :alike], cosines[offset:], sines[offset:]),
                Rotation.apply(key[:, :, : offset + alike], cosines, sines),
                value[:, :, : offset + alike],
                window=window,
                scale=scale,
                offset=offset,
                documents=None if documents is None else documents[:, : offset + alike],
                kernel=kernel,
            )
        )
    for first in range(alike, time, ROWS):
        rows = range(first, min(first + ROWS, time))
        parts.append(_rows(query, key, value, position, start, rows, places, window, scale, documents))
    return torch.cat(parts, dim=2)


def _rows(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    position: PositionEncoding,
    start: int,
    rows: range,
    places: Int[Tensor, "keys"],
    window: int | None,
    scale: float,
    documents: Tensor | None,
) -> Float[Tensor, "batch heads rows head_dim"]:
    """Some queries, each with keys of its own."""
    batch, heads, time, width = query.shape
    groups, offset = key.shape[1], key.shape[2] - time
    last = offset + rows.stop  # no query here sees keys behind
    phases = position.phases([start + row + 1 for row in rows], places[:last])
    own = torch.tensor([offset + row for row in rows], device=query.device)
    mine = torch.arange(len(rows), device=query.device)
    asked = as_complex(query[:, :, rows.start : rows.stop]) * phases[mine, own]
    turned = as_complex(key[:, :, :last])[:, :, None] * phases
    # The real part of a times the conjugate of b is the product of both as vectors of real and imaginary parts.
    mine_real = torch.view_as_real(asked).reshape(batch, groups, heads // groups, len(rows), width)
    scores = torch.einsum("bghrd,bgrkd->bghrk", mine_real, torch.view_as_real(turned).flatten(-2)) * scale
    seen = visible(own, torch.arange(last, device=query.device), window)
    if documents is not None:
        seen = (seen & (documents[:, own, None] == documents[:, None, :last]))[:, None, None]
    shares = torch.softmax(scores.masked_fill(~seen, -math.inf), dim=-1).to(query.dtype)
    mixed = torch.einsum("bghrk,bgkd->bghrd", shares, value[:, :, :last])
    return mixed.reshape(batch, heads, len(rows), width)


def as_complex(vectors: Float[Tensor, "*rest head_dim"]) -> Complex[Tensor, "*rest half"]:
    """The pairs (i, i + head_dim/2) as complex numbers, in at least float32."""
    exact = vectors.to(torch.promote_types(vectors.dtype, torch.float32))
    return torch.complex(*exact.chunk(2, dim=-1))
