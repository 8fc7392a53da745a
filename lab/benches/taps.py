"""What reading a decoder's inside costs: a forward pass with taps at one layer, and at all, against one without."""

import argparse
from typing import Any

import torch

from lab.base.console import Console, Table
from lab.benches.timing import Step, seconds, spread
from lab.experiment.compose import settings_of
from lab.experiment.settings import TrainSettings
from lab.experiment.setup import Setup
from lab.observe import taps
from lab.runs.environment import hardware
from lab.runs.identity import shape_label, variant


def bench_taps(arguments: argparse.Namespace, console: Console) -> list[dict[str, Any]]:
    """Print the table; return every measurement as a row."""
    setup = Setup(settings_of("train", TrainSettings, [*arguments.overrides, "measure=none"]))
    scale = setup.config.scale
    decoder = setup.fresh_decoder().to(setup.device).eval()
    tokens = torch.randint(0, scale.vocabulary, (scale.micro_batch, scale.context), device=setup.device)
    layers = [f"blocks.{index}" for index in range(scale.layers)]

    def plain() -> None:
        decoder.hidden(tokens)

    def read(places: list[str]) -> Step:
        def run() -> None:
            with taps.reading(decoder, places) as seen:
                decoder.hidden(tokens)
                assert len(seen) == len(places)

        return run

    contestants = {
        "no tap": plain,
        "one layer read": read(layers[scale.layers // 2 :][:1]),
        "every layer read": read([taps.EMBEDDING, *layers]),
    }
    times: dict[str, list[float]] = {name: [] for name in contestants}
    with torch.inference_mode():
        for step in contestants.values():
            step()
        for done in range(arguments.rounds):
            ordered = list(contestants.items())
            for name, step in ordered if done % 2 == 0 else reversed(ordered):
                times[name].append(seconds(step))
    label = f"{variant(setup.config.model, scale)} of {shape_label(scale)}"
    console.print(f"{label}, {tokens.numel():,} tokens a pass; {hardware()}, torch {torch.__version__}")
    table = Table(title="Median (smallest to largest) over the rounds; ratios within a round", title_justify="left")
    for column in ("", "milliseconds", "this / no tap"):
        table.add_column(column, justify="left" if column == "" else "right")
    for name, measured in times.items():
        ratios = [each / bare for each, bare in zip(measured, times["no tap"], strict=True)]
        shown = "" if name == "no tap" else spread(ratios, ".3f")
        table.add_row(name, spread([1000 * each for each in measured], ".1f"), shown)
    console.print(table)
    return [
        {"contestant": name, "scale": shape_label(scale), "round": number, "seconds": each}
        for name, measured in times.items()
        for number, each in enumerate(measured)
    ]
