"""Truncated perplexity by length: the first L tokens of each document, read once."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from lab.base.errors import UserError
from lab.base.parts import part
from lab.base.settings import Count, key
from lab.observe.measure import Curve, Item, Measure, Row, Source, doublings

if TYPE_CHECKING:
    from lab.model.decoder import Decoder


@part("measure")
class TruncatedPerplexity(Measure):
    """Mean loss of the first L tokens of a document, for each length L; perplexity is its exponential.

    It is what YaRN (arXiv 2309.00071, its code's ``--truncate``) and LongRoPE publish under the name of a sliding
    window. Where no score depends on the total length, one pass at the longest length gives every L, because a
    position sees nothing behind it; a position encoding that ``depends_on_length`` is read anew for each.
    """

    unit = "perplexity"
    length_is = "first tokens of the document"
    curve = Curve("Perplexity of the first L tokens", "length L (tokens)", "perplexity", perplexity=True)

    name: Literal["truncated_perplexity"] = "truncated_perplexity"
    lengths: Annotated[list[Count], Field(min_length=1)] | None = key(
        "L in tokens; null: C/2, C, 2 C, 4 C, ... up to the longest"
    )
    longest: Count = key("contexts C, where lengths are not given")
    documents: Count | None = key("scored, at most: the first that are long enough", decides=False)

    def lengths_of(self, context: int) -> list[int]:
        """The lengths in tokens, growing."""
        return sorted(set(self.lengths)) if self.lengths else doublings(context, self.longest)

    def fits(self, context: int) -> None:
        if context % 2 and not self.lengths:
            raise UserError(f"C is {context}: give measure.{self.name}.lengths, for C / 2 is no length")

    def reads_inside(self, context: int) -> bool:
        return self.lengths_of(context)[0] <= context

    def items(self, source: Source) -> Iterator[Item]:
        return source.long_enough(max(self.lengths_of(source.context)) + 1, self.documents)

    def score(self, decoder: "Decoder", item: Item, context: int) -> list[Row]:
        from lab.observe.losses import losses_in_one_pass, observed, on_device

        longest = decoder.position.longest
        lengths = [each for each in self.lengths_of(context) if longest is None or each <= longest]
        tokens = on_device(item.ids[: lengths[-1] + 1], decoder)
        rows = []
        if not decoder.position.depends_on_length:
            whole = losses_in_one_pass(decoder, tokens).cpu()
        for length in lengths:
            if decoder.position.depends_on_length:
                whole = losses_in_one_pass(decoder, tokens[: length + 1]).cpu()
            place = {"segment": 0, "length_tokens": length, "start_position": 0, "stop_position": length}
            rows.append(place | observed(whole[:length]))
        return rows
