"""Blocks written down once: the same blocks as the stream's, then read by number.

    index.json                          identity of the stream, block length, lanes, blocks of a shard
    lane=0003/item=00001024.safetensors  the blocks from item 1024 of lane 3 on

A shard holds `tokens` [blocks, C + 1] (uint16 where the vocabulary allows, else uint32), `starts` of documents and
`edges` [blocks + 1] between the blocks' starts. Its metadata holds the sum of its blocks' fingerprints, the documents
skipped, the prompts where there are any, the cursor of its last block, from which the next shard goes on, and a sha256
of all that is not in the fingerprints. A shard is there whole or not at all, so writing can be killed and started again
at any time, and the files are the same, byte for byte.
"""

import hashlib
import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from safetensors import SafetensorError, safe_open

from lab.base.errors import UserError
from lab.data.stream.fingerprint import Fingerprint
from lab.data.stream.order import Block, Cursor


class Shard(NamedTuple):
    """The content of one shard."""

    tokens: np.ndarray
    starts: np.ndarray
    edges: np.ndarray
    skipped: dict[str, dict[str, str]]  # by item
    prompts: dict[str, list[list[int]]]  # by item
    cursor: Cursor

    def block(self, index: int, item: int) -> Block:
        starts = self.starts[self.edges[index] : self.edges[index + 1]]
        prompts = np.array(self.prompts.get(str(item), []), dtype=np.int32).reshape(-1, 2)
        return Block(self.tokens[index].astype(np.uint32), starts, None, self.skipped.get(str(item), {}), prompts)


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
    return Shard(tokens, starts, edges, header["skipped"], header.get("prompts", {}), Cursor.of(record))


def seal(header: dict[str, Any], starts: np.ndarray, edges: np.ndarray) -> str:
    """The sha256 of what a shard holds beside its tokens, which are in its fingerprint."""
    rest = {key: value for key, value in header.items() if key != "sha256"}
    content = json.dumps(rest, sort_keys=True).encode() + starts.tobytes() + edges.tobytes()
    return hashlib.sha256(content).hexdigest()


def read_index_of(folder: Path) -> dict[str, Any]:
    """As `read_index`, where one must be."""
    index = read_index(folder)
    if index is None:
        raise UserError(f"{folder}: its index.json is missing; delete the folder and make the blocks again")
    return index
