"""Norms of hidden states by layer and position: do states leave, beyond the window, the size they had inside it?"""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Literal

from lab.base.parts import part
from lab.base.settings import Count, key
from lab.observe.measure import Item, Row, Source
from lab.observe.study import DocumentStudy, Lines, bin_of, check_bins

if TYPE_CHECKING:
    from lab.model.decoder import Decoder
    from lab.observe.fold import Fold, Observed


@part("study")
class StateNorms(DocumentStudy):
    """Mean and standard deviation of the Euclidean norm of what enters the first block (layer 0) and leaves each one,
    by position in one pass over ``longest`` contexts."""

    pictures = (
        Lines(
            title="Norms of hidden states",
            by="layer",
            along="position",
            upward="norm",
            by_label="layer",
            along_label="position (centre of a bin)",
            upward_label="Euclidean norm",
            positions=True,
        ),
    )

    name: Literal["state_norms"] = "state_norms"
    longest: Count = key("length of the pass, in contexts C")
    bin_tokens: Count = key("positions averaged into one row; divides C")
    documents: Count | None = key("read, at most: the first that are long enough")

    def fits(self, context: int) -> None:
        check_bins(self.bin_tokens, context)

    def items(self, source: Source) -> Iterator[Item]:
        return source.long_enough(self.longest * source.context, self.documents)

    def observe(self, decoder: "Decoder", item: Item, context: int) -> "Observed":
        from lab.observe import taps
        from lab.observe.losses import on_device

        tokens = on_device(item.ids[: self.longest * context], decoder)
        places = taps.states(decoder)
        with taps.reading(decoder, places) as seen:
            decoder.hidden(tokens[None])
        observed: dict[str, Any] = {}
        for layer, place in enumerate(places):
            norms = seen[place][0].double().norm(dim=-1).view(-1, self.bin_tokens)
            count = norms.new_full(norms.shape[:1], self.bin_tokens).long()
            observed |= {f"norm/{layer}": (norms.sum(1), count), f"square/{layer}": (norms.square().sum(1), count)}
        return observed

    def rows(self, fold: "Fold", context: int) -> list[Row]:
        found = []
        for layer in range(len(fold.keys) // 2):
            mean, square = fold.mean(f"norm/{layer}"), fold.mean(f"square/{layer}")
            deviation = (square - mean.square()).clamp(min=0).sqrt()
            for index, count in enumerate(fold.count(f"norm/{layer}").tolist()):
                found.append(
                    {
                        "layer": layer,
                        **bin_of(index, self.bin_tokens),
                        "tokens": count,
                        "norm": float(mean[index]),
                        "norm_deviation": float(deviation[index]),
                    }
                )
        return found
