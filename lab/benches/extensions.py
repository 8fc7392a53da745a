"""What extensions of RoPE cost: a pass and a step of decoding by each rule against the plain decoder, and the search.

The search is measured on a run (``--run``), whose weights the processes load: by one process, by one a core, and by
these in bfloat16.
"""

import argparse
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lab.base.console import Console, Table
from lab.base.errors import UserError
from lab.benches.timing import seconds, spread
from lab.experiment.candidate_losses import Asked, Losses, scoring
from lab.experiment.compose import settings_of
from lab.experiment.settings import TrainSettings
from lab.experiment.setup import Setup
from lab.extension.longrope import LongRoPE
from lab.extension.rope_rules import DynamicNTK, PositionInterpolation, RopeRule, YaRN
from lab.model.decoder import Decoder
from lab.model.decoding import Cache
from lab.runs.environment import hardware
from lab.runs.identity import shape_label
from lab.runs.run import open_model

STEPS = 16  # of decoding, in a measurement
CANDIDATES = 16  # of the search, in a measurement


def rules_of(context: int, head_dim: int, factor: float) -> dict[str, RopeRule]:
    """What is measured, by name."""
    own: dict[str, Any] = {"factor": factor, "context": context}
    factors = [[float(each) for each in np.linspace(1, factor, head_dim // 2)]]
    longrope: dict[str, Any] = own | {"up_to": [], "attention_factors": []}
    return {
        "position interpolation": PositionInterpolation(**own),
        "yarn": YaRN(**own, ramp="code", beta_fast=32.0, beta_slow=1.0),
        "longrope": LongRoPE(**longrope, factors=factors, kept=[]),
        "longrope, 4 tokens kept": LongRoPE(**longrope, factors=factors, kept=[4]),
        "dynamic ntk per text": DynamicNTK(factor=1.0, per="text", context=context),
        "dynamic ntk per position": DynamicNTK(factor=1.0, per="position", context=context),
    }


def bench_extend(arguments: argparse.Namespace, console: Console) -> list[dict[str, Any]]:
    """Print the tables; return every measurement as a row.

    Raises:
        UserError: there is no such run, or it has no RoPE.
    """
    setup = Setup(settings_of("train", TrainSettings, ["model=rope", *arguments.overrides, "measure=none"]))
    scale = setup.config.scale
    length = arguments.contexts * scale.context
    drawn = np.random.default_rng(0)
    tokens = torch.from_numpy(drawn.integers(scale.vocabulary, size=(1, length))).to(setup.device)
    decoders: dict[str, Decoder] = {"plain": setup.fresh_decoder().to(setup.device).eval()}
    for name, rule in rules_of(scale.context, scale.head_dim, arguments.contexts).items():
        decoders[name] = setup.fresh_decoder().to(setup.device).eval()
        rule(decoders[name])
    console.print(f"rope of {shape_label(scale)}, {length:,} tokens; {hardware()}, torch {torch.__version__}")
    rows: list[dict[str, Any]] = []
    with torch.inference_mode():
        passes = {name: partial(seconds, partial(each.hidden, tokens)) for name, each in decoders.items()}
        rows += _measured("one pass", passes, arguments.rounds, console)
        steps = {name: partial(_decoding, each, tokens) for name, each in decoders.items()}
        behind = f"{STEPS} steps of decoding behind {length - STEPS:,} tokens"
        rows += _measured(behind, steps, arguments.rounds, console)
    if arguments.run is not None:
        rows += _search(Path(arguments.run), arguments, setup.device, console)
    return [{"scale": shape_label(scale)} | row for row in rows]


def _decoding(decoder: Decoder, tokens: torch.Tensor) -> float:
    """Seconds of the last steps alone, what stands before them being read."""
    cache = Cache(decoder)
    decoder.hidden(tokens[:, :-STEPS], cache=cache)

    def steps() -> None:
        for place in range(tokens.shape[1] - STEPS, tokens.shape[1]):
            decoder.hidden(tokens[:, place : place + 1], cache=cache)

    return seconds(steps)


def _measured(
    title: str, contestants: Mapping[str, Callable[[], float]], rounds: int, console: Console
) -> list[dict[str, Any]]:
    """Rows of each round, and a table against the first contestant; each gives its seconds."""
    times: dict[str, list[float]] = {name: [] for name in contestants}
    first = next(iter(contestants))
    for step in contestants.values():
        step()
    for done in range(rounds):
        ordered = list(contestants.items())
        for name, step in ordered if done % 2 == 0 else reversed(ordered):
            times[name].append(step())
    table = Table(title=f"{title}: median (smallest to largest); ratios within a round", title_justify="left")
    table.add_column("")
    for column in ("milliseconds", f"ratio to {first}"):
        table.add_column(column, justify="right")
    for name, measured in times.items():
        ratios = [one / other for one, other in zip(measured, times[first], strict=True)]
        table.add_row(name, spread([1000 * each for each in measured], ".1f"), spread(ratios, ".3f"))
    console.print(table)
    return [
        {"kind": title, "contestant": name, "round": number, "seconds": each}
        for name, measured in times.items()
        for number, each in enumerate(measured)
    ]


def _search(run: Path, arguments: argparse.Namespace, device: str, console: Console) -> list[dict[str, Any]]:
    model = open_model(run)
    if model.config.model.position.name != "rope":
        raise UserError(f"--run {run} has {model.config.model.position.name}: name a run of model=rope")
    scale = model.config.scale
    length, half = arguments.contexts * model.context, scale.head_dim // 2
    drawn = np.random.default_rng(0)
    ids = [drawn.integers(scale.vocabulary, size=length + 1, dtype=np.uint32) for _ in range(2)]
    given: dict[str, Any] = {"factor": float(arguments.contexts), "context": model.context, "up_to": [], "kept": []}
    rules = [
        LongRoPE(**given, factors=[[float(each) for each in np.linspace(1, last, half)]], attention_factors=[])
        for last in np.linspace(1, arguments.contexts, CANDIDATES)
    ]
    asked = Asked(model.path, model.steps, device, ids, "float32")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    kinds = {
        "one process": (asked, 1),
        f"{cores} processes": (asked, cores),
        f"{cores} processes, bfloat16": (asked._replace(dtype="bfloat16"), cores),
    }
    with ExitStack() as stack:
        losses = {name: stack.enter_context(scoring(*kind)) for name, kind in kinds.items()}
        title = f"search, {CANDIDATES} candidates on 2 x {length:,} tokens"
        contestants = {name: partial(_candidates, each, rules) for name, each in losses.items()}
        return _measured(title, contestants, arguments.rounds, console)


def _candidates(losses: Losses, rules: Sequence[LongRoPE]) -> float:
    return seconds(lambda: list(losses.of(rules)))
