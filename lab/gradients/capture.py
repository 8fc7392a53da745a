"""Inputs and backward signals of every matrix of a decoder, for a batch of prompts: one forward and one backward pass.

Of a matrix that maps rows x to z = x W^T (torch keeps W as outputs x inputs), the gradient of a loss L is

    dL/dW = sum over tokens i of delta_i^T x_i = Delta^T X,     delta_i = dL/dz_i

(Katz et al. 2024, arXiv 2402.12865, section 4.1): the inputs x_i and the backward signals delta_i are all there is to
it. L is here -log p(target | prompt) in nats, summed over the target's tokens; prompts of a batch do not touch each
other, so that each has its own gradient. It is padded on the right, where no token before sees it, and the padding's
delta_i are zero.

The decoder is read from outside, by hooks, and stays as it is: no weight changes, and none gets a gradient.
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, cast, get_args

from lab.base.errors import UserError

if TYPE_CHECKING:
    import torch
    from jaxtyping import Float, Int
    from torch import Tensor

    from lab.model.attention import Attention
    from lab.model.decoder import Decoder
    from lab.model.position import PositionEncoding

Matrix = Literal["query", "key", "value", "output", "gate", "up", "down"]
MATRICES: tuple[Matrix, ...] = get_args(Matrix)
ATTENTION = MATRICES[:4]
# The matrix that stands for all those that read the same inputs.
READS: dict[Matrix, Matrix] = {"query": "query", "key": "query", "value": "query", "up": "gate"}


class Place(NamedTuple):
    """One matrix of a decoder; layers are counted from 1, as its blocks in tables are."""

    layer: int
    matrix: Matrix

    @property
    def module(self) -> str:
        """The name of its module."""
        part = "attention" if self.matrix in ATTENTION else "feed_forward"
        return f"blocks.{self.layer - 1}.{part}.{self.matrix}"


class Example(NamedTuple):
    """A prompt and what is wanted behind it, as token ids; neither is empty."""

    prompt: tuple[int, ...]
    target: tuple[int, ...]

    @property
    def read(self) -> tuple[int, ...]:
        """What the decoder reads: the prompt, and all of the target but its last token."""
        return self.prompt + self.target[:-1]


class Factors(NamedTuple):
    """Of one prompt and one matrix: the rows x_i and delta_i of the tokens that were read, without padding."""

    inputs: "Float[Tensor, 'tokens inputs']"
    deltas: "Float[Tensor, 'tokens outputs']"

    @property
    def gradient(self) -> "Float[Tensor, 'outputs inputs']":
        """As torch keeps it."""
        return self.deltas.mT @ self.inputs


@dataclass(frozen=True)
class Captured:
    """What one forward and one backward pass of a batch left.

    Attributes:
        inputs, deltas: by matrix; padding stands on the right, and its deltas are zero. Matrices that read the same
            states share one tensor of inputs.
        losses: -log p(target | prompt) in nats, of each prompt.
        answers: of each prompt the token that the decoder holds the likeliest behind it.
    """

    examples: Sequence[Example]
    inputs: "dict[Place, Float[Tensor, 'batch time inputs']]"
    deltas: "dict[Place, Float[Tensor, 'batch time outputs']]"
    losses: "Float[Tensor, 'batch']"
    answers: list[int]

    def factors(self, number: int, place: Place) -> Factors:
        """Of the prompt of that number in the batch."""
        tokens = len(self.examples[number].read)
        return Factors(self.inputs[place][number, :tokens], self.deltas[place][number, :tokens])


def places_of(decoder: "Decoder", layers: Sequence[int] | None, matrices: Sequence[Matrix] = MATRICES) -> list[Place]:
    """The matrices of some layers, or of all. Raises UserError for a layer that there is not."""
    count = len(decoder.blocks)
    for layer in layers or ():
        if not 1 <= layer <= count:
            raise UserError(f"layers has {layer}: the decoder has layers 1 to {count}")
    return [Place(layer, matrix) for layer in layers or range(1, count + 1) for matrix in matrices]


def batches(examples: Sequence[Example], batch_tokens: int, position: "PositionEncoding") -> list[list[int]]:
    """The numbers of examples that are read together: of like lengths, up to so many tokens with their padding.

    A longer example is read alone. Where rotations depend on the length of the whole text, padding would change them:
    there only examples of equal length go together.
    """
    made: list[list[int]] = []
    lengths = [len(each.read) for each in examples]
    for number in sorted(range(len(examples)), key=lambda each: lengths[each]):
        last = made[-1] if made else []
        fits = bool(last) and (len(last) + 1) * lengths[number] <= batch_tokens
        alike = bool(last) and lengths[last[0]] == lengths[number]
        if fits and (alike or not position.depends_on_length):
            last.append(number)
        else:
            made.append([number])
    return made


def capture(decoder: "Decoder", examples: Sequence[Example], places: Sequence[Place], dtype: "torch.dtype") -> Captured:
    """The factors of the gradients of some matrices, for examples that are read together.

    Args:
        dtype: float64 or float32, that activations are computed in whatever the decoder was trained in. Tables that it
            keeps in float32 (rotations, slopes) are as they are.

    Raises:
        NotFinite: a loss or a gradient.
        UserError: the decoder has compiled blocks, or blocks that are formed again.
        ValueError: examples of different lengths, of a decoder whose rotations depend on the length.
    """
    import torch

    from lab.model.elementwise import CrossEntropy
    from lab.observe import taps

    names = [place.module for place in places]
    # The first block's input is the only leaf: what is behind it has a graph whether weights are frozen or not.
    leaf = {taps.EMBEDDING: lambda x: x.detach().requires_grad_()}
    with (
        torch.inference_mode(False),
        torch.enable_grad(),
        _computing(decoder, dtype),
        taps.changing(decoder, leaf),
        _inputs(decoder, names) as entered,
        taps.reading(decoder, names, detach=False) as left,
    ):
        tokens = _padded(decoder, examples)
        asked = [
            (row, len(example.prompt) - 1 + number, target)
            for row, example in enumerate(examples)
            for number, target in enumerate(example.target)
        ]
        rows, where, targets = torch.tensor(asked, device=tokens.device).unbind(1)
        hidden = decoder.hidden(tokens)
        logits = decoder.logits(hidden[rows, where])
        each: Tensor = CrossEntropy.apply(logits, targets)
        outputs = [left[name] for name in names]
        deltas = torch.autograd.grad(each.sum(), outputs, materialize_grads=True) if outputs else ()
        losses = torch.zeros_like(each[: len(examples)]).index_add(0, rows, each).detach()
    first = [number for number, (row, place, _) in enumerate(asked) if place == len(examples[row].prompt) - 1]
    found = Captured(
        examples,
        {place: entered[place.module] for place in places},
        dict(zip(places, deltas, strict=True)),
        losses,
        logits.detach()[first].argmax(dim=-1).tolist(),
    )
    _refuse_infinite(found)
    return found


def capture_inputs(
    decoder: "Decoder", examples: Sequence[Example], places: Sequence[Place], dtype: "torch.dtype"
) -> "dict[Place, Float[Tensor, 'batch time inputs']]":
    """The inputs alone, by one forward pass. Raises ValueError as :func:`capture`."""
    import torch

    names = [place.module for place in places]
    with torch.no_grad(), _computing(decoder, dtype), _inputs(decoder, names) as entered:
        decoder.hidden(_padded(decoder, examples))
    return {place: entered[place.module] for place in places}


def _padded(decoder: "Decoder", examples: Sequence[Example]) -> "Int[Tensor, 'batch time']":
    """What the examples read, padded on the right. Raises ValueError where padding would change a text."""
    import torch

    lengths = [len(each.read) for each in examples]
    if decoder.position.depends_on_length and len(set(lengths)) > 1:
        raise ValueError("rotations depend on the length of the whole text: give examples of one length together")
    device = decoder.embedding.device
    tokens = torch.zeros(len(examples), max(lengths), dtype=torch.int64, device=device)
    for row, example in zip(tokens, examples, strict=True):
        row[: len(example.read)] = torch.tensor(example.read, device=device)
    return tokens


class NotFinite(UserError):
    """A loss or gradient that is no finite number, of the prompt of that number in its batch."""

    def __init__(self, number: int, what: str) -> None:
        super().__init__(f"{what} is not finite: the weights are damaged, or the training had diverged")
        self.number = number


def _refuse_infinite(captured: Captured) -> None:
    """Raises NotFinite for the first prompt of which something is not; of its matrices the last is told, for signals
    come from there."""
    # Several matrices share a tensor. A sum takes a third of the time of looking at each number; where it is not finite
    # it is looked.
    held = {id(each): each for each in (captured.losses, *captured.inputs.values(), *captured.deltas.values())}
    if all(bool(each.sum().isfinite()) for each in held.values()):
        return
    for number in range(len(captured.examples)):
        if not bool(captured.losses[number].isfinite()):
            raise NotFinite(number, "its loss")
        for place in reversed(captured.deltas):
            if not all(bool(each.isfinite().all()) for each in captured.factors(number, place)):
                raise NotFinite(number, f"the gradient of {place.matrix} in layer {place.layer}")


@contextmanager
def _computing(decoder: "Decoder", dtype: "torch.dtype") -> Iterator[None]:
    """Meanwhile activations are of a type, by the kernel that serves every type and case; weights are cast as used."""
    attentions = [cast("Attention", block.attention) for block in decoder.blocks]
    before, kernels = decoder.compute_dtype, [each.kernel for each in attentions]
    try:
        decoder.compute_dtype = dtype
        for attention in attentions:
            attention.kernel = "banded"
        yield
    finally:
        decoder.compute_dtype = before
        for attention, kernel in zip(attentions, kernels, strict=True):
            attention.kernel = kernel


@contextmanager
def _inputs(decoder: "Decoder", names: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Meanwhile each pass leaves what enters some modules, where :func:`lab.observe.taps.reading` has what leaves."""
    seen: dict[str, Any] = {}

    def keep(name: str, module: Any, given: tuple[Any, ...]) -> None:
        seen[name] = given[0].detach()

    with ExitStack() as hooks:
        for name in names:
            hooks.callback(decoder.get_submodule(name).register_forward_pre_hook(partial(keep, name)).remove)
        yield seen
