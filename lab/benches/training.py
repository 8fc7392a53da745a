"""A whole optimiser step, against the machine's matrix rate and against transformers, in one run."""

import argparse
import itertools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from lab.base.console import Console, Table
from lab.base.errors import UserError
from lab.base.parts import build
from lab.benches.timing import Step, matrix_rate, matrix_size, peak_memory, seconds, spread, under
from lab.experiment.compose import settings_of
from lab.experiment.settings import TrainSettings
from lab.experiment.setup import Setup
from lab.model.precision import DTYPES
from lab.runs.environment import hardware
from lab.runs.identity import shape_label, variant


def training_step(loss: Callable[[], Tensor], optimizer: torch.optim.Optimizer, parameters: Sequence[Tensor]) -> Step:
    """One whole optimiser step: forward, backward, clip, update."""

    def step() -> None:
        loss().backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad()

    return step


def our_step(setup: Setup, tokens: Tensor, compiled: bool) -> Step:
    decoder = setup.fresh_decoder().to(setup.device)
    if compiled:
        for block in decoder.blocks:
            block.compile(dynamic=False)

    def loss() -> Tensor:
        return decoder.next_token_losses(decoder.hidden(tokens[:, :-1]), tokens[:, 1:]).mean()

    return training_step(loss, build("optimizer", setup.config.optimizer, model=decoder), list(decoder.parameters()))


def peer_step(setup: Setup, tokens: Tensor, dtype: torch.dtype, attention: str, compiled: bool) -> Step:
    """transformers' LlamaForCausalLM of the same shape. In bfloat16 its weights are bfloat16 too, its fastest."""
    from transformers import AutoModelForCausalLM, LlamaConfig

    scale = setup.config.scale
    config = LlamaConfig(
        vocab_size=scale.vocabulary,
        hidden_size=scale.width,
        intermediate_size=scale.hidden,
        num_hidden_layers=scale.layers,
        num_attention_heads=scale.heads,
        num_key_value_heads=scale.kv_heads,
        head_dim=scale.head_dim,
        max_position_embeddings=scale.context,
        use_cache=False,
    )
    model = AutoModelForCausalLM.from_config(config, attn_implementation=attention, dtype=dtype).to(setup.device)
    run = torch.compile(model, dynamic=False) if compiled else model
    inputs = tokens[:, :-1].contiguous()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    return training_step(lambda: run(input_ids=inputs, labels=inputs).loss, optimizer, list(model.parameters()))


def fastest_peer(setup: Setup, tokens: Tensor, console: Console) -> tuple[torch.dtype, str]:
    """The type and attention in which transformers is fastest here, by one step after a first."""
    times = {}
    for dtype, attention in itertools.product((torch.bfloat16, torch.float32), ("sdpa", "eager")):
        step = peer_step(setup, tokens, dtype, attention, compiled=False)
        step()
        times[dtype, attention] = seconds(step)
        name = f"{str(dtype).removeprefix('torch.')} {attention}"
        console.print(
            f"transformers {name}: {tokens.shape[0] * (tokens.shape[1] - 1) / times[dtype, attention]:,.0f} tokens/s"
        )
    return min(times, key=lambda key: times[key])


def bench_train(arguments: argparse.Namespace, console: Console) -> list[dict[str, Any]]:
    setup = Setup(settings_of("train", TrainSettings, [*arguments.overrides, "logger=csv"]))
    scale = setup.config.scale
    generator = torch.Generator().manual_seed(0)
    shape = (scale.micro_batch, scale.context + 1)
    tokens = torch.randint(0, scale.vocabulary, shape, generator=generator).to(setup.device)
    count = tokens.shape[0] * scale.context

    used = setup.config.trainer.compute_dtype
    fixed = setup.config.trainer.deterministic
    contestants: dict[str, Step] = {"lab eager": under(fixed, our_step(setup, tokens, compiled=False))}
    contestants["lab eager"]()
    contestants["lab eager"]()
    memory = peak_memory(setup.device)
    if not arguments.no_peer:
        try:
            import transformers
        except ImportError:
            raise UserError(
                "the peer needs transformers: pip install 'context-window-lab[bench]', or add --no-peer"
            ) from None
        dtype, attention = fastest_peer(setup, tokens, console)
        peer = f"transformers {transformers.__version__}"
        console.print(f"fastest: {dtype}, {attention} attention".replace("torch.", ""))
        contestants[f"{peer} eager"] = peer_step(setup, tokens, dtype, attention, compiled=False)
    if not arguments.no_compile:
        step = our_step(setup, tokens, compiled=True)
        contestants["lab compiled"] = under(fixed, step)
        if fixed and setup.device == "cuda":
            contestants["lab, sums in any order, compiled"] = under(False, step)
        if not arguments.no_peer:
            contestants[f"{peer} compiled"] = peer_step(setup, tokens, dtype, attention, compiled=True)
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
            limits[name].append(matrix_rate(DTYPES[name], setup.device))
        console.print(f"round {done + 1} of {arguments.rounds}")

    console.print(
        f"{variant(setup.config.model, scale)} of {shape_label(scale)}, {scale.micro_batch} blocks of "
        f"{scale.context} tokens, {used}, kernel {setup.kernel}, deterministic {fixed}; {hardware()}, "
        f"torch {torch.__version__}"
    )
    for name, rates in limits.items():
        console.print(
            f"matrix product {matrix_size(setup.device)}^3 in {name}: {spread([rate / 1e9 for rate in rates])} GFLOP/s"
        )
    console.print(
        f"FLOPs a token, forward and backward: {setup.flops.exact / 1e6:.1f} M by visible keys (used below), "
        f"{setup.flops.full / 1e6:.1f} M by 6 N + 12 L H Q T; peak memory of the process with lab eager alone "
        f"{memory / 1e9:.2f} GB"
    )
    table = Table(title="Median (smallest to largest) over the rounds; ratios within a round", title_justify="left")
    for column in ("", "tokens/s", "GFLOP/s", f"share of {used} limit", "lab / this"):
        table.add_column(column, justify="left" if column == "" else "right")
    rows = []
    for name, measured in times.items():
        rates = [count / each for each in measured]
        flops = [rate * setup.flops.exact for rate in rates]
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
                    "variant": variant(setup.config.model, scale),
                    "scale": shape_label(scale),
                    "device": torch.cuda.get_device_name() if setup.device == "cuda" else "cpu",
                    "round": number,
                    "seconds": each,
                    "tokens": count,
                    "flops_per_token": setup.flops.exact,
                    "flops_per_token_6n_12lhqt": setup.flops.full,
                    "limit_flops_per_second": limits[used][number],
                }
            )
    console.print(table)
    return rows
