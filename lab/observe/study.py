"""What a study is: a statistic over many documents, folded, and the table and picture that it ends in.

One file a study in lab/analysis/, without torch until it observes; the choices stand in ``conf/study/``.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from lab.base.errors import UserError
from lab.base.parts import name_of
from lab.base.settings import Settings
from lab.observe.measure import Item, Row, Source, range_end

if TYPE_CHECKING:
    from lab.model.decoder import Decoder
    from lab.observe.fold import Fold, Observed
    from lab.observe.trained import Training


@dataclass(frozen=True)
class Lines:
    """How a study's table is drawn: a line for each value of a column.

    Attributes:
        by, along, upward: columns of the table; ``by``: which line.
        by_label, along_label, upward_label: what they are.
        positions: the axis is one of positions: it is logarithmic, and shows the end of the training window.
        doublings: the axis is logarithmic.
    """

    title: str
    by: str
    along: str
    upward: str
    by_label: str
    along_label: str
    upward_label: str
    positions: bool = False
    doublings: bool = False


@dataclass(frozen=True)
class Points:
    """How a study's table is drawn: a panel for each value of a column, a point for each row.

    Attributes:
        by, along, upward, shade: columns of the table; ``by``: which panel.
        labels: what they are, in that order.
    """

    title: str
    by: str
    along: str
    upward: str
    shade: str
    labels: tuple[str, str, str, str]


@dataclass(frozen=True)
class Map:
    """How a study's table is drawn: as colours.

    Attributes:
        down, across, value: columns of the table.
        labels: what they are, in that order.
    """

    title: str
    down: str
    across: str
    value: str
    labels: tuple[str, str, str]


@dataclass(frozen=True)
class Headline:
    """The column by which several runs are compared, along another, of numbers or of words; rows that agree in the
    latter hold one value, and rows with nothing there are left out."""

    along: str
    value: str
    along_label: str
    value_label: str


class Number(NamedTuple):
    """What a study says of a run in one number, for claims to be held against.

    Attributes:
        quantity: what it is, in words; claims name it behind the study's name: ``formation: told_apart in layer 4``.
        document: that it is of; "": of all that was read.
    """

    quantity: str
    value: float
    document: str = ""


class Study(Settings, ABC):
    """One question about a decoder. Its fields are its keys.

    Attributes:
        pictures: of its table.
        headline: None: several runs are not compared.
        over_steps, step_pictures: by what runs are compared, and how a table is drawn, that are read at all the steps
            whose weights were kept; empty: it is read at one.
        built_on: modules of its room that its numbers come from, beside its own and those of its classes.
        of_people: True: it is about the people whom the decoder read of in training, and reads no other documents.
    """

    pictures: ClassVar[tuple[Lines | Points | Map, ...]]
    headline: ClassVar[Headline | None] = None
    over_steps: ClassVar[tuple[Headline, ...]] = ()
    step_pictures: ClassVar[tuple[Lines | Points | Map, ...]] = ()
    built_on: ClassVar[tuple[str, ...]] = ()
    of_people: ClassVar[bool] = False

    @property
    def documents_of(self) -> str:
        """The split that its documents are of: ``test`` unless it says otherwise."""
        return "test"

    @classmethod
    def label(cls) -> str:
        """Its short name."""
        return name_of(cls)

    def fits(self, context: int) -> None:
        """Raises UserError if the settings do not fit a context C."""

    @abstractmethod
    def items(self, source: Source) -> Iterator[Item]:
        """What is observed. Raises UserError if there is nothing."""

    def made_of(self, source: Source) -> Mapping[str, Any] | None:
        """What its items say that neither their names nor its settings do, in words of JSON: it names the fold."""
        return None

    def numbers(self, fold: "Fold", rows: Sequence[Row]) -> Iterator[Number]:
        """The quantities that claims may name, of what was observed and of the table made of it."""
        return iter(())


class DocumentStudy(Study):
    """A study of a decoder over documents, and of nothing else."""

    @abstractmethod
    def observe(self, decoder: "Decoder", item: Item, context: int) -> "Observed":
        """Sums and counts over one item, for :meth:`lab.observe.fold.Fold.add`."""

    @abstractmethod
    def rows(self, fold: "Fold", context: int) -> list[Row]:
        """The table, of all items together."""


class TrainedStudy(DocumentStudy):
    """A study that trains something of its own for each item, such as a probe, beside a decoder that stays as it is.

    What an item ends in is observed as any other is. Until then it is kept beside the fold, so that an item that takes
    minutes goes on where it was (:meth:`lab.observe.trained.Training.run`).

    Its key ``steps`` is how many each training takes.
    """

    steps: int

    @abstractmethod
    def training(self, decoder: "Decoder", item: Item, context: int) -> "Training":
        """The training of an item, at its first step."""

    def observe(self, decoder: "Decoder", item: Item, context: int) -> "Observed":
        return self.training(decoder, item, context).run()


def numbers_by_layer(rows: Sequence[Row], columns: Sequence[str]) -> Iterator[Number]:
    """Columns that hold one value a layer, ``layer_told_apart`` as "told_apart in layer 4"; that of the middle layer
    is "in the middle layer", too."""
    by_layer = {row["layer"]: row for row in rows}
    middle = max(max(by_layer) // 2, min(by_layer))
    for column in columns:
        name = column.removeprefix("layer_")
        for layer, row in by_layer.items():
            yield Number(f"{name} in layer {layer}", float(row[column]))
        yield Number(f"{name} in the middle layer", float(by_layer[middle][column]))


def check_bins(bin_tokens: int, context: int) -> None:
    """Raises UserError if bins of positions do not divide C."""
    if context % bin_tokens:
        raise UserError(f"bin_tokens is {bin_tokens}: it must divide C = {context}")


def bin_of(index: int, bin_tokens: int) -> Row:
    """Where a bin of positions lies: its columns in a table."""
    start = index * bin_tokens
    return {
        "start_position": start,
        "stop_position": start + bin_tokens,
        "position": start + (bin_tokens - 1) / 2,
    }


def ranges(context: int, length: int) -> list[tuple[int, int]]:
    """Ranges of positions from 0 to ``length``: [0, C), [C, 2C), [2C, 4C), ..."""
    found = [(0, range_end(1, context, length))]
    while found[-1][1] < length:
        start = found[-1][1]
        found.append((start, range_end(start + 1, context, length)))
    return found
