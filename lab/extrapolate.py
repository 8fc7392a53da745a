"""Score trained decoders beyond their context window: rows into each run's scores.csv.

python -m lab.extrapolate runs='runs/*'
python -m lab.extrapolate runs=[runs/a,runs/b] evaluation=kjv measure=[copy,context_gain] scoring.longest=32
"""

from typing import Any

from rich.console import Console
from rich.table import Table

from lab.commands import run_composed
from lab.errors import UserError
from lab.job import device_of, to_plain
from lab.measure.passkey import by_depth
from lab.measure.quantities import overview
from lab.measure.runs import runs_of, score_runs
from lab.measure.scoring import rows_of, setting_of
from lab.report.figures import passkey_figure
from lab.report.pictures import save
from lab.runs import Config, Run
from lab.schema import SCORING_KINDS, check_values
from lab.training.interruption import Interruption


def extrapolate(config: Config) -> None:
    """Score the runs that a configuration names, and print what is worth a glance."""
    check_values(config, SCORING_KINDS)
    nodes = config.get("measure", {})
    if not nodes:
        raise UserError("measure is empty: choose from conf/measure/, for example measure=[loss_by_position,copy]")
    runs = runs_of(config["runs"])
    with Interruption() as interruption:
        interruption.install()

        def check(item: str) -> None:
            interruption.check(f"came before {item} was scored; what is scored is kept")

        scored = score_runs(
            runs, nodes, config["evaluation"], device_of(config["accelerator"]), config["checkpoint"], check
        )
    show(runs, nodes, scored)


def show(runs: list[Run], nodes: dict[str, Any], scored: list[tuple[str, int]]) -> None:
    """One line a run and quantity; ``scored`` has the evaluation and the step of each run."""
    settings = {setting_of(node) for node in nodes.values()}
    table = Table("run", "measure", title="Scored", title_justify="left")
    for column in ("length (tokens)", "mean", "95 % interval", "documents"):
        table.add_column(column, justify="right")
    for run, (evaluation, step) in zip(runs, scored, strict=True):
        rows = rows_of(run, settings, evaluation, step)
        keys = by_depth(row for row in rows if row["measure"] == "passkey")
        if keys:
            save(passkey_figure(keys, run.path.name), run.path / "passkey")
        for line in overview(rows, run.config["scale"]["context"]):
            table.add_row(run.path.name, *line)
        table.add_section()
    Console(width=max(80, Console(width=1000).measure(table).maximum)).print(table)
    print(f"every observation: scores.csv in {', '.join(str(run.path) for run in runs)}")


if __name__ == "__main__":
    run_composed("extrapolate", lambda composed: extrapolate(to_plain(composed)), SCORING_KINDS)
