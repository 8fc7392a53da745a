"""Attention on the first tokens: how much goes there whatever they say, and does that change beyond the window?"""

import math
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
class FirstTokens(DocumentStudy):
    """Share of a query's attention that the first ``first`` tokens of a text have, mean over heads, by layer and by the
    query's position in one pass over ``longest`` contexts ("attention sinks", Xiao et al., arXiv 2309.17453).

    It is what attention gives for values of 1 at these tokens and 0 elsewhere, so it costs a second attention.
    """

    pictures = (
        Lines(
            title="Attention on the first tokens",
            by="layer",
            along="position",
            upward="share",
            by_label="layer",
            along_label="position of the query (centre of a bin)",
            upward_label="share of attention",
            positions=True,
        ),
    )

    name: Literal["first_tokens"] = "first_tokens"
    first: Count = key("tokens at the beginning of each text")
    longest: Count = key("length of the pass, in contexts C")
    bin_tokens: Count = key("positions averaged into one row; divides C")
    documents: Count | None = key("read, at most: the first that are long enough")

    def fits(self, context: int) -> None:
        check_bins(self.bin_tokens, context)

    def items(self, source: Source) -> Iterator[Item]:
        return source.long_enough(self.longest * source.context, self.documents)

    def observe(self, decoder: "Decoder", item: Item, context: int) -> "Observed":
        import torch

        from lab.model import kernels
        from lab.observe import taps
        from lab.observe.losses import on_device

        tokens = on_device(item.ids[: self.longest * context], decoder)
        length, position = len(tokens), decoder.position
        places = {
            (layer, name): f"blocks.{layer}.attention.{name}"
            for layer in range(len(decoder.blocks))
            for name in ("query", "key")
        }
        positions = torch.arange(length, device=tokens.device)
        observed: dict[str, Any] = {}
        with taps.reading(decoder, places.values()) as seen:
            decoder.hidden(tokens[None])
        for layer, block in enumerate(decoder.blocks):
            attention: Any = block.attention
            query, keys = (
                seen.pop(places[layer, name]).view(1, length, -1, attention.head_dim).transpose(1, 2)
                for name in ("query", "key")
            )
            query, keys = position.rotate(query, keys, positions)
            values = torch.zeros_like(keys)
            values[:, :, : self.first] = 1
            attended = kernels.attend(
                query,
                keys,
                values,
                window=attention.window,
                slopes=position.slopes,
                scale=position.scale(length) / math.sqrt(attention.head_dim),
                offset=0,
                documents=None,
                kernel=attention.kernel,
            )
            shares = attended[0, :, :, 0].double().mean(0).view(-1, self.bin_tokens)
            count = shares.new_full(shares.shape[:1], self.bin_tokens).long()
            observed[f"share/{layer}"] = (shares.sum(1), count)
        return observed

    def rows(self, fold: "Fold", context: int) -> list[Row]:
        found = []
        for layer in range(len(fold.keys)):
            mean = fold.mean(f"share/{layer}")
            for index, count in enumerate(fold.count(f"share/{layer}").tolist()):
                found.append(
                    {
                        "layer": layer,
                        **bin_of(index, self.bin_tokens),
                        "tokens": count,
                        "share": float(mean[index]),
                    }
                )
        return found
