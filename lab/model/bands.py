"""The chunks in which the kernel ``banded`` forms scores, and how many it forms. No torch: plans count with it."""

from collections.abc import Iterator
from dataclasses import dataclass

KEPT_BYTES = 2**26  # of probabilities, that a pass keeps at most
CHUNK = 128  # queries at a time: large enough for the matrix library, small enough for the cache


@dataclass(frozen=True)
class Band:
    """One chunk: queries [start, stop) of the batch see some of the keys [first, last) and none outside."""

    start: int
    stop: int
    first: int
    last: int


def bands(queries: int, offset: int, window: int | None, chunk: int = CHUNK) -> Iterator[Band]:
    """The chunks of a pass, in order; key indices count from the first key, query indices from the first query."""
    for start in range(0, queries, chunk):
        stop = min(start + chunk, queries)
        first = 0 if window is None else max(0, offset + start - window + 1)
        yield Band(start, stop, first, offset + stop)


def scores_formed(queries: int, offset: int, window: int | None) -> int:
    """How many scores a head forms in a pass."""
    return sum((band.stop - band.start) * (band.last - band.first) for band in bands(queries, offset, window))
