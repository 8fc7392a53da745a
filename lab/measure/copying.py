"""Copy at a distance: can a decoder find again what it has read d tokens ago? Works for decoders too small to obey."""

from collections.abc import Iterator, Sequence

import numpy as np

from lab.errors import UserError
from lab.measure.losses import losses_in_one_pass, observed
from lab.measure.measure import (
    Item,
    Measure,
    Row,
    Source,
    check_seed,
    on_device,
    positive,
    positive_list,
    positive_or_null,
    segment_starts,
)
from lab.model.decoder import Decoder


class Copy(Measure):
    """Loss on the second copy of a random token string whose first copy stands d tokens before.

    The string is at position 0, text of a document follows, the string again at position d. What a copy cannot
    foretell, its first token, is not scored. Rows: ``copy`` for the second, ``copy_first`` for the first copy, whose
    loss is that of random tokens. Repeated random strings are the probe for induction heads of Olsson et al. 2022
    (arXiv 2209.11895); the distance is what is varied here.

    Args:
        distances: d in tokens; None: powers of two from the string's length to ``longest`` contexts.
        longest: in contexts C, where ``distances`` are not given.
        string: tokens of the string, drawn evenly from the vocabulary without the end of document.
        segments: strings of each document, at most, each with its own stretch of text.
        documents: that give the text between, at most.
        seed: of the strings, which are the same for every decoder of one vocabulary.
    """

    name = "copy"

    def __init__(
        self,
        distances: Sequence[int] | None,
        longest: int,
        string: int,
        segments: int,
        documents: int | None,
        seed: int,
    ) -> None:
        positive(self.name, longest=longest, string=string, segments=segments)
        positive_or_null(self.name, documents=documents)
        positive_list(self.name, distances=distances)
        check_seed(self.name, seed)
        if string < 2:
            raise UserError(f"measure.{self.name}.string is {string}: its first token is not scored; give 2 or more")
        for distance in distances or []:
            if distance < string:
                raise UserError(f"measure.{self.name}.distances holds {distance}, less than the string of {string}")
        self.distances, self.longest, self.string, self.segments = distances, longest, string, segments
        self.documents, self.seed = documents, seed

    def distances_of(self, context: int) -> list[int]:
        """The distances in tokens, growing."""
        if self.distances:
            return sorted(set(self.distances))
        most = self.longest * context
        return [2**power for power in range(most.bit_length()) if self.string <= 2**power <= most]

    def check(self, context: int) -> None:
        if not self.distances_of(context):
            raise UserError(
                f"measure.{self.name}.string is {self.string}, and the longest distance {self.longest * context}: "
                "shorten it"
            )

    def items(self, source: Source) -> Iterator[Item]:
        end = source.tokenizer.end_of_document
        usable = np.setdiff1d(np.arange(source.tokenizer.vocabulary), [end]).astype(np.uint32)
        text = self.distances_of(source.context)[-1]
        for number, item in enumerate(source.long_enough(text, self.documents)):
            draw = np.random.default_rng([self.seed, number])
            strings = draw.choice(usable, (self.segments, self.string))
            yield Item(item.name, item.ids, {"strings": strings})

    def score(self, decoder: Decoder, item: Item, context: int) -> list[Row]:
        distances = self.distances_of(context)
        rows = []
        starts = segment_starts(len(item.ids), distances[-1], self.segments)
        for segment, (begin, string) in enumerate(zip(starts, item.details["strings"], strict=False)):
            for distance in distances:
                between = item.ids[begin : begin + distance - self.string]
                losses = losses_in_one_pass(decoder, on_device(np.concatenate((string, between, string)), decoder))
                for name, start in (("copy", distance), ("copy_first", 0)):
                    place = {
                        "measure": name,
                        "segment": segment,
                        "length_tokens": distance + self.string,
                        "distance_tokens": distance,
                        "start_position": start,
                        "stop_position": start + self.string - 1,
                    }
                    rows.append(place | observed(losses[start : start + self.string - 1].cpu()))
        return rows
