"""What becomes of the runs of one command: plans, a table of failures, a comparison of all."""

import shlex
import traceback
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lab.base.commandline import one_line
from lab.base.console import Console, Table  # not later: the code may be gone when jobs end
from lab.base.errors import UserError
from lab.base.files import write_whole
from lab.base.interruption import Interrupted
from lab.base.settings import flatten
from lab.experiment.compose import checked
from lab.experiment.settings import TrainSettings
from lab.runs.identity import variant

if TYPE_CHECKING:
    from lab.experiment.setup import Setup


def differences(identities: list[dict[str, Any]]) -> dict[str, list[Any]]:
    """The keys in which the identities differ, each with its value in every one (None where absent)."""
    flat = [flatten(identity) for identity in identities]
    keys = sorted(set().union(*flat)) if flat else []
    table = {key: [each.get(key) for each in flat] for key in keys}
    return {key: values for key, values in table.items() if any(value != values[0] for value in values)}


@dataclass
class Sweep:
    """The runs of one command, filled run by run; ``conclude`` is called once at its end.

    Hydra calls :meth:`run` for each run, here or, by way of the SLURM launcher, in a job.
    """

    planned: list["Setup"] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)  # of a plan that is to be written
    finished: list[tuple[TrainSettings, Path]] = field(default_factory=list)
    failed: list[tuple[str, str]] = field(default_factory=list)
    elsewhere: int = 0  # runs that jobs of a cluster have finished
    error: Exception | None = None  # of a command that is one run
    interrupted: Exception | None = None
    here: bool = True  # whether this is the object whose ``conclude`` is called

    def __reduce__(self) -> tuple[partial["Sweep"], tuple[()]]:
        """What goes to a job knows of no other run, nor, after a requeue, that the job was interrupted before."""
        return partial(Sweep, here=False), ()

    def run(self, composed: Any) -> None:
        """Plan or train one run, as Hydra has composed it."""
        from hydra.core.hydra_config import HydraConfig
        from hydra.types import RunMode

        from lab.experiment.child import inherit

        if self.interrupted:
            return  # a sweep that is asked to stop starts no further run
        hydra = HydraConfig.get()
        name = " ".join(each.removeprefix("++") for each in hydra.overrides.task) or "the run"
        try:
            settings = checked(TrainSettings, inherit(composed, hydra.overrides.task))
            name = f"{variant(settings.model, settings.scale)} seed {settings.seed}"
            # Loaded when the settings are right: a mistake is told at once.
            from lab.experiment.lifecycle import train
            from lab.experiment.setup import Setup

            setup = Setup(settings)
            if settings.plan:
                self.plan(setup, hydra.overrides.task)
                return
            train(setup)
            self.finished.append((setup.given, setup.run.path))
        # Raised only where the run is elsewhere, in a job: Hydra adds a line of its own to what passes through it.
        except Interrupted as interrupted:
            self.interrupted = interrupted
            if not self.here:
                raise
        except Exception as error:
            if hydra.mode != RunMode.MULTIRUN:
                self.error = error
                return
            line = one_line(error)
            if line is None:
                traceback.print_exc()
            self.failed.append((name, line or repr(error)))
            if not self.here:
                raise

    def conclude(self) -> None:
        """Print what concerns all runs together. Raises UserError if any of several failed."""
        if self.planned:
            self._print_plan()
        if self.lines and not self.failed:
            self._write_plan(Path(str(self.planned[0].given.plan)))
        if self.finished and self.finished[0][0].compare and not self.failed:
            from lab.experiment.comparison import compare_trained

            compare_trained(self.finished[0][0], [path for _, path in self.finished])
        self.print_failures()
        if self.failed:
            total = len(self.failed) + len(self.finished) + len(self.planned) + self.elsewhere
            raise UserError(f"{len(self.failed)} of {total} runs failed; the table above says why")

    def print_failures(self) -> None:
        """A table of the runs that failed, if any did."""
        if self.failed:
            table = Table("run", "what went wrong", title="Failed", title_justify="left")
            for names, reason in self._failures():
                table.add_row(names, reason)
            Console().print(table)

    def _failures(self) -> list[tuple[str, str]]:
        """Each reason for which runs failed, once, with the runs: how many, and the first of them."""
        runs: dict[str, list[str]] = {}
        for name, reason in self.failed:
            runs.setdefault(reason, []).append(name)
        return [
            (
                f"{len(names)} runs: {', '.join(names[:3])}{', ...' * (len(names) > 3)}" if names[1:] else names[0],
                reason,
            )
            for reason, names in runs.items()
        ]

    def plan(self, setup: "Setup", overrides: Sequence[str]) -> None:
        """Add a run to what is planned, as it was asked for on the command line."""
        if setup.start.record():
            _ = setup.decoder  # a parent whose weights do not fit is told now, too
        self.planned.append(setup)
        if isinstance(setup.given.plan, str):
            self.lines.append(shlex.join(each for each in overrides if not each.startswith("plan=")))

    def _write_plan(self, path: Path) -> None:
        write_whole(path, "".join(f"{line}\n" for line in self.lines).encode())
        script = Path(__file__).resolve().parents[2] / "slurm" / "sweep.sbatch"
        if script.is_relative_to(Path.cwd()):
            script = script.relative_to(Path.cwd())
        array = f"1-{len(self.lines)}"
        print(f"{path}: {len(self.lines)} runs; submit them with sbatch --array={array} {script} {path}")

    def _print_plan(self) -> None:
        from lab.model.decoder import parameter_count

        table = Table("digest", "directory", "state", title="Plan: nothing was trained", title_justify="left")
        for column in ("parameters", "tokens", "FLOPs"):
            table.add_column(column, justify="right")
        for setup in self.planned:
            table.add_row(
                setup.digest[:8],
                str(setup.run.path),
                setup.run.state(setup.digest),
                f"{parameter_count(setup.shape):,}",
                f"{setup.trained_tokens:,}",
                f"{setup.flops.exact * setup.trained_tokens:.3g}",
            )
            if setup.differences:
                print(f"{setup.run.path.name} differs from its parent: {'; '.join(setup.differences)}")
        # Directories must come whole, however narrow the terminal is.
        Console(width=Console(width=1000).measure(table).maximum).print(table)
        if len(self.planned) > 1:
            differing = differences([setup.identity for setup in self.planned])
            keys = Table("key", "values, run by run", title="The runs differ in", title_justify="left")
            for key, values in differing.items():
                keys.add_row(key, ", ".join(map(str, values)))
            Console().print(keys)
