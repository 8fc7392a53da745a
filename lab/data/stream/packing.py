"""Documents to blocks."""

import bisect
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Int32, UInt32

from lab.base.errors import UserError

NO_PROMPTS = np.empty((0, 2), dtype=np.int32)


class Packed(NamedTuple):
    """The token ids of a block, the places in it at which documents start, and those, [first, behind last), that are
    prompts: read, and not learned.

    A block that begins inside a document has no start at 0.
    """

    tokens: UInt32[np.ndarray, "block_length"]
    starts: Int32[np.ndarray, "documents"]
    prompts: Int32[np.ndarray, "prompts 2"] = NO_PROMPTS


class Packer:
    """Joins documents, each followed by the end-of-document token, and cuts the whole into equal blocks.

    Nothing is lost or repeated: the blocks given so far, then `remainder`, are the documents with their ends.
    A packer made with another's `remainder` goes on where that one stood. With `whole` no document is cut: one for
    which there is no room begins the next block, and what is left of this one is end tokens that are not learned.
    """

    def __init__(
        self, block_length: int, end_of_document: int, remainder: Packed | None = None, whole: bool = False
    ) -> None:
        self.block_length = block_length
        self.end = np.array([end_of_document], dtype=np.uint32)
        self.remainder = remainder or Packed(np.empty(0, dtype=np.uint32), np.empty(0, dtype=np.int32))
        self.whole = whole

    def add(self, document: UInt32[np.ndarray, "tokens"], prompt: int = 0, name: str = "") -> list[Packed]:
        """Append one document (without its end token), whose first `prompt` tokens are not learned, and return the
        blocks that it completes, maybe none.

        Raises UserError, with the document's `name`, if it is to stay whole and no block has room for it.
        """
        filled = self._filled(len(document) + 1, name) if self.whole else []
        return filled + self._appended(document, prompt)

    def _filled(self, needed: int, name: str) -> list[Packed]:
        """The block that is filled up with end tokens if it has no room for a document."""
        if needed > self.block_length:
            raise UserError(
                f"{name}: {needed:,} tokens with its end, and it has to stand whole in a block of "
                f"{self.block_length:,}, which are C + 1: give a longer context or shorter documents"
            )
        held = self.remainder
        room = self.block_length - len(held.tokens)
        if needed <= room:
            return []
        self.remainder = Packed(held.tokens[:0], held.starts[:0])
        not_learned = np.array([[self.block_length - room, self.block_length]], dtype=np.int32)
        tokens = np.concatenate([held.tokens, np.repeat(self.end, room)])
        return [Packed(tokens, held.starts, np.concatenate([held.prompts, not_learned]))]

    def _appended(self, document: UInt32[np.ndarray, "tokens"], prompt: int) -> list[Packed]:
        begin = len(self.remainder.tokens)
        tokens = np.concatenate([self.remainder.tokens, document, self.end])
        starts = [*self.remainder.starts.tolist(), begin]
        prompts = self.remainder.prompts
        if prompt:
            prompts = np.concatenate([prompts, np.array([[begin, begin + prompt]], dtype=np.int32)])
        blocks = []
        first = 0  # of the starts that are not yet in a block
        for edge in range(self.block_length, len(tokens) + 1, self.block_length):
            blocks.append(_cut(tokens, starts, prompts, first, edge - self.block_length, edge))
            first += len(blocks[-1].starts)
        self.remainder = _cut(tokens, starts, prompts, first, len(blocks) * self.block_length, len(tokens))
        return blocks


def _cut(tokens: np.ndarray, starts: list[int], prompts: np.ndarray, first: int, begin: int, end: int) -> Packed:
    """The tokens [begin, end) with the starts among them, of which `starts[first]` is the first, and the prompts as far
    as they lie there."""
    last = bisect.bisect_left(starts, end, first)
    inside = np.array([start - begin for start in starts[first:last]], dtype=np.int32)
    if len(prompts):
        prompts = prompts.clip(begin, end) - np.int32(begin)
        prompts = prompts[prompts[:, 0] < prompts[:, 1]]
    return Packed(tokens[begin:end], inside, prompts)


def learned(
    prompts: Int32[np.ndarray, "prompts 2"] | Sequence[Sequence[int]], length: int
) -> Bool[np.ndarray, "length"]:
    """For each place of a block whether its token is learned, that is, in no prompt."""
    counted = np.ones(length, dtype=bool)
    for first, behind in prompts:
        counted[first:behind] = False
    return counted


def document_numbers(starts: Int32[np.ndarray, "documents"], length: int) -> Int32[np.ndarray, "length"]:
    """For each place of a block the number of its document, counted from 0 within the block."""
    edges = np.zeros(length, dtype=np.int32)
    edges[starts] = 1
    numbers = np.cumsum(edges, dtype=np.int32)
    return numbers - numbers[0]
