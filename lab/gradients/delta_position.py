"""How much of the backward signal at a prompt's last token is the place where the prompt stands?"""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np

from lab.base.errors import UserError
from lab.base.parts import part
from lab.base.settings import Count, Seed, Text, key
from lab.gradients.capture import Example, batches, capture, places_of
from lab.observe.measure import Ids, Item, Row, Source
from lab.observe.study import DocumentStudy, Headline, Lines, Number, numbers_by_layer

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

    from lab.model.decoder import Decoder
    from lab.observe.fold import Fold, Observed

PARTS = ("prompt", "position", "rest")
KINDS = ("direction", "length")


@part("study")
class DeltaPosition(DocumentStudy):
    """Held-out stretches, each read at several places, the same neutral text directly before it at all of them: of the
    variance of down's delta at the stretch's last token (of -log p of the token that follows it there), what belongs to
    the stretch, what to its place, what to both together.

    ``direction``: of the delta divided by its length; ``length``: of the logarithm of its length. Components of
    variance of two crossed random factors with one observation a cell (Searle, Casella and McCulloch 1992, table 4.4),
    which sampling alone does not raise. A share is one of a document, whose stretches do not overlap, and a document
    counts once. With the place grows the neutral text before the stretch: both are what is called position here. The
    question is ours.
    """

    pictures = (
        Lines(
            title="What of the variance of down's delta at the last token is the prompt's place",
            by="kind",
            along="layer",
            upward="position_share",
            by_label="variance of",
            along_label="layer",
            upward_label="share of position",
        ),
    )
    headline = Headline("layer", "layer_position_share", "layer", "share of position in the delta's direction")
    built_on = ("lab.gradients.capture",)

    name: Literal["delta_position"] = "delta_position"
    length: Count = key("tokens of a stretch")
    prompts: Count = key("stretches drawn of each document", ge=2)
    places: Count = key("at which each is read: evenly up to the end of C, the first behind neutral text, too", ge=2)
    filler: Text = key("the neutral text, repeated")
    documents: Count | None = key("read, at most: the first that are long enough; null: all")
    batch_tokens: Count = key("tokens read together, at most; the numbers are the same", decides=False)
    seed: Seed = key("of what is drawn")

    def fits(self, context: int) -> None:
        if context - self.length < self.places:
            raise UserError(
                f"length is {self.length} and places {self.places}, and C is {context}: give less, so that a "
                "stretch has so many places inside C"
            )

    def items(self, source: Source) -> Iterator[Item]:
        room = source.context - self.length
        once = source.tokenizer.encode(self.filler + " ")
        if not len(once):
            raise UserError("filler has no token: give a text")
        filler = np.resize(once, room)
        for number, item in enumerate(source.long_enough(self.prompts * self.length + 1, self.documents)):
            draw = np.random.default_rng([self.seed, number])
            # No two share a token that is read.
            stretches = (len(item.ids) - 1) // self.length
            starts = (self.length * draw.choice(stretches, self.prompts, replace=False)).tolist()
            yield Item(item.name, item.ids, {"starts": starts, "filler": filler})

    def observe(self, decoder: "Decoder", item: Item, context: int) -> "Observed":
        deltas = self.deltas(decoder, item.ids, item.details["starts"], item.details["filler"])
        lengths = deltas.norm(dim=-1, keepdim=True).clamp(min=1e-300)
        found = {}
        for kind, values in (("direction", deltas / lengths), ("length", lengths.log())):
            for name, each in components(values)._asdict().items():
                found[f"{kind}/{name}/{item.name}"] = (each, 1)
        return found

    def deltas(
        self, decoder: "Decoder", ids: Ids, starts: Sequence[int], filler: Ids
    ) -> "Float[Tensor, 'layers prompts places width']":
        """Down's deltas at the last tokens, in float64."""
        import torch

        offsets = [round(len(filler) * (number + 1) / self.places) for number in range(self.places)]
        examples = []
        for start in starts:
            stretch, target = ids[start : start + self.length], int(ids[start + self.length])
            for offset in offsets:
                # Its end, so that the same words stand before the stretch at every place.
                before = filler[len(filler) - offset :]
                examples.append(Example((*before.tolist(), *stretch.tolist()), (target,)))
        places = places_of(decoder, None, ("down",))
        found = torch.zeros(len(places), len(examples), decoder.embedding.shape[1], dtype=torch.float64)
        for group in batches(examples, self.batch_tokens, decoder.position):
            captured = capture(decoder, [examples[number] for number in group], places, torch.float64)
            last = torch.tensor([len(examples[number].prompt) - 1 for number in group])
            for place in places:
                found[place.layer - 1, group] = captured.deltas[place][torch.arange(len(group)), last].cpu()
        return found.view(len(places), len(starts), len(offsets), -1)

    def rows(self, fold: "Fold", context: int) -> list[Row]:
        rows: list[Row] = []
        for kind in KINDS:
            each = [shares_of(fold, kind, document) for document in fold.done]
            for layer in range(each[0]["position"].shape[0]):
                shares = {f"{name}_share": float(np.mean([own[name][layer] for own in each])) for name in PARTS}
                rows.append({"layer": layer + 1, "kind": kind, **shares})
        direction = {row["layer"]: row["position_share"] for row in rows if row["kind"] == KINDS[0]}
        return [row | {"layer_position_share": direction[row["layer"]]} for row in rows]

    def numbers(self, fold: "Fold", rows: Sequence[Row]) -> Iterator[Number]:
        yield from numbers_by_layer([row for row in rows if row["kind"] == KINDS[0]], ("layer_position_share",))
        for kind in KINDS:
            for document in fold.done:
                own = float(shares_of(fold, kind, document)["position"].mean())
                yield Number(f"share of position in the {kind} of down's deltas", own, document)


def shares_of(fold: "Fold", kind: str, document: str) -> dict[str, np.ndarray]:
    """Of one document the components as shares of their sum, by layer; all nan where nothing varies."""
    found = {name: fold.mean(f"{kind}/{name}/{document}").numpy() for name in PARTS}
    total = np.sum([*found.values()], axis=0)
    return {
        name: np.divide(each, total, out=np.full_like(total, np.nan), where=total > 0) for name, each in found.items()
    }


class Components(NamedTuple):
    """Variances, summed over the width; an estimate may be below 0 where there is none."""

    prompt: "Float[Tensor, 'layers']"
    position: "Float[Tensor, 'layers']"
    rest: "Float[Tensor, 'layers']"


def components(values: "Float[Tensor, 'layers prompts places width']") -> Components:
    """Of two crossed factors with one observation a cell: mean squares less what they have of the rest."""
    prompts, places = values.shape[1:3]
    whole = values.mean(dim=(1, 2), keepdim=True)
    of_prompt, of_place = values.mean(dim=2, keepdim=True), values.mean(dim=1, keepdim=True)
    left = values - of_prompt - of_place + whole

    def square(each: "Tensor") -> "Tensor":
        return each.square().sum(dim=(1, 2, 3))

    rest = square(left) / ((prompts - 1) * (places - 1))
    prompt = (square(of_prompt - whole) * places / (prompts - 1) - rest) / places
    position = (square(of_place - whole) * prompts / (places - 1) - rest) / prompts
    return Components(prompt, position, rest)
