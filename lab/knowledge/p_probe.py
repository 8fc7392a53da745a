"""P-probe: which facts does the last layer hold just before each attribute of an entry?"""

from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np

from lab.base.parts import part
from lab.base.settings import Count, key
from lab.knowledge.probing import (
    FITTED,
    READ,
    TOGETHER,
    Entries,
    EntryProbe,
    TrainedProbe,
    frozen,
    observed_beside,
    observed_right,
    word_of_position,
)
from lab.observe.measure import Item
from lab.observe.study import Headline, Map

if TYPE_CHECKING:
    import torch

    from lab.model.decoder import Decoder
    from lab.observe.fold import Observed
    from lab.observe.trained import Training

POSITIONS = range(1, 7)


@part("study")
class PProbe(EntryProbe, TrainedProbe):
    """Position-based probing of Physics of Language Models, Part 3.1 (Allen-Zhu and Li 2023, arXiv 2309.14316): the
    last state at the six tokens just before the attributes is read by a layer norm and a linear function, beside a
    decoder that stays as it is but for a trained update of low rank of its embedding.

    One probe an attribute and target, the same at all six positions. The paper's decoders drop out while they are
    probed; the lab's have no dropout.
    """

    pictures: ClassVar = (
        Map(
            title="Read from held-out people's entries by P-probes",
            down="line",
            across="position",
            value="held_out_right",
            labels=("", "before the attribute that comes as the", "share read right"),
        ),
    )
    headline = Headline(
        "position", "mean_right", "before the attribute that comes as the", "read, mean over attributes"
    )

    name: Literal["p_probe"] = "p_probe"
    rank: Count = key("of the update of the embedding")

    def training(self, decoder: "Decoder", item: Item, context: int) -> "Training":
        import torch

        from lab.observe.heads import Head
        from lab.observe.trained import Training, drawn

        task, classes = item.details["task"], item.details["classes"]
        entries: dict[str, Entries] = item.details["entries"]
        frozen(decoder)
        layer, device = len(decoder.blocks), decoder.embedding.device
        head = Head(decoder, self.rank, classes.number, "layer", self.seed, f"p_probe/{task.name}")

        def scores(group: str, chosen: np.ndarray) -> "torch.Tensor":
            tokens = torch.from_numpy(entries[group].tokens[chosen]).to(device)
            places = torch.from_numpy(entries[group].places[chosen][:, POSITIONS]).to(device)
            return head.scores(decoder, tokens, places)

        def loss(step: int) -> "torch.Tensor":
            chosen = drawn(self.seed, task.name, len(entries[FITTED]), self.batch, step)
            found = scores(FITTED, chosen)
            wanted = torch.from_numpy(classes.training[entries[FITTED].person[chosen]]).to(device)
            wanted = wanted[:, None].expand(found.shape[:2])
            return torch.nn.functional.cross_entropy(found.flatten(0, 1), wanted.flatten())

        def observed() -> "Observed":
            right: dict[str, Any] = {}
            for group, wanted in ((FITTED, classes.training), (READ, classes.held_out)):
                every = np.arange(len(entries[group]))
                some = [every[first : first + TOGETHER] for first in range(0, len(every), TOGETHER)]
                read = np.concatenate([scores(group, each).argmax(-1).cpu().numpy() for each in some])
                hits = (read == wanted[entries[group].person][:, None]).astype(float)
                for number, position in enumerate(POSITIONS):
                    right |= observed_right(task, group, layer, position, hits[:, number], entries[group].person)
            right |= observed_beside(task, entries[READ], layer, hits, POSITIONS)
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

    def where(self, layer: int, position: int, layers: int) -> list[str]:
        return [f" at {word_of_position(position)}"]
