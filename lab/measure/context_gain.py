"""Context gain: the same target tokens with more and more left context. Does a decoder use it, or merely survive it?"""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Literal

from lab.base.errors import UserError
from lab.base.parts import part
from lab.base.settings import Count, key
from lab.observe.measure import Curve, Item, Measure, Row, Source, segment_starts

if TYPE_CHECKING:
    from lab.model.decoder import Decoder


@part("measure")
class ContextGain(Measure):
    """Loss of a stretch's last ``targets`` tokens given the c tokens before each, c = 1, 2, 4, ... ``longest`` C.

    Each window starts at position 0 with the first token of its context and holds c tokens. To score neighbours in one
    window, a target gets more than 7c/8 tokens and at most c; ``length_tokens`` is c. So up to c = C nothing is
    predicted from a position that the decoder was not trained at. The paired experiment: target tokens and documents
    are the same for every c and for every decoder.
    """

    length_is = "left context"
    curve = Curve("The same tokens with more left context", "left context (tokens)", "loss (nats per token)")
    same_targets = True

    name: Literal["context_gain"] = "context_gain"
    longest: Count = key("contexts C of the most left context; a power of two")
    targets: Count = key("tokens that are scored of each stretch")
    segments: Count = key("stretches of each document, at most")
    documents: Count | None = key("scored, at most: the first that are long enough", decides=False)
    batch_tokens: Count = key("read together, at most", decides=False)

    def fits(self, context: int) -> None:
        most = self.longest * context
        if most & (most - 1):
            raise UserError(
                f"measure.{self.name}.longest is {self.longest} and C {context}: left context doubles from "
                "1 token on, so their product must be a power of two"
            )

    def first(self, context: int) -> int:
        """Index of a stretch's first target: what comes before is the most context."""
        from lab.observe.losses import grain

        most = self.longest * context
        return most - grain(most, self.targets) + 1

    def items(self, source: Source) -> Iterator[Item]:
        return source.long_enough(self.first(source.context) + self.targets, self.documents)

    def score(self, decoder: "Decoder", item: Item, context: int) -> list[Row]:
        from lab.observe.losses import losses_with_context, observed, on_device

        first = self.first(context)
        stop = first + self.targets
        rows = []
        for segment, begin in enumerate(segment_starts(len(item.ids), stop, self.segments)):
            tokens = on_device(item.ids[begin : begin + stop], decoder)
            for power in range((self.longest * context).bit_length()):
                losses = losses_with_context(decoder, tokens, first, stop, 2**power, self.batch_tokens)
                place = {
                    "segment": segment,
                    "length_tokens": 2**power,
                    "start_position": first - 1,
                    "stop_position": stop - 1,
                }
                rows.append(place | observed(losses.cpu()))
        return rows
