"""Context gain: the same target tokens with more and more left context. Does a decoder use it, or merely survive it?"""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Literal

from lab.base.errors import UserError
from lab.base.parts import part
from lab.base.settings import Count, key
from lab.observe.measure import Curve, Item, Measure, Row, Source, segment_starts

if TYPE_CHECKING:
    from lab.model.decoder import Decoder

GRAIN = 8  # of a context of c tokens, targets get c to c + c/8 - 1


@part("measure")
class ContextGain(Measure):
    """Loss of a stretch's last ``targets`` tokens given the c tokens before each, c = 1, 2, 4, ... ``longest`` C.

    Each window starts at position 0 with the first token of its context. To score neighbours in one window, a
    target gets c to c + max(1, c/8) - 1 tokens; ``length_tokens`` is c. The paired experiment: target tokens and
    documents are the same for every c and for every decoder.
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

    def needed(self, context: int) -> int:
        """Tokens of a stretch: the most context, the targets, and what the first of a window has besides."""
        most = self.longest * context
        return most + max(1, min(self.targets, most // GRAIN)) - 1 + self.targets

    def items(self, source: Source) -> Iterator[Item]:
        return source.long_enough(self.needed(source.context), self.documents)

    def score(self, decoder: "Decoder", item: Item, context: int) -> list[Row]:
        import torch

        from lab.observe.losses import losses_of_windows, observed, on_device

        needed = self.needed(context)
        first = needed - self.targets  # index of the first target
        rows = []
        for segment, begin in enumerate(segment_starts(len(item.ids), needed, self.segments)):
            tokens = on_device(item.ids[begin : begin + needed], decoder)
            for power in range((self.longest * context).bit_length()):
                given = 2**power
                group = max(1, min(self.targets, given // GRAIN))
                # The last window may reach back over targets that are scored already: those are left out.
                stops = [*range(first + group, needed, group), needed]
                length = given + group - 1
                starts = [stop - 1 - length for stop in stops]
                losses = losses_of_windows(decoder, tokens, starts, length, group, self.batch_tokens).cpu()
                fresh = (self.targets - 1) % group + 1
                losses = torch.cat((losses[:-1].flatten(), losses[-1, group - fresh :]))
                place = {
                    "segment": segment,
                    "length_tokens": given,
                    "start_position": first - 1,
                    "stop_position": needed - 1,
                }
                rows.append(place | observed(losses))
        return rows
