"""What positional vectors cost.

Their fold against plain passes, a decoder with replaced vectors against one without, the sweep over layers against
whole passes a layer.
"""

import argparse
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lab.base.console import Console, Table
from lab.base.interruption import Interruption
from lab.benches.timing import Step, seconds, spread
from lab.experiment.analysis_settings import AnalyzeSettings
from lab.experiment.compose import settings_of
from lab.experiment.searching import swept
from lab.experiment.settings import TrainSettings
from lab.experiment.setup import Setup
from lab.extension.vector_replacement import VectorReplacement
from lab.model.decoder import Decoder
from lab.observe.fold import Fold
from lab.observe.measure import Item, Source
from lab.runs.environment import hardware
from lab.runs.identity import shape_label, variant

PAIRS = ((4.0, 1.0), (5.0, 1.3))  # of r and alpha: those of the paper's sweep


def bench_positions(arguments: argparse.Namespace, console: Console) -> list[dict[str, Any]]:
    """Print the table; return every measurement as a row."""
    setup = Setup(settings_of("train", TrainSettings, ["model=nope", *arguments.overrides, "measure=none"]))
    scale = setup.config.scale
    length = arguments.contexts * scale.context
    drawn = np.random.default_rng(0)
    ids = drawn.integers(scale.vocabulary, size=arguments.windows * length, dtype=np.uint32)

    def decoder(change: Callable[[Decoder], None] | None = None) -> Decoder:
        made = setup.fresh_decoder()
        if change is not None:
            change(made)
        return made.to(setup.device).eval()

    bare = decoder()
    tokens = torch.from_numpy(ids.astype(np.int64)).to(setup.device).view(-1, length)
    tables = {
        (layer, *pair): torch.from_numpy(drawn.normal(size=(length, scale.width)) / 100)
        for layer in range(1, scale.layers + 1)
        for pair in PAIRS
    }
    replaced = {each: decoder(VectorReplacement(each[0], table)) for each, table in tables.items()}
    document = Item("drawn", ids[: length + 1] if len(ids) > length else np.append(ids, ids[:1]))
    given = torch.from_numpy(document.ids.astype(np.int64)).to(setup.device)[None]
    half = (scale.layers // 2 or 1, *PAIRS[0])

    def one_by_one() -> None:
        for each in replaced.values():
            each.next_token_losses(each.hidden(given[:, :-1]), given[:, 1:])

    def table_of(layer: int, ratio: float, alpha: float) -> Tensor:
        return tables[layer, ratio, alpha]

    def shared() -> None:
        swept(bare, [document], scale.context, length, PAIRS, table_of, Interruption())

    contestants: dict[str, tuple[Step, str]] = {
        "plain passes": (lambda: bare.hidden(tokens), ""),
        "fold of means": (folded(bare, setup, ids, arguments.contexts, "mean"), "plain passes"),
        "fold of additive fit": (folded(bare, setup, ids, arguments.contexts, "additive"), "plain passes"),
        "vectors replaced": (lambda: replaced[half].hidden(tokens), "plain passes"),
        "sweep, shared lower layers": (shared, ""),
        "sweep, whole passes": (one_by_one, "sweep, shared lower layers"),
    }
    times: dict[str, list[float]] = {name: [] for name in contestants}
    with torch.inference_mode():
        for step, _ in contestants.values():
            step()
        for done in range(arguments.rounds):
            ordered = list(contestants.items())
            for name, (step, _) in ordered if done % 2 == 0 else reversed(ordered):
                times[name].append(seconds(step))
    label = f"{variant(setup.config.model, scale)} of {shape_label(scale)}"
    console.print(f"{label}, {tokens.numel():,} tokens, windows of {length:,}; {hardware()}, torch {torch.__version__}")
    table = Table(title="Median (smallest to largest) over the rounds; ratios within a round", title_justify="left")
    for column in ("", "milliseconds", "ratio", "to"):
        table.add_column(column, justify="right" if column in ("milliseconds", "ratio") else "left")
    for name, (_, peer) in contestants.items():
        ratios = [one / other for one, other in zip(times[name], times[peer or name], strict=True)]
        shown = spread(ratios, ".3f") if peer else ""
        table.add_row(name, spread([1000 * each for each in times[name]], ".1f"), shown, peer)
    console.print(table)
    return [
        {"contestant": name, "scale": shape_label(scale), "round": number, "seconds": each}
        for name, measured in times.items()
        for number, each in enumerate(measured)
    ]


def folded(decoder: Decoder, setup: Setup, ids: Any, contexts: int, estimator: str) -> Step:
    """A fold over windows that are given as one document, in groups as they are read."""
    keys = [f"study.longest={contexts}", f"study.estimator={estimator}", "study.windows=null"]
    study = settings_of("analyze", AnalyzeSettings, ["runs=none", "study=decomposition", *keys]).study
    source = Source(lambda: iter([("drawn", ids)]), setup.tokenizer, setup.config.scale.context)
    items = [*study.items(source)]
    observe = partial(study.observe, context=setup.config.scale.context)

    def run() -> None:
        fold = Fold({})
        for item in items:
            fold.add(item.name, observe(decoder, item))

    return run
