"""Position probe: can a line read from a state where its token stands, inside the context window and beyond?"""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Literal

from lab.analysis.vector_study import VectorDocumentStudy
from lab.base.parts import part
from lab.base.settings import Count, Positive, key
from lab.observe.measure import Item, Row, Source
from lab.observe.study import Headline, Lines, Number, bin_of, check_bins, numbers_by_layer

if TYPE_CHECKING:
    from lab.model.decoder import Decoder
    from lab.observe.fold import Fold, Observed
    from lab.observe.vectors import Vectors


@part("study")
class PositionProbe(VectorDocumentStudy):
    """The position as a linear function of the state, fitted by ridge regression on the positional vectors inside C, by
    layer; read from the positional vectors and from single states of documents, inside C and beyond. Errors in tokens.

    That it is fitted on the vectors, and not on states, asks whether what the mean state says of a position is what
    single states say: a probe of states of its own could be better.
    """

    pictures = (
        Lines(
            title="Position read from single states",
            by="layer",
            along="position",
            upward="read",
            by_label="layer",
            along_label="position (centre of a bin)",
            upward_label="position read, mean",
            positions=True,
        ),
    )
    headline = Headline("layer", "layer_error_inside", "layer", "error inside C, single states (tokens, rms)")

    name: Literal["position_probe"] = "position_probe"
    longest: Count = key("length of the pass, in contexts C; no more than that of the vectors")
    bin_tokens: Count = key("positions averaged into one row; divides C")
    ridge: Positive = key("penalty, as a share of the mean squared length of the bases")
    documents: Count | None = key("read, at most: the first that are long enough")

    def fits(self, context: int) -> None:
        super().fits(context)
        check_bins(self.bin_tokens, context)
        self.check_contexts("longest", self.longest, 1)

    def items(self, source: Source) -> Iterator[Item]:
        return source.long_enough(self.longest * source.context, self.documents)

    def observe(self, decoder: "Decoder", item: Item, vectors: "Vectors") -> "Observed":
        import torch

        from lab.observe import taps
        from lab.observe.losses import on_device

        length = self.longest * vectors.context
        tokens = on_device(item.ids[:length], decoder)
        places = taps.states(decoder)
        with taps.reading(decoder, places) as seen:
            decoder.hidden(tokens[None])
        observed: dict[str, Any] = {}
        for layer, place in enumerate(places):
            read = self.read(vectors, layer, seen[place][0].double())
            wrong = read - torch.arange(length, device=read.device)
            count = torch.full((length // self.bin_tokens,), self.bin_tokens)
            for name, each in (("read", read), ("square", wrong.square())):
                observed[f"{name}/{layer}"] = (each.view(-1, self.bin_tokens).sum(1), count)
        return observed

    def read(self, vectors: "Vectors", layer: int, states: Any) -> Any:
        """The positions that states are read as."""
        import torch

        context = vectors.context
        m = vectors.m(layer)[:context]
        wanted = torch.arange(context, dtype=torch.float64) - (context - 1) / 2
        gram = m.T @ m
        penalty = self.ridge * gram.diagonal().sum() / len(gram)
        weights = torch.linalg.solve(gram + penalty * torch.eye(len(gram), dtype=torch.float64), m.T @ wanted)
        return (states - vectors.u(layer).to(states.device)) @ weights.to(states.device) + (context - 1) / 2

    def rows(self, fold: "Fold", vectors: "Vectors") -> list[Row]:
        import torch

        context, length = vectors.context, self.longest * vectors.context
        first, found = context // self.bin_tokens, []
        for layer in range(vectors.layers):
            of_vectors = self.read(vectors, layer, vectors.p(layer)[:length])
            wrong = of_vectors - torch.arange(length)
            read, square = fold.mean(f"read/{layer}"), fold.mean(f"square/{layer}")
            of_layer: Row = {
                "layer_error_inside": float(square[:first].mean().sqrt()),
                "layer_error_beyond": float(square[first:].mean().sqrt()) if self.longest > 1 else None,
                "layer_vector_error_inside": float(wrong[:context].square().mean().sqrt()),
                "layer_agreement": vectors.agreement(layer),
            }
            for index in range(len(read)):
                start = index * self.bin_tokens
                here = slice(start, start + self.bin_tokens)
                found.append(
                    {
                        "layer": layer,
                        **bin_of(index, self.bin_tokens),
                        "read": float(read[index]),
                        "error": float(square[index].sqrt()),
                        "vector_read": float(of_vectors[here].mean()),
                        "vector_error": float(wrong[here].square().mean().sqrt()),
                    }
                    | of_layer
                )
        return found

    def numbers(self, fold: "Fold", rows: Sequence[Row]) -> Iterator[Number]:
        beyond = ("layer_error_beyond",) * (self.longest > 1)
        return numbers_by_layer(rows, ("layer_error_inside", "layer_vector_error_inside", *beyond))
