"""Blocks written down once: the same blocks as the stream's, then read by number.

    index.json                          identity of the stream, block length, lanes, blocks of a shard
    lane=0003/item=00001024.safetensors  the blocks from item 1024 of lane 3 on

A shard holds `tokens` [blocks, C + 1] (uint16 where the vocabulary allows, else uint32), `starts` of documents and
`edges` [blocks + 1] between the blocks' starts. Its metadata holds the sum of its blocks' fingerprints, the
documents skipped, the cursor of its last block, from which the next shard goes on, and a sha256 of all that is not
in the fingerprints. A shard is there whole or not at all, so writing can be killed and started again at any time,
and the files are the same, byte for byte.
"""

import contextlib
import hashlib
import itertools
import json
import logging
import multiprocessing
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from lab.base.errors import UserError
from lab.base.failpoints import point
from lab.base.files import write_whole
from lab.data.stream.fingerprint import Fingerprint
from lab.data.stream.order import Block, BlockStream, Cursor

LOG = logging.getLogger("lab.data")
SHARD_TOKENS = 2**21


class Shard(NamedTuple):
    """The content of one shard."""

    tokens: np.ndarray
    starts: np.ndarray
    edges: np.ndarray
    skipped: dict[str, dict[str, str]]  # by item
    cursor: Cursor

    def block(self, index: int, item: int) -> Block:
        starts = self.starts[self.edges[index] : self.edges[index + 1]]
        return Block(self.tokens[index].astype(np.uint32), starts, None, self.skipped.get(str(item), {}))


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


def items_of(lane: int, count: int, lanes: int) -> int:
    """How many of the first `count` global blocks are of this lane."""
    return (count - lane + lanes - 1) // lanes


def shard_path(folder: Path, lane: int, item: int) -> Path:
    """The shard that starts with this item of a lane."""
    return folder / f"lane={lane:04d}" / f"item={item:08d}.safetensors"


def read_index(folder: Path) -> dict[str, Any] | None:
    """The content of index.json, None if there is none. Raises UserError if it is damaged."""
    path = folder / "index.json"
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return {key: content[key] for key in ("identity", "lanes", "block_length", "shard_blocks")}
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: cannot be read ({error}); delete {folder} and make the blocks again") from None


def read_header(path: Path) -> dict[str, Any]:
    """The metadata of a shard. Raises UserError if it is damaged."""
    try:
        with safe_open(path, framework="np") as file:
            header: dict[str, Any] = json.loads(file.metadata()["record"])
        header["blocks"] += 0
    except (OSError, SafetensorError, ValueError, KeyError, TypeError) as error:
        raise damaged(path, str(error)) from None
    return header


def damaged(path: Path, reason: str) -> UserError:
    """What to tell of a shard that is not as it was written."""
    return UserError(f"{path}: damaged ({reason}); delete it and run python -m lab.prepare blocks again")


def read_shard(path: Path, lane: int, start: int, lanes: int) -> Shard:
    """A shard, checked against its fingerprint and its sha256. Raises UserError if it is missing or damaged."""
    header = read_header(path)
    try:
        with safe_open(path, framework="np") as file:
            tokens, starts, edges = (file.get_tensor(name) for name in ("tokens", "starts", "edges"))
    except SafetensorError as error:
        raise damaged(path, str(error)) from None
    total = Fingerprint()
    for index, block in enumerate(tokens):
        total.add((start + index) * lanes + lane, block)
    if header.get("fingerprint") != total.hex or header.get("sha256") != seal(header, starts, edges):
        raise damaged(path, "its fingerprint differs")
    record = header["cursor"]
    record["remainder"] = np.array(record["remainder"], dtype=np.uint32)
    record["starts"] = np.array(record["starts"], dtype=np.int32)
    return Shard(tokens, starts, edges, header["skipped"], Cursor.of(record))


def seal(header: dict[str, Any], starts: np.ndarray, edges: np.ndarray) -> str:
    """The sha256 of what a shard holds beside its tokens, which are in its fingerprint."""
    rest = {key: value for key, value in header.items() if key != "sha256"}
    content = json.dumps(rest, sort_keys=True).encode() + starts.tobytes() + edges.tobytes()
    return hashlib.sha256(content).hexdigest()


def write_shard(stream: BlockStream, folder: Path, lane: int, start: int, stop: int) -> int:
    """Write the blocks [start, stop) of a lane; the shard before must be there. Returns the number of tokens."""
    if start:
        before = start - read_index_of(folder)["shard_blocks"]
        stream.restore({lane: read_shard(shard_path(folder, lane, before), lane, before, stream.lanes).cursor})
    blocks = [stream.block(item * stream.lanes + lane) for item in range(start, stop)]
    small = stream.tokenizer.vocabulary <= 2**16
    tokens = np.stack([block.tokens for block in blocks]).astype(np.uint16 if small else np.uint32)
    total = Fingerprint()
    for item, block in zip(range(start, stop), blocks, strict=True):
        total.add(item * stream.lanes + lane, block.tokens)
    cursor = blocks[-1].cursor
    assert cursor is not None
    record = cursor.record() | {
        "remainder": cursor.remainder.tokens.tolist(),
        "starts": cursor.remainder.starts.tolist(),
    }
    skipped = {
        str(item): dict(block.skipped) for item, block in zip(range(start, stop), blocks, strict=True) if block.skipped
    }
    starts = np.concatenate([block.starts for block in blocks])
    edges = np.cumsum([0] + [len(block.starts) for block in blocks])
    header = {"blocks": len(blocks), "fingerprint": total.hex, "skipped": skipped, "cursor": record}
    header["sha256"] = seal(header, starts, edges)
    content = save(
        {"tokens": tokens, "starts": starts, "edges": edges},
        # One key, as the order of several is not always the same.
        metadata={"record": json.dumps(header, sort_keys=True)},
    )
    path = shard_path(folder, lane, start)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, content)
    return tokens.size


def read_index_of(folder: Path) -> dict[str, Any]:
    """As `read_index`, where one must be."""
    index = read_index(folder)
    if index is None:
        raise UserError(f"{folder}: its index.json is missing; delete the folder and make the blocks again")
    return index


def write_blocks(
    stream: BlockStream,
    folder: Path,
    identity: dict[str, Any],
    count: int,
    processes: int,
    progress: Callable[[int], object],
) -> None:
    """Write the first `count` blocks of a stream, those that are already there and whole excepted.

    `progress` is told the number of tokens whenever a shard is ready. Raises UserError if the folder holds other
    blocks or cannot be written.
    """
    index: dict[str, Any] = {
        "identity": identity,
        "lanes": stream.lanes,
        "block_length": stream.context + 1,
        "shard_blocks": max(1, SHARD_TOKENS // (stream.context + 1)),
    }
    stored = read_index(folder)
    if stored is not None and stored != index:
        raise UserError(
            f"{folder}: holds blocks of another corpus, tokenizer, context or seed; choose another folder of blocks"
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{folder}: {error.strerror}; choose another folder of blocks") from None
    write_whole(folder / "index.json", (json.dumps(index, indent=2, sort_keys=True) + "\n").encode())
    size = index["shard_blocks"]

    def missing(lane: int) -> Iterator[tuple[int, int]]:
        items = items_of(lane, count, stream.lanes)
        for start in range(0, items, size):
            stop = min(start + size, items)
            if is_whole(folder, lane, start, stop, stream.lanes):
                progress((stop - start) * (stream.context + 1))
            else:
                yield start, stop

    context = multiprocessing.get_context("fork")
    with _told_if_killed(), ProcessPoolExecutor(processes, context, _adopt, (stream, folder)) as pool:
        running: dict[Future[int], tuple[int, Iterator[tuple[int, int]]]] = {}

        def submit_next(lane: int, shards: Iterator[tuple[int, int]]) -> None:
            for start, stop in itertools.islice(shards, 1):
                running[pool.submit(_write, lane, start, stop)] = (lane, shards)

        # One shard of a lane at a time: each goes on from the cursor of the one before.
        for lane in range(min(stream.lanes, count)):
            submit_next(lane, missing(lane))
        while running:
            done, _ = wait(running, return_when=FIRST_COMPLETED)
            for future in done:
                lane, shards = running.pop(future)
                progress(future.result())
                submit_next(lane, shards)


@contextlib.contextmanager
def _told_if_killed() -> Iterator[None]:
    """Raises UserError if a process of the pool was killed, as Linux does when memory ends."""
    try:
        yield
    except BrokenProcessPool:
        raise UserError(
            "a process that writes blocks was killed, as happens when memory ends: the same command goes on; fewer "
            "--processes need less"
        ) from None


def is_whole(folder: Path, lane: int, start: int, stop: int, lanes: int) -> bool:
    """Whether the blocks [start, stop) of a lane are there as they were written; a damaged shard is named."""
    path = shard_path(folder, lane, start)
    if not path.exists():
        return False
    try:
        return len(read_shard(path, lane, start, lanes).tokens) >= stop - start
    except UserError as error:
        LOG.warning("written again: %s", error)
        return False


_adopted: tuple[BlockStream, Path]


def _adopt(stream: BlockStream, folder: Path) -> None:
    global _adopted
    _adopted = (stream, folder)
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """Wait for the end of the parent: a pool whose parent was killed would wait for work for ever."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _write(lane: int, start: int, stop: int) -> int:
    stream, folder = _adopted
    point("shard")
    return write_shard(stream, folder, lane, start, stop)
