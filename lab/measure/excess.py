"""Excess: what does the far context cost, or gain, on the same target tokens?"""

from collections.abc import Iterator

import torch

from lab.errors import UserError
from lab.measure.losses import losses_in_one_pass, losses_of_windows, observed
from lab.measure.measure import Item, Measure, Row, Source, on_device, positive, positive_or_null, segment_starts
from lab.model.decoder import Decoder


class Excess(Measure):
    """The same tokens, those predicted from the second half of ``longest`` contexts, scored twice.

    Given the whole prefix, and given only the last C/2 + 1 to C tokens, restarted at position 0: windows of C tokens
    start every C/2, and of each the second half is scored, so that each target counts once. Text that gets harder
    towards its end cancels out in the difference. ``length_tokens`` is the longest prefix, or C for the restarted.

    Rows: the measures ``whole_prefix``, ``restarted``, and their difference ``excess``.

    Args:
        longest: length of the whole prefix, in contexts C; even.
        segments: stretches of each document, at most.
        documents: scored at most, the first that are long enough.
        batch_tokens: read together, at most.
    """

    name = "excess"

    def __init__(self, longest: int, segments: int, documents: int | None, batch_tokens: int) -> None:
        positive(self.name, longest=longest, segments=segments, batch_tokens=batch_tokens)
        positive_or_null(self.name, documents=documents)
        if longest % 2:
            raise UserError(f"measure.{self.name}.longest is {longest}: give an even number of contexts")
        self.longest, self.segments, self.documents, self.batch_tokens = longest, segments, documents, batch_tokens

    def check(self, context: int) -> None:
        if context % 2:
            raise UserError(f"scale.context is {context}: the measure {self.name} restarts at C / 2: give an even one")

    def items(self, source: Source) -> Iterator[Item]:
        return source.long_enough(self.longest * source.context + 1, self.documents)

    def score(self, decoder: Decoder, item: Item, context: int) -> list[Row]:
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
                ("excess", length, whole.double() - restarted.double()),
            ):
                rows.append({"measure": name, "length_tokens": given} | place | observed(torch.as_tensor(losses)))
        return rows
