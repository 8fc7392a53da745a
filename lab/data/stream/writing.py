"""Write down the blocks of a stream: a lane by a process, and the lanes on one machine or, in parts, on several."""

import contextlib
import itertools
import json
import logging
import multiprocessing
import os
import platform
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save

from lab.base.errors import UserError
from lab.base.failpoints import point
from lab.base.files import make_folder, write_whole
from lab.base.interruption import SIGNALS, Interruption
from lab.data.stream.fingerprint import Fingerprint
from lab.data.stream.order import BlockStream
from lab.data.stream.shards import items_of, read_header, read_index, read_index_of, read_shard, seal, shard_path

LOG = logging.getLogger("lab.data")
SHARD_TOKENS = 2**21


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
    prompts = {
        str(item): block.prompts.tolist()
        for item, block in zip(range(start, stop), blocks, strict=True)
        if len(block.prompts)
    }
    if prompts:
        header["prompts"] = prompts
    header["sha256"] = seal(header, starts, edges)
    content = save(
        {"tokens": tokens, "starts": starts, "edges": edges},
        # One key, as the order of several is not always the same.
        metadata={"record": json.dumps(header, sort_keys=True)},
    )
    path = shard_path(folder, lane, start)
    path.parent.mkdir(parents=True, exist_ok=True)
    # Where a node has failed its task may still be dying there while it begins anew here.
    write_whole(path, content, beside=f".{platform.node()}.new")
    return tokens.size


def write_blocks(
    stream: BlockStream,
    folder: Path,
    identity: dict[str, Any],
    count: int,
    processes: int,
    progress: Callable[[int], object],
    part: int = 0,
    parts: int = 1,
) -> None:
    """Write the first `count` blocks of a stream, those that are already there and whole excepted.

    Of several parts, each of which may be written by another machine at the same time, only the lanes of `part`
    (0 to `parts` - 1). `progress` is told the number of tokens whenever a shard is ready.

    Raises:
        UserError: the folder holds other blocks or cannot be written, or there are fewer lanes than parts.
        Interrupted: a signal asked to stop; the shards in hand are written.
    """
    lanes = min(stream.lanes, count)
    if parts > lanes:
        raise UserError(f"{parts} parts of {lanes} lanes: a part is some of the lanes; ask for at most {lanes} parts")
    size = make_index(stream, folder, identity)

    def missing(lane: int) -> Iterator[tuple[int, int]]:
        items = items_of(lane, count, stream.lanes)
        for start in range(0, items, size):
            stop = min(start + size, items)
            if is_whole(folder, lane, start, stop, stream.lanes):
                progress((stop - start) * (stream.context + 1))
            else:
                yield start, stop

    own = range(part, lanes, parts)
    context = multiprocessing.get_context("fork")
    with (
        Interruption() as interruption,
        _told_if_killed(),
        # All are started at once, and one that has no lane would have nothing to do.
        ProcessPoolExecutor(min(processes, len(own)), context, _adopt, (stream, folder)) as pool,
    ):
        running: dict[Future[int], tuple[int, Iterator[tuple[int, int]]]] = {}

        def submit_next(lane: int, shards: Iterator[tuple[int, int]]) -> None:
            for start, stop in itertools.islice(shards, 1):
                running[pool.submit(_write, lane, start, stop)] = (lane, shards)

        # One shard of a lane at a time: each goes on from the cursor of the one before.
        for lane in own:
            submit_next(lane, missing(lane))
        while running:
            done, _ = wait(running, return_when=FIRST_COMPLETED)
            for future in done:
                lane, shards = running.pop(future)
                progress(future.result())
                if interruption.received is None:
                    submit_next(lane, shards)
            if interruption.received is not None:
                running = {future: rest for future, rest in running.items() if not future.cancel()}
        interruption.check(f"came: {unwritten(folder, count, stream.lanes):,} of {count:,} blocks are not yet written")


def make_index(stream: BlockStream, folder: Path, identity: dict[str, Any]) -> int:
    """Write what the blocks of a folder are, if it does not say so yet; the blocks of a shard."""
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
    make_folder(folder)
    content = (json.dumps(index, indent=2, sort_keys=True) + "\n").encode()
    if stored is None:  # several parts may begin at the same moment, on one node or on many
        write_whole(folder / "index.json", content, beside=f".{platform.node()}.{os.getpid()}.new")
    return int(index["shard_blocks"])


def unwritten(folder: Path, count: int, lanes: int) -> int:
    """How many of the first `count` blocks are not there, by what the shards say of themselves."""
    size = read_index_of(folder)["shard_blocks"]
    missing = 0
    for lane in range(min(lanes, count)):
        items = items_of(lane, count, lanes)
        for start in range(0, items, size):
            shard = shard_path(folder, lane, start)
            held = read_header(shard)["blocks"] if shard.exists() else 0
            missing += max(0, min(size, items - start) - held)
    return missing


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
    for number in SIGNALS:  # a terminal and SLURM send them to every process: what is in hand is written whole
        signal.signal(number, signal.SIG_IGN)
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
