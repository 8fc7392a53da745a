"""What a study is: a statistic over many documents, folded, and the table and picture that it ends in.

One file a study in lab/analysis/, without torch until it observes; the choices stand in ``conf/study/``.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from lab.base.parts import name_of
from lab.base.settings import Settings
from lab.observe.measure import Item, Row, Source, range_end

if TYPE_CHECKING:
    from lab.model.decoder import Decoder
    from lab.observe.fold import Fold, Observed


@dataclass(frozen=True)
class Lines:
    """How a study's table is drawn: a line for each value of a column.

    Attributes:
        by, along, upward: columns of the table; ``by``: which line.
        by_label, along_label, upward_label: what they are.
        positions: the axis is one of positions: it is logarithmic, and shows the end of the training window.
    """

    title: str
    by: str
    along: str
    upward: str
    by_label: str
    along_label: str
    upward_label: str
    positions: bool = False


class Study(Settings, ABC):
    """One question about a decoder. Its fields are its keys."""

    lines: ClassVar[Lines]

    @classmethod
    def label(cls) -> str:
        """Its short name."""
        return name_of(cls)

    def fits(self, context: int) -> None:
        """Raises UserError if the settings do not fit a context C."""

    @abstractmethod
    def items(self, source: Source) -> Iterator[Item]:
        """What is observed. Raises UserError if there is nothing."""

    @abstractmethod
    def observe(self, decoder: "Decoder", item: Item, context: int) -> "Observed":
        """Sums and counts over one item, for :meth:`lab.observe.fold.Fold.add`."""

    @abstractmethod
    def rows(self, fold: "Fold", context: int) -> list[Row]:
        """The table, of all items together."""


def ranges(context: int, length: int) -> list[tuple[int, int]]:
    """Ranges of positions from 0 to ``length``: [0, C), [C, 2C), [2C, 4C), ..."""
    found = [(0, range_end(1, context, length))]
    while found[-1][1] < length:
        start = found[-1][1]
        found.append((start, range_end(start + 1, context, length)))
    return found
