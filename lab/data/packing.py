"""Documents to blocks."""

import numpy as np
from jaxtyping import UInt32


class Packer:
    """Joins documents, each followed by the end-of-document token, and cuts the whole into equal blocks.

    Nothing is lost or repeated: the blocks given so far, then `remainder`, are the documents with their ends.
    """

    def __init__(self, block_length: int, end_of_document: int) -> None:
        self.block_length = block_length
        self.end_of_document = end_of_document
        self.remainder = np.empty(0, dtype=np.uint32)

    def add(self, document: UInt32[np.ndarray, "tokens"]) -> UInt32[np.ndarray, "blocks block_length"]:
        """Append one document (without its end token) and return the blocks that it completes, maybe none."""
        end = np.array([self.end_of_document], dtype=np.uint32)
        joined = np.concatenate([self.remainder, document, end])
        count = len(joined) // self.block_length
        self.remainder = joined[count * self.block_length :].copy()
        return joined[: count * self.block_length].reshape(count, self.block_length)
