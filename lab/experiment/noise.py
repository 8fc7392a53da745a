"""The noise floor: one configuration trained with several seeds, and with one seed twice, which must be identical."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from lab.base.console import Console, Table
from lab.base.errors import UserError
from lab.base.tables import Row, write_table
from lab.evidence.quantities import quantities
from lab.experiment.compose import settings_of
from lab.experiment.lifecycle import train
from lab.experiment.settings import CompareSettings, TrainSettings
from lab.experiment.setup import Setup
from lab.model.precision import device_of
from lab.observe.score_runs import score_runs
from lab.observe.scoring import rows_of, setting_of
from lab.runs.finding import runs_of
from lab.runs.model import Model
from lab.runs.run import Run


def measure_noise(settings: CompareSettings) -> None:
    """Train, score, and print how far seeds alone lie apart; ``noise.csv`` and the runs go to ``output``.

    Raises:
        UserError: fewer than two seeds, or the two runs of one seed are not identical.
    """
    seeds = settings.noise_seeds
    if len(set(seeds)) < 2 or len(set(seeds)) != len(seeds):
        raise UserError(f"noise_seeds is {seeds}: give two or more different ones")
    (given,) = runs_of(str(settings.noise))
    if not isinstance(given, Run):
        raise UserError(f"{given.path} was not trained: give the run that it is of")
    output = Path(settings.output)
    runs = [_trained(given, seed, output / "runs") for seed in seeds]
    again = _trained(given, seeds[0], output / "again")
    differing = list(_differing(runs[0], again))
    if differing:
        raise UserError(
            f"{runs[0].path} and {again.path} are one configuration and seed, and yet differ in {', '.join(differing)}:"
            " no difference between runs of this machine can be trusted"
        )
    print(f"seed {seeds[0]} twice: weights and metrics are identical")
    measures, dtype = settings.measure.chosen, settings.scoring.dtype
    scored = score_runs(
        runs, measures, settings.evaluation, device_of(settings.accelerator, settings.threads), dtype=dtype
    )
    rows = list(_spreads(runs, seeds, scored, {setting_of(measure) for measure in measures.values()}, dtype))
    write_table(output / "noise.csv", rows)
    table = Table("measure", title=f"{given.path.name}: seeds alone", title_justify="left")
    for column in ("length (tokens)", "mean", "least", "most", "most minus least"):
        table.add_column(column, justify="right")
    for row in rows:
        numbers = (row["mean"], row["least"], row["most"], row["most"] - row["least"])
        table.add_row(row["measure"], f"{row['length_tokens']:,}", *(f"{value:.4f}" for value in numbers))
    Console(width=100).print(table)
    print(f"{output / 'noise.csv'}, runs in {output / 'runs'}")


def _trained(given: Run, seed: int, folder: Path) -> Run:
    """The run of the same configuration with another seed; trained unless it is there."""
    config = given.config
    data_seed = seed if config.data.seed == config.seed else config.data.seed
    # What decides no number: blocks are the same streamed, and scores are made afterwards.
    own = config.plain() | {"seed": seed, "data": config.data.plain() | {"seed": data_seed, "mode": "stream"}}
    others = settings_of("train", TrainSettings, ["measure=none", "logger=csv"])
    setup = Setup(others.with_values(**own, runs=str(folder)))
    train(setup)
    return setup.run


def _differing(one: Run, other: Run) -> Iterator[str]:
    """Which of weights, metrics and blocks are not the same, bit for bit."""
    first, second = (run.checkpoint() for run in (one, other))
    for name in ("weights.safetensors", "training.safetensors"):
        if (first.path / name).read_bytes() != (second.path / name).read_bytes():
            yield name
    if (one.path / "metrics.csv").read_bytes() != (other.path / "metrics.csv").read_bytes():
        yield "metrics.csv"
    if one.manifest["blocks"] != other.manifest["blocks"]:
        yield "blocks"


def _spreads(
    runs: list[Model] | list[Run], seeds: list[int], scored: list[tuple[str, int]], settings: set[str], dtype: str
) -> Iterator[Row]:
    """Of each quantity the mean over documents for every seed, and their spread."""
    tables = []
    for run, (evaluation, step) in zip(runs, scored, strict=True):
        rows = rows_of(run, settings, dtype, evaluation, step)
        tables.append(quantities(rows, run.context))
    for quantity in tables[0]:
        means = [float(np.mean([*table[quantity].values.values()])) for table in tables]
        yield {
            "measure": quantity.measure,
            "length_tokens": quantity.length_tokens,
            "seeds": len(seeds),
            "documents": sum(tables[0][quantity].documents.values()),
            "mean": sum(means) / len(means),
            "least": min(means),
            "most": max(means),
        }
