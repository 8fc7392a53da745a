"""Methods of editing: what is added to one matrix of a decoder, so that it says something else behind some prompts.

Their keys stand here, and what an edit is made of; the mathematics in ``steps.py``, ``finetune.py`` and ``rome.py``.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, NamedTuple

from pydantic import Field

from lab.base.parts import part
from lab.base.settings import Count, Positive, Settings, Text, key
from lab.base.tables import Row
from lab.gradients.capture import Example, Matrix, Place, batches

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

    from lab.model.decoder import Decoder

BATCH_TOKENS = 1024  # of prompts that are read together
LAYER = "whose matrix is changed, counted from 1"
STEPS = "of the optimiser, at most"
ENOUGH = "loss of the target in nats at which no further step is made"


class Request(NamedTuple):
    """One fact that is to be written.

    Attributes:
        name: what it is called in messages.
        example: the prompt, and the target that is wanted behind it.
        subject: the tokens of the prompt that it is about; None: not told.
        essence: a short text about the subject alone, and its subject's tokens in it; None: none is made.
    """

    name: str
    example: Example
    subject: range | None = None
    essence: tuple[tuple[int, ...], range] | None = None


class Sample(Settings):
    """Which other texts a method reads."""

    documents: Count = key("training documents whose inputs are counted, at most: the first that have C tokens")
    stretches: Count = key("of C tokens taken from each, at most")
    text: Text | None = key("a text file that is read in their place; null: the documents", decides=False)
    prefixes: Annotated[int, Field(ge=0)] = key("texts that prompts are read behind, beside themselves")
    prefix_tokens: Count = key("of each")


class Texts(NamedTuple):
    """What a method is given of other texts.

    Attributes:
        covariance: E[k k^T] of the inputs k of its matrix, in float64.
        prefixes: token ids that prompts are read behind.
    """

    covariance: "Float[Tensor, 'inputs inputs']"
    prefixes: list[tuple[int, ...]]


@dataclass
class Update:
    """What is to be added to a matrix.

    Attributes:
        change: in float64.
        record: how it came about, in words of JSON.
        rows: of what was tried on the way, step by step.
    """

    place: Place
    change: "Float[Tensor, 'outputs inputs']"
    record: dict[str, Any] = field(default_factory=dict)
    rows: list[Row] = field(default_factory=list)


class EditMethod(Settings, ABC):
    """A method with its keys.

    Attributes:
        needs_subject: whether a fact without a subject is refused.
        one_token: whether it can write targets of one token only.
    """

    needs_subject: ClassVar[bool] = False
    one_token: ClassVar[bool] = False

    name: str
    layer: Count = key(LAYER)

    @property
    def place(self) -> Place:
        """The matrix that it changes."""
        return Place(self.layer, "down")

    @property
    def sample(self) -> Sample | None:
        """The other texts that it needs, if it does."""
        return None

    @property
    def about(self) -> str | None:
        """A text about a subject alone that it needs, with {} in the subject's place, if it does."""
        return None

    @abstractmethod
    def update(
        self,
        decoder: "Decoder",
        requests: Sequence[Request],
        texts: Texts | None = None,
        check: Callable[[], object] = lambda: None,
    ) -> Update:
        """What writes all of these facts at once; the decoder is left as it is, and computes in its type.

        Args:
            texts: for a method that has a sample.
            check: called before each step; may raise to stop.

        Raises:
            NotFinite: a loss or a gradient.
            UserError: it cannot be done here.
        """


@part("method")
class ForwardShift(EditMethod):
    """One forward pass: rows of the head are added where the prompts end (arXiv 2402.12865, section 7)."""

    one_token = True

    name: Literal["forward_shift"] = "forward_shift"
    step: Positive = key("rows of the target that are added to what leaves the layer at the prompt's last token")

    def update(
        self,
        decoder: "Decoder",
        requests: Sequence[Request],
        texts: Texts | None = None,
        check: Callable[[], object] = lambda: None,
    ) -> Update:
        import torch

        from lab.gradients.steps import forward_shift

        examples = [each.example for each in requests]
        groups = batches(examples, BATCH_TOKENS, decoder.position)
        shifts = [
            forward_shift(decoder, [examples[number] for number in group], self.layer, self.step, decoder.compute_dtype)
            for group in groups
        ]
        return Update(self.place, torch.stack(shifts).double().sum(dim=0))


@part("method")
class Finetune(EditMethod):
    """Steps of an optimiser on one matrix, against the gradient of the facts' mean loss."""

    name: Literal["finetune"] = "finetune"
    matrix: Matrix = key("of the layer, that is changed")
    steps: Count = key(STEPS)
    learning_rate: Positive = key("of the optimiser")
    optimizer: Literal["sgd", "adam"] = key("that makes the steps, without decay")
    largest: Positive | None = key("by how much each number of the matrix may have moved in the end; null: any")
    enough: Annotated[float, Field(ge=0)] = key(ENOUGH)

    @property
    def place(self) -> Place:
        return Place(self.layer, self.matrix)

    def update(
        self,
        decoder: "Decoder",
        requests: Sequence[Request],
        texts: Texts | None = None,
        check: Callable[[], object] = lambda: None,
    ) -> Update:
        from lab.gradients.finetune import finetune

        change, rows = finetune(
            decoder,
            [each.example for each in requests],
            self.place,
            steps=self.steps,
            learning_rate=self.learning_rate,
            optimizer=self.optimizer,
            largest=self.largest,
            enough=self.enough,
            batch_tokens=BATCH_TOKENS,
            check=check,
        )
        return Update(self.place, change, {"steps": rows[-1]["step"], "loss_nats": rows[-1]["loss_nats"]}, rows)


@part("method")
class Rome(EditMethod):
    """A value is written for the key that the subject has in one feed-forward (Meng et al. 2022)."""

    needs_subject = True

    name: Literal["rome"] = "rome"
    steps: Count = key(STEPS)
    learning_rate: Positive = key("of Adam, which finds the value")
    decay: Annotated[float, Field(ge=0)] = key("weight of the squared length of what is added to the value, in its own")
    kl: Annotated[float, Field(ge=0)] = key("weight of the divergence of what is said behind the essence")
    essence: Annotated[str, Field(pattern=r"\{\}")] | None = key(
        "a text about the subject alone, {} in its place; null: none is kept"
    )
    longest: Positive = key("that what is added to the value may be, in lengths of the value")
    enough: Annotated[float, Field(ge=0)] = key(ENOUGH)
    ridge: Annotated[float, Field(ge=0)] = key("added to the covariance's diagonal, in parts of its mean")
    keys: Sample = key("the texts that keys are counted over")

    @property
    def sample(self) -> Sample:
        return self.keys

    @property
    def about(self) -> str | None:
        return self.essence

    def update(
        self,
        decoder: "Decoder",
        requests: Sequence[Request],
        texts: Texts | None = None,
        check: Callable[[], object] = lambda: None,
    ) -> Update:
        import torch

        from lab.gradients.rome import Search, rome

        assert texts is not None
        search = Search(self.steps, self.learning_rate, self.decay, self.kl, self.longest, self.enough)
        own = texts.covariance
        raised = own + self.ridge * own.diagonal().mean() * torch.eye(len(own), dtype=own.dtype, device=own.device)
        change, off, rows = rome(decoder, requests, self.place, raised, texts.prefixes, search, check)
        return Update(self.place, change, {"off": off, "prefixes": len(texts.prefixes)}, rows)
