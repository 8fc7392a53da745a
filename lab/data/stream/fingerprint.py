"""A number that stands for which blocks were read, and at which places."""

import hashlib

import numpy as np
from jaxtyping import UInt32


def fingerprint(g: int, tokens: UInt32[np.ndarray, "block_length"]) -> int:
    """128 bits that stand for this block at this place: blake2b of g and the token ids, little-endian."""
    content = g.to_bytes(8, "little") + tokens.astype("<u4").tobytes()
    return int.from_bytes(hashlib.blake2b(content, digest_size=16).digest(), "little")


class Fingerprint:
    """The sum of the fingerprints of blocks, modulo 2**128.

    A sum does not depend on the order: processes may each add their own blocks, and then their `total`s.
    """

    def __init__(self, total: int = 0) -> None:
        self.total = total

    def add(self, g: int, tokens: UInt32[np.ndarray, "block_length"]) -> None:
        """Take in global block g."""
        self.total = (self.total + fingerprint(g, tokens)) % 2**128

    @property
    def hex(self) -> str:
        """The sum as 32 hexadecimal digits."""
        return f"{self.total:032x}"
