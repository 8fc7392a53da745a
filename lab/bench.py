"""How fast, against what the machine can do and against a peer, in one run.

python -m lab.bench train model=rope scale=small
python -m lab.bench attention
"""

import argparse
import csv
import itertools
import resource
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from hydra import compose, initialize_config_dir
from rich.console import Console
from rich.table import Table
from torch import Tensor

from lab.commands import configuration_folder, run_command
from lab.components import make
from lab.errors import UserError
from lab.job import Job
from lab.model.kernels import KERNELS, Case, attend, choose
from lab.model.position import alibi_slopes
from lab.model.precision import DTYPES, compute_dtype
from lab.training.fit import surroundings

Step = Callable[[], object]


def seconds(run: Step) -> float:
    """Wall-clock seconds of one call, accelerator included."""
    start = time.perf_counter()
    run()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - start


def matrix_rate(dtype: torch.dtype, device: str, size: int = 2048, repeats: int = 9) -> float:
    """FLOP/s of a square matrix product: the limit that a training step is held against (median of repeats)."""
    left, right = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    times = [seconds(lambda: torch.mm(left, right)) for _ in range(repeats + 3)][3:]
    return float(2 * size**3 / statistics.median(times))


def peak_memory(device: str) -> float:
    """Bytes: of the GPU's allocator, or the largest resident size of this process."""
    if device == "cuda":
        return float(torch.cuda.max_memory_allocated())
    return float(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)


def training_step(loss: Callable[[], Tensor], optimizer: torch.optim.Optimizer, parameters: Sequence[Tensor]) -> Step:
    """One whole optimiser step: forward, backward, clip, update."""

    def step() -> None:
        loss().backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad()

    return step


def our_step(job: Job, tokens: Tensor, compiled: bool) -> Step:
    decoder = job.decoder().to(job.device)
    if compiled:
        for block in decoder.blocks:
            block.compile(dynamic=False)

    def loss() -> Tensor:
        return decoder.next_token_losses(decoder.hidden(tokens[:, :-1]), tokens[:, 1:]).mean()

    return training_step(loss, make(job.config["optimizer"], model=decoder), list(decoder.parameters()))


def peer_step(job: Job, tokens: Tensor, dtype: torch.dtype, attention: str, compiled: bool) -> Step:
    """transformers' LlamaForCausalLM of the same shape. In bfloat16 its weights are bfloat16 too, its fastest."""
    from transformers import AutoModelForCausalLM, LlamaConfig

    scale = job.config["scale"]
    config = LlamaConfig(
        vocab_size=scale["vocabulary"],
        hidden_size=scale["width"],
        intermediate_size=scale["hidden"],
        num_hidden_layers=scale["layers"],
        num_attention_heads=scale["heads"],
        num_key_value_heads=scale["kv_heads"],
        head_dim=scale["head_dim"],
        max_position_embeddings=scale["context"],
        use_cache=False,
    )
    model = AutoModelForCausalLM.from_config(config, attn_implementation=attention, dtype=dtype).to(job.device)
    run = torch.compile(model, dynamic=False) if compiled else model
    inputs = tokens[:, :-1].contiguous()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    return training_step(lambda: run(input_ids=inputs, labels=inputs).loss, optimizer, list(model.parameters()))


def fastest_peer(job: Job, tokens: Tensor, console: Console) -> tuple[torch.dtype, str]:
    """The type and attention in which transformers is fastest here, by one step after a first."""
    times = {}
    for dtype, attention in itertools.product((torch.bfloat16, torch.float32), ("sdpa", "eager")):
        step = peer_step(job, tokens, dtype, attention, compiled=False)
        step()
        times[dtype, attention] = seconds(step)
        name = f"{str(dtype).removeprefix('torch.')} {attention}"
        console.print(
            f"transformers {name}: {tokens.shape[0] * (tokens.shape[1] - 1) / times[dtype, attention]:,.0f} tokens/s"
        )
    return min(times, key=lambda key: times[key])


def bench_train(arguments: argparse.Namespace, console: Console) -> list[dict[str, Any]]:
    with initialize_config_dir(configuration_folder(), version_base="1.3"):
        job = Job(compose("train", [*arguments.overrides, "logger=csv"]))
    scale = job.config["scale"]
    generator = torch.Generator().manual_seed(0)
    shape = (scale["micro_batch"], scale["context"] + 1)
    tokens = torch.randint(0, scale["vocabulary"], shape, generator=generator).to(job.device)
    count = tokens.shape[0] * scale["context"]

    contestants: dict[str, Step] = {"lab eager": our_step(job, tokens, compiled=False)}
    contestants["lab eager"]()
    contestants["lab eager"]()
    memory = peak_memory(job.device)
    if not arguments.no_peer:
        try:
            import transformers
        except ImportError:
            raise UserError(
                "the peer needs transformers: pip install 'context-window-lab[bench]', or add --no-peer"
            ) from None
        dtype, attention = fastest_peer(job, tokens, console)
        peer = f"transformers {transformers.__version__}"
        contestants[f"{peer} eager"] = peer_step(job, tokens, dtype, attention, compiled=False)
    if not arguments.no_compile:
        contestants["lab compiled"] = our_step(job, tokens, compiled=True)
        if not arguments.no_peer:
            contestants[f"{peer} compiled"] = peer_step(job, tokens, dtype, attention, compiled=True)
    for name, step in contestants.items():
        first = seconds(step)
        step()
        console.print(f"{name}: first step {first:.1f} s")

    times: dict[str, list[float]] = {name: [] for name in contestants}
    limits: dict[str, list[float]] = {"bfloat16": [], "float32": []}
    for done in range(arguments.rounds):
        for name, step in contestants.items():
            times[name].append(seconds(step))
        for name in limits:
            limits[name].append(matrix_rate(DTYPES[name], job.device))
        console.print(f"round {done + 1} of {arguments.rounds}")

    used = job.config["trainer"]["compute_dtype"]
    console.print(
        f"model={job.config['model']['name']} scale={scale['name']}, {scale['micro_batch']} blocks of "
        f"{scale['context']} tokens, {used}, kernel {job.kernel}; {surroundings()['hardware']}, "
        f"torch {torch.__version__}"
    )
    for name, rates in limits.items():
        console.print(f"matrix product 2048^3 in {name}: {spread([rate / 1e9 for rate in rates])} GFLOP/s")
    console.print(
        f"FLOPs a token, forward and backward: {job.flops.exact / 1e6:.1f} M by visible keys (used below), "
        f"{job.flops.full / 1e6:.1f} M by 6 N + 12 L H Q T; peak memory of the process with lab eager alone "
        f"{memory / 1e9:.2f} GB"
    )
    table = Table(title="Median [smallest, largest] over the rounds; ratios within a round", title_justify="left")
    for column in ("", "tokens/s", "GFLOP/s", f"share of {used} limit", "lab / this"):
        table.add_column(column, justify="left" if column == "" else "right")
    rows = []
    for name, measured in times.items():
        rates = [count / each for each in measured]
        flops = [rate * job.flops.exact for rate in rates]
        shares = [each / limit for each, limit in zip(flops, limits[used], strict=True)]
        mine = times["lab compiled" if name.endswith("compiled") else "lab eager"]
        ratios = [theirs / ours for theirs, ours in zip(measured, mine, strict=True)]
        table.add_row(
            name,
            spread(rates, ",.0f"),
            spread([each / 1e9 for each in flops]),
            spread(shares, ".1%"),
            spread(ratios, ".2f") if name.startswith("transformers") else "",
        )
        for number, each in enumerate(measured):
            rows.append(
                {
                    "contestant": name,
                    "round": number,
                    "seconds": each,
                    "tokens": count,
                    "flops_per_token": job.flops.exact,
                    "limit_flops_per_second": limits[used][number],
                }
            )
    console.print(table)
    return rows


def bench_attention(arguments: argparse.Namespace, console: Console) -> list[dict[str, Any]]:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    used = compute_dtype("auto", device)
    dtype = DTYPES[used]
    heads, kv_heads, head_dim = arguments.heads, arguments.kv_heads, arguments.head_dim
    console.print(
        f"forward + backward, batch 1, {heads} heads, {kv_heads} key heads of {head_dim}, {used}; "
        f"{surroundings()['hardware']}, torch {torch.__version__}"
    )
    rows = []
    for window, biased in itertools.product([None, *arguments.windows], (False, True)):
        slopes = alibi_slopes(heads).to(device) if biased else None
        title = f"{'full' if window is None else f'window {window}'}{', slopes' if biased else ''}: milliseconds"
        table = Table("length", title=title, title_justify="left")
        for kernel in KERNELS:
            table.add_column(kernel, justify="right")
        table.add_column("banded, length doubled", justify="right")
        steps: dict[tuple[int, str], Step] = {}
        for length, kernel in itertools.product(arguments.lengths, KERNELS):
            try:
                choose(kernel, Case(device, dtype, window, biased))
            except UserError:
                continue
            scores = 4 * heads * length * length
            if kernel != "banded" and not (kernel == "sdpa" and window is None) and scores > arguments.score_bytes:
                continue
            steps[length, kernel] = attention_step(length, window, slopes, kernel, dtype, device, arguments)
        times: dict[tuple[int, str], list[float]] = {key: [] for key in steps}
        for done in range(arguments.rounds + 1):
            for key, step in steps.items():
                elapsed = seconds(step)
                if done:
                    times[key].append(elapsed)
        for length in arguments.lengths:
            cells = [
                spread([1e3 * t for t in times[length, k]], ",.1f") if (length, k) in times else "-" for k in KERNELS
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


def spread(values: Sequence[float], form: str = ",.0f") -> str:
    """Median [smallest, largest]."""
    return f"{statistics.median(values):{form}} [{min(values):{form}}, {max(values):{form}}]"


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m lab.bench", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    train = commands.add_parser(
        "train", help="training step of a model and scale, against transformers and the machine's matrix rate"
    )
    train.add_argument(
        "overrides", nargs="*", metavar="key=value", help="as for lab.train, e.g. model=rope scale=small"
    )
    train.add_argument("--no-peer", action="store_true", help="leave transformers out")
    train.add_argument("--no-compile", action="store_true", help="leave the compiled versions out")
    attention = commands.add_parser("attention", help="attention kernels by length, window and slopes")
    attention.add_argument("--lengths", type=int, nargs="+", default=[1024, 2048, 4096, 8192], help="tokens")
    attention.add_argument(
        "--windows", type=int, nargs="+", default=[256], help="keys seen; full attention is always measured"
    )
    attention.add_argument("--heads", type=int, default=9)
    attention.add_argument("--kv-heads", type=int, default=3)
    attention.add_argument("--head-dim", type=int, default=64)
    attention.add_argument(
        "--score-bytes", type=float, default=2e9, help="leave out kernels whose score matrix would be larger"
    )
    for command in (train, attention):
        command.add_argument("--rounds", type=int, default=5, help="measurements of each, in turn")
        command.add_argument("--csv", type=Path, help="also write every measurement to this file")
    return parser


def main() -> None:
    arguments = make_parser().parse_args()
    if arguments.rounds < 1:
        raise UserError(f"--rounds is {arguments.rounds}: give 1 or more")
    run = {"train": bench_train, "attention": bench_attention}[arguments.command]
    rows = run(arguments, Console())
    if arguments.csv:
        with open(arguments.csv, "w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, fieldnames=list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)


if __name__ == "__main__":
    run_command(main)
