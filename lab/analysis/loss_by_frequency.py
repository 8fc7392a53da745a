"""Loss by token frequency: does a decoder beyond its window fail at rare tokens, at frequent ones, or at all alike?"""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Literal

from lab.base.parts import part
from lab.base.settings import Count, key
from lab.observe.measure import Item, Row, Source
from lab.observe.study import DocumentStudy, Lines, ranges

if TYPE_CHECKING:
    from lab.model.decoder import Decoder
    from lab.observe.fold import Fold, Observed


@part("study")
class LossByFrequency(DocumentStudy):
    """Mean loss of targets by how frequent their token is, inside the window and in each range of positions beyond.

    Tokens are ordered by how often they are a target in the documents that are read, the most frequent first, equal
    ones by id, and dealt to classes that have an equal share of all targets as nearly as whole tokens allow.
    """

    pictures = (
        Lines(
            title="Loss by token frequency",
            by="start_position",
            along="frequency_class",
            upward="loss_nats",
            by_label="positions from",
            along_label="frequency class of the target (1: most frequent)",
            upward_label="loss (nats per token)",
        ),
    )

    name: Literal["loss_by_frequency"] = "loss_by_frequency"
    longest: Count = key("length of the pass, in contexts C")
    classes: Count = key("of tokens by frequency, each of an equal share of the targets")
    documents: Count | None = key("read, at most: the first that are long enough")

    def items(self, source: Source) -> Iterator[Item]:
        return source.long_enough(self.longest * source.context + 1, self.documents)

    def observe(self, decoder: "Decoder", item: Item, context: int) -> "Observed":
        import torch

        from lab.observe.losses import losses_in_one_pass, on_device

        length = self.longest * context
        tokens = on_device(item.ids[: length + 1], decoder)
        losses, targets = losses_in_one_pass(decoder, tokens).double().cpu(), tokens[1:].cpu()
        spans = ranges(context, length)
        total = torch.zeros(len(spans), decoder.embedding.shape[0], dtype=torch.float64)
        count = torch.zeros(total.shape, dtype=torch.int64)
        for index, (start, stop) in enumerate(spans):
            total[index].index_add_(0, targets[start:stop], losses[start:stop])
            count[index] = torch.bincount(targets[start:stop], minlength=total.shape[1])
        return {"loss": (total, count)}

    def rows(self, fold: "Fold", context: int) -> list[Row]:
        total, count = fold.total("loss"), fold.count("loss")
        of_token = count.sum(0)
        order = of_token.argsort(descending=True, stable=True)
        before = of_token[order].cumsum(0) - of_token[order]
        classes = (before * self.classes).div(of_token.sum(), rounding_mode="floor")
        found = []
        for index, (start, stop) in enumerate(ranges(context, self.longest * context)):
            for number in range(self.classes):
                tokens = order[classes == number]
                seen = int(count[index, tokens].sum())
                if seen:
                    found.append(
                        {
                            "start_position": start,
                            "stop_position": stop,
                            "frequency_class": number + 1,
                            "distinct_tokens": int((of_token[tokens] > 0).sum()),
                            "tokens": seen,
                            "loss_nats": float(total[index, tokens].sum()) / seen,
                        }
                    )
        return found
