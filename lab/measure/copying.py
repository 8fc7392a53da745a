"""Copy at a distance: can a decoder find again what it has read d tokens ago? Works for decoders too small to obey."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Literal

import numpy as np
from pydantic import Field, model_validator

from lab.base.errors import UserError
from lab.base.parts import part
from lab.base.settings import Count, Seed, key
from lab.observe.measure import Compared, Curve, Item, Measure, Point, Row, Source, segment_starts

if TYPE_CHECKING:
    from lab.model.decoder import Decoder


@part("measure")
class Copy(Measure):
    """Loss on the second copy of a random token string whose first copy stands d tokens before.

    The string is at position 0, text of a document follows, the string again at position d. What a copy cannot
    foretell, its first token, is not scored. Rows: ``copy`` for the second, ``copy_first`` for the first copy, whose
    loss is that of random tokens. Repeated random strings are the probe for induction heads of Olsson et al. 2022
    (arXiv 2209.11895); the distance is what is varied here.
    """

    length_is = "distance of the copies"
    curve = Curve("Copy at a distance: loss on the second copy", "distance (tokens)", "loss (nats per token)")
    contrast = ("copy_first", "copy")
    contrast_label = "nats gained by copying: loss on the first copy minus loss on the second"

    name: Literal["copy"] = "copy"
    distances: Annotated[list[Count], Field(min_length=1)] | None = key(
        "d in tokens; null: powers of two from the string's length to the longest"
    )
    longest: Count = key("contexts C, where distances are not given")
    string: Annotated[int, Field(ge=2)] = key(
        "tokens of the string, drawn evenly from the vocabulary; its first is not scored"
    )
    segments: Count = key("strings for each document, at most, each with another stretch of its text between")
    documents: Count | None = key("scored, at most: the first that are long enough", decides=False)
    seed: Seed = key("of the strings, which are the same for every decoder of one vocabulary")

    @model_validator(mode="after")
    def _strings_fit(self) -> "Copy":
        for distance in self.distances or []:
            if distance < self.string:
                raise ValueError(f"distances holds {distance}, less than the string of {self.string}")
        return self

    def distances_of(self, context: int) -> list[int]:
        """The distances in tokens, growing."""
        if self.distances:
            return sorted(set(self.distances))
        most = self.longest * context
        return [2**power for power in range(most.bit_length()) if self.string <= 2**power <= most]

    def fits(self, context: int) -> None:
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

    def score(self, decoder: "Decoder", item: Item, context: int) -> list[Row]:
        from lab.observe.losses import losses_in_one_pass, observed, on_device

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

    @classmethod
    def compared(cls, row: Row, context: int) -> Compared | None:
        if row["measure"] != cls.label():
            return None
        return Compared(row["distance_tokens"], row["loss_nats"], row["tokens"])

    @classmethod
    def point(cls, row: Row) -> Point | None:
        if row["measure"] not in ("copy", "copy_first"):
            return None
        return Point(row["measure"], row["distance_tokens"], row["loss_nats"])
