"""What measures of people have in common: right or wrong, and never beyond the context."""

from typing import ClassVar

from lab.base.tables import Row
from lab.observe.measure import Compared, Measure


class PeopleMeasure(Measure):
    """Of its own rows the share that is wrong is compared, at the context C.

    Attributes:
        length_shown: what stands in place of a length, which these measures have none of.
    """

    foretells = False  # a decoder that sees what comes after fills gaps in their place
    length_shown: ClassVar[str]

    def reads_inside(self, context: int) -> bool:
        return True

    @classmethod
    def compared(cls, row: Row, context: int) -> Compared | None:
        if row["measure"] != cls.label():
            return None
        return Compared(context, 1.0 - row["correct"], 1)

    @classmethod
    def length_text(cls, length: int, context: int) -> str:
        return cls.length_shown

    @classmethod
    def point(cls, row: Row) -> None:
        return None
