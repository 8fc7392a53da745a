"""Beyond: what becomes of positional vectors past the context window, and is it they that raise the loss?"""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Literal

from lab.analysis.vector_study import VectorDocumentStudy, numbered, of_document
from lab.base.parts import part
from lab.base.settings import Count, key
from lab.observe.measure import Item, Row, Source
from lab.observe.study import Headline, Lines, Number, bin_of, check_bins, numbers_by_layer

if TYPE_CHECKING:
    from lab.model.decoder import Decoder
    from lab.observe.fold import Fold, Observed
    from lab.observe.vectors import Vectors


@part("study")
class Beyond(VectorDocumentStudy):
    """Past C, by layer and position: the greatest cosine of p to those inside C (arXiv 2405.18009) and of
    m; the distance of p to the nearest inside, in units of the mean length of m inside; the greatest cosine of the mean
    output logits. And by intervention: with p of each position past C replaced by the nearest inside in one layer,
    nothing else changed, what is the loss? ``recovered`` is the share of the excess over restarted windows that goes.
    """

    pictures = (
        Lines(
            title="Greatest cosine of the positional vector to those inside C",
            by="layer",
            along="position",
            upward="cosine",
            by_label="layer",
            along_label="position (centre of a bin)",
            upward_label="cosine",
            positions=True,
        ),
        Lines(
            title="Distance to the nearest positional vector inside C",
            by="layer",
            along="position",
            upward="distance",
            by_label="layer",
            along_label="position (centre of a bin)",
            upward_label="distance (mean |m| inside C)",
            positions=True,
        ),
        Lines(
            title="Loss with positional vectors beyond C replaced by the nearest inside",
            by="layer",
            along="position",
            upward="replaced_loss_nats",
            by_label="layer",
            along_label="position (centre of a bin)",
            upward_label="loss (nats per token)",
            positions=True,
        ),
    )
    headline = Headline("layer", "layer_recovered", "layer of the intervention", "share of the excess that goes")

    name: Literal["beyond"] = "beyond"
    longest: Count = key("length of the pass, in contexts C; no more than that of the vectors")
    bin_tokens: Count = key("positions averaged into one row; divides C")
    documents: Count | None = key("read, at most: the first that are long enough")
    batch_tokens: Count = key("read together, at most, where windows are restarted")

    def fits(self, context: int) -> None:
        super().fits(context)
        check_bins(self.bin_tokens, context)
        self.check_contexts("longest", self.longest, 2)

    def items(self, source: Source) -> Iterator[Item]:
        return numbered(source.long_enough(self.longest * source.context + 1, self.documents))

    def observe(self, decoder: "Decoder", item: Item, vectors: "Vectors") -> "Observed":
        import torch

        from lab.observe import taps
        from lab.observe.losses import losses_with_context, on_device

        context, length = vectors.context, self.longest * vectors.context
        tokens = on_device(item.ids[: length + 1], decoder)
        places = taps.states(decoder)
        with taps.reading(decoder, places) as seen:
            hidden = decoder.hidden(tokens[None, :-1])
        states = [seen[place] for place in places]
        observed: dict[str, Any] = {}

        def note(name: str, losses: Any) -> None:
            losses = losses.double()
            observed[name] = self._binned(losses)
            outside = losses[-(length - context) :]
            observed[f"document/{name}"] = of_document(item, outside.sum().cpu(), len(outside))

        note("loss", decoder.next_token_losses(hidden, tokens[None, 1:])[0])
        of_bins = hidden[0].double().view(-1, self.bin_tokens, hidden.shape[-1]).mean(1) @ _root(decoder)
        observed["logits"] = (of_bins, of_bins.new_ones(len(of_bins), dtype=torch.int64))
        for layer, state in enumerate(states):
            p, nearest = vectors.p(layer), vectors.nearest_inside(layer)
            change = (p[nearest] - p)[:length].to(state)
            change[:context] = 0
            continued = decoder.continued(state + change, layer)
            note(f"replaced/{layer}", decoder.next_token_losses(continued, tokens[None, 1:])[0])
        restarted = losses_with_context(decoder, tokens, context, length + 1, context, self.batch_tokens)
        # Its targets are tokens C to T, predicted from positions C - 1 to T - 1: the first is inside.
        note("restart", restarted[1:])
        return observed

    def _binned(self, losses: Any) -> tuple[Any, Any]:
        total = losses.view(-1, self.bin_tokens).sum(1)
        return total, total.new_full(total.shape, self.bin_tokens).long()

    def rows(self, fold: "Fold", vectors: "Vectors") -> list[Row]:
        import torch

        context, length = vectors.context, self.longest * vectors.context
        first = context // self.bin_tokens
        loss, restarted = fold.mean("loss"), fold.mean("restart")
        logits = _greatest_cosine(fold.mean("logits"), fold.mean("logits")[:first])
        excess = float((loss[first:] - restarted).mean())
        found = []
        for layer in range(vectors.layers):
            p, m = vectors.p(layer)[:length], vectors.m(layer)[:length]
            inside = m[:context].norm(dim=-1).mean()
            values = {
                "cosine": _greatest_cosine(p, p[:context]),
                "basis_cosine": _greatest_cosine(m, m[:context]),
                "distance": torch.cdist(p, p[:context]).amin(1) / inside,
                "basis_norm": m.norm(dim=-1) / inside,
            }
            replaced = fold.mean(f"replaced/{layer}")
            recovered = float((loss[first:] - replaced[first:]).mean()) / excess if excess else None
            for index in range(len(loss)):
                start = index * self.bin_tokens
                row: Row = {"layer": layer, **bin_of(index, self.bin_tokens)}
                row |= {name: float(each[start : start + self.bin_tokens].mean()) for name, each in values.items()}
                row |= {
                    "logit_cosine": float(logits[index]),
                    "loss_nats": float(loss[index]),
                    "replaced_loss_nats": float(replaced[index]),
                    "restarted_loss_nats": float(restarted[index - first]) if index >= first else None,
                    "layer_recovered": recovered,
                    "excess_nats": excess,
                    "layer_agreement": vectors.agreement(layer),
                }
                found.append(row)
        return found

    def numbers(self, fold: "Fold", rows: Sequence[Row]) -> Iterator[Number]:
        """From half the length on the mean cosine, of the output logits, too; and by document how much of the excess is
        left, above half of it, with the vectors of one layer replaced: that which is best on the other documents."""
        import torch

        end = max(row["stop_position"] for row in rows)
        far = [row for row in rows if row["start_position"] >= end // 2]
        layers = sorted({row["layer"] for row in rows})
        means: list[Row] = []
        for layer in layers:
            cosines = [row["cosine"] for row in far if row["layer"] == layer]
            means.append({"layer": layer, "cosine from half the length on": sum(cosines) / len(cosines)})
        yield from numbers_by_layer(means, ("cosine from half the length on",))
        logits = [row["logit_cosine"] for row in far if row["layer"] == layers[-1]]
        yield Number("logit_cosine from half the length on", sum(logits) / len(logits))
        half = (fold.mean("document/loss") + fold.mean("document/restart")) / 2
        replaced = torch.stack([fold.mean(f"document/replaced/{layer}") for layer in layers])
        of_others = replaced.sum(1, keepdim=True) - replaced
        best = replaced.gather(0, of_others.argmin(0, keepdim=True))[0]
        for document, left in zip(fold.done, (best - half).tolist(), strict=True):
            yield Number("loss over half of the excess with the best layer replaced", left, document)


def _root(decoder: "Decoder") -> Any:
    """R such that x R and y R have the inner product of the logits of x and y: R R' = W' W, W being the head."""
    import torch

    weight = (decoder.embedding if decoder.head is None else decoder.head.weight).double()
    values, vectors = torch.linalg.eigh(weight.T @ weight)
    return vectors * values.clamp(min=0).sqrt()


def _greatest_cosine(each: Any, inside: Any) -> Any:
    from torch.nn import functional

    return (functional.normalize(each, dim=-1) @ functional.normalize(inside, dim=-1).T).amax(1)
