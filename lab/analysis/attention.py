"""Attention: is it positions, or what is said, that makes a query look at the first tokens, and at near ones?"""

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Literal

from lab.analysis.vector_study import VectorDocumentStudy
from lab.base.errors import UserError
from lab.base.parts import part
from lab.base.settings import Count, key
from lab.observe.measure import Item, Row, Source
from lab.observe.study import Headline, Lines, Number

if TYPE_CHECKING:
    from torch import Tensor

    from lab.model.decoder import Decoder
    from lab.observe.fold import Fold, Observed
    from lab.observe.vectors import Vectors

# Of all tokens' states, in queries, keys and values: nothing, h - p, p, m.
REMOVED = ("nothing", "semantic_vector", "positional_vector", "positional_basis")


@part("study")
class Attending(VectorDocumentStudy):
    """By layer, head and position of the query, with a component of every state removed before the norm (arXiv
    2405.18009): the share of attention on the first tokens; its entropy; the mean distance attended; how
    logits fall with distance; and how much of what is attended to, share times length of the value, is from the first
    tokens.
    """

    pictures = (
        Lines(
            title="Attention on the first tokens, nothing removed, mean over heads",
            by="layer",
            along="query_position",
            upward="layer_first_share",
            by_label="layer",
            along_label="position of the query",
            upward_label="share of attention",
            positions=True,
        ),
        Lines(
            title="Entropy of attention, nothing removed, mean over heads",
            by="layer",
            along="query_position",
            upward="layer_entropy_nats",
            by_label="layer",
            along_label="position of the query",
            upward_label="nats",
            positions=True,
        ),
    )
    headline = Headline("tested", "layer_first_share", "", "share of attention on the first tokens")

    name: Literal["attention"] = "attention"
    longest: Count = key("length of the pass, in contexts C; no more than that of the vectors")
    first: Count = key("tokens at the beginning that are the first ones")
    documents: Count | None = key("read, at most: the first that are long enough")

    def fits(self, context: int) -> None:
        super().fits(context)
        self.check_contexts("longest", self.longest, 1)
        if context // 4 <= self.first + 1:
            raise UserError(f"first is {self.first}: the first query is at C / 4 - 1 = {context // 4 - 1}; take fewer")

    def items(self, source: Source) -> Iterator[Item]:
        return source.long_enough(self.longest * source.context, self.documents)

    def queries(self, context: int) -> list[int]:
        """Positions of queries: C/4 - 1, C/2 - 1, C - 1, 2C - 1, ... and the last."""
        found, at = [], context // 4
        while at < self.longest * context:
            found.append(at - 1)
            at *= 2
        return [*found, self.longest * context - 1]

    def observe(self, decoder: "Decoder", item: Item, vectors: "Vectors") -> "Observed":
        import torch

        from lab.observe import taps
        from lab.observe.losses import on_device

        context = vectors.context
        length, queries = self.longest * context, self.queries(context)
        tokens = on_device(item.ids[:length], decoder)
        places = taps.states(decoder)[:-1]
        with taps.reading(decoder, places) as seen:
            decoder.hidden(tokens[None])
        observed: dict[str, Any] = {}
        for layer, place in enumerate(places):
            state = seen[place][0]
            p, m = (each[:length].to(state) for each in (vectors.p(layer), vectors.m(layer)))
            for removed, left in zip(REMOVED, (state, p, state - p, state - m), strict=True):
                logits, shares, values = _attention(decoder, layer, left, queries)
                for name, each in _summed(logits, shares, values, queries, self.first).items():
                    count = each.new_ones(each.shape[:2], dtype=torch.int64)
                    observed[f"{name}/{removed}/{layer}"] = (each.double(), count)
        return observed

    def rows(self, fold: "Fold", vectors: "Vectors") -> list[Row]:
        context = vectors.context
        found = []
        for layer in range(vectors.layers - 1):
            for removed in REMOVED:
                means = {
                    name: fold.mean(f"{name}/{removed}/{layer}")
                    for name in ("first_share", "entropy_nats", "mean_distance", "first_flow", "logits")
                }
                for number, at in enumerate(self.queries(context)):
                    own = {
                        f"layer_{name}": float(means[name][:, number].mean())
                        for name in ("first_share", "entropy_nats")
                    }
                    shown = removed == "nothing"
                    place: Row = {"layer": layer, "removed": removed, "query_position": at}
                    place |= own if shown else dict.fromkeys(own)
                    place["tested"] = (
                        f"{layer}, {at + 1}" if shown and at + 1 in (context, context * self.longest) else None
                    )
                    for head in range(len(means["logits"])):
                        row = place | {"head": head}
                        row |= {name: float(each[head, number]) for name, each in means.items() if name != "logits"}
                        row["logit_slope"] = _slope(means["logits"][head, number], at, self.first, vectors.window)
                        found.append(row)
        return found

    def numbers(self, fold: "Fold", rows: Sequence[Row]) -> Iterator[Number]:
        """Of the last query inside C the share on the first tokens in the layer that has most of it, mean over heads;
        and how logits fall with distance, mean over layers and heads, what is left of that, too."""
        last = sorted({row["query_position"] for row in rows})[2]  # see queries
        slopes: dict[str, float] = {}
        for removed in REMOVED:
            here = [row for row in rows if (row["query_position"], row["removed"]) == (last, removed)]
            shares: dict[int, list[float]] = {}
            for row in here:
                shares.setdefault(row["layer"], []).append(row["first_share"])
            greatest = max(sum(each) / len(each) for each in shares.values())
            slopes[removed] = sum(row["logit_slope"] for row in here) / len(here)
            yield Number(f"greatest first_share without {removed}", greatest)
            yield Number(f"logit_slope without {removed}", slopes[removed])
            if slopes["nothing"]:
                yield Number(f"share of logit_slope left without {removed}", slopes[removed] / slopes["nothing"])


def _attention(decoder: "Decoder", layer: int, left: "Tensor", queries: list[int]) -> tuple["Tensor", ...]:
    """Of some queries the products with all keys before a bias, the shares, and the lengths of all values.

    Returns:
        [heads, queries, length] twice, and [heads, length].
    """
    import torch

    block: Any = decoder.blocks[layer]
    attention, position, length = block.attention, decoder.position, len(left)
    given = block.attention_norm(left)
    query, keys, values = (
        projection(given).view(1, length, -1, attention.head_dim).transpose(1, 2)
        for projection in (attention.query, attention.key, attention.value)
    )
    query, keys = position.rotate(query, keys, torch.arange(length, device=left.device))
    group = attention.heads // attention.kv_heads
    keys, values = (each[0].repeat_interleave(group, 0).float() for each in (keys, values))
    scale = position.scale(length) / math.sqrt(attention.head_dim)
    logits = scale * query[0, :, queries].float() @ keys.transpose(1, 2)
    distance = torch.tensor(queries, device=left.device)[:, None] - torch.arange(length, device=left.device)
    biased = logits
    if position.slopes is not None:
        biased = logits - position.slopes.float()[:, None, None] * distance
    unseen = distance < 0 if attention.window is None else (distance < 0) | (distance >= attention.window)
    shares = biased.masked_fill(unseen, -math.inf).softmax(-1)
    return logits.masked_fill(unseen, 0.0), shares, values.norm(dim=-1)


def _summed(
    logits: "Tensor", shares: "Tensor", values: "Tensor", queries: list[int], first: int
) -> dict[str, "Tensor"]:
    """What is observed of each head and query."""
    import torch

    distance = torch.tensor(queries, device=shares.device)[:, None] - torch.arange(
        shares.shape[-1], device=shares.device
    )
    flow = shares * values[:, None]
    return {
        "logits": logits,
        "first_share": shares[..., :first].sum(-1),
        "entropy_nats": torch.special.entr(shares).sum(-1),
        "mean_distance": (shares * distance).sum(-1),
        "first_flow": flow[..., :first].sum(-1) / flow.sum(-1),
    }


def _slope(logits: "Tensor", at: int, first: int, window: int | None) -> float:
    """Of a line through the mean logits of a query with the keys behind the first ones that it sees, by distance."""
    import torch

    start = first if window is None else max(first, at - window + 1)
    distance = torch.arange(at - start, -1, -1, dtype=torch.float64)
    centred = distance - distance.mean()
    return float((centred * logits[start : at + 1]).sum() / centred.square().sum())
