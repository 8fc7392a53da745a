"""What a measure is: items to score, and what a decoder's score of one item says.

One file a measure, with its source in the docstring; the choices stand in ``conf/measure/``. An item is scored by
itself, so that a scoring that was interrupted goes on with the next one.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import torch
from jaxtyping import Int, UInt32
from torch import Tensor

from lab.data.tokenizer import Tokenizer
from lab.errors import UserError
from lab.model.decoder import Decoder

Row = dict[str, Any]
Ids = UInt32[np.ndarray, "tokens"]

# The columns of an observation. Empty where a measure has no use for one.
#   segment          number of a stretch of the document
#   length_tokens    how much the decoder is given: length of the pass, window or prompt, or tokens of left context
#   distance_tokens  how far back the thing to be found lies
#   start_position, stop_position   positions predicted from (the second not included), 0 being the stretch's first
#   tokens           how many tokens the mean loss is over
#   loss_nats        mean loss of these
#   correct          1 if the answer was found, else 0
OBSERVED = (
    "segment",
    "length_tokens",
    "distance_tokens",
    "start_position",
    "stop_position",
    "tokens",
    "loss_nats",
    "correct",
)


@dataclass(frozen=True)
class Item:
    """What is scored at a time: a document, or a trial that a measure made up; names are unique in a measure."""

    name: str
    ids: Ids
    details: dict[str, Any] = field(default_factory=dict)


class Source:
    """Where measures take their items from.

    Args:
        documents: gives (name, token ids) of every held-out document; read as far as it is needed, once.
        tokenizer: of the decoders that are scored.
        context: C in tokens.
    """

    def __init__(self, documents: Callable[[], Iterator[tuple[str, Ids]]], tokenizer: Tokenizer, context: int) -> None:
        self.tokenizer = tokenizer
        self.context = context
        self._read: list[Item] = []
        self._rest = documents

    def documents(self) -> Iterator[Item]:
        """Every held-out document in corpus order."""
        yield from self._read
        if not hasattr(self, "_iterator"):
            self._iterator = self._rest()
        seen = len(self._read)
        while True:
            if seen == len(self._read):
                following = next(self._iterator, None)
                if following is None:
                    return
                self._read.append(Item(*following))
            yield self._read[seen]
            seen += 1

    def long_enough(self, needed: int, count: int | None) -> Iterator[Item]:
        """The first ``count`` documents (None: all) of at least ``needed`` tokens.

        Raises:
            UserError: there is none; names the longest.
        """
        longest = ("none", 0)
        found = 0
        for item in self.documents():
            longest = max(longest, (item.name, len(item.ids)), key=lambda entry: entry[1])
            if len(item.ids) >= needed:
                yield item
                found += 1
                if found == count:
                    return
        if not found:
            raise UserError(
                f"no held-out document has the {needed:,} tokens that are scored (C = {self.context}); the longest, "
                f"{longest[0]}, has {longest[1]:,}; lower scoring.longest or scale.context, take longer documents "
                "(evaluation=...), or set measure=none"
            )


class Measure(ABC):
    """One way to score a decoder beyond its window; the keys of its configuration are its settings."""

    name: ClassVar[str]
    reads_documents: ClassVar[bool] = True  # False: its items are made up, whatever the held-out documents are

    def check(self, context: int) -> None:  # noqa: B027 most settings fit any context
        """Raises UserError if the settings do not fit a context."""

    @abstractmethod
    def items(self, source: Source) -> Iterator[Item]:
        """What is to be scored. Raises UserError if there is nothing."""

    @abstractmethod
    def score(self, decoder: Decoder, item: Item, context: int) -> list[Row]:
        """What is observed of one item: rows with some of the columns OBSERVED. Called in inference mode."""


def positive(measure: str, **settings: Any) -> None:
    """Raises UserError for a setting that is not a whole number above 0."""
    for key, value in settings.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise UserError(f"measure.{measure}.{key} is {value!r}: give a whole number above 0")


def positive_or_null(measure: str, **settings: Any) -> None:
    """Raises UserError for a setting that is neither None nor a whole number above 0."""
    positive(measure, **{key: value for key, value in settings.items() if value is not None})


def positive_list(measure: str, **settings: Any) -> None:
    """Raises UserError for a setting that is neither None nor a list of whole numbers above 0."""
    for key, values in settings.items():
        if values is None:
            continue
        if not isinstance(values, (list, tuple)) or not values:
            raise UserError(f"measure.{measure}.{key} is {values!r}: give a list of whole numbers above 0, or null")
        for value in values:
            positive(measure, **{key: value})


def check_seed(measure: str, seed: Any) -> None:
    """Raises UserError for a seed that is not a whole number from 0 on."""
    if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
        raise UserError(f"measure.{measure}.seed is {seed!r}: give a whole number, 0 or more")


def on_device(ids: Ids, decoder: Decoder) -> Int[Tensor, "tokens"]:
    """Token ids where the decoder is."""
    return torch.from_numpy(ids.astype(np.int64)).to(decoder.embedding.device)


def segment_starts(tokens: int, length: int, segments: int) -> list[int]:
    """Starts of at most ``segments`` stretches of ``length`` tokens, disjoint, spread from the first to the last."""
    count = min(segments, tokens // length)
    if count < 2:
        return [0] * count
    return [index * (tokens - length) // (count - 1) for index in range(count)]


def doublings(context: int, longest: int) -> list[int]:
    """C/2, C, 2 C, 4 C, ... up to ``longest`` contexts, which is the last whether a power of two or not."""
    lengths = [context // 2, context]
    while lengths[-1] * 2 <= longest * context:
        lengths.append(lengths[-1] * 2)
    return lengths if lengths[-1] == longest * context else [*lengths, longest * context]
