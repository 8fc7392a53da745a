"""Excess: what does the far context cost, or gain, on the same target tokens?"""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Literal

from pydantic import field_validator

from lab.base.errors import UserError
from lab.base.parts import part
from lab.base.settings import Count, key
from lab.observe.measure import Item, Measure, Row, Source, segment_starts

if TYPE_CHECKING:
    from lab.model.decoder import Decoder


@part("measure")
class Excess(Measure):
    """The same tokens, those predicted from the second half of ``longest`` contexts, scored twice.

    Given the whole prefix, and given only the last C/2 + 1 to C tokens, restarted at position 0: windows of C tokens
    start every C/2, and of each the second half is scored, so that each target counts once. Text that gets harder
    towards its end cancels out in the difference. ``length_tokens`` is the longest prefix, or C for the restarted.

    Rows: the measures ``whole_prefix``, ``restarted``, and their difference ``excess``.
    """

    length_is = "the whole prefix; targets are its second half"

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
        if context % 2:
            raise UserError(f"C is {context}: the measure {self.name} restarts at C / 2: give an even one")

    def items(self, source: Source) -> Iterator[Item]:
        return source.long_enough(self.longest * source.context + 1, self.documents)

    def score(self, decoder: "Decoder", item: Item, context: int) -> list[Row]:
        from lab.observe.losses import losses_in_one_pass, losses_of_windows, observed, on_device

        length, half = self.longest * context, context // 2
        first = length // 2
        rows = []
        for segment, begin in enumerate(segment_starts(len(item.ids), length + 1, self.segments)):
            tokens = on_device(item.ids[begin : begin + length + 1], decoder)
            whole = losses_in_one_pass(decoder, tokens)[first:].cpu()
            starts = range(first - half, length - half, half)
            restarted = losses_of_windows(decoder, tokens, starts, context, half, self.batch_tokens).flatten().cpu()
            place = {"segment": segment, "start_position": first, "stop_position": length}
            for name, given, losses in (
                ("whole_prefix", length, whole),
                ("restarted", context, restarted),
                (self.name, length, whole.double() - restarted.double()),
            ):
                rows.append({"measure": name, "length_tokens": given} | place | observed(losses))
        return rows
