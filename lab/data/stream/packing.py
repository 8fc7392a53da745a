"""Documents to blocks."""

import bisect
from typing import NamedTuple

import numpy as np
from jaxtyping import Int32, UInt32


class Packed(NamedTuple):
    """The token ids of a block, and the places in it at which documents start.

    A block that begins inside a document has no start at 0.
    """

    tokens: UInt32[np.ndarray, "block_length"]
    starts: Int32[np.ndarray, "documents"]


class Packer:
    """Joins documents, each followed by the end-of-document token, and cuts the whole into equal blocks.

    Nothing is lost or repeated: the blocks given so far, then `remainder`, are the documents with their ends.
    A packer made with another's `remainder` goes on where that one stood.
    """

    def __init__(self, block_length: int, end_of_document: int, remainder: Packed | None = None) -> None:
        self.block_length = block_length
        self.end = np.array([end_of_document], dtype=np.uint32)
        self.remainder = remainder or Packed(np.empty(0, dtype=np.uint32), np.empty(0, dtype=np.int32))

    def add(self, document: UInt32[np.ndarray, "tokens"]) -> list[Packed]:
        """Append one document (without its end token) and return the blocks that it completes, maybe none."""
        tokens = np.concatenate([self.remainder.tokens, document, self.end])
        starts = [*self.remainder.starts.tolist(), len(self.remainder.tokens)]
        blocks = []
        first = 0  # of the starts that are not yet in a block
        for edge in range(self.block_length, len(tokens) + 1, self.block_length):
            blocks.append(_cut(tokens, starts, first, edge - self.block_length, edge))
            first += len(blocks[-1].starts)
        self.remainder = _cut(tokens, starts, first, len(blocks) * self.block_length, len(tokens))
        return blocks


def _cut(tokens: np.ndarray, starts: list[int], first: int, begin: int, end: int) -> Packed:
    """The tokens [begin, end) with the starts among them, of which `starts[first]` is the first."""
    last = bisect.bisect_left(starts, end, first)
    inside = np.array([start - begin for start in starts[first:last]], dtype=np.int32)
    return Packed(tokens[begin:end], inside)


def document_numbers(starts: Int32[np.ndarray, "documents"], length: int) -> Int32[np.ndarray, "length"]:
    """For each place of a block the number of its document, counted from 0 within the block."""
    edges = np.zeros(length, dtype=np.int32)
    edges[starts] = 1
    numbers = np.cumsum(edges, dtype=np.int32)
    return numbers - numbers[0]
