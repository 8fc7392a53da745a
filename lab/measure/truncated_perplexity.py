"""Truncated perplexity by length: the first L tokens of each document, read once."""

from collections.abc import Iterator, Sequence

from lab.errors import UserError
from lab.measure.losses import losses_in_one_pass, observed
from lab.measure.measure import (
    Item,
    Measure,
    Row,
    Source,
    doublings,
    on_device,
    positive,
    positive_list,
    positive_or_null,
)
from lab.model.decoder import Decoder


class TruncatedPerplexity(Measure):
    """Mean loss of the first L tokens of a document, for each length L; perplexity is its exponential.

    It is what YaRN (arXiv 2309.00071, its code's ``--truncate``) and LongRoPE publish under the name of a sliding
    window. Where no score depends on the total length, one pass at the longest length gives every L, because a
    position sees nothing behind it; a position encoding that ``depends_on_length`` is read anew for each.

    Args:
        lengths: in tokens; None: C/2, C, 2 C, 4 C, ... up to ``longest``.
        longest: in contexts C, where ``lengths`` are not given.
        documents: scored at most, the first with the longest length.
    """

    name = "truncated_perplexity"

    def __init__(self, lengths: Sequence[int] | None, longest: int, documents: int | None) -> None:
        positive(self.name, longest=longest)
        positive_list(self.name, lengths=lengths)
        positive_or_null(self.name, documents=documents)
        self.lengths, self.longest, self.documents = lengths, longest, documents

    def lengths_of(self, context: int) -> list[int]:
        """The lengths in tokens, growing."""
        return sorted(set(self.lengths)) if self.lengths else doublings(context, self.longest)

    def check(self, context: int) -> None:
        if context % 2 and not self.lengths:
            raise UserError(f"scale.context is {context}: give measure.{self.name}.lengths, for C / 2 is no length")

    def items(self, source: Source) -> Iterator[Item]:
        return source.long_enough(max(self.lengths_of(source.context)) + 1, self.documents)

    def score(self, decoder: Decoder, item: Item, context: int) -> list[Row]:
        lengths = self.lengths_of(context)
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
