"""Soft probe: which facts can a decoder be brought to say by a name and a few trained vectors?"""

from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np

from lab.base.parts import part
from lab.base.settings import Count, key
from lab.knowledge.probing import FITTED, GROUPS, TOGETHER, TrainedProbe, frozen, observed_right, told
from lab.observe.measure import Item, Source
from lab.observe.study import Headline, Map

if TYPE_CHECKING:
    import torch

    from lab.model.decoder import Decoder
    from lab.observe.fold import Observed
    from lab.observe.people import Prompt
    from lab.observe.trained import Training


@part("study")
class SoftProbe(TrainedProbe):
    """Vectors behind the end of a document and a name, one set for all people and each attribute, trained so that the
    decoder says the value of the training group's people; all of its own weights stay as they are, its head too.

    It learns to ask, and has nowhere to keep an answer of each person: where a linear probe of few people learns them
    by heart, this does not. ``whole``: all tokens of the value and the full stop are the likeliest one after another,
    and trained on; ``first``: the first token.
    """

    pictures: ClassVar = (
        Map(
            title="Said of held-out people after trained vectors",
            down="attribute_text",
            across="target",
            value="held_out_right",
            labels=("", "what of the value", "share right"),
        ),
    )
    headline = Headline("attribute_text", "main_right", "attribute", "said right of held-out people")
    dates: ClassVar[bool] = True

    name: Literal["soft_probe"] = "soft_probe"
    vectors: Count = key("that are trained for each attribute")

    def given(self, source: Source) -> dict[str, Any]:
        groups = self.groups(source)
        return {"people": groups, "tokenizer": source.tokenizer}

    def training(self, decoder: "Decoder", item: Item, context: int) -> "Training":
        from torch import nn

        from lab.model.initialise import draw
        from lab.observe.trained import Training, drawn

        task, tokenizer = item.details["task"], item.details["tokenizer"]
        prompts = {
            group: [told(tokenizer, each, each.value(task.attribute)) for each in people]
            for group, people in item.details["people"].items()
        }
        frozen(decoder)
        embedding = decoder.embedding
        name = f"soft_probe/{task.name}/vectors"
        deviation = float(embedding.detach().double().std())
        shape = (self.vectors, embedding.shape[1])
        vectors = nn.Parameter(draw(self.seed, name, shape, deviation).to(embedding))
        module = nn.ParameterDict({"vectors": vectors})

        def logits(some: list["Prompt"]) -> tuple["torch.Tensor", "torch.Tensor"]:
            batch = Batch(some, self.vectors, tokenizer.end_of_document, task.target, embedding.device)
            return batch.logits(decoder, vectors), batch.wanted

        def loss(step: int) -> "torch.Tensor":
            chosen = drawn(self.seed, task.name, len(prompts[FITTED]), self.batch, step)
            found, wanted = logits([prompts[FITTED][each] for each in chosen])
            return nn.functional.cross_entropy(found.flatten(0, 1), wanted.flatten(), ignore_index=-100)

        def observed() -> "Observed":
            right: dict[str, Any] = {}
            for group in GROUPS:
                hits = []
                for first in range(0, len(prompts[group]), TOGETHER):
                    found, wanted = logits(prompts[group][first : first + TOGETHER])
                    hits.append(((found.argmax(-1) == wanted) | (wanted == -100)).all(1).cpu().numpy())
                right |= observed_right(task, group, len(decoder.blocks), 0, np.concatenate(hits).astype(float))
            return right

        return Training(
            module,
            loss,
            observed,
            steps=self.steps,
            learning_rate=self.learning_rate,
            eps=self.eps,
            weight_decay=self.weight_decay,
        )


class Batch:
    """Some names, each with the vectors behind it and then the tokens that are to be said.

    Attributes:
        tokens: [people, longest], any id where a vector stands.
        soft: [people, longest, vectors]: 1 where a vector stands.
        places: [people, said]: from where each token that is to be said is foretold.
        wanted: [people, said]: what it is; -100 where a shorter value has none.
    """

    def __init__(self, prompts: list["Prompt"], vectors: int, end: int, target: str, device: Any) -> None:
        import torch

        said = [each.answer[:1] if target == "first" else each.answer[:-1] for each in prompts]
        most = max(map(len, said))
        longest = max(len(each.ids) + vectors + len(value) for each, value in zip(prompts, said, strict=True))
        tokens = np.full((len(prompts), longest), end, dtype=np.int64)
        soft = np.zeros((len(prompts), longest, vectors), dtype=np.float32)
        places = np.zeros((len(prompts), most), dtype=np.int64)
        wanted = np.full((len(prompts), most), -100, dtype=np.int64)
        for row, (each, value) in enumerate(zip(prompts, said, strict=True)):
            behind = len(each.ids) + vectors
            tokens[row, : len(each.ids)] = each.ids
            tokens[row, behind : behind + len(value)] = value
            soft[row, np.arange(len(each.ids), behind), np.arange(vectors)] = 1
            places[row, : len(value)] = behind - 1 + np.arange(len(value))
            wanted[row, : len(value)] = value
        self.tokens, self.soft, self.places, self.wanted = (
            torch.from_numpy(each).to(device) for each in (tokens, soft, places, wanted)
        )

    def logits(self, decoder: "Decoder", vectors: "torch.Tensor") -> "torch.Tensor":
        """[people, said, vocabulary]."""
        import torch

        read = torch.nn.functional.embedding(self.tokens, decoder.table)
        # A product with zeros and ones, whose gradient is summed in one order, unlike that of an index.
        put = self.soft @ vectors
        x = torch.where(self.soft.sum(-1, keepdim=True) > 0, put, read).to(decoder.compute_dtype)
        hidden = decoder.continued(decoder.position.embed(x, 0), 0)
        rows = torch.arange(len(hidden), device=hidden.device)[:, None]
        return decoder.logits(hidden[rows, self.places])
