"""FlexAttention: any mask and any bias in one kernel that torch compiles for it, and a deterministic backward pass.

On a GPU it serves every case, which makes it the kernel that all variants share there (``matched``). On a CPU torch
has its forward pass only.
"""

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, create_block_mask, flex_attention

from lab.model.kernels.banded import banded
from lab.model.kernels.case import Case

FEWEST_QUERIES = 128  # a block of the kernel; fewer, as in decoding, are not worth compiling for every length

Mask = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]


def refusal(case: Case) -> str | None:
    """Why this kernel cannot serve a case exactly, or None."""
    return "torch has no backward pass of FlexAttention on a CPU" if case.device != "cuda" else None


def flex(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    window: int | None,
    slopes: Tensor | None,
    scale: float,
    offset: int,
    documents: Tensor | None,
) -> Tensor:
    """Arguments and result as :func:`lab.model.kernels.attend`."""
    rule = dict(window=window, slopes=slopes, scale=scale, offset=offset, documents=documents)
    queries, keys = query.shape[2], key.shape[2]
    if queries < FEWEST_QUERIES:
        return banded(query, key, value, **rule)  # type: ignore[arg-type]
    if documents is None:
        seen = _blocks(queries, keys, window, offset, query.device)
    else:
        seen = create_block_mask(
            _same_document(documents, _seen(window, offset), offset), len(documents), None, queries, keys, query.device
        )

    def biased(score: Tensor, batch: Tensor, head: Tensor, row: Tensor, column: Tensor) -> Tensor:
        assert slopes is not None
        return score - slopes[head] * (row + offset - column)

    mixed = _compiled(query.device.type)(
        query,
        key,
        value,
        score_mod=None if slopes is None else biased,
        block_mask=seen,
        scale=scale,
        enable_gqa=query.shape[1] != key.shape[1],
    )
    assert isinstance(mixed, Tensor)
    return mixed


@functools.cache
def _compiled(device: str) -> Any:
    # One graph for each shape. Uncompiled, which a CPU without a compiler needs, every score is written out.
    return torch.compile(flex_attention, dynamic=False) if device == "cuda" else flex_attention


@functools.lru_cache(maxsize=64)
def _blocks(queries: int, keys: int, window: int | None, offset: int, device: torch.device) -> BlockMask:
    """Which blocks of 128 x 128 scores are seen; the same for all layers and steps."""
    return create_block_mask(_seen(window, offset), None, None, queries, keys, device)


def _seen(window: int | None, offset: int) -> Mask:
    def seen(batch: Tensor, head: Tensor, row: Tensor, column: Tensor) -> Tensor:
        distance = row + offset - column
        return distance >= 0 if window is None else (distance >= 0) & (distance < window)

    return seen


def _same_document(documents: Tensor, seen: Mask, offset: int) -> Mask:
    def same(batch: Tensor, head: Tensor, row: Tensor, column: Tensor) -> Tensor:
        return seen(batch, head, row, column) & (documents[batch, row + offset] == documents[batch, column])

    return same
