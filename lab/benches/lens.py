"""What the gradient lens costs: factors of many prompts at a time against one by one, and against the plain forward and
backward pass of the same batch."""

import argparse
from typing import Any

import numpy as np
import torch

from lab.base.console import Console, Table
from lab.base.errors import UserError
from lab.benches.timing import Step, seconds, spread
from lab.experiment.compose import settings_of
from lab.experiment.settings import TrainSettings
from lab.experiment.setup import Setup
from lab.gradients.capture import Captured, Example, batches, capture, places_of
from lab.gradients.ranks import ranks
from lab.model.decoder import Decoder
from lab.runs.environment import hardware
from lab.runs.identity import shape_label, variant


def bench_lens(arguments: argparse.Namespace, console: Console) -> list[dict[str, Any]]:
    """Print the table; return every measurement as a row.

    Raises:
        UserError: there is no prompt, or it has no token.
    """
    for name in ("prompts", "tokens", "batch_tokens"):
        if getattr(arguments, name) < 1:
            raise UserError(f"--{name.replace('_', '-')} is {getattr(arguments, name)}: give 1 or more")
    setup = Setup(settings_of("train", TrainSettings, [*arguments.overrides, "measure=none"]))
    scale = setup.config.scale
    decoder = setup.fresh_decoder().to(setup.device).eval()
    draw = np.random.default_rng(0)
    examples = [
        Example(tuple(draw.integers(scale.vocabulary, size=arguments.tokens).tolist()), (int(target),))
        for target in draw.integers(scale.vocabulary, size=arguments.prompts)
    ]
    groups = [
        [examples[each] for each in group] for group in batches(examples, arguments.batch_tokens, decoder.position)
    ]
    dtype = torch.float64 if arguments.dtype == "float64" else torch.float32
    places = places_of(decoder, None)
    exact = Plain(setup.fresh_decoder().to(setup.device).eval(), dtype)
    contestants: dict[str, Step] = {
        "plain forward and backward": lambda: [exact(group) for group in groups],
        "factors, together": lambda: [capture(decoder, group, places, dtype) for group in groups],
        "factors and ranks, together": lambda: [ranks(capture(decoder, group, places, dtype)) for group in groups],
        "factors, one by one": lambda: [capture(decoder, [each], places, dtype) for each in examples],
    }
    times: dict[str, list[float]] = {name: [] for name in contestants}
    for run in contestants.values():
        run()
    for done in range(arguments.rounds):
        ordered = list(contestants.items())
        for name, run in ordered if done % 2 == 0 else reversed(ordered):
            times[name].append(seconds(run))
    label = f"{variant(setup.config.model, scale)} of {shape_label(scale)}"
    console.print(
        f"{label}, {len(examples)} prompts of {arguments.tokens} tokens in {len(groups)} batches, {arguments.dtype}; "
        f"{hardware()}, torch {torch.__version__}"
    )
    table = Table(title="Median (smallest to largest) over the rounds; ratios within a round", title_justify="left")
    for column in ("", "prompts/s", "seconds / plain's", "prompts/s / one by one's"):
        table.add_column(column, justify="left" if column == "" else "right")
    plain, alone = times["plain forward and backward"], times["factors, one by one"]
    for name, own in times.items():
        against = [one / other for one, other in zip(own, plain, strict=True)]
        faster = [other / one for one, other in zip(own, alone, strict=True)]
        table.add_row(
            name,
            spread([len(examples) / each for each in own], ",.1f"),
            "" if own is plain else spread(against, ".2f"),
            "" if own is alone else spread(faster, ".1f"),
        )
    console.print(table)
    console.print(f"largest difference of factors together and one by one: {_apart(decoder, groups[0], dtype):.1e}")
    return [
        {"contestant": name, "scale": shape_label(scale), "round": number, "seconds": each, "count": len(examples)}
        for name, measured in times.items()
        for number, each in enumerate(measured)
    ]


class Plain:
    """The pass that an optimiser needs: all weights get a gradient, of all prompts together."""

    def __init__(self, decoder: Decoder, dtype: torch.dtype) -> None:
        self.decoder = decoder.to(dtype)
        decoder.compute_dtype = dtype
        for block in decoder.blocks:
            block.attention.kernel = "banded"  # type: ignore[union-attr]

    def __call__(self, group: list[Example]) -> float:
        device = self.decoder.embedding.device
        tokens = torch.tensor([each.prompt for each in group], device=device)
        targets = torch.tensor([each.target for each in group], device=device)
        hidden = self.decoder.hidden(tokens)[:, -1:]
        loss = self.decoder.next_token_losses(hidden, targets).sum()
        loss.backward()
        self.decoder.zero_grad(set_to_none=True)
        return loss.item()


def _apart(decoder: Decoder, group: list[Example], dtype: torch.dtype) -> float:
    """The largest difference of a delta or input, as a part of the largest of its matrix."""
    places = places_of(decoder, None)
    together = capture(decoder, group, places, dtype)

    def difference(alone: Captured, number: int) -> float:
        found = 0.0
        for place in places:
            for one, other in zip(together.factors(number, place), alone.factors(0, place), strict=True):
                largest = float(one.abs().max())
                found = max(found, float((one - other).abs().max()) / largest if largest else 0.0)
        return found

    return max(difference(capture(decoder, [each], places, dtype), number) for number, each in enumerate(group))
