"""The full length curve at C, 2 C, 3 C, ...: one pass, against a pass a length and transformers' sliding windows."""

import argparse
import multiprocessing
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from lab.base.console import Console, Table
from lab.base.errors import UserError
from lab.benches.timing import peak_memory, seconds, spread
from lab.exchange.peer import peer_of
from lab.experiment.compose import settings_of
from lab.experiment.settings import ScoreSettings, TrainSettings
from lab.experiment.setup import Setup
from lab.model.decoder import Decoder
from lab.model.precision import DTYPES, device_of
from lab.observe.losses import losses_in_one_pass
from lab.observe.measure import Source
from lab.observe.score_runs import sources_of
from lab.runs.environment import hardware
from lab.runs.finding import step_of
from lab.runs.identity import shape_label
from lab.runs.run import open_model

STRIDE = 256  # of Position Interpolation's sliding windows

Curve = Callable[[], list[float]]


def one_pass(decoder: Decoder, documents: list[Tensor], lengths: list[int]) -> list[float]:
    """Mean loss of the first L tokens for every L, each document read once."""
    sums = torch.zeros(len(lengths), dtype=torch.float64)
    for tokens in documents:
        losses = losses_in_one_pass(decoder, tokens).double().cpu()
        sums += torch.stack([losses[:length].mean() for length in lengths])
    return [float(each) for each in sums / len(documents)]


def pass_a_length(decoder: Decoder, documents: list[Tensor], lengths: list[int]) -> list[float]:
    """The same numbers, each document read anew for every L."""
    return [
        sum(float(losses_in_one_pass(decoder, tokens[: length + 1]).double().mean()) for tokens in documents)
        / len(documents)
        for length in lengths
    ]


def sliding_windows(model: nn.Module, documents: list[Tensor], lengths: list[int]) -> list[float]:
    """transformers' recipe (its documentation, "Perplexity of fixed-length models"), for windows of every L.

    Windows of L that move on by STRIDE; of each only the tokens not scored before have labels. These are other
    numbers than the truncated ones: what is compared is the cost of a curve over lengths.
    """
    curve = []
    for length in lengths:
        total, scored = 0.0, 0
        for tokens in documents:
            ids = tokens[None]
            before = 0
            for start in range(0, ids.shape[1], STRIDE):
                stop = min(start + length, ids.shape[1])
                inputs = ids[:, start:stop]
                labels = inputs.clone()
                labels[:, : -(stop - before)] = -100
                fresh = int((labels[:, 1:] != -100).sum())
                total += float(model(input_ids=inputs, labels=labels).loss) * fresh
                scored += fresh
                before = stop
                if stop == ids.shape[1]:
                    break
        curve.append(total / scored)
    return curve


class Subject(NamedTuple):
    """Who is measured, and on what."""

    name: str
    config: Any
    decoder: Decoder
    documents: list[Tensor]
    dtype: str
    context: int


def fresh(arguments: argparse.Namespace) -> Subject:
    """A decoder as it is initialised, on its corpus' held-out documents."""
    setup = Setup(
        settings_of("train", TrainSettings, ["model=rope", *arguments.overrides, "logger=csv", "measure=none"])
    )
    config = setup.config
    decoder = setup.fresh_decoder().to(setup.device).eval()
    documents = tokens_of(setup.source, arguments, config.scale.context, setup.device)
    name = f"{config.model.position.name} {shape_label(config.scale)}"
    return Subject(name, config, decoder, documents, config.trainer.compute_dtype, config.scale.context)


def trained(arguments: argparse.Namespace) -> Subject:
    """A run's decoder, or a derived run's, or an imported model's, on the documents that ``evaluation=`` names."""
    overrides = [f"runs={arguments.run}", *arguments.overrides]
    settings = settings_of("extrapolate", ScoreSettings, overrides)
    model = open_model(arguments.run)
    model.check()
    if model.extensions:
        raise UserError(f"{model.path} has an extension, which transformers is not given; measure its parent")
    device = device_of(settings.accelerator, settings.threads)
    decoder = model.decoder(step_of(model, settings.checkpoint)).to(device)
    decoder.compute_dtype = DTYPES[settings.scoring.dtype]
    ((_, source),) = sources_of([model], settings.evaluation)
    documents = tokens_of(source, arguments, model.context, device)
    return Subject(model.path.name, model.config, decoder, documents, settings.scoring.dtype, model.context)


def tokens_of(source: Source, arguments: argparse.Namespace, context: int, device: str) -> list[Tensor]:
    needed = arguments.contexts * context + 1
    return [
        torch.from_numpy(item.ids[:needed].astype("int64")).to(device)
        for item in source.long_enough(needed, arguments.documents)
    ]


def bench_extrapolate(arguments: argparse.Namespace, console: Console) -> list[dict[str, Any]]:
    for name in ("documents", "contexts"):
        if getattr(arguments, name) < 1:
            raise UserError(f"--{name} is {getattr(arguments, name)}: give 1 or more")
    if arguments.memory_only:
        return memory(arguments, console)
    subject = trained(arguments) if arguments.run else fresh(arguments)
    decoder, found = subject.decoder, subject.documents
    lengths = [subject.context * number for number in range(1, arguments.contexts + 1)]
    peer = peer_of(subject.config, decoder, DTYPES[subject.dtype])
    contestants: dict[str, Curve] = {
        "lab, one pass": lambda: one_pass(decoder, found, lengths),
        "a pass a length": lambda: pass_a_length(decoder, found, lengths),
        f"transformers, windows, S = {STRIDE}": lambda: sliding_windows(peer, found, lengths),
    }
    times: dict[str, list[float]] = {name: [] for name in contestants}
    with torch.inference_mode():
        one, other = contestants["lab, one pass"](), contestants["a pass a length"]()
        worst = max(abs(a - b) for a, b in zip(one, other, strict=True))
        # A window of the whole text is one pass of theirs: the same number, if they are the same decoder.
        theirs = sliding_windows(peer, [tokens[: lengths[0] + 1] for tokens in found], [lengths[0] + 1])[0]
        for done in range(arguments.rounds):
            for name, curve in contestants.items():
                times[name].append(seconds(curve))
            console.print(
                f"round {done + 1} of {arguments.rounds}: {', '.join(f'{each[-1]:.1f} s' for each in times.values())}"
            )
        growth = [] if arguments.run else doubling(arguments, console)
    console.print(
        f"{subject.name}, {len(found)} documents, {len(lengths)} lengths to {lengths[-1]:,} tokens, {subject.dtype}; "
        f"{hardware()}, torch {torch.__version__}; one pass and a pass a length differ by {worst:.1e} nats at most, "
        f"transformers' loss at {lengths[0]:,} tokens by {abs(theirs - one[0]):.1e}"
    )
    table = Table(title="Median (smallest to largest) over the rounds; ratios within a round", title_justify="left")
    for column in ("", "seconds", "times the lab's"):
        table.add_column(column, justify="left" if column == "" else "right")
    rows = []
    for name, measured in times.items():
        ratios = [theirs / ours for theirs, ours in zip(measured, times["lab, one pass"], strict=True)]
        table.add_row(name, spread(measured, ".2f"), spread(ratios, ".1f"))
        rows += [
            {"contestant": name, "length_tokens": lengths[-1], "round": number, "seconds": each, "bytes": ""}
            for number, each in enumerate(measured)
        ]
    console.print(table)
    return rows + growth + ([] if arguments.run else memory(arguments, console))


def doubling(arguments: argparse.Namespace, console: Console) -> list[dict[str, Any]]:
    """Cost of one pass of a windowed decoder when the length doubles."""
    setup = Setup(
        settings_of("train", TrainSettings, [*arguments.overrides, "model=window_rope", "logger=csv", "measure=none"])
    )
    decoder = setup.fresh_decoder().to(setup.device).eval()
    lengths = [setup.config.scale.context * count for count in (16, 32, 64)]
    tokens = torch.randint(0, setup.config.scale.vocabulary, (lengths[-1] + 1,), device=setup.device)
    passes = [lambda length=length: losses_in_one_pass(decoder, tokens[: length + 1]) for length in lengths]
    times: list[list[float]] = [[] for _ in lengths]
    for done in range(arguments.rounds + 1):
        for number, each in enumerate(passes):
            elapsed = min(seconds(each) for _ in range(3))  # a fraction of a second is easily disturbed
            if done:
                times[number].append(elapsed)
    for before, after, half, whole in zip(times, times[1:], lengths, lengths[1:], strict=False):
        ratios = [b / a for a, b in zip(before, after, strict=True)]
        console.print(
            f"window {setup.window}: {half:,} to {whole:,} tokens costs {spread(ratios, '.2f')} times as much "
            f"({spread(after, '.2f')} s, the fastest of three a round)"
        )
    return [
        {"contestant": "lab, window_rope", "length_tokens": length, "round": number, "seconds": each, "bytes": ""}
        for length, measured in zip(lengths, times, strict=True)
        for number, each in enumerate(measured)
    ]


def memory(arguments: argparse.Namespace, console: Console) -> list[dict[str, Any]]:
    """Largest memory of a process of its own that scores one text with a windowed and a full decoder."""
    rows = []
    # Full attention over the longest text would take minutes on a CPU.
    full = arguments.longest if torch.cuda.is_available() else arguments.longest // 4
    for model, length in (("window_rope", arguments.longest), ("rope", full)):
        # A process of its own: the largest size of a process never shrinks.
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            before, after = pool.apply(_peak, (model, list(arguments.overrides), length))
        console.print(
            f"model={model}, one pass over {length:,} tokens: {(after - before) / 1e9:.2f} GB beside the "
            f"{before / 1e9:.2f} GB of the decoder and its libraries"
        )
        rows.append(
            {
                "contestant": f"memory {model}",
                "length_tokens": length,
                "round": 0,
                "seconds": "",
                "bytes": after - before,
            }
        )
    return rows


def _peak(model: str, overrides: list[str], length: int) -> tuple[float, float]:
    """Peak memory in bytes before and after one pass."""
    setup = Setup(settings_of("train", TrainSettings, [*overrides, f"model={model}", "logger=csv", "measure=none"]))
    decoder = setup.fresh_decoder().to(setup.device).eval()
    tokens = torch.randint(0, setup.config.scale.vocabulary, (length + 1,), device=setup.device)
    with torch.inference_mode():
        losses_in_one_pass(decoder, tokens[:257])
        before = peak_memory(setup.device)
        losses_in_one_pass(decoder, tokens)
    return before, peak_memory(setup.device)
