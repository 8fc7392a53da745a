"""The rule of lab/data/stream/order.py in words, slowly: no cursor, no group, no laziness, and hashes of its own."""

import hashlib
import itertools
from collections.abc import Iterator
from fractions import Fraction
from typing import Any


def keyed(count: int, *numbers: int, subset: str) -> list[int]:
    """0 to count - 1, sorted by a hash keyed with the numbers and the subset."""
    key = b"".join(number.to_bytes(8, "little") for number in numbers)
    key += hashlib.blake2b(subset.encode(), digest_size=16).digest() if subset else b""
    return sorted(
        range(count), key=lambda index: hashlib.blake2b(index.to_bytes(8, "little"), key=key, digest_size=16).digest()
    )


def lane_documents(
    corpus: Any, subset: str, seed: int, lanes: int, lane: int, tile: int
) -> Iterator[tuple[str, str | None]]:
    """The names and texts of a lane's documents in a subset, without end."""
    for epoch in itertools.count():
        for rank, chunk in enumerate(keyed(corpus.chunks("train", subset), seed, epoch, subset=subset)):
            if rank % lanes == lane:
                documents = [(entry.name, entry.text) for entry in corpus.read("train", subset, chunk)]
                for number, start in enumerate(range(0, len(documents), tile)):
                    together = documents[start : start + tile]
                    for index in keyed(len(together), seed, epoch, chunk, number, subset=subset):
                        yield together[index]


def lane_blocks(
    corpus: Any,
    tokenizer: Any,
    count: int,
    lane: int,
    *,
    context: int,
    seed: int,
    lanes: int,
    weights: dict[str, float],
    tile: int,
) -> list[tuple[list[int], list[int], list[str]]]:
    """(token ids, the document of each, the documents skipped since the block before) of a lane's first blocks."""
    sources = {name: lane_documents(corpus, name, seed, lanes, lane, tile) for name in corpus.subsets("train")}
    taken = dict.fromkeys(sources, 0)
    tokens: list[int] = []
    owners: list[int] = []
    skipped: list[str] = []
    blocks: list[tuple[list[int], list[int], list[str]]] = []
    for number in itertools.count():
        subset = min(sources, key=lambda name: Fraction(taken[name]) / Fraction(str(weights[name])))
        name, text = next(sources[subset])
        if text is None:
            skipped.append(name)
            continue
        ids = [*tokenizer.encode(text).tolist(), tokenizer.end_of_document]
        taken[subset] += len(ids)
        tokens, owners = tokens + ids, owners + [number] * len(ids)
        while len(tokens) > context:
            blocks.append((tokens[: context + 1], owners[: context + 1], skipped))
            tokens, owners, skipped = tokens[context + 1 :], owners[context + 1 :], []
            if len(blocks) == count:
                return blocks
    raise AssertionError("a lane has no end")
