"""Excess: what does the far context cost, or gain, on the same target tokens?"""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np
from pydantic import field_validator

from lab.base.errors import UserError
from lab.base.parts import part
from lab.base.settings import Count, key
from lab.observe.measure import Curve, Item, Measure, Point, Row, Source, segment_starts

if TYPE_CHECKING:
    from lab.model.decoder import Decoder

INSIDE = "inside_gain"
ALONG = "excess_by_position"


@part("measure")
class Excess(Measure):
    """The same tokens, those predicted from the second half of ``longest`` contexts, scored twice.

    Given the whole prefix, and restarted at position 0 with more than 7C/8 and at most C tokens before each (see
    :func:`lab.observe.losses.losses_with_context`). Text that gets harder towards its end cancels out in the
    difference. ``length_tokens`` is the longest prefix, or C for the restarted.

    Restarted targets lack up to C/8 tokens of the window, so a little of a negative excess may be gain from inside it.
    ``inside_gain`` bounds it: what the last C/8 tokens that they do have gave them (the same targets restarted with C/8
    tokens less, minus the restarted), for a decoder that gains less from tokens further away.

    Rows: the measures ``whole_prefix``, ``restarted``, their difference ``excess``, ``inside_gain``, and the difference
    by eighths of C, ``excess_by_position``, which is how sharply a decoder breaks.
    """

    length_is = "the whole prefix; targets are its second half"
    answers = True
    curve = Curve(
        "Excess by position", "tokens read (position + 1)", "loss given the whole prefix, minus restarted (nats)"
    )

    name: Literal["excess"] = "excess"
    longest: Count = key("contexts C of the whole prefix; even")
    segments: Count = key("stretches of each document, at most")
    documents: Count | None = key("scored, at most: the first that are long enough", decides=False)
    batch_tokens: Count = key("read together, at most", decides=False)

    @field_validator("longest")
    @classmethod
    def _even(cls, longest: int) -> int:
        if longest % 2:
            raise ValueError(f"is {longest}: give an even number of contexts")
        return longest

    def fits(self, context: int) -> None:
        if context % 8:
            raise UserError(f"C is {context}: the measure {self.name} scores eighths of C: give a multiple of 8")

    def items(self, source: Source) -> Iterator[Item]:
        return source.long_enough(self.longest * source.context + 1, self.documents)

    def score(self, decoder: "Decoder", item: Item, context: int) -> list[Row]:
        from lab.observe.losses import losses_in_one_pass, losses_of_windows, observed, on_device

        length, eighth = self.longest * context, context // 8
        first = length // 2
        rows = []
        for segment, begin in enumerate(segment_starts(len(item.ids), length + 1, self.segments)):
            tokens = on_device(item.ids[begin : begin + length + 1], decoder)
            whole = losses_in_one_pass(decoder, tokens)[first:].cpu().double()
            starts = range(first - context + eighth, length - context + 1, eighth)
            windows = losses_of_windows(decoder, tokens, starts, context, 2 * eighth, self.batch_tokens).cpu().double()
            restarted = windows[:, eighth:].flatten()
            less = windows[1:, :eighth].flatten()  # the targets that the window before restarted, but for the last
            place = {"segment": segment, "start_position": first, "stop_position": length}
            for name, given, losses in (
                ("whole_prefix", length, whole),
                ("restarted", context, restarted),
                (self.name, length, whole - restarted),
                (INSIDE, length, less - restarted[: len(less)]),
            ):
                rows.append({"measure": name, "length_tokens": given} | place | observed(losses))
            for start, losses in zip(range(first, length, eighth), (whole - restarted).split(eighth), strict=True):
                place = {"segment": segment, "start_position": start, "stop_position": start + eighth}
                rows.append({"measure": ALONG, "length_tokens": length} | place | observed(losses))
        return rows

    @classmethod
    def point(cls, row: Row) -> Point | None:
        if row["measure"] != ALONG:
            return None
        return Point(cls.label(), (row["start_position"] + row["stop_position"] + 1) / 2, row["loss_nats"])

    @classmethod
    def notes(cls, rows: Sequence[Row]) -> list[tuple[str, str, str]]:
        inside = [row["loss_nats"] for row in rows if row["measure"] == INSIDE]
        if not inside:
            return []
        return [(f"{cls.label()}: gain from inside C, at most", "", f"{np.mean(inside):z.4f}")]
