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

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lab.base.errors import UserError
from lab.base.progress import progress
from lab.base.tables import Row
from lab.gradients.capture import Example, NotFinite, Place, batches, capture_inputs

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

    from lab.gradients.edits import Request
    from lab.model.decoder import Decoder

TOGETHER = 1024  # tokens of texts that are read at a time
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
    check: Callable[[], object] = lambda: None,
) -> tuple["Float[Tensor, 'outputs inputs']", float, list[Row]]:
    """What is to be added to ``down`` for all facts at once, in float64; how far (W + D) k is from v, the largest in
    parts of |v|; and the steps of each search. Each value is found on the decoder as it is.

    Args:
        requests: with subjects.
        covariance: in float64, with an inverse.
        prefixes: texts that a prompt is read behind, beside itself; a key is the mean over these.
        check: called before each step of a search; may raise to stop.

    Raises:
        NotFinite: a loss, or the gradient of one.
        UserError: as :func:`closed_form`, or the result is not close enough.
    """
    import torch

    keys, values, rows = [], [], []
    for number, request in enumerate(progress("values", "facts", requests, disable=len(requests) == 1)):
        texts, places = in_contexts(request, prefixes, decoder.position.longest)
        keys.append(key_of(decoder, texts, places, place))
        value, steps = value_of(decoder, request, texts, places, place, search, number, check)
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


def in_contexts(
    request: "Request", prefixes: Sequence[tuple[int, ...]], longest: int | None
) -> tuple[list[Example], list[int]]:
    """The prompt alone and behind each prefix, and where the subject's last token stands in each.

    Args:
        longest: tokens that there are positions for: a prefix that leaves too few is left out; None: any number.
    """
    assert request.subject is not None
    prompt, target = request.example
    own = len(request.example.read)
    every = [(), *(each for each in prefixes if longest is None or len(each) + own <= longest)]
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
    check: Callable[[], object] = lambda: None,
) -> tuple["Float[Tensor, 'outputs']", list[Row]]:
    """The value that the matrix is to give at the subject's last token, in float64, and what each step came to.

    Args:
        number: of the request, for the error.
        check: called before each step; may raise to stop.

    Raises:
        NotFinite: a loss, or its gradient.
    """
    import torch

    groups = _entered(decoder, texts, places, place)
    old = _value_before(decoder, texts[0], places[0], place)
    essence = None if request.essence is None else _Essence(decoder, *request.essence, place)
    moved = torch.zeros_like(old, requires_grad=True)
    stepper = torch.optim.Adam([moved], lr=search.learning_rate)
    rows: list[Row] = []
    for step in range(search.steps + 1):
        check()
        with torch.enable_grad():
            target = torch.cat([group.losses(decoder, moved) for group in groups]).mean()
            kept = torch.zeros_like(target) if essence is None else essence.divergence(decoder, moved)
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
class _Group:
    """Texts that are read together, at what leaves the layer: what is moved there is read on from there.

    Attributes:
        states: of all their tokens, padded.
        places: of each text, where the value is moved.
    """

    layer: int
    texts: list[Example]
    states: "Float[Tensor, 'batch time width']"
    places: list[int]

    def shares(self, decoder: "Decoder", moved: "Tensor") -> "list[Float[Tensor, 'tokens vocabulary']]":
        """Of each text the log-probabilities from its prompt's last token on, with a value moved."""
        states = self.states.clone()
        rows = range(len(self.texts))
        states[rows, self.places] = states[rows, self.places] + moved.to(states.dtype)
        hidden = decoder.continued(states, self.layer)
        return [
            decoder.logits(row[len(text.prompt) - 1 : len(text.read)]).double().log_softmax(dim=-1)
            for row, text in zip(hidden, self.texts, strict=True)
        ]

    def losses(self, decoder: "Decoder", moved: "Tensor") -> "Float[Tensor, 'batch']":
        """-log p(target | prompt) in nats of each text."""
        import torch

        found = [
            -shares[range(len(text.target)), list(text.target)].sum()
            for text, shares in zip(self.texts, self.shares(decoder, moved), strict=True)
        ]
        return torch.stack(found)


def _entered(decoder: "Decoder", texts: Sequence[Example], places: Sequence[int], place: Place) -> list[_Group]:
    import torch

    from lab.observe import taps

    left = f"blocks.{place.layer - 1}"
    groups = []
    for group in batches(texts, TOGETHER, decoder.position):
        here = [texts[number] for number in group]
        tokens = torch.zeros(len(here), max(len(each.read) for each in here), dtype=torch.int64)
        for row, text in zip(tokens, here, strict=True):
            row[: len(text.read)] = torch.tensor(text.read)
        with torch.no_grad(), taps.reading(decoder, left) as seen:
            decoder.hidden(tokens.to(decoder.embedding.device))
        groups.append(_Group(place.layer, here, seen[left], [places[number] for number in group]))
    return groups


def _value_before(decoder: "Decoder", text: Example, at: int, place: Place) -> "Float[Tensor, 'outputs']":
    """What the matrix gives at a place, in float64."""
    import torch

    from lab.observe import taps

    with torch.no_grad(), taps.reading(decoder, place.module) as seen:
        decoder.hidden(torch.tensor([text.prompt], device=decoder.embedding.device))
        return seen[place.module][0, at].double()


class _Essence:
    """What is said behind a text about the subject alone, before the edit and with a value moved."""

    def __init__(self, decoder: "Decoder", tokens: tuple[int, ...], subject: range, place: Place) -> None:
        import torch

        (self.group,) = _entered(decoder, [Example(tokens, (0,))], [subject[-1]], place)
        with torch.no_grad():
            self.before = self._said(decoder, torch.zeros(self.group.states.shape[-1]).to(self.group.states))

    def _said(self, decoder: "Decoder", moved: "Tensor") -> "Float[Tensor, 'vocabulary']":
        (shares,) = self.group.shares(decoder, moved)
        return shares[0]

    def divergence(self, decoder: "Decoder", moved: "Tensor") -> "Tensor":
        """KL(before || after) in nats."""
        return (self.before.exp() * (self.before - self._said(decoder, moved))).sum()
