"""A head that is trained on the last states of a decoder, with an update of low rank of its embedding."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from lab.base.errors import UserError
from lab.model.decoder import Decoder
from lab.model.initialise import draw


class Head(nn.Module):
    """A norm and a linear function of states; and to the embedding [vocabulary, width] is added (B A)^T.

    A [rank, vocabulary] begins with zeros, B [width, rank] is drawn with deviation 1, as of
    :class:`lab.training.lora.LoRA`; the linear function's weights are drawn with deviation 1 / sqrt(width).

    Args:
        norm: ``layer`` or ``batch``, with a factor and a bias.
        seed, name: draws are by these, and the decoder's shape, alone.

    Raises:
        UserError: the rank is above the width or the vocabulary.
    """

    def __init__(
        self, decoder: Decoder, rank: int, classes: int, norm: Literal["layer", "batch"], seed: int, name: str
    ) -> None:
        super().__init__()
        vocabulary, width = decoder.embedding.shape
        if rank > min(vocabulary, width):
            raise UserError(
                f"rank is {rank}, above the smaller side of the embedding, which is {vocabulary} x {width}: give "
                f"{min(vocabulary, width)} or less"
            )
        self.A = nn.Parameter(torch.zeros(rank, vocabulary))
        self.B = nn.Parameter(draw(seed, f"{name}/B", (width, rank), 1.0))
        self.norm = nn.LayerNorm(width) if norm == "layer" else nn.BatchNorm1d(width)
        self.linear = nn.Linear(width, classes)
        with torch.no_grad():
            self.linear.weight.copy_(draw(seed, f"{name}/linear", (classes, width), width**-0.5))
            self.linear.bias.zero_()
        self.to(decoder.embedding.device)

    def scores(
        self, decoder: Decoder, tokens: Int[Tensor, "batch time"], places: Int[Tensor, "batch places"]
    ) -> Float[Tensor, "batch places classes"]:
        """Of each class at some places of each text, which is read alone."""
        with self._added(decoder):
            hidden = decoder.hidden(tokens)
        rows = torch.arange(len(tokens), device=tokens.device)[:, None]
        states = hidden[rows, places].float()
        found: Tensor = self.linear(self.norm(states.flatten(0, 1)))
        return found.view(*places.shape, -1)

    @contextmanager
    def _added(self, decoder: Decoder) -> Iterator[None]:
        before = decoder.adapted
        decoder.adapted = lambda each: each.embedding + (self.B @ self.A).T
        try:
            yield
        finally:
            decoder.adapted = before
