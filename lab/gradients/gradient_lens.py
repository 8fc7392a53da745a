"""The gradient lens on held-out text: ranks, lengths and the target's place, by layer, of a decoder at any step."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np

from lab.base.errors import UserError
from lab.base.parts import part
from lab.base.settings import Count, Seed, key
from lab.gradients.capture import MATRICES, Example, batches, capture, places_of
from lab.gradients.numbers import DOWN, numbers_of
from lab.gradients.parts import PARTS, parts_of
from lab.gradients.profile import TOKENS, VECTORS, profiles
from lab.gradients.ranks import shape_of
from lab.observe.measure import Item, Row, Source
from lab.observe.study import DocumentStudy, Headline, Lines, Number

if TYPE_CHECKING:
    from torch import Tensor

    from lab.model.decoder import Decoder
    from lab.observe.fold import Fold, Observed

TARGETS = ("true", "drawn")  # the token that follows in the text, and one that does not


@part("study")
class GradientLens(DocumentStudy):
    """Gradients of held-out stretches of ``shortest`` to ``longest`` tokens, each with two targets: the token that
    follows, and another, drawn as often as tokens stand in the documents (Katz et al. 2024, arXiv 2402.12865, whose
    targets are counterfactual; over training nobody has shown it).

    Of each document ``prompts`` stretches, anywhere in it, are read from position 0. A document counts once.
    """

    pictures = (
        Lines(
            title="Where the target stands in the last token's vectors",
            by="line",
            along="layer",
            upward="last_token_place",
            by_label="",
            along_label="layer",
            upward_label="place (0: top, 1: bottom)",
        ),
        Lines(
            title="Length of the deltas of down",
            by="part",
            along="layer",
            upward="down_length",
            by_label="part of the prompt",
            along_label="layer",
            upward_label="mean length, true target",
        ),
    )
    headline = Headline("layer", "layer_target_place", "layer", "place of the target in down's deltas (1: bottom)")
    over_steps: ClassVar = (
        Headline("step", "step_target_place", "optimiser step", "place of the target in down's deltas (1: bottom)"),
        Headline("step", "step_drawn_place", "optimiser step", "the same for a drawn target"),
        Headline("step", "step_rank", "optimiser step", "share of gradients with the greatest possible rank"),
        Headline("step", "step_centre", "optimiser step", "layer at which down's deltas are centred (1: last)"),
    )
    step_pictures = (
        Lines(
            title="Place of the target in down's deltas while the decoder learns",
            by="layer",
            along="step",
            upward="layer_target_place",
            by_label="layer",
            along_label="optimiser step",
            upward_label="place (0: top, 1: bottom)",
            doublings=True,
        ),
        Lines(
            title="Length of down's deltas at the last token while the decoder learns",
            by="layer",
            along="step",
            upward="layer_length",
            by_label="layer",
            along_label="optimiser step",
            upward_label="mean length, true target",
            doublings=True,
        ),
    )

    built_on = tuple(
        f"lab.gradients.{each}" for each in ("capture", "parts", "profile", "projection", "ranks", "steps", "whole")
    )

    name: Literal["gradient_lens"] = "gradient_lens"
    shortest: Count = key("tokens of a prompt, at least")
    longest: Count = key("tokens of a prompt, at most; no more than C")
    prompts: Count = key("drawn of each document")
    documents: Count | None = key("read, at most: the first that are long enough; null: all")
    batch_tokens: Count = key("tokens read together, at most; the numbers are the same", decides=False)
    seed: Seed = key("of what is drawn")

    def fits(self, context: int) -> None:
        if self.shortest > self.longest:
            raise UserError(f"shortest is {self.shortest} and longest {self.longest}: give no more than longest")
        if self.longest > context:
            raise UserError(f"longest is {self.longest} and C is {context}: prompts lie inside C; give no more")

    def items(self, source: Source) -> Iterator[Item]:
        documents = [*source.long_enough(self.longest + 1, self.documents)]
        # A token of a place that is drawn evenly is drawn as often as it stands there.
        everything = np.concatenate([item.ids for item in documents])
        tokens, often = np.unique(everything, return_counts=True)
        if len(tokens) < 2:
            raise UserError("the held-out documents have one token over and over: there is none beside the target")
        order = tokens[np.argsort(-often, kind="stable")]
        for number, item in enumerate(documents):
            draw = np.random.default_rng([self.seed, number])
            drawn: list[dict[str, Any]] = []
            for _ in range(self.prompts):
                length = int(draw.integers(self.shortest, self.longest + 1))
                start = int(draw.integers(len(item.ids) - length))
                target = int(item.ids[start + length])
                other = target
                while other == target:
                    other = int(everything[draw.integers(len(everything))])
                drawn.append({"start": start, "length": length, "true": target, "drawn": other})
                drawn[-1]["random"] = int(draw.integers(source.tokenizer.vocabulary))
                drawn[-1]["frequent"] = [int(each) for each in order[:2]]
            yield Item(item.name, item.ids, {"prompts": drawn})

    def observe(self, decoder: "Decoder", item: Item, context: int) -> "Observed":
        import torch

        shape, places = shape_of(decoder), places_of(decoder, None)
        ids = item.ids.astype(np.int64).tolist()
        observed: dict[str, Any] = {}
        for kind in TARGETS:
            prompts = item.details["prompts"]
            examples = [
                Example(tuple(ids[each["start"] : each["start"] + each["length"]]), (each[kind],)) for each in prompts
            ]
            sums: dict[str, Tensor] = {}
            counts: dict[str, Tensor] = {}
            for group in batches(examples, self.batch_tokens, decoder.position):
                here = [examples[each] for each in group]
                captured = capture(decoder, here, places, torch.float64)
                others = [_others(prompts[each], kind) for each in group]
                parts = [parts_of(len(each.read), len(each.prompt), None) for each in here]
                for profile in profiles(decoder, shape, captured, parts, others):
                    for name, values in profile.items():
                        sums[name] = sums.get(name, 0) + values.nan_to_num(0.0)
                        counts[name] = counts.get(name, 0) + (~values.isnan()).long()
            observed |= {f"{kind}/{name}/{item.name}": (sums[name], counts[name]) for name in sums}
        return observed

    def rows(self, fold: "Fold", context: int) -> list[Row]:
        import torch

        means = {kind: mean_profile(fold, kind) for kind in TARGETS}
        layers = len(means["true"]["rank"])
        down = VECTORS.index(("down", "delta"))
        lengths = means["true"]["length"][:, DOWN]
        last = lengths[:, PARTS.index("last token")]
        centre = float((last.square() * torch.arange(1, layers + 1)).sum() / last.square().sum().clamp(min=1e-300))
        whole = {
            "step_target_place": float(means["true"]["place"][:, down, 0].nanmean()),
            "step_drawn_place": float(means["drawn"]["place"][:, down, 0].nanmean()),
            "step_rank": float(means["true"]["greatest"].nanmean()),
            "step_centre": centre / layers,
        }
        found: list[Row] = []
        for layer in range(layers):
            of_layer = {
                "layer_target_place": _number(means["true"]["place"][layer, down, 0]),
                "layer_drawn_place": _number(means["drawn"]["place"][layer, down, 0]),
                "layer_length": _number(last[layer]),
            } | whole
            for kind, profile in means.items():
                for number, (matrix, vector) in enumerate(VECTORS):
                    at = (layer, MATRICES.index(matrix))
                    places = {
                        f"{what}_place": _number(profile["place"][layer, number, column])
                        for column, what in enumerate(TOKENS)
                    }
                    found.append(
                        {
                            "layer": layer + 1,
                            "target": kind,
                            "matrix": matrix,
                            "vector": vector,
                            "line": f"{vector} of {matrix}, {kind} target",
                            "part": "",
                            "rank": _number(profile["rank"][at]),
                            "rank_is_tokens": _number(profile["full"][at]),
                            "rank_is_greatest": _number(profile["greatest"][at]),
                            "principal_share": _number(profile["share"][at]),
                            **places,
                            "target_at_bottom": _number(profile["bottom"][layer, number]),
                            "last_token_place": None if vector == "principal" else places["target_place"],
                            "delta_length": None,
                            "down_length": None,
                        }
                        | of_layer
                    )
                for column, matrix in enumerate(MATRICES):
                    for number, of_part in enumerate(PARTS):
                        length = _number(profile["length"][layer, column, number])
                        if length is not None:
                            empty = dict.fromkeys(found[-1])
                            at_part = {"layer": layer + 1, "target": kind, "matrix": matrix, "vector": "delta"}
                            at_part |= {"line": "", "part": of_part, "delta_length": length}
                            shown = {"down_length": length} if (matrix, kind) == ("down", "true") else {}
                            found.append(empty | at_part | shown | of_layer)
        return found

    def numbers(self, fold: "Fold", rows: Sequence[Row]) -> Iterator[Number]:
        for document in fold.done:
            for kind in TARGETS:
                profile = document_profile(fold, kind, document)
                for name, value in numbers_of(profile):
                    yield Number(f"{name}, {kind} target", value, document)


def document_profile(fold: "Fold", kind: str, document: str) -> "dict[str, Tensor]":
    """The mean profile of a document's prompts."""
    names = [key.split("/", 2)[1] for key in fold.keys if key.split("/", 2)[::2] == [kind, document]]
    return {name: fold.mean(f"{kind}/{name}/{document}") for name in names}


def mean_profile(fold: "Fold", kind: str) -> "dict[str, Tensor]":
    """The mean over documents, each counting once; nan where no document has anything."""
    import torch

    each = [document_profile(fold, kind, document) for document in fold.done]
    return {name: torch.stack([profile[name] for profile in each]).nanmean(dim=0) for name in each[0]}


def _others(prompt: dict[str, Any], kind: str) -> dict[str, int]:
    """The tokens that a target is held against: neither is the target itself but by chance of the draw."""
    frequent = next(each for each in prompt["frequent"] if each != prompt[kind])
    return {"random": prompt["random"], "frequent": frequent}


def _number(value: "Tensor") -> float | None:
    return None if value.isnan() else float(value)
