"""Loss by position: where in a long text does a decoder begin to fail?"""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Literal

from lab.base.errors import UserError
from lab.base.parts import part
from lab.base.settings import Count, key
from lab.observe.measure import (
    Compared,
    Curve,
    Item,
    Measure,
    Point,
    Row,
    Source,
    range_end,
    range_start,
    segment_starts,
)

if TYPE_CHECKING:
    from lab.model.decoder import Decoder


@part("measure")
class LossByPosition(Measure):
    """One pass over ``longest`` contexts gives the loss at every position (Dong et al. 2024, direct extrapolation)."""

    length_is = "end of a range of positions: [0, C), [C, 2C), [2C, 4C), ..."
    curve = Curve("Loss by position", "tokens read (position + 1)", "loss (nats per token)")
    shows_shortest = True

    name: Literal["loss_by_position"] = "loss_by_position"
    longest: Count = key("length of the pass, in contexts C")
    segments: Count = key("stretches of each document, at most")
    bin_tokens: Count = key("positions averaged into one row of scores.csv; divides C")
    documents: Count | None = key("scored, at most: the first that are long enough", decides=False)

    def fits(self, context: int) -> None:
        if context % self.bin_tokens:
            raise UserError(f"measure.{self.name}.bin_tokens is {self.bin_tokens}: it must divide C = {context}")

    def reads_inside(self, context: int) -> bool:
        return True

    def items(self, source: Source) -> Iterator[Item]:
        return source.long_enough(self.longest * source.context + 1, self.documents)

    def score(self, decoder: "Decoder", item: Item, context: int) -> list[Row]:
        from lab.observe.losses import losses_in_one_pass, observed, on_device

        length = self.longest * context
        read = min(length, decoder.position.longest or length)
        rows = []
        for segment, begin in enumerate(segment_starts(len(item.ids), length + 1, self.segments)):
            losses = losses_in_one_pass(decoder, on_device(item.ids[begin : begin + read + 1], decoder)).cpu()
            for start in range(0, read, self.bin_tokens):
                stop = start + self.bin_tokens
                place = {"segment": segment, "length_tokens": length, "start_position": start, "stop_position": stop}
                rows.append(place | observed(losses[start:stop]))
        return rows

    @classmethod
    def compared(cls, row: Row, context: int) -> Compared | None:
        if row["measure"] != cls.label():
            return None
        return Compared(range_end(row["stop_position"], context, row["length_tokens"]), row["loss_nats"], row["tokens"])

    @classmethod
    def point(cls, row: Row) -> Point | None:
        if row["measure"] != cls.label():
            return None
        centre = (row["start_position"] + row["stop_position"] + 1) / 2  # tokens read, of the bin's centre
        return Point(cls.label(), centre, row["loss_nats"])

    @classmethod
    def length_text(cls, length: int, context: int) -> str:
        return f"{range_start(length, context):,} to {length:,}"
