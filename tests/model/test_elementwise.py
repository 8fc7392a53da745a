"""Norm, rotation and loss with written-out gradients, against plain formulas that torch differentiates."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from lab.model.elementwise import CrossEntropy, RootMeanSquareNorm, Rotation

EPS = 1e-5


def drawn(*shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    made = torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(sum(shape)))
    return made.to(dtype).requires_grad_()


def norm(x: Tensor, weight: Tensor) -> Tensor:
    return functional.rms_norm(x, weight.shape, weight, EPS)


def rotation(x: Tensor, angles: Tensor) -> Tensor:
    first, second = x.chunk(2, dim=-1)
    turned = torch.complex(first, second) * torch.polar(torch.ones_like(angles), angles)
    return torch.cat((turned.real, turned.imag), dim=-1)


@pytest.mark.parametrize("shape", [(5, 8), (2, 3, 8)])
def test_the_norm_and_its_gradients_are_those_of_the_formula(shape):
    x, weight = drawn(*shape), drawn(8)
    assert torch.autograd.gradcheck(lambda *given: RootMeanSquareNorm.apply(*given, EPS), (x, weight))
    torch.testing.assert_close(RootMeanSquareNorm.apply(x, weight, EPS), norm(x, weight))


def test_the_rotation_and_its_gradient_are_those_of_a_complex_product():
    x, angles = drawn(2, 3, 5, 8), torch.linspace(0, 9, 20, dtype=torch.float64).view(5, 4)
    assert torch.autograd.gradcheck(lambda given: Rotation.apply(given, angles.cos(), angles.sin()), (x,))
    torch.testing.assert_close(Rotation.apply(x, angles.cos(), angles.sin()), rotation(x, angles))


def test_the_cross_entropy_and_its_gradient_are_those_of_log_softmax():
    logits, targets = drawn(6, 11), torch.tensor([0, 3, 3, 10, 5, 7])
    assert torch.autograd.gradcheck(lambda given: CrossEntropy.apply(given, targets), (logits,))
    expected = functional.cross_entropy(logits, targets, reduction="none")
    torch.testing.assert_close(CrossEntropy.apply(logits, targets), expected)


def test_the_cross_entropy_of_large_logits_is_exact():
    logits = torch.tensor([[1e4, 0.0, -1e4], [-1e4, -1e4, -1e4]], dtype=torch.float64)
    losses = CrossEntropy.apply(logits, torch.tensor([1, 2]))
    torch.testing.assert_close(losses, torch.tensor([1e4, torch.log(torch.tensor(3.0))], dtype=torch.float64))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_all_three_compute_in_float32_and_round_once(dtype):
    def close(got: Tensor, wanted: Tensor) -> None:
        torch.testing.assert_close(got.double(), wanted.to(got.dtype).double(), rtol=1e-5, atol=1e-6)

    x, weight = drawn(40, 16, dtype=dtype), drawn(16, dtype=torch.float32)
    close(RootMeanSquareNorm.apply(x, weight, EPS), norm(x.double(), weight.double()))
    angles = torch.linspace(0, 9, 320, dtype=torch.float64).view(40, 8)
    close(Rotation.apply(x, angles.cos().float(), angles.sin().float()), rotation(x.double(), angles))
    targets = torch.arange(40) % 16
    losses = CrossEntropy.apply(x, targets)
    assert losses.dtype == torch.float32
    close(losses, functional.cross_entropy(x.double(), targets, reduction="none"))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_gradients_come_in_the_type_of_what_they_are_of_and_are_rounded_once(dtype):
    x, weight = drawn(40, 16, dtype=dtype), drawn(16, dtype=torch.float32)
    exact, exact_weight = x.detach().double().requires_grad_(), weight.detach().double().requires_grad_()
    pull = drawn(40, 16, dtype=dtype).detach()
    RootMeanSquareNorm.apply(x, weight, EPS).backward(pull)
    norm(exact, exact_weight).backward(pull.double())
    assert (x.grad.dtype, weight.grad.dtype) == (dtype, torch.float32)
    torch.testing.assert_close(x.grad, exact.grad.to(dtype), rtol=1e-2 if dtype == torch.bfloat16 else 1e-5, atol=1e-6)
    torch.testing.assert_close(weight.grad, exact_weight.grad.float(), rtol=1e-4, atol=1e-5)


def test_a_second_backward_pass_gives_the_same_gradients():
    logits, targets = drawn(6, 11), torch.tensor([0, 3, 3, 10, 5, 7])
    loss = CrossEntropy.apply(logits, targets).sum()
    (first,) = torch.autograd.grad(loss, logits, retain_graph=True)
    (second,) = torch.autograd.grad(loss, logits)
    assert torch.equal(first, second)
