"""Documents to blocks."""

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
        starts = np.append(self.remainder.starts, np.int32(len(self.remainder.tokens)))
        count = len(tokens) // self.block_length
        # The starts of block k stand between edges k and k + 1; those after the last edge stay for the remainder.
        edges = np.arange(count + 1) * self.block_length
        places = np.split(starts, np.searchsorted(starts, edges[1:]))
        parts = np.split(tokens, edges[1:])
        *blocks, self.remainder = [
            Packed(part, (place - edge).astype(np.int32))
            for part, place, edge in zip(parts, places, edges, strict=True)
        ]
        return blocks


def document_numbers(starts: Int32[np.ndarray, "documents"], length: int) -> Int32[np.ndarray, "length"]:
    """For each place of a block the number of its document, counted from 0 within the block."""
    edges = np.zeros(length, dtype=np.int32)
    edges[starts] = 1
    numbers = np.cumsum(edges, dtype=np.int32)
    return numbers - numbers[0]
