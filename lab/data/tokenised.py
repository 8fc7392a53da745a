"""Documents to token ids, several at a time."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np
from jaxtyping import UInt32

from lab.data.documents import Corpus, Entry
from lab.data.tokenizer import Tokenizer

Mark = TypeVar("Mark")

# The tokenizer spreads a group over all cores. The first groups are small, so that a stream starts at once.
LARGEST_GROUP = 16
LARGEST_GROUP_CHARACTERS = 2**20


@dataclass(frozen=True)
class Tokenised(Generic[Mark]):
    """A document's token ids without the end token; None if it was skipped. `mark` is whatever came with it."""

    entry: Entry
    tokens: UInt32[np.ndarray, "tokens"] | None
    mark: Mark


def tokenised(documents: Iterable[tuple[Entry, Mark]], tokenizer: Tokenizer) -> Iterator[Tokenised[Mark]]:
    """Each document in turn with its token ids; reads ahead by at most one group."""
    size = 1
    group: list[tuple[Entry, Mark]] = []
    characters = 0
    for entry, mark in documents:
        group.append((entry, mark))
        characters += len(entry.text or "")
        if len(group) == size or characters > LARGEST_GROUP_CHARACTERS:
            yield from _encode(group, tokenizer)
            group, characters, size = [], 0, min(2 * size, LARGEST_GROUP)
    yield from _encode(group, tokenizer)


def held_out(corpus: Corpus, split: str, tokenizer: Tokenizer) -> Iterator[tuple[str, UInt32[np.ndarray, "tokens"]]]:
    """Every usable document of a split in corpus order: its name and its token ids, without the end token."""
    entries = ((entry, None) for subset in corpus.subsets(split) for entry in corpus.documents(split, subset))
    for document in tokenised(entries, tokenizer):
        if document.tokens is not None:
            yield document.entry.name, document.tokens


def _encode(group: list[tuple[Entry, Mark]], tokenizer: Tokenizer) -> Iterator[Tokenised[Mark]]:
    encoded = iter(tokenizer.encode_batch([entry.text for entry, _ in group if entry.text is not None]))
    for entry, mark in group:
        yield Tokenised(entry, None if entry.text is None else next(encoded), mark)
