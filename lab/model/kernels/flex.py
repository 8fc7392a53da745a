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

MASKS_KEPT = 64  # of so many lengths

_masks: dict[tuple[int, int, int | None, int, torch.device], BlockMask] = {}

Mask = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]


@functools.cache
def _compiled() -> Any:
    """One graph for each shape. Made at the first call: the compiler takes two seconds to load."""
    return torch.compile(flex_attention, dynamic=False)


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
    else:  # they differ from batch to batch
        seen = create_block_mask(
            _same_document(documents, _seen(window, offset), offset), len(documents), None, queries, keys, query.device
        )

    def biased(score: Tensor, batch: Tensor, head: Tensor, row: Tensor, column: Tensor) -> Tensor:
        assert slopes is not None
        return score - slopes[head] * (row + offset - column)

    # Uncompiled, which a CPU without a compiler needs, every score is written out.
    alone = query.device.type == "cuda" and not torch.compiler.is_compiling()
    mixed = (_compiled() if alone else flex_attention)(
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


def prepare(queries: int, keys: int, window: int | None, offset: int, device: torch.device) -> None:
    """Make the block mask of a length, once for all layers and steps; to be called outside compiled code."""
    kept = (queries, keys, window, offset, device)
    if queries < FEWEST_QUERIES or kept in _masks:
        return
    if len(_masks) >= MASKS_KEPT:
        _masks.clear()
    _masks[kept] = create_block_mask(_seen(window, offset), None, None, queries, keys, device)


def _blocks(queries: int, keys: int, window: int | None, offset: int, device: torch.device) -> BlockMask:
    """Which blocks of 128 x 128 scores are seen."""
    kept = (queries, keys, window, offset, device)
    if kept not in _masks:
        if torch.compiler.is_compiling():  # nobody has made it ready: it becomes part of the graph
            return create_block_mask(_seen(window, offset), None, None, queries, keys, device)
        prepare(*kept)
    return _masks[kept]


def _seen(window: int | None, offset: int) -> Mask:
    def seen(batch: Tensor, head: Tensor, row: Tensor, column: Tensor) -> Tensor:
        distance = row + offset - column
        return distance >= 0 if window is None else (distance >= 0) & (distance < window)

    return seen


def _same_document(documents: Tensor, seen: Mask, offset: int) -> Mask:
    def same(batch: Tensor, head: Tensor, row: Tensor, column: Tensor) -> Tensor:
        return seen(batch, head, row, column) & (documents[batch, row + offset] == documents[batch, column])

    return same
