"""What measures have in common whose numbers have no length of their own: they are compared at the context C."""

from typing import ClassVar

from lab.base.tables import Row
from lab.observe.measure import Compared, Measure


class AtContextMeasure(Measure):
    """Of its own rows what is missing of 1 is compared.

    Attributes:
        length_shown: what stands in place of a length.
    """

    length_shown: ClassVar[str]

    @classmethod
    def share(cls, row: Row) -> float:
        """Of a row of its own how much of 1 is right: all or nothing, unless told otherwise."""
        return float(row["correct"])

    @classmethod
    def compared(cls, row: Row, context: int) -> Compared | None:
        return Compared(context, 1.0 - cls.share(row), 1) if row["measure"] == cls.label() else None

    @classmethod
    def length_text(cls, length: int, context: int) -> str:
        return cls.length_shown

    @classmethod
    def point(cls, row: Row) -> None:
        return None
