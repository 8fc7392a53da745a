"""Loss by position: where in a long text does a decoder begin to fail?"""

from collections.abc import Iterator

from lab.errors import UserError
from lab.measure.losses import losses_in_one_pass, observed
from lab.measure.measure import Item, Measure, Row, Source, on_device, positive, positive_or_null, segment_starts
from lab.model.decoder import Decoder


class LossByPosition(Measure):
    """One pass over ``longest`` contexts gives the loss at every position (Dong et al. 2024, direct extrapolation).

    Args:
        longest: length of the pass, in contexts C.
        segments: stretches of each document, at most.
        bin_tokens: positions averaged into one row; divides C, so that no bin lies across the window's edge.
        documents: scored at most, the first that are long enough.
    """

    name = "loss_by_position"

    def __init__(self, longest: int, segments: int, bin_tokens: int, documents: int | None) -> None:
        positive(self.name, longest=longest, segments=segments, bin_tokens=bin_tokens)
        positive_or_null(self.name, documents=documents)
        self.longest, self.segments, self.bin_tokens, self.documents = longest, segments, bin_tokens, documents

    def check(self, context: int) -> None:
        if context % self.bin_tokens:
            raise UserError(
                f"measure.{self.name}.bin_tokens is {self.bin_tokens}: it must divide scale.context = {context}"
            )

    def items(self, source: Source) -> Iterator[Item]:
        return source.long_enough(self.longest * source.context + 1, self.documents)

    def score(self, decoder: Decoder, item: Item, context: int) -> list[Row]:
        length = self.longest * context
        rows = []
        for segment, begin in enumerate(segment_starts(len(item.ids), length + 1, self.segments)):
            losses = losses_in_one_pass(decoder, on_device(item.ids[begin : begin + length + 1], decoder)).cpu()
            for start in range(0, length, self.bin_tokens):
                stop = start + self.bin_tokens
                place = {"segment": segment, "length_tokens": length, "start_position": start, "stop_position": stop}
                rows.append(place | observed(losses[start:stop]))
        return rows
