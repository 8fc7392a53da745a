"""FlexAttention: any mask and any bias in one kernel that torch compiles for it, and a deterministic backward pass.

On a GPU it serves every case, which makes it the kernel that all variants share there (``matched``). On a CPU torch
has its forward pass only.
"""

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.nn.attention.flex_attention import BlockMask, create_block_mask, flex_attention

from lab.model.kernels.banded import banded
from lab.model.kernels.case import Case

BLOCK = 128  # queries and keys of a block of the kernel
FEWEST_QUERIES = BLOCK  # fewer, as in decoding, are not worth compiling for every length

MASKS_KEPT = 64  # of so many lengths
GRAPHS = 256

_masks: dict[tuple[int, int, int | None, int, torch.device], BlockMask] = {}

Mask = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]


@functools.cache
def _compiled() -> Any:
    """One graph for each shape. Made at the first call: the compiler takes two seconds to load."""
    from torch._dynamo import config as dynamo

    # Past torch's limit (8) it would run uncompiled, which writes every score out.
    dynamo.recompile_limit = max(dynamo.recompile_limit, GRAPHS)
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
    queries = query.shape[2]
    if queries < FEWEST_QUERIES:
        rule = dict(window=window, slopes=slopes, scale=scale, offset=offset, documents=documents)
        return banded(query, key, value, **rule)  # type: ignore[arg-type]
    # What is added lies behind all queries and is seen by none of them.
    rows, columns = _rounded(queries, offset)
    query, key, value = _lengthened(query, rows), _lengthened(key, columns), _lengthened(value, columns)
    if documents is None:
        seen = _blocks(rows, columns, window, offset, query.device)
    else:  # they differ from batch to batch
        documents = functional.pad(documents, (0, columns - documents.shape[1]), value=-1)
        seen = create_block_mask(
            _same_document(documents, _seen(window, offset, query.device), offset),
            len(documents),
            None,
            rows,
            columns,
            query.device,
        )
    place = _place(offset, query.device)

    def biased(score: Tensor, batch: Tensor, head: Tensor, row: Tensor, column: Tensor) -> Tensor:
        assert slopes is not None
        return score - slopes[head] * (row + place - column)

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
    return mixed[:, :, :queries]


def _rounded(queries: int, offset: int) -> tuple[int, int]:
    """Queries and keys, rounded up: four lengths in an octave, so that few graphs serve all lengths."""

    def up(length: int) -> int:
        step = max(BLOCK, 1 << (length.bit_length() - 3))
        return -(-length // step) * step

    return up(queries), up(offset + up(queries))


def _lengthened(states: Tensor, length: int) -> Tensor:
    return functional.pad(states, (0, 0, 0, length - states.shape[2]))


def _place(offset: int, device: torch.device) -> int | Tensor:
    """An offset as the kernel reads it: a number is part of the graph, a tensor is not."""
    return torch.tensor(offset, device=device) if offset else 0


def prepare(queries: int, keys: int, window: int | None, offset: int, device: torch.device) -> None:
    """Make the block mask of a length, once for all layers and steps; to be called outside compiled code."""
    if queries >= FEWEST_QUERIES:
        _blocks(*_rounded(queries, offset), window, offset, device)


def _blocks(queries: int, keys: int, window: int | None, offset: int, device: torch.device) -> BlockMask:
    """The block mask of rounded lengths, kept for the next layer."""
    kept = (queries, keys, window, offset, device)
    if torch.compiler.is_compiling() and kept not in _masks:  # nobody has made it ready: it becomes part of the graph
        return banded_blocks(*kept)
    if kept not in _masks:
        if len(_masks) >= MASKS_KEPT:
            _masks.clear()
        _masks[kept] = banded_blocks(*kept)
    return _masks[kept]


def banded_blocks(queries: int, keys: int, window: int | None, offset: int, device: torch.device) -> BlockMask:
    """Which blocks of 128 x 128 scores are seen in part, and which whole.

    By the distances in their corners: torch's create_block_mask asks for every score, and needs memory for all.
    """
    rows, columns = (torch.arange(0, length, BLOCK, device=device) for length in (queries, keys))
    last_row, last_column = (rows + BLOCK).clamp(max=queries) - 1, (columns + BLOCK).clamp(max=keys) - 1
    nearest = offset + rows[:, None] - last_column
    farthest = offset + last_row[:, None] - columns
    reach = offset + queries if window is None else window
    some = (farthest >= 0) & (nearest < reach)
    inside = (rows + BLOCK <= queries)[:, None] & (columns + BLOCK <= keys)
    whole = (nearest >= 0) & (farthest < reach) & inside

    def listed(blocks: Tensor) -> tuple[Tensor, Tensor]:
        """How many there are in each row of blocks, and their columns first."""
        order = blocks.int().argsort(dim=-1, descending=True, stable=True)
        return blocks.sum(-1, dtype=torch.int32)[None, None], order.to(torch.int32)[None, None]

    return BlockMask.from_kv_blocks(
        *listed(some & ~whole),
        *listed(whole),
        BLOCK_SIZE=BLOCK,
        mask_mod=_seen(window, offset, device),
        seq_lengths=(queries, keys),
    )


def _seen(window: int | None, offset: int, device: torch.device) -> Mask:
    place = _place(offset, device)

    def seen(batch: Tensor, head: Tensor, row: Tensor, column: Tensor) -> Tensor:
        distance = row + place - column
        return distance >= 0 if window is None else (distance >= 0) & (distance < window)

    return seen


def _same_document(documents: Tensor, seen: Mask, offset: int) -> Mask:
    place = _place(offset, documents.device)

    def same(batch: Tensor, head: Tensor, row: Tensor, column: Tensor) -> Tensor:
        return seen(batch, head, row, column) & (documents[batch, row + place] == documents[batch, column])

    return same
