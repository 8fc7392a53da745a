"""Decomposition: what of a hidden state is its position's, and what is its text's?

h(l, t) = p(l, t) + c, positional vector plus semantic vector, and p(l, t) = u(l) + m(l, t), mean vector plus positional
basis (Dong et al. 2024, arXiv 2405.18009). h(l, t) is what leaves block l, or for l = 0 enters the first, at
position t of a window of T tokens.
"""

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from lab.base.errors import UserError
from lab.base.parts import part
from lab.base.settings import Count, Seed, key
from lab.observe.measure import Item, Row, Source
from lab.observe.study import DocumentStudy, Lines, bin_of, check_bins

if TYPE_CHECKING:
    from lab.model.decoder import Decoder
    from lab.observe.fold import Fold, Observed
    from lab.observe.vectors import Vectors

HALVES = (0, 1)  # windows by turns; how far their vectors agree says how far the sample suffices


@part("study")
class Decomposition(DocumentStudy):
    """Sums over disjoint windows of T tokens, from which :class:`lab.observe.vectors.Vectors` forms the vectors.

    ``mean`` is the paper's: p is the mean state of a position. ``additive`` fits h = p(t) + c(token) by least squares,
    so that which tokens happened to stand at a position is not taken for the position; it needs fewer windows.
    """

    pictures = (
        Lines(
            title="Length of the positional basis",
            by="layer",
            along="position",
            upward="basis_norm",
            by_label="layer",
            along_label="position (centre of a bin)",
            upward_label="|m|",
            positions=True,
        ),
    )

    name: Literal["decomposition"] = "decomposition"
    longest: Count = key("T, in contexts C")
    windows: Count | None = key("read, at most: the first; null: all")
    split: Literal["train", "test"] = key("of the documents that the windows are cut from")
    text: Literal["documents", "unigram"] = key(
        "documents; unigram: tokens drawn one by one as often as they stand there, so that no order can be taken for "
        "position"
    )
    estimator: Literal["mean", "additive"] = key("mean: of a position's states; additive: without its tokens' share")
    token_effects: Count = key("of additive: the most frequent tokens have an effect each, the others one together")
    group: Count = key("windows read together")
    bin_tokens: Count = key("positions averaged into one row; divides C")
    seed: Seed = key("of what is drawn")

    @property
    def documents_of(self) -> str:
        return self.split

    def fits(self, context: int) -> None:
        check_bins(self.bin_tokens, context)
        if self.windows is not None and self.windows < len(HALVES):
            raise UserError(f"windows is {self.windows}: vectors are compared between two halves of them; take more")
        if context < 8:
            raise UserError(f"C is {context}: a positional basis is compared over positions 4 to C - 1; take 8 or more")

    def items(self, source: Source) -> Iterator[Item]:
        """Groups of windows."""
        windows: Iterable[Any] = self._cut(source)
        counts: Counter[int] = Counter()
        if self.text == "unigram" or self.estimator == "additive":
            windows = [*windows]
            for window in windows:
                counts.update(window.tolist())
        if self.text == "unigram":
            drawn = np.random.default_rng(self.seed)
            tokens, often = (np.array(each) for each in zip(*sorted(counts.items()), strict=True))
            share = often / often.sum()
            windows = [drawn.choice(tokens, len(window), p=share).astype(np.uint32) for window in windows]
        ranks = {token: rank for rank, (token, _) in enumerate(_by_frequency(counts)[: self.token_effects])}
        held: list[Any] = []
        first = 0
        for window in windows:
            held.append(window)
            if len(held) == self.group:
                yield self._grouped(held, first, ranks)
                first, held = first + len(held), []
        if held:
            yield self._grouped(held, first, ranks)

    def _cut(self, source: Source) -> Iterator[Any]:
        """Disjoint windows of the documents, in their order. Raises UserError if there are too few for two halves."""
        length, found = self.longest * source.context, 0
        for item in source.documents():
            for start in range(0, len(item.ids) - length + 1, length):
                if found == self.windows:
                    return
                yield item.ids[start : start + length]
                found += 1
        if found < len(HALVES):
            raise UserError(
                f"{found} windows of {length:,} tokens are in these documents, and two are needed at least: take longer"
                " documents, or shorter windows"
            )

    def _grouped(self, windows: list[Any], first: int, ranks: dict[int, int]) -> Item:
        return Item(
            f"windows {first} to {first + len(windows) - 1}", np.concatenate(windows), {"first": first, "ranks": ranks}
        )

    def observe(self, decoder: "Decoder", item: Item, context: int) -> "Observed":
        import torch

        from lab.observe import taps
        from lab.observe.losses import on_device

        length = self.longest * context
        tokens = on_device(item.ids, decoder).view(-1, length)
        # Of windows by turns: those of a half are every second one.
        of_half = {each: slice((each - item.details["first"]) % len(HALVES), None, len(HALVES)) for each in HALVES}
        places = taps.states(decoder)
        ranks = _ranked(tokens, item.details["ranks"], self.token_effects) if self.estimator == "additive" else None
        observed: dict[str, Any] = {}
        with taps.reading(decoder, places) as seen:
            decoder.hidden(tokens)
        for layer, place in enumerate(places):
            states = seen.pop(place)
            for each in HALVES:
                own = states[of_half[each]]
                count = torch.full((length,), len(own))
                observed[f"state{each}/{layer}"] = (own.sum(0, dtype=torch.float64), count)
                # Exact for bfloat16, of which most states are: a copy in float64 would take longer than the pass.
                squares = own.to(torch.promote_types(own.dtype, torch.float32)).square()
                observed[f"square{each}/{layer}"] = (squares.sum((0, 2), dtype=torch.float64), count)
                if ranks is not None:
                    at, flat = ranks[of_half[each]].flatten(), own.flatten(0, 1).double()
                    total = flat.new_zeros(self.token_effects + 1, flat.shape[-1]).index_add_(0, at, flat)
                    observed[f"token{each}/{layer}"] = (total, torch.bincount(at, minlength=len(total)))
        if ranks is not None:
            effects = self.token_effects + 1
            pairs = ranks + effects * torch.arange(length, device=tokens.device)
            for each in HALVES:
                counted = torch.bincount(pairs[of_half[each]].flatten(), minlength=length * effects)
                observed[f"pairs{each}"] = (counted.view(length, effects).double(), 1)
        return observed

    def vectors(self, fold: "Fold", context: int, window: int | None = None) -> "Vectors":
        """What the sums give, of a decoder whose queries see ``window`` keys."""
        from lab.observe.vectors import Vectors

        return Vectors(fold, context, window, self.estimator)

    def rows(self, fold: "Fold", context: int) -> list[Row]:
        vectors, found = self.vectors(fold, context), []
        for layer in range(vectors.layers):
            p, m = vectors.p(layer), vectors.m(layer)
            agreement, predicted = vectors.agreement(layer), vectors.predicted_agreement(layer)
            values = {
                "vector_norm": p.norm(dim=-1),
                "basis_norm": m.norm(dim=-1),
                "agreement_of_halves": vectors.cosines_of_halves(layer),
            }
            for index in range(len(p) // self.bin_tokens):
                here = slice(index * self.bin_tokens, (index + 1) * self.bin_tokens)
                place = {"layer": layer, **bin_of(index, self.bin_tokens), "windows": vectors.windows}
                means = {name: float(each[here].mean()) for name, each in values.items()}
                found.append(place | means | {"layer_agreement": agreement, "layer_agreement_predicted": predicted})
        return found


def _by_frequency(counts: "Counter[int]") -> list[tuple[int, int]]:
    """Tokens and how often they are there, the most frequent first, equal ones by id."""
    return sorted(counts.items(), key=lambda each: (-each[1], each[0]))


def _ranked(tokens: Any, ranks: dict[int, int], effects: int) -> Any:
    """Of each token the number of its effect; those without one of their own share the last."""
    import torch

    table = torch.full((int(tokens.max()) + 1,), effects, dtype=torch.long)
    for token, rank in ranks.items():
        if token < len(table):
            table[token] = rank
    return table.to(tokens.device)[tokens]
