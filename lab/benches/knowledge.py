"""What a study of knowledge costs beside its training: biographies made against trained on, and questions answered many
at a time against one by one."""

import argparse
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np
import torch

from lab.base.console import Console, Table
from lab.base.errors import UserError
from lab.benches.timing import seconds, spread
from lab.benches.training import our_step
from lab.data.biographies.corpus import Biographies
from lab.data.biographies.people import ATTRIBUTES
from lab.data.stream.order import BlockStream
from lab.experiment.compose import settings_of
from lab.experiment.settings import TrainSettings
from lab.experiment.setup import Setup
from lab.model.decoder import Decoder
from lab.observe.measure import Ids
from lab.observe.people import Prompt, answers, prompt_of
from lab.runs.environment import hardware
from lab.runs.identity import shape_label

BLOCKS = 512  # that are made in a measurement
STEPS = 10  # of training in a measurement


def bench_knowledge(arguments: argparse.Namespace, console: Console) -> list[dict[str, Any]]:
    """Print the tables; return every measurement as a row.

    Raises:
        UserError: the data are no biographies, or nobody is asked.
    """
    if arguments.questions < 1:
        raise UserError(f"--questions is {arguments.questions}: give 1 or more")
    given = ["experiment=biographies", *arguments.overrides, "measure=none"]
    setup = Setup(settings_of("train", TrainSettings, given))
    corpus, scale = setup.stream.corpus, setup.config.scale
    if not isinstance(corpus, Biographies):
        raise UserError(f"data={setup.config.data.corpus.name} are no biographies: leave it out")
    label = setup.config.data.corpus.label
    console.print(
        f"{label} of {len(corpus.people):,} people, {shape_label(scale)}; {hardware()}, torch {torch.__version__}"
    )
    rows = _measured("tokens", _consumption(setup), arguments.rounds, console)
    prompts = [
        prompt_of(setup.tokenizer, corpus.ask(person, attribute))
        for person in corpus.people
        for attribute in ATTRIBUTES
    ][: arguments.questions]
    decoder = setup.fresh_decoder().to(setup.device).eval()
    decoder.compute_dtype = torch.float32  # as answers are scored
    with torch.inference_mode():
        ways: dict[str, Callable[[], list[Ids]]] = {
            "one by one, whole passes": lambda: [without_cache(decoder, each) for each in prompts],
            "one by one, cached": lambda: [answers(decoder, [each])[0] for each in prompts],
            "together, cached": partial(answers, decoder, prompts),
        }
        said = {name: way() for name, way in ways.items()}
        rows += _measured(
            "questions", {name: (way, len(prompts)) for name, way in ways.items()}, arguments.rounds, console
        )
    for name, given_answers in said.items():
        equal = sum(_agree(one, other) for one, other in zip(given_answers, said["together, cached"], strict=True))
        if name != "together, cached":
            console.print(f"{name} and together: {equal:,} of {len(prompts):,} answers equal")
    return [{"scale": shape_label(scale)} | row for row in rows]


def _consumption(setup: Setup) -> dict[str, tuple[Callable[[], object], int]]:
    """What consumes tokens of biographies and what makes them, and how many at a call."""
    scale = setup.config.scale
    batch = next(iter(setup.data.train_dataloader()))["tokens"].to(setup.device)
    step = our_step(setup, batch, compiled=False)

    def train() -> None:
        for _ in range(STEPS):
            step()

    def make() -> None:
        stream = BlockStream(
            setup.stream.corpus,
            "train",
            setup.tokenizer,
            scale.context,
            setup.stream.seed,
            setup.stream.lanes,
            setup.config.data.weights,
            setup.stream.tile,
        )
        for g in range(BLOCKS):
            stream.block(g)

    step()
    return {
        "training, a process": (train, STEPS * batch.shape[0] * scale.context),
        "biographies, a process": (make, BLOCKS * (scale.context + 1)),
    }


def without_cache(decoder: Decoder, prompt: Prompt) -> Ids:
    """What greedy decoding continues a prompt with, each token from a pass over all before it."""
    tokens = torch.from_numpy(prompt.ids.astype(np.int64))[None].to(decoder.embedding.device)
    for _ in range(len(prompt.answer)):
        following = decoder.logits(decoder.hidden(tokens)[:, -1:]).argmax(dim=-1)
        tokens = torch.cat((tokens, following), dim=1)
        if following.item() == prompt.answer[-1]:
            break
    found: Ids = tokens[0, len(prompt.ids) :].cpu().numpy().astype(np.uint32)
    return found


def _agree(one: Ids, other: Ids) -> bool:
    """Whether two answers are the same as far as both go; who answers many goes on as far as the longest needs."""
    shared = min(len(one), len(other))
    return bool(np.array_equal(one[:shared], other[:shared]))


def _measured(
    what: str, contestants: Mapping[str, tuple[Callable[[], object], int]], rounds: int, console: Console
) -> list[dict[str, Any]]:
    """Rows of each round, and a table against the first contestant, in turn."""
    times: dict[str, list[float]] = {name: [] for name in contestants}
    first = next(iter(contestants))
    for done in range(rounds):
        ordered = list(contestants.items())
        for name, (run, _) in ordered if done % 2 == 0 else reversed(ordered):
            times[name].append(seconds(run))
    table = Table(title="Median (smallest to largest) over the rounds; ratios within a round", title_justify="left")
    for column in ("", f"{what}/s", f"this / {first}"):
        table.add_column(column, justify="left" if column == "" else "right")
    rates = {name: [number / each for each in times[name]] for name, (_, number) in contestants.items()}
    for name, each in rates.items():
        ratios = [one / other for one, other in zip(each, rates[first], strict=True)]
        table.add_row(name, spread(each), "" if name == first else spread(ratios, ".1f"))
    console.print(table)
    return [
        {"kind": what, "contestant": name, "round": number, "seconds": each, "count": contestants[name][1]}
        for name, measured in times.items()
        for number, each in enumerate(measured)
    ]
