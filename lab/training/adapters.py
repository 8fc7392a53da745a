"""Adapters: few numbers that are trained beside a decoder's weights, which stay as they are."""

from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from lab.model.attention import Attention
from lab.model.decoder import Decoder


class HeadScaling:
    """One factor on the attention logits of each head, at least 1 (Wang et al. 2024, arXiv 2404.12224, HeadScale).

    A factor on logits is one on queries. Called with a decoder it adds the factors to its attentions, as
    ``head_scale`` [heads], and takes all other parameters out of training; after each step :meth:`constrain`, and to
    read what was trained :meth:`merge`.

    Args:
        initial: value of all factors.
    """

    def __init__(self, initial: float) -> None:
        self.initial = initial
        self._handles: list[RemovableHandle] = []

    def __call__(self, decoder: Decoder, seed: int = 0) -> None:
        """Add the factors to a decoder; nothing is drawn from ``seed``."""
        for parameter in decoder.parameters():
            parameter.requires_grad_(False)
        for attention in attentions(decoder):
            factors = torch.full((attention.heads,), self.initial, device=attention.query.weight.device)
            attention.head_scale = nn.Parameter(factors)
            self._handles.append(attention.query.register_forward_hook(_scaled(attention)))

    def told(self, decoder: Decoder) -> str:
        """How many numbers are trained."""
        return counted(decoder)

    @staticmethod
    @torch.no_grad()
    def constrain(decoder: Decoder) -> None:
        """No factor below 1."""
        for attention in attentions(decoder):
            cast(Tensor, attention.head_scale).clamp_(min=1)

    @torch.no_grad()
    def merge(self, decoder: Decoder) -> None:
        """Put the factors into the weights of queries: a decoder as any other, which computes the same."""
        for attention in attentions(decoder):
            rows = cast(Tensor, attention.head_scale).repeat_interleave(attention.head_dim)
            attention.query.weight.mul_(rows[:, None])
            del attention.head_scale
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        for parameter in decoder.parameters():
            parameter.requires_grad_(True)


def counted(decoder: Decoder) -> str:
    """How many numbers an adapter trains, of how many parameters that the decoder itself has."""
    trained, own = (
        sum(each.numel() for each in decoder.parameters() if each.requires_grad is wanted) for wanted in (True, False)
    )
    return f"{trained:,} of {own:,} parameters"


def attentions(decoder: Decoder) -> list[Attention]:
    return [cast(Attention, block.attention) for block in decoder.blocks]


def _scaled(attention: Attention) -> Any:
    def scale(_: nn.Module, __: Any, query: Tensor) -> Tensor:
        rows = cast(Tensor, attention.head_scale).repeat_interleave(attention.head_dim)
        return query * rows.to(query.dtype)

    return scale
