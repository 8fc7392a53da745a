"""Attention kernels by length, window and slopes, forward and backward."""

import argparse
import itertools
from typing import Any

import torch
from torch import Tensor

from lab.base.console import Console, Table
from lab.base.errors import UserError
from lab.benches.timing import Step, seconds, spread, under
from lab.model.kernels import KERNELS, attend, choose
from lab.model.kernels.case import Case
from lab.model.position import alibi_slopes
from lab.model.precision import DTYPES, compute_dtype
from lab.runs.environment import hardware


def bench_attention(arguments: argparse.Namespace, console: Console) -> list[dict[str, Any]]:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    orders = (True, False) if device == "cuda" else (True,)
    used = compute_dtype("auto", device)
    dtype = DTYPES[used]
    heads, kv_heads, head_dim = arguments.heads, arguments.kv_heads, arguments.head_dim
    sizes = {"--heads": heads, "--kv-heads": kv_heads, "--head-dim": head_dim}
    sizes |= {"--lengths": min(arguments.lengths), "--windows": min(arguments.windows)}
    for option, size in sizes.items():
        if size < 1:
            raise UserError(f"{option} is {size}: give 1 or more")
    if heads % kv_heads:
        raise UserError(f"--heads is {heads} and --kv-heads {kv_heads}: the second must divide the first")
    console.print(
        f"forward + backward, batch 1, {heads} heads, {kv_heads} key heads of {head_dim}, {used}; "
        f"{hardware()}, torch {torch.__version__}"
    )
    # Of each kernel with sums in a fixed order and, on a GPU, in any.
    names = {f"{kernel}{', any order' * (not fixed)}": (kernel, fixed) for fixed in orders for kernel in KERNELS}
    rows = []
    for window, biased in itertools.product([None, *arguments.windows], (False, True)):
        slopes = alibi_slopes(heads).to(device) if biased else None
        title = f"{'full' if window is None else f'window {window}'}{', slopes' if biased else ''}: milliseconds"
        table = Table("length", title=title, title_justify="left")
        for name in names:
            table.add_column(name, justify="right")
        table.add_column("banded, length doubled", justify="right")
        steps: dict[tuple[int, str], Step] = {}
        for length, (name, (kernel, fixed)) in itertools.product(arguments.lengths, names.items()):
            try:
                choose(kernel, Case(device, dtype, window, biased))
            except UserError:
                continue
            scores = 4 * heads * length * length
            writes_scores = kernel == "reference" or (kernel == "sdpa" and (window is not None or biased))
            if writes_scores and scores > arguments.score_bytes:
                continue
            steps[length, name] = under(fixed, attention_step(length, window, slopes, kernel, dtype, device, arguments))
        times: dict[tuple[int, str], list[float]] = {key: [] for key in steps}
        for done in range(arguments.rounds + 1):
            for key, step in steps.items():
                elapsed = seconds(step)
                if done:
                    times[key].append(elapsed)
        for length in arguments.lengths:
            cells = [
                spread([1e3 * t for t in times[length, k]], ",.1f") if (length, k) in times else "-" for k in names
            ]
            half = times.get((length // 2, "banded"))
            growth = [b / a for a, b in zip(half, times[length, "banded"], strict=True)] if half else None
            table.add_row(f"{length:,}", *cells, spread(growth, ".2f") if growth else "")
        console.print(table)
        for (length, kernel), measured in times.items():
            rows += [
                {
                    "kernel": kernel,
                    "length_tokens": length,
                    "window": window,
                    "slopes": biased,
                    "round": number,
                    "seconds": each,
                }
                for number, each in enumerate(measured)
            ]
    console.print("-: the kernel cannot serve the case exactly, or its scores would take too much memory")
    return rows


def attention_step(
    length: int,
    window: int | None,
    slopes: Tensor | None,
    kernel: str,
    dtype: torch.dtype,
    device: str,
    arguments: argparse.Namespace,
) -> Step:
    def random(heads: int) -> Tensor:
        return torch.randn(1, heads, length, arguments.head_dim, device=device).to(dtype)

    query = random(arguments.heads).requires_grad_()
    key, value = (random(arguments.kv_heads).requires_grad_() for _ in range(2))
    gradient = random(arguments.heads)
    scale = arguments.head_dim**-0.5

    def step() -> None:
        output = attend(query, key, value, window=window, slopes=slopes, scale=scale, kernel=kernel)
        torch.autograd.grad(output, (query, key, value), gradient)

    return step
