"""Blocks that were written down once, read by number: the same as the stream's."""

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lab.base.errors import UserError
from lab.data.stream.order import Block
from lab.data.stream.shards import Shard, items_of, read_header, read_index, read_shard, shard_path


class StoredBlocks:
    """The blocks in a folder, read by number. The stream's identity must be `identity`.

    Raises UserError if the folder holds other blocks, fewer than `count`, or damaged ones.
    """

    def __init__(self, folder: Path, identity: dict[str, Any], count: int) -> None:
        self.folder = folder
        index = read_index(folder)
        if index is None:
            raise UserError(f"{folder}: no blocks here; make them with python -m lab.prepare blocks and the same keys")
        if index["identity"] != identity:
            raise UserError(
                f"{folder}: holds blocks of another corpus, tokenizer, context or seed; choose another folder of blocks"
            )
        self.lanes: int = index["lanes"]
        self.block_length: int = index["block_length"]
        self.shard_blocks: int = index["shard_blocks"]
        for lane in range(min(self.lanes, count)):
            items = items_of(lane, count, self.lanes)
            for start in range(0, items, self.shard_blocks):
                shard = shard_path(folder, lane, start)
                if not shard.exists():
                    raise UserError(
                        f"{shard}: missing; {count} blocks are needed: run python -m lab.prepare blocks again"
                    )
            self._check_length(shard, items - start)
        self._shards: dict[int, tuple[int, Shard]] = {}

    def _check_length(self, shard: Path, needed: int) -> None:
        held = read_header(shard)["blocks"]
        if held < needed:
            raise UserError(
                f"{shard}: holds {held} blocks, {needed} are needed: run python -m lab.prepare blocks again"
            )

    def block(self, g: int) -> Block:
        """Global block g."""
        item, lane = divmod(g, self.lanes)
        start = item - item % self.shard_blocks
        held, shard = self._shards.get(lane, (-1, None))
        if shard is None or held != start:
            shard = read_shard(shard_path(self.folder, lane, start), lane, start, self.lanes)
            self._shards[lane] = (start, shard)
        return shard.block(item - start, item)

    def blocks(self, start: int = 0, step: int = 1) -> Iterator[tuple[int, Block]]:
        """(g, block g) for g = start, start + step, ... without end."""
        for g in itertools.count(start, step):
            yield g, self.block(g)
