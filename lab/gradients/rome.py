"""ROME: a feed-forward's ``down`` as a memory of keys and values, into which facts are written (Meng et al. 2022).

The key k of a fact is what ``down`` reads at the subject's last token, its value v what ``down`` is to give there. Of
all changes that give every key its value, the one is taken that changes least what other keys give, C = E[k k^T] being
their covariance:

    min over D of tr(D C D^T)   such that   (W + D) k_j = v_j   for all j
    D = (V - K W^T)^T (K C^-1 K^T)^-1 K C^-1

with the keys as rows of K and the values as rows of V. Of one fact this is the rank-one update
(v - W k) (C^-1 k)^T / (k^T C^-1 k). In a SwiGLU k is silu(gate(x)) * up(x).

The value is the old one and a vector d that is found by gradient: it makes the target likely behind the prompt, with
and without other text before it, keeps what is said of the subject alone, and stays short.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lab.base.errors import UserError
from lab.base.tables import Row
from lab.gradients.capture import Example, NotFinite, Place, capture_inputs

if TYPE_CHECKING:
    import torch
    from jaxtyping import Float
    from torch import Tensor

    from lab.gradients.edits import Request
    from lab.model.decoder import Decoder

CLOSE = 1e-5  # of (W + D) k to v, in parts of |v|, when the sum has been rounded to float32
SAME = 1e-10  # share of the largest eigenvalue of the keys' normed products below which keys are no longer apart


@dataclass(frozen=True)
class Search:
    """How a value is found.

    Attributes:
        steps, learning_rate: of Adam.
        decay: weight of |d|^2 / |v|^2.
        kl: weight of the divergence of what is said of the subject alone, before against after, in nats.
        longest: of d, in lengths of v.
        enough: loss of the target in nats at which no further step is made.
    """

    steps: int
    learning_rate: float
    decay: float
    kl: float
    longest: float
    enough: float


def closed_form(
    weight: "Float[Tensor, 'outputs inputs']",
    covariance: "Float[Tensor, 'inputs inputs']",
    keys: "Float[Tensor, 'facts inputs']",
    values: "Float[Tensor, 'facts outputs']",
) -> "Float[Tensor, 'outputs inputs']":
    """The change D, all in float64.

    Raises:
        UserError: the covariance has no inverse, or keys are not independent.
    """
    import torch

    factor, failed = torch.linalg.cholesky_ex(covariance)
    if int(failed):
        raise UserError("the covariance of keys has no inverse: count it over more text, or raise the ridge")
    solved = torch.cholesky_solve(keys.mT, factor)
    middle = keys @ solved
    lengths = middle.diagonal().sqrt()
    apart = torch.linalg.eigvalsh(middle / lengths / lengths[:, None])
    if not bool(apart.isfinite().all()) or float(apart[0]) <= SAME * float(apart[-1]):
        raise UserError(
            "two facts have the same key, or one is zero: one matrix holds one value of a key; leave one out"
        )
    return (solved @ torch.linalg.solve(middle, values - keys @ weight.mT)).mT


def rome(
    decoder: "Decoder",
    requests: Sequence["Request"],
    place: Place,
    covariance: "Float[Tensor, 'inputs inputs']",
    prefixes: Sequence[tuple[int, ...]],
    search: Search,
) -> tuple["Float[Tensor, 'outputs inputs']", float, list[Row]]:
    """What is to be added to ``down`` for all facts at once, in float64; how far (W + D) k is from v, the largest in
    parts of |v|; and the steps of each search. Each value is found on the decoder as it is.

    Args:
        requests: with subjects.
        covariance: in float64, with an inverse.
        prefixes: texts that a prompt is read behind, beside itself; a key is the mean over these.

    Raises:
        NotFinite: a loss, or the gradient of one.
        UserError: as :func:`closed_form`, or the result is not close enough.
    """
    import torch

    keys, values, rows = [], [], []
    for number, request in enumerate(requests):
        texts, places = in_contexts(request, prefixes)
        keys.append(key_of(decoder, texts, places, place))
        value, steps = value_of(decoder, request, texts, places, place, search, number)
        values.append(value)
        rows += [{"number": number + 1, **step} for step in steps]
    key, value = torch.stack(keys), torch.stack(values)
    weight = decoder.get_parameter(f"{place.module}.weight").detach().double()
    change = closed_form(weight, covariance.to(weight.device), key, value)
    rounded = (weight + change).float().double()
    off = float(((key @ rounded.mT - value).norm(dim=-1) / value.norm(dim=-1)).max())
    if not off <= CLOSE:
        raise UserError(
            f"the matrix gives its values within {off:.1g} of their length, and {CLOSE:g} is needed: raise the ridge"
        )
    return change, off, rows


def in_contexts(request: "Request", prefixes: Sequence[tuple[int, ...]]) -> tuple[list[Example], list[int]]:
    """The prompt alone and behind each prefix, and where the subject's last token stands in each."""
    assert request.subject is not None
    prompt, target = request.example
    every = [(), *prefixes]
    return [Example(each + prompt, target) for each in every], [len(each) + request.subject[-1] for each in every]


def key_of(
    decoder: "Decoder", texts: Sequence[Example], places: Sequence[int], place: Place
) -> "Float[Tensor, 'inputs']":
    """Mean over texts of what the matrix reads at their places, in float64. A text is read alone: another would change
    its rotations where these depend on the length."""
    import torch

    rows = [
        capture_inputs(decoder, [Example(text.prompt, text.target[:1])], [place], decoder.compute_dtype)[place][0, at]
        for text, at in zip(texts, places, strict=True)
    ]
    return torch.stack(rows).double().mean(dim=0)


def value_of(
    decoder: "Decoder",
    request: "Request",
    texts: Sequence[Example],
    places: Sequence[int],
    place: Place,
    search: Search,
    number: int = 0,
) -> tuple["Float[Tensor, 'outputs']", list[Row]]:
    """The value that the matrix is to give at the subject's last token, in float64, and what each step came to.

    Args:
        number: of the request, for the error.

    Raises:
        NotFinite: a loss, or its gradient.
    """
    import torch

    from lab.observe import taps

    with torch.no_grad(), taps.reading(decoder, place.module) as seen:
        decoder.hidden(_batch(decoder, texts[0].prompt))
        old = seen[place.module][0, places[0]].double()
    essence = None if request.essence is None else _essence(decoder, *request.essence)
    moved = torch.zeros_like(old, requires_grad=True)
    stepper = torch.optim.Adam([moved], lr=search.learning_rate)
    rows: list[Row] = []
    for step in range(search.steps + 1):
        with torch.enable_grad():
            found = [_loss(decoder, text, at, place, moved) for text, at in zip(texts, places, strict=True)]
            target = torch.stack(found).mean()
            kept = torch.zeros_like(target) if essence is None else essence.divergence(place, moved)
            short = moved.square().sum() / old.square().sum()
            whole = target + search.kl * kept + search.decay * short
            (gradient,) = torch.autograd.grad(whole, moved)
        if not bool(gradient.isfinite().all()):
            raise NotFinite(number, f"the gradient of the value in layer {place.layer}")
        told = {"loss_nats": float(target.detach()), "divergence_nats": float(kept.detach())}
        told["length"] = float(short.detach().sqrt())
        rows.append({"step": step, **told})
        if told["loss_nats"] <= search.enough or step == search.steps:
            break
        moved.grad = gradient
        stepper.step()
        with torch.no_grad():
            most = search.longest * old.norm()
            if moved.norm() > most:
                moved.mul_(most / moved.norm())
    return old + moved.detach(), rows


@dataclass
class _Essence:
    """What is said behind a text about the subject alone, before the edit."""

    decoder: "Decoder"
    tokens: tuple[int, ...]
    at: int
    before: "Float[Tensor, 'vocabulary']"

    def divergence(self, place: Place, moved: "Tensor") -> "Tensor":
        """KL(before || after) in nats."""
        after = _shares(self.decoder, self.tokens, len(self.tokens) - 1, self.at, place, moved)[0]
        return (self.before.exp() * (self.before - after)).sum()


def _essence(decoder: "Decoder", tokens: tuple[int, ...], subject: range) -> _Essence:
    import torch

    with torch.no_grad():
        before = decoder.logits(decoder.hidden(_batch(decoder, tokens))[0, -1]).double().log_softmax(dim=-1)
    return _Essence(decoder, tokens, subject[-1], before)


def _loss(decoder: "Decoder", text: Example, at: int, place: Place, moved: "Tensor") -> "Tensor":
    """-log p(target | prompt) in nats, with the value at a place moved."""
    shares = _shares(decoder, text.read, len(text.prompt) - 1, at, place, moved)
    return -shares[range(len(text.target)), list(text.target)].sum()


def _shares(
    decoder: "Decoder", read: tuple[int, ...], first: int, at: int, place: Place, moved: "Tensor"
) -> "Float[Tensor, 'tokens vocabulary']":
    """Log-probabilities behind the tokens from ``first`` on."""
    from lab.observe import taps

    def change(given: "Tensor") -> "Tensor":
        new = given.clone()
        new[0, at] = new[0, at] + moved.to(given.dtype)
        return new

    with taps.changing(decoder, {place.module: change}):
        hidden = decoder.hidden(_batch(decoder, read))
    return decoder.logits(hidden[0, first:]).double().log_softmax(dim=-1)


def _batch(decoder: "Decoder", tokens: Sequence[int]) -> "torch.Tensor":
    import torch

    return torch.tensor([list(tokens)], device=decoder.embedding.device)
