"""Every kernel that serves this machine's accelerator, against the float64 reference: run by `make gpu-check`.

Without a GPU the same tests run on the CPU's kernels, so that they are known to work themselves.
"""

import itertools

import pytest
import torch
from torch import Tensor

from lab.model.kernels import KERNELS, attend
from lab.model.kernels.case import Case
from lab.model.position import RoPE, alibi_slopes
from lab.model.precision import fix_order_of_sums

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
HEADS, KV_HEADS, WIDTH = 8, 2, 64
LENGTHS = (129, 1024) if DEVICE == "cuda" else (129,)
CASES = [
    (kernel, window, biased)
    for kernel, window, biased in itertools.product(KERNELS, (None, 2, 100), (False, True))
    if kernel != "reference" and KERNELS[kernel].refusal(Case(DEVICE, torch.bfloat16, window, biased)) is None
]
RESULTS = ("output", "query's gradient", "key's gradient", "value's gradient")


@pytest.fixture(autouse=True)
def deterministic():
    """As a run with trainer.deterministic=true."""
    fix_order_of_sums(True)
    yield
    fix_order_of_sums(False)


def inputs(length: int) -> tuple[Tensor, ...]:
    """Query, key, value and the output's gradient in bfloat16."""
    draw = torch.Generator().manual_seed(length)

    def normal(heads: int) -> Tensor:
        return torch.randn(2, heads, length, WIDTH, generator=draw).to(DEVICE, torch.bfloat16)

    return normal(HEADS), normal(KV_HEADS), normal(KV_HEADS), normal(HEADS)


def evaluate(kernel: str, tensors: tuple[Tensor, ...], dtype: torch.dtype, window: int | None, biased: bool):
    query, key, value = (tensor.to(dtype, copy=True).requires_grad_() for tensor in tensors[:3])
    slopes = alibi_slopes(HEADS).to(DEVICE) if biased else None
    output = attend(query, key, value, window=window, slopes=slopes, scale=WIDTH**-0.5, kernel=kernel)
    gradients = torch.autograd.grad(output, (query, key, value), tensors[3].to(dtype))
    return [result.detach() for result in (output, *gradients)]


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize(("kernel", "window", "biased"), CASES)
def test_a_kernel_errs_at_most_twice_as_much_as_the_plain_formula(
    kernel: str, window: int | None, biased: bool, length: int
) -> None:
    tensors = inputs(length)
    exact = evaluate("reference", tensors, torch.float64, window, biased)
    plain = evaluate("reference", tensors, torch.bfloat16, window, biased)
    for name, truth, allowed, result in zip(
        RESULTS, exact, plain, evaluate(kernel, tensors, torch.bfloat16, window, biased), strict=True
    ):
        error, plain_error = (result.double() - truth).norm(), (allowed.double() - truth).norm()
        assert error <= 2 * plain_error, name


@pytest.mark.parametrize(("kernel", "window", "biased"), [case for case in CASES if case[1] is not None])
def test_a_needle_is_seen_at_distance_window_minus_one_and_not_at_window(
    kernel: str, window: int, biased: bool
) -> None:
    query, key, value, _ = inputs(400)
    slopes = alibi_slopes(HEADS).to(DEVICE) * 1e-3 if biased else None
    rule = dict(window=window, slopes=slopes, scale=0.05, kernel=kernel)
    before = attend(query, key, value, **rule)
    for needle in (0, 127, 200):
        other = value.clone()
        other[:, :, needle] += 8.0
        changed = (attend(query, key, other, **rule) != before).any(dim=(0, 1, 3)).nonzero().flatten().tolist()
        assert changed == list(range(needle, needle + window))


@pytest.mark.parametrize(("kernel", "window", "biased"), CASES)
def test_the_same_call_twice_gives_the_same_bits_backwards_too(kernel: str, window: int | None, biased: bool) -> None:
    tensors = inputs(LENGTHS[-1])
    first, second = (evaluate(kernel, tensors, torch.bfloat16, window, biased) for _ in range(2))
    for name, one, other in zip(RESULTS, first, second, strict=True):
        assert torch.equal(one, other), name


@pytest.mark.parametrize(("kernel", "window", "biased"), [case for case in CASES if not case[2]])
def test_with_rope_a_shift_of_all_positions_changes_nothing(kernel: str, window: int | None, biased: bool) -> None:
    query, key, value, _ = inputs(300)
    rope = RoPE(heads=HEADS, head_dim=WIDTH, base=10_000.0).to(DEVICE)
    outputs = []
    for start in (0, 5000):
        rope.reach(start + 300)
        rotated = rope.rotate(query.float(), key.float(), torch.arange(start, start + 300, device=DEVICE))
        turned = [tensor.to(torch.bfloat16) for tensor in rotated]
        outputs.append(attend(*turned, value, window=window, scale=WIDTH**-0.5, kernel=kernel).double())
    assert (outputs[0] - outputs[1]).norm() < 0.02 * outputs[0].norm()
