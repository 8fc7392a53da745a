"""Ablation: what does attention lose with the positions of the first tokens, and what with those of later ones?"""

import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

from lab.analysis.vector_study import VectorDocumentStudy, numbered, of_document
from lab.base.errors import UserError
from lab.base.parts import part
from lab.base.settings import Count, Seed, key
from lab.observe.measure import Item, Row, Source
from lab.observe.study import Headline, Map, Number

if TYPE_CHECKING:
    from torch import Tensor

    from lab.model.decoder import Decoder
    from lab.observe.fold import Fold, Observed
    from lab.observe.vectors import Vectors

FIRST = 4
PLACES = 16  # positions at which vectors formed are compared


class Condition(NamedTuple):
    """One ablation.

    Attributes:
        removed: of each token of the group, in the input of its keys and values: its ``positional_vector`` p,
            ``positional_basis`` m, ``semantic_vector`` h - p; as controls a ``random_vector`` of p's length, or
            ``another_position``'s p; ``value``: its whole value, the key staying.
        group: of tokens; see :func:`groups`.
        layers: of blocks; see :func:`ranges`.
        norm: before keys and values: ``again``, of what is left; or ``kept``, with the scale that it had.
    """

    removed: str
    group: str
    layers: str
    norm: str

    def __str__(self) -> str:
        return "/".join(self)

    @property
    def tested(self) -> str | None:
        """What claims and comparisons are about: ablations in the lower half of the blocks, where positions form."""
        return f"{self.removed} of {self.group}" if (self.layers, self.norm) == ("lower_half", "again") else None


REMOVED = (
    "value",
    "positional_vector",
    "positional_basis",
    "semantic_vector",
    "random_vector",
    "another_position",
)
GROUPS = ("first", "later", "later_four")
RANGES = ("all", "lower_half", "upper_half")
NORMS = ("again", "kept")


def conditions() -> list[Condition]:
    """All that is tried; the norm has nothing to do with a value that is removed whole."""
    return [
        Condition(*each)
        for each in itertools.product(REMOVED, GROUPS, RANGES, NORMS)
        if each[0] != "value" or each[3] == "again"
    ]


def groups(context: int) -> dict[str, tuple[int, int]]:
    """The first four tokens; the paper's later group, tokens 32 to 256 of 2,048, as the same share of C; and the four
    tokens behind that."""
    later = max(FIRST, context // 64), context // 8
    return {"first": (0, FIRST), "later": later, "later_four": (later[1], later[1] + FIRST)}


def ranges(blocks: int) -> dict[str, range]:
    """Blocks by name."""
    return {"all": range(blocks), "lower_half": range(blocks // 2), "upper_half": range(blocks // 2, blocks)}


@part("study")
class Ablation(VectorDocumentStudy):
    """Loss, and the positional vectors that are formed, with a component of a group of tokens taken out of what their
    keys and values are made of (arXiv 2405.18009, table 2). Queries and the residual stream stay.

    Both are of positions from C/4 to C, which all groups lie before. Vectors formed are compared at the middle layer.
    """

    pictures = (
        Map(
            title="Rise of the loss with a component of a group of tokens removed",
            down="removed",
            across="where",
            value="loss_rise_nats",
            labels=("", "tokens, blocks, norm", "nats"),
        ),
    )
    headline = Headline("tested", "loss_rise_nats", "removed, lower half of the blocks", "rise of the loss (nats)")

    name: Literal["ablation"] = "ablation"
    documents: Count | None = key("read, at most: the first that are long enough")
    windows: Count = key("of C tokens of each document, at most")
    seed: Seed = key("of the random vectors")

    def fits(self, context: int) -> None:
        super().fits(context)
        if context < 64:
            raise UserError(f"C is {context}: groups of tokens are shares of C; take 64 or more")

    def items(self, source: Source) -> Iterator[Item]:
        return numbered(source.long_enough(source.context + 1, self.documents))

    def observe(self, decoder: "Decoder", item: Item, vectors: "Vectors") -> "Observed":
        import torch

        from lab.observe.losses import on_device

        context, half = vectors.context, len(decoder.blocks) // 2
        count = min(self.windows, (len(item.ids) - 1) // context)
        tokens = on_device(item.ids[: count * context + 1], decoder)
        given = tokens[:-1].view(count, context)
        targets = tokens[1:].view(count, context)[:, context // 4 :]
        places = _places(context)
        observed: dict[str, Any] = {}

        def note(name: str, hidden: "Tensor", states: "Tensor") -> None:
            losses = decoder.next_token_losses(hidden[:, context // 4 :], targets).double()
            observed[f"loss/{name}"] = of_document(item, losses.sum().cpu(), losses.numel())
            formed = states[:, places].double().sum(0)
            observed[f"formed/{name}"] = (formed, torch.full((len(places),), count))

        with _kept(decoder, half) as kept:
            note("none", decoder.hidden(given), kept["states"])
        generator = torch.Generator().manual_seed(self.seed)
        drawn = torch.randn(vectors.layers, context, decoder.embedding.shape[1], generator=generator)
        for condition in conditions():
            start, stop = groups(context)[condition.group]
            blocks = ranges(len(decoder.blocks))[condition.layers]
            with _without(decoder, vectors, condition, blocks, slice(start, stop), drawn), _kept(decoder, half) as kept:
                note(str(condition), decoder.hidden(given), kept["states"])
        return observed

    def rows(self, fold: "Fold", vectors: "Vectors") -> list[Row]:
        from torch.nn import functional

        half = (vectors.layers - 1) // 2
        u = vectors.u(half)
        plain, formed = fold.mean("loss/none"), fold.mean("formed/none")
        found = []
        for condition in conditions():
            rises = fold.mean(f"loss/{condition}") - plain
            own = fold.mean(f"formed/{condition}")
            rise = float(rises.mean())
            place: Row = {"condition": str(condition)} | condition._asdict()
            place |= {
                "where": f"{condition.group}, {condition.layers}, {condition.norm}",
                "tested": condition.tested,
                "loss_rise_nats": rise,
                "loss_nats": float(plain.mean()) + rise,
                "standard_error_nats": float(rises.std() / np.sqrt(len(rises))) if len(rises) > 1 else None,
                "similarity": float(functional.cosine_similarity(own, formed, dim=-1).mean()),
                "basis_similarity": float(functional.cosine_similarity(own - u, formed - u, dim=-1).mean()),
                "layer_compared": half,
            }
            found.append(place)
        return found

    def numbers(self, fold: "Fold", rows: Sequence[Row]) -> Iterator[Number]:
        """Of each ablation that is tested the rise of the loss, by document, and how alike bases are."""
        plain = fold.mean("loss/none")
        for condition, row in zip(conditions(), rows, strict=True):
            if condition.tested is not None:
                rises = fold.mean(f"loss/{condition}") - plain
                for document, rise in zip(fold.done, rises.tolist(), strict=True):
                    yield Number(f"loss_rise without {condition.tested}", rise, document)
                yield Number(f"basis_similarity without {condition.tested}", row["basis_similarity"])


def _places(context: int) -> list[int]:
    return [int(each) for each in np.linspace(context // 4, context - 1, PLACES).round()]


@contextmanager
def _kept(decoder: "Decoder", layer: int) -> Iterator[dict[str, Any]]:
    """Meanwhile each pass leaves what enters a block."""
    kept: dict[str, Any] = {}
    handle = decoder.blocks[layer].register_forward_pre_hook(lambda _, given: kept.update(states=given[0]))
    try:
        yield kept
    finally:
        handle.remove()


@contextmanager
def _without(
    decoder: "Decoder", vectors: "Vectors", condition: Condition, blocks: range, group: slice, drawn: "Tensor"
) -> Iterator[None]:
    """Meanwhile keys and values of a group of tokens are made of what is left of its states."""
    with ExitStack() as stack:
        for number in blocks:
            block: Any = decoder.blocks[number]
            if condition.removed == "value":
                stack.enter_context(_output_of(block.attention.value, group))
                continue
            component = _component(vectors, condition.removed, number, group, drawn).to(decoder.embedding.device)
            seen: dict[str, Any] = {}
            hook = block.register_forward_pre_hook(lambda _, given, seen=seen: seen.update(x=given[0]))
            stack.callback(hook.remove)
            change = _changed(block, component, condition, group, seen)
            for projection in (block.attention.key, block.attention.value):
                stack.callback(projection.register_forward_pre_hook(change).remove)
        yield


@contextmanager
def _output_of(projection: Any, group: slice) -> Iterator[None]:
    """Meanwhile a projection gives 0 for a group of tokens."""

    def without(_: Any, given: Any, output: "Tensor") -> "Tensor":
        output = output.clone()
        output[:, group] = 0
        return output

    handle = projection.register_forward_hook(without)
    try:
        yield
    finally:
        handle.remove()


def _changed(
    block: Any, component: "Tensor", condition: Condition, group: slice, seen: dict[str, Any]
) -> Callable[[Any, tuple[Any, ...]], tuple["Tensor"]]:
    def change(_: Any, given: tuple[Any, ...]) -> tuple["Tensor"]:
        state = seen["x"][:, group]
        removed = component.to(state.dtype)
        # Of a semantic vector what is left is p.
        left = removed.expand_as(state) if condition.removed == "semantic_vector" else state - removed
        norm = block.attention_norm
        if condition.norm == "again":
            normed = norm(left)
        else:
            scale = (state.float().square().mean(-1, keepdim=True) + norm.eps).rsqrt()
            normed = (left.float() * scale).to(state.dtype) * norm.weight.to(state.dtype)
        replaced = given[0].clone()
        replaced[:, group] = normed.to(replaced.dtype)
        return (replaced,)

    return change


def _component(vectors: "Vectors", removed: str, layer: int, group: slice, drawn: "Tensor") -> "Tensor":
    """What is taken off, or for a semantic vector what is left: [tokens of the group, width]."""
    from torch.nn import functional

    p = vectors.p(layer)
    if removed == "positional_basis":
        return vectors.m(layer)[group]
    if removed == "random_vector":
        return functional.normalize(drawn[layer, group].double(), dim=-1) * p[group].norm(dim=-1, keepdim=True)
    if removed == "another_position":
        context = vectors.context
        return p[[(at + context // 2) % context for at in range(group.start, group.stop)]]
    return p[group]
