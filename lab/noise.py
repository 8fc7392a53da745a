"""The noise floor: one configuration trained with several seeds, and with one seed twice, which must be identical."""

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from rich.console import Console
from rich.table import Table

from lab.errors import UserError
from lab.job import Job, device_of
from lab.measure.quantities import quantities
from lab.measure.runs import runs_of, score_runs
from lab.measure.scoring import rows_of, setting_of
from lab.runs import Config, Run
from lab.tables import Row, write_table
from lab.train import train


def measure_noise(config: Config) -> None:
    """Train, score, and print how far seeds alone lie apart; ``noise.csv`` and the runs go to ``output``.

    Raises:
        UserError: fewer than two seeds, or the two runs of one seed are not identical.
    """
    seeds = config["noise_seeds"]
    if len(set(seeds)) < 2 or len(set(seeds)) != len(seeds):
        raise UserError(f"noise_seeds is {seeds}: give two or more different ones")
    (given,) = runs_of(config["noise"])
    output = Path(config["output"])
    runs = [_trained(given, seed, output / "runs") for seed in seeds]
    again = _trained(given, seeds[0], output / "again")
    differing = list(_differing(runs[0], again))
    if differing:
        raise UserError(
            f"{runs[0].path} and {again.path} are one configuration and seed, and yet differ in {', '.join(differing)}:"
            " no difference between runs of this machine can be trusted"
        )
    print(f"seed {seeds[0]} twice: weights and metrics are identical")
    nodes = config.get("measure", {})
    scored = score_runs(runs, nodes, config["evaluation"], device_of(config["accelerator"]))
    settings = {setting_of(node) for node in nodes.values()}
    rows = list(_spreads(runs, seeds, scored, settings))
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
    config: dict[str, Any] = copy.deepcopy(given.config)
    if config["data"]["seed"] == config["seed"]:
        config["data"]["seed"] = seed
    # What decides no number: blocks are the same streamed, and scores are made afterwards.
    config |= {"seed": seed, "runs": str(folder), "measure": {}, "overwrite": False, "plan": False, "table": None}
    config["data"]["mode"] = "stream"
    job = Job(OmegaConf.create(config))
    train(job)
    return job.run


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


def _spreads(runs: list[Run], seeds: list[int], scored: list[tuple[str, int]], settings: set[str]) -> Iterator[Row]:
    """Of each quantity the mean over documents for every seed, and their spread."""
    tables = []
    for run, (evaluation, step) in zip(runs, scored, strict=True):
        rows = rows_of(run, settings, evaluation, step)
        tables.append(quantities(rows, run.config["scale"]["context"]))
    for quantity in tables[0]:
        means = [sum(table[quantity].values()) / len(table[quantity]) for table in tables]
        yield {
            "measure": quantity.measure,
            "length_tokens": quantity.length_tokens,
            "seeds": len(seeds),
            "documents": len(tables[0][quantity]),
            "mean": sum(means) / len(means),
            "least": min(means),
            "most": max(means),
        }
