"""Which runs a command means."""

import glob
from collections.abc import Sequence
from pathlib import Path

from lab.base.errors import UserError
from lab.base.files import matching
from lab.runs.model import Model
from lab.runs.run import open_model


def runs_of(given: str | Sequence[str]) -> list[Model]:
    """The runs that paths and patterns name, each once, in the order given; those of a pattern by name.

    Raises:
        UserError: nothing is given, nothing is found, or something is no run directory.
    """
    patterns = [given] if isinstance(given, str) else list(given)
    if not patterns or not all(isinstance(pattern, str) and pattern for pattern in patterns):
        raise UserError("runs is empty: name run directories or a pattern of them")
    found: dict[Path, Model] = {}
    for pattern in patterns:
        paths = [Path(pattern)]
        # A path that is there goes before a pattern: brackets may stand in its name.
        if glob.has_magic(pattern) and not paths[0].exists():
            paths = [path for path in map(Path, matching(pattern)) if (path / "manifest.json").exists()]
        if not paths:
            raise UserError(f"{pattern}: no run directory there; python -m lab.status lists runs")
        for path in paths:
            run = open_model(path)
            run.check()
            found.setdefault(path.resolve(), run)
    return list(found.values())


def step_of(run: Model, checkpoint: str | int) -> int:
    """The optimiser step of ``last`` or of a number.

    Raises:
        UserError: ``last`` of an unfinished run.
    """
    if checkpoint == "last":
        if run.manifest.get("state") != "finished":
            raise UserError(
                f"{run.path} is unfinished: train it to its end with the command that began it, or score one of its "
                "checkpoints with checkpoint=STEP"
            )
        return run.steps
    return int(checkpoint)
