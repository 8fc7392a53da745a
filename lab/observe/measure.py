"""What a measure is: items to score, and what a decoder's score of one item says.

One file a measure in lab/measure/, without torch until it scores; the choices stand in ``conf/measure/``. An item is
scored by itself, so that a scoring that was interrupted goes on with the next one.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import numpy as np
from jaxtyping import UInt32

from lab.base.errors import UserError
from lab.base.parts import name_of, parts_of
from lab.base.settings import Settings

if TYPE_CHECKING:
    from lab.data.sources.documents import Corpus
    from lab.data.tokenizer import Tokenizer
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
# Columns that a table has only if a row has a use for them.
#   layer, head      that were observed, counted from 0
#   value            what was observed, if it is no mean loss and no answer
BESIDE = ("layer", "head", "value")


@dataclass(frozen=True)
class Item:
    """What is scored at a time: a document, or a trial that a measure made up; names are unique in a measure.

    Several short documents that are scored together are an item with ``parts``, their names; its rows say which of them
    they are of, as ``document``.
    """

    name: str
    ids: Ids
    details: dict[str, Any] = field(default_factory=dict)
    parts: tuple[str, ...] = ()

    @property
    def documents(self) -> tuple[str, ...]:
        """The names that its rows have as ``document``."""
        return self.parts or (self.name,)


class Source:
    """Where measures take their items from.

    Args:
        documents: gives (name, token ids) of every held-out document; read as far as it is needed, once.
        tokenizer: of the decoders that are scored.
        context: C in tokens.
        cluster: of a document by its name: its author, or what else documents are alike in; None: each is its own.
        clusters: what to call clusters: ``authors``, ``plays of one author``.
        trained_on: gives the corpus that the decoders were trained on.
    """

    def __init__(
        self,
        documents: Callable[[], Iterator[tuple[str, Ids]]],
        tokenizer: "Tokenizer",
        context: int,
        cluster: Callable[[str], str] | None = None,
        clusters: str = "documents",
        trained_on: Callable[[], "Corpus"] | None = None,
    ) -> None:
        self.tokenizer = tokenizer
        self.context = context
        self.cluster = cluster or str
        self.clusters = clusters
        self.trained_on = trained_on
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
                f"{longest[0]}, has {longest[1]:,}; score fewer contexts, take longer documents, "
                "or score nothing"
            )


@dataclass(frozen=True)
class Curve:
    """How the rows of a measure are drawn as a line: title, and what the axes say.

    ``perplexity``: losses are shown as their exponential, on a logarithmic axis.
    """

    title: str
    along: str
    upward: str
    perplexity: bool = False


class Point(NamedTuple):
    """A row's place on a curve: which line, where along in tokens, the number, and its weight in a document's mean."""

    line: str
    tokens: float
    value: float
    weight: float = 1.0


class Compared(NamedTuple):
    """What a row adds to the quantity that variants are compared by; lower is better."""

    length_tokens: int
    value: float
    weight: float


class Measure(Settings, ABC):
    """One way to score a decoder beyond its window, and all that anybody needs to know of it, in its own file.

    Its fields are its keys. Class attributes say what its numbers are:

    Attributes:
        unit: of the number that is shown.
        difference_unit: of differences between variants.
        length_is: what the length of the quantity means.
        curve: how its rows are drawn, None if they are not.
        contrast: two lines of the curve, (minuend, subtrahend), whose difference is drawn as a map; None: no map.
        contrast_label: what that difference is.
        reads_documents: False: its items are made up, whatever the held-out documents are.
        needs_gradients: False: it is called in inference mode.
        foretells: it needs a decoder that sees nothing of what comes after.
        pooled: the mean over documents weighs each token alike, not each document.
        same_targets: its lengths are amounts of left context of the same targets, so that an effective context follows.
        answers: its verdicts are the answer that a comparison begins with.
        shows_shortest: its shortest length is told beside its longest where there is room for few.
        detail: name of the table that :meth:`details` gives, "" for none.
    """

    unit: ClassVar[str] = "nats"
    difference_unit: ClassVar[str] = "nats"
    length_is: ClassVar[str]
    curve: ClassVar[Curve | None] = None
    contrast: ClassVar[tuple[str, str] | None] = None
    contrast_label: ClassVar[str] = ""
    reads_documents: ClassVar[bool] = True
    needs_gradients: ClassVar[bool] = False
    foretells: ClassVar[bool] = True
    pooled: ClassVar[bool] = False
    same_targets: ClassVar[bool] = False
    answers: ClassVar[bool] = False
    shows_shortest: ClassVar[bool] = False
    detail: ClassVar[str] = ""

    @classmethod
    def label(cls) -> str:
        """Its short name."""
        return name_of(cls)

    def fits(self, context: int) -> None:
        """Raises UserError if the settings do not fit a context C."""

    def reads_inside(self, context: int) -> bool:
        """Whether it has something to say of a decoder that reads no more than C tokens; then its items are those of
        all, and it scores them as far as that goes."""
        return False

    @abstractmethod
    def items(self, source: Source) -> Iterator[Item]:
        """What is to be scored. Raises UserError if there is nothing."""

    @abstractmethod
    def score(self, decoder: "Decoder", item: Item, context: int) -> list[Row]:
        """What is observed of one item: rows with some of the columns OBSERVED."""

    @classmethod
    def compared(cls, row: Row, context: int) -> Compared | None:
        """What a row adds to the compared quantity, None if nothing. The loss at its length, unless told otherwise."""
        if row["measure"] != cls.label():
            return None
        return Compared(row["length_tokens"], row["loss_nats"], row["tokens"])

    @classmethod
    def point(cls, row: Row) -> Point | None:
        """A row's place on the curve, None if it has none."""
        if row["measure"] != cls.label():
            return None
        return Point(cls.label(), row["length_tokens"], row["loss_nats"])

    @classmethod
    def length_text(cls, length: int, context: int) -> str:
        """A length of the quantity as it is shown."""
        return f"{length:,}"

    @classmethod
    def notes(cls, rows: Sequence[Row]) -> list[tuple[str, str, str]]:
        """Further lines of a short table, of a run's rows: what it is, length, number."""
        return []

    @classmethod
    def details(cls, rows: Sequence[Row]) -> list[Row]:
        """Rows of a table of its own (``detail``), of a run's or variant's rows."""
        return []

    @classmethod
    def detail_map(cls) -> tuple[str, str, str, str, str, str] | None:
        """How :meth:`details` are drawn as a map: columns down, across and value, and what each of them is."""
        return None


def measure_of(row_measure: str) -> type[Measure] | None:
    """The measure that rows of this name are compared by; None for rows that stand beside."""
    found = parts_of("measure").get(row_measure)
    return found.settings if found is not None else None  # type: ignore[return-value]


def measures() -> list[type[Measure]]:
    """All measures in the order in which they are told: by name, whichever was imported first."""
    return [each.settings for _, each in sorted(parts_of("measure").items())]  # type: ignore[misc]


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


def range_end(stop: int, context: int, longest: int) -> int:
    """The end of the range [0, C), [C, 2C), [2C, 4C), ... that ends with ``longest`` in which a bin lies."""
    end = context
    while end < min(stop, longest):
        end = min(2 * end, longest)
    return end


def range_start(end: int, context: int) -> int:
    """The start of the range of positions that ends with ``end``: see :func:`range_end`."""
    start = 0
    while range_end(start + 1, context, end) < end:
        start = range_end(start + 1, context, end)
    return start
