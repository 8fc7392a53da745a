"""Q-probe: which facts does the last layer hold of a name alone?"""

from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np

from lab.base.parts import part
from lab.base.settings import Count, key
from lab.knowledge.probing import FITTED, READ, TOGETHER, TrainedProbe, frozen, observed_right
from lab.observe.measure import Item, Source
from lab.observe.study import Headline, Map

if TYPE_CHECKING:
    import torch

    from lab.model.decoder import Decoder
    from lab.observe.fold import Observed
    from lab.observe.trained import Training


@part("study")
class QProbe(TrainedProbe):
    """Query-based probing of Physics of Language Models, Part 3.1 (Allen-Zhu and Li 2023, arXiv 2309.14316): the last
    state at the end token behind a name, with one before it too, is read by a batch norm and a linear function, beside
    a decoder that stays as it is but for a trained update of low rank of its embedding.

    With few people of each value it learns them by heart, whatever the decoder knows: ``training_right`` is then 1 and
    ``held_out_right`` as by chance. The paper's decoders drop out while they are probed; the lab's have no dropout.
    """

    pictures: ClassVar = (
        Map(
            title="Read from held-out people's names by Q-probes",
            down="attribute_text",
            across="target",
            value="held_out_right",
            labels=("", "what of the value", "share read right"),
        ),
    )
    headline = Headline("attribute_text", "main_right", "attribute", "read from held-out people's names")

    name: Literal["q_probe"] = "q_probe"
    rank: Count = key("of the update of the embedding")

    def given(self, source: Source) -> dict[str, Any]:
        from lab.observe.people import padded

        tokenizer, end = source.tokenizer, source.tokenizer.end_of_document
        found = {}
        for group, people in self.groups(source).items():
            names = [np.concatenate(([end], tokenizer.encode(each.name), [end])).astype(np.uint32) for each in people]
            last = np.array([[len(each) - 1] for each in names])
            found[group] = (padded(names, end).astype(np.int64), last)
        return {"names": found}

    def training(self, decoder: "Decoder", item: Item, context: int) -> "Training":
        import torch

        from lab.observe.heads import Head
        from lab.observe.trained import Training, drawn

        task, classes, names = item.details["task"], item.details["classes"], item.details["names"]
        frozen(decoder)
        device = decoder.embedding.device
        head = Head(decoder, self.rank, classes.number, "batch", self.seed, f"q_probe/{task.name}")

        def scores(group: str, chosen: np.ndarray) -> "torch.Tensor":
            tokens, last = (torch.from_numpy(each[chosen]).to(device) for each in names[group])
            return head.scores(decoder, tokens, last)[:, 0]

        def loss(step: int) -> "torch.Tensor":
            chosen = drawn(self.seed, task.name, len(classes.training), self.batch, step)
            head.train()
            wanted = torch.from_numpy(classes.training[chosen]).to(device)
            return torch.nn.functional.cross_entropy(scores(FITTED, chosen), wanted)

        def observed() -> "Observed":
            head.eval()
            right: dict[str, Any] = {}
            for group, wanted in ((FITTED, classes.training), (READ, classes.held_out)):
                every = np.arange(len(wanted))
                some = [every[first : first + TOGETHER] for first in range(0, len(every), TOGETHER)]
                read = np.concatenate([scores(group, each).argmax(-1).cpu().numpy() for each in some])
                right |= observed_right(task, group, len(decoder.blocks), 0, (read == wanted).astype(float))
            return right

        return Training(
            head,
            loss,
            observed,
            steps=self.steps,
            learning_rate=self.learning_rate,
            eps=self.eps,
            weight_decay=self.weight_decay,
        )
