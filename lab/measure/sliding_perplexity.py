"""Sliding-window perplexity: every token with at least L - S tokens before it, read in windows of L."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from lab.base.errors import UserError
from lab.base.parts import part
from lab.base.settings import Count, key
from lab.observe.measure import Curve, Item, Measure, Point, Row, Source, doublings

if TYPE_CHECKING:
    from lab.model.decoder import Decoder

STRIDE = 256  # of Position Interpolation, in tokens


@part("measure")
class SlidingPerplexity(Measure):
    """Mean loss over a document's first ``span`` tokens, read in windows of L that move on by ``stride`` S.

    Press et al. 2021 (arXiv 2012.15832); Position Interpolation (arXiv 2306.15595) takes S = 256. The first window
    scores all its tokens, each later one its last S; every token counts once and with equal weight, and the last
    window ends with the span. That is the recipe of transformers' documentation on perplexity where S divides span
    - L; otherwise its last window is a shorter one. Windows are read together, the head is applied to scored
    positions only.
    """

    unit = "perplexity"
    length_is = "window"
    curve = Curve("Sliding-window perplexity", "window L (tokens)", "perplexity", perplexity=True)
    pooled = True

    name: Literal["sliding_perplexity"] = "sliding_perplexity"
    lengths: Annotated[list[Count], Field(min_length=1)] | None = key(
        "of the windows L, in tokens; null: C/2, C, 2 C, 4 C, ... up to the longest"
    )
    longest: Count = key("contexts C, where lengths are not given")
    stride: Count | None = key("S in tokens, at most the shortest L; null: 256, or the shortest L if that is less")
    span: Count | None = key("tokens predicted of each document that has them; null: all of every document")
    documents: Count | None = key("scored, at most: the first that are long enough", decides=False)
    batch_tokens: Count = key("read together, at most", decides=False)

    def lengths_of(self, context: int) -> list[int]:
        """The windows' lengths in tokens, growing."""
        return sorted(set(self.lengths)) if self.lengths else doublings(context, self.longest)

    def stride_of(self, context: int) -> int:
        """S in tokens."""
        return self.stride or min(STRIDE, self.lengths_of(context)[0])

    def fits(self, context: int) -> None:
        if context % 2 and not self.lengths:
            raise UserError(f"C is {context}: give measure.{self.name}.lengths, for C / 2 is no length")
        lengths = self.lengths_of(context)
        if self.stride_of(context) > lengths[0]:
            raise UserError(
                f"measure.{self.name}.stride is {self.stride}, more than the shortest window of {lengths[0]} tokens: "
                "tokens would be left out; lower it"
            )
        # A text of L tokens predicts L - 1, as published protocols count: one window of L reads it all.
        if self.span is not None and self.span < lengths[-1] - 1:
            raise UserError(
                f"measure.{self.name}.span is {self.span}, less than the longest window of {lengths[-1]} tokens; raise "
                "it or lower the lengths"
            )

    def items(self, source: Source) -> Iterator[Item]:
        return source.long_enough((self.span or 1) + 1, self.documents)

    def score(self, decoder: "Decoder", item: Item, context: int) -> list[Row]:
        import torch

        from lab.observe.losses import losses_in_one_pass, losses_of_windows, observed, on_device

        span = self.span or len(item.ids) - 1
        tokens = on_device(item.ids[: span + 1], decoder)
        rows, stride = [], self.stride_of(context)
        for length in self.lengths_of(context):
            scored = [losses_in_one_pass(decoder, tokens[: length + 1]).cpu()]
            stops = range(length + stride, span + 1, stride)
            starts = [stop - length for stop in stops]
            if starts:
                windows = losses_of_windows(decoder, tokens, starts, length, stride, self.batch_tokens)
                scored.append(windows.flatten().cpu())
            left = max(0, span - length) % stride
            if left:
                scored.append(
                    losses_of_windows(decoder, tokens, [span - length], length, left, self.batch_tokens).flatten().cpu()
                )
            place = {"segment": 0, "length_tokens": length, "start_position": 0, "stop_position": span}
            rows.append(place | observed(torch.cat(scored)))
        return rows

    @classmethod
    def point(cls, row: Row) -> Point | None:
        if row["measure"] != cls.label():
            return None
        return Point(cls.label(), row["length_tokens"], row["loss_nats"], row["tokens"])
