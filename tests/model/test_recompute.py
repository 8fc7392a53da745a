"""Activations that are formed again: the same gradients, and only what is asked for is formed twice."""

from collections import Counter
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from lab.base.errors import UserError
from lab.model.attention import Attention
from lab.model.decoder import Decoder
from lab.model.position import RoPE
from lab.model.recompute import recompute

LAYERS = 2
PRODUCTS = (torch.ops.aten.mm.default, torch.ops.aten.addmm.default)
SWIGLU = torch.ops.aten.silu.default


class Calls(TorchDispatchMode):
    """Counts the operations that are computed."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[Any] = Counter()

    def __torch_dispatch__(self, operation: Any, types: Any, arguments: Any = (), keywords: Any = None) -> Any:
        self.counts[operation] += 1
        return operation(*arguments, **(keywords or {}))


def gradients(choice: str) -> tuple[list[Tensor], int, int]:
    """Of each parameter, how many matrix products and how many activations of SwiGLU were computed."""
    decoder = Decoder(
        vocabulary=50,
        layers=LAYERS,
        width=32,
        hidden=48,
        position=RoPE(heads=4, head_dim=8, base=10_000.0),
        attention=lambda: Attention(width=32, heads=4, kv_heads=2, head_dim=8, window=None, kernel="banded"),
        seed=0,
    )
    recompute(decoder, choice)
    tokens = torch.randint(0, 50, (2, 33), generator=torch.Generator().manual_seed(0))
    with Calls() as calls:
        decoder.next_token_losses(decoder.hidden(tokens[:, :-1]), tokens[:, 1:]).mean().backward()
    found = [parameter.grad for parameter in decoder.parameters()]
    assert all(gradient is not None for gradient in found)
    products = sum(calls.counts[operation] for operation in PRODUCTS)
    return found, products, calls.counts[SWIGLU]  # type: ignore[return-value]


def test_gradients_are_equal_to_the_bit_and_only_what_is_asked_for_is_formed_twice() -> None:
    kept, products, activations = gradients("none")
    some, products_some, activations_some = gradients("selective")
    none, products_all, activations_all = gradients("all")
    for one, other, third in zip(kept, some, none, strict=True):
        assert torch.equal(one, other)
        assert torch.equal(one, third)
    assert (activations, activations_some, activations_all) == (LAYERS, 2 * LAYERS, 2 * LAYERS)
    assert products_some == products
    assert products_all >= products + 6 * LAYERS  # query, key, value, output, gate and up; the last need not be


def test_another_choice_is_refused() -> None:
    with pytest.raises(UserError, match=r"recompute is 'half': choose one of none, selective, all"):
        gradients("half")
