"""What becomes of the runs of one command: plans, a table of failures, one table and picture of all."""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from lab.errors import UserError
from lab.files import write_whole
from lab.job import Job
from lab.model.decoder import parameter_count
from lab.report.pictures import comparison_picture
from lab.report.tables import SUMMARY
from lab.schema import flatten
from lab.tables import read_table, write_table


def differences(identities: list[dict[str, Any]]) -> dict[str, list[Any]]:
    """The keys in which the identities differ, each with its value in every one (None where absent)."""
    flat = [flatten(identity) for identity in identities]
    keys = sorted(set().union(*flat)) if flat else []
    table = {key: [each.get(key) for each in flat] for key in keys}
    return {key: values for key, values in table.items() if any(value != values[0] for value in values)}


@dataclass
class Outcomes:
    """Filled job by job; ``conclude`` is called once at the end of the command."""

    planned: list[Job] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)  # of a plan that is to be written
    finished: list[Job] = field(default_factory=list)
    failed: list[tuple[str, str]] = field(default_factory=list)
    elsewhere: int = 0  # runs that jobs of a cluster have finished
    error: Exception | None = None  # of a command that is one run
    interrupted: Exception | None = None
    console: Console = field(default_factory=Console)

    def conclude(self) -> None:
        """Print what concerns all runs together. Raises UserError if any of several failed."""
        if self.planned:
            self._print_plan()
        if self.lines and not self.failed:
            self._write_plan(Path(self.planned[0].config["plan"]))
        if self.finished and self.finished[0].config["table"]:
            self._write_table(self.finished[0].config["table"])
        if self.failed:
            table = Table("run", "what went wrong", title="Failed", title_justify="left")
            for name, reason in self.failed:
                table.add_row(name, reason)
            self.console.print(table)
            total = len(self.failed) + len(self.finished) + len(self.planned) + self.elsewhere
            raise UserError(f"{len(self.failed)} of {total} runs failed; the table above says why")

    def plan(self, job: Job, overrides: Sequence[str]) -> None:
        """Add a run to what is planned, as it was asked for on the command line."""
        self.planned.append(job)
        if isinstance(job.config["plan"], str):
            self.lines.append(shlex.join(each for each in overrides if not each.startswith("plan=")))

    def _write_plan(self, path: Path) -> None:
        write_whole(path, "".join(f"{line}\n" for line in self.lines).encode())
        script = Path(__file__).resolve().parents[1] / "slurm" / "sweep.sbatch"
        if script.is_relative_to(Path.cwd()):
            script = script.relative_to(Path.cwd())
        array = f"1-{len(self.lines)}"
        print(f"{path}: {len(self.lines)} runs; submit them with sbatch --array={array} {script} {path}")

    def _print_plan(self) -> None:
        table = Table("digest", "directory", "state", title="Plan: nothing was trained", title_justify="left")
        for column in ("parameters", "tokens", "FLOPs"):
            table.add_column(column, justify="right")
        for job in self.planned:
            table.add_row(
                job.digest[:8],
                str(job.run.path),
                job.run.state(job.digest),
                f"{parameter_count(job.shape):,}",
                f"{job.trained_tokens:,}",
                f"{job.flops.exact * job.trained_tokens:.3g}",
            )
        # Directories must come whole, however narrow the terminal is.
        Console(width=Console(width=1000).measure(table).maximum).print(table)
        if len(self.planned) > 1:
            differing = differences([job.identity for job in self.planned])
            keys = Table("key", "values, run by run", title="The runs differ in", title_justify="left")
            for key, values in differing.items():
                keys.add_row(key, ", ".join(map(str, values)))
            self.console.print(keys)

    def _write_table(self, name: str) -> None:
        """``<runs>/<name>.csv`` with every run's summary, and one picture of all."""
        root = Path(self.finished[0].config["runs"])
        rows: list[dict[str, Any]] = []
        curves, excesses = {}, {}
        several_seeds = len({job.config["seed"] for job in self.finished}) > 1
        for job in self.finished:
            variant, seed = job.config["model"]["name"], job.config["seed"]
            label = f"{variant} seed {seed}" if several_seeds else variant
            for row in read_table(job.run.path / "summary.csv", SUMMARY):
                rows.append({"variant": variant, "seed": seed, "run": job.run.path.name} | row)
                if row["quantity"] == "excess":
                    excesses[label] = row
            curves[label] = job.scored_rows()
        write_table(root / f"{name}.csv", rows)
        context = self.finished[0].config["scale"]["context"]
        comparison_picture(curves, excesses, context, root / name)
        self.console.print(f"{root / name}.csv and .png: {len(self.finished)} runs")


OUTCOMES = Outcomes()  # of this command
