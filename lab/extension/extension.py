"""What an extension is: a function that changes a decoder, by which the same weights reach farther.

One class a method, each with its paper's equation; its keys stand in ``lab/extension/settings.py``. Most change the
position encoding: :class:`Around` is one around another, and leaves it as it is but for what a method says.
"""

from collections.abc import Sequence
from typing import Protocol

from torch import Tensor

from lab.base.errors import UserError
from lab.model.decoder import Decoder
from lab.model.position import PositionEncoding


class Extension(Protocol):
    """Called with a decoder that has no other use, changes it."""

    def __call__(self, decoder: Decoder) -> None:
        """Raises UserError if the decoder is none that it has a meaning for."""


class Around(PositionEncoding):
    """A position encoding that answers as another does."""

    def __init__(self, inner: PositionEncoding) -> None:
        super().__init__(inner.heads, inner.head_dim)
        if inner.longest is not None:
            raise UserError(
                "learned positions end at the context, and no extension gives them more: choose another run"
            )
        self.inner = inner
        self.slopes = inner.slopes
        self.depends_on_length = inner.depends_on_length
        self.turns_keys = inner.turns_keys

    def embed(self, states: Tensor, start: int) -> Tensor:
        return self.inner.embed(states, start)

    def reach(self, length: int) -> None:
        self.inner.reach(length)

    def version(self, length: int) -> int:
        return self.inner.version(length)

    def scale(self, length: int) -> float:
        return self.inner.scale(length)

    def phases(self, lengths: Sequence[int], positions: Tensor) -> Tensor:
        return self.inner.phases(lengths, positions)

    def rotate(self, query: Tensor, key: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
        return self.inner.rotate(query, key, positions)


class Scaled(Around):
    """Its logits have a further factor, before a bias is added to them."""

    def __init__(self, inner: PositionEncoding, factor: float) -> None:
        super().__init__(inner)
        self.factor = factor

    def scale(self, length: int) -> float:
        return self.factor * self.inner.scale(length)
