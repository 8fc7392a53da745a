"""Where the weights of a new run come from: drawn from its seed, or read from a parent."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from lab.base.errors import UserError
from lab.base.settings import flatten
from lab.runs.model import Model
from lab.runs.run import Run, open_model
from lab.runs.settings import FromRunSettings


class Start(ABC):
    """How a run starts."""

    def ancestry(self, order: Mapping[str, Any]) -> dict[str, Any] | None:
        """What of the start decides the run's numbers, for its identity; None adds nothing.

        Args:
            order: the run's own order identity.
        """
        return None

    @property
    def extensions(self) -> list[dict[str, Any]]:
        """Extensions of the parent that the run is trained with."""
        return []

    @property
    def table_folders(self) -> list[Path]:
        """Run directories that have the tables of these extensions."""
        return []

    def first_block(self, order: Mapping[str, Any]) -> int:
        """The global block that the run reads first."""
        return 0

    def reads_again(self, order: Mapping[str, Any]) -> bool:
        """Whether the run reads blocks that its parent has read."""
        return False

    @abstractmethod
    def weights(self) -> tuple[Mapping[str, Tensor], str] | None:
        """The weights by name and where they are from; None: they are drawn."""

    def record(self) -> dict[str, Any] | None:
        """The parent, for the run's manifest."""
        return None

    def cursors(self, order: Mapping[str, Any]) -> dict[str, Any] | None:
        """Where the parent's data ended, if the run reads on there; None if it begins with the first block."""
        return None


class Scratch(Start):
    """Weights are drawn from the seed."""

    def weights(self) -> None:
        return None


class FromRun(Start):
    """Weights of a parent, a run or one derived of it.

    The identity holds the parent's whole identity and the step, by value and without any path: a chain of hashes.

    Args:
        run: directory of the parent.
        step: optimiser step of its checkpoint, or ``last`` of a finished one.
        data: ``on`` or ``again``, where the data are the parent's.

    Raises:
        UserError: the parent is missing, unfinished, damaged, or no longer what it was.
    """

    def __init__(self, run: str, step: int | str, data: str) -> None:
        self.parent: Model = open_model(run)
        self.parent.check()
        if step == "last" and self.parent.manifest["state"] != "finished":
            raise UserError(
                f"{self.parent.path} is unfinished: train it to its end with the command that began it, or start from "
                "one of its checkpoints with start.step=STEP"
            )
        self.step = self.parent.steps if step == "last" else int(step)
        self.data = data
        self.checkpoint = self.parent.checkpoint(self.step)

    def same_data(self, order: Mapping[str, Any]) -> bool:
        """Whether a run of this order identity reads the parent's blocks."""
        theirs = self.parent.identity
        if "data" not in theirs:  # of an imported model
            return False
        data = {key: value for key, value in theirs["data"].items() if key != "isolate_documents"}
        same = {"data": data, "tokenizer": theirs["tokenizer"], "context": theirs["scale"]["context"]}
        return flatten(same) == flatten(order)

    def reads_again(self, order: Mapping[str, Any]) -> bool:
        """Whether the run reads blocks that its parent has read."""
        return self.data == "again" and self.same_data(order)

    def ancestry(self, order: Mapping[str, Any]) -> dict[str, Any]:
        data = self.data if self.same_data(order) else "other"
        return {"parent": self.parent.identity, "step": self.step, "data": data}

    @property
    def extensions(self) -> list[dict[str, Any]]:
        return [each.plain() for each in self.parent.extensions]

    @property
    def table_folders(self) -> list[Path]:
        return self.parent.table_folders

    def first_block(self, order: Mapping[str, Any]) -> int:
        if self.data == "again" or not self.same_data(order):
            return 0
        facts, scale = self.parent.facts, self.parent.config.scale
        return int(facts.get("first_block", 0)) + self.step * scale.batch_tokens // scale.context

    def cursors(self, order: Mapping[str, Any]) -> dict[str, Any] | None:
        if self.first_block(order) == 0 or "training.json" not in self.checkpoint.files:  # weights alone were kept
            return None
        state = self.checkpoint.state()
        found = [each for each in state.values() if isinstance(each, dict) and "cursors" in each]
        return dict(found[0]["cursors"]) if found else None

    def weights(self) -> tuple[Mapping[str, Tensor], str]:
        return self.parent.weights(self.step), str(self.parent.path)

    def record(self) -> dict[str, Any]:
        record = {
            "name": self.parent.path.resolve().name,
            "digest": self.parent.digest,
            "step": self.step,
            "weights_sha256": self.checkpoint.weights_digest(),
        }
        # Of what a search found on the way here: what it was asked for, and on what.
        asked = [each.plain() for each in self.parent.asked]
        found = {"asked": asked} if asked != self.extensions else {}
        searched_on = sorted(self.parent.searched_on)
        return record | found | ({"searched_on": searched_on} if searched_on else {})


class Remembered(Start):
    """The start of a child whose parent is gone, as the child itself remembers it: enough to go on, not to begin.

    Args:
        child: which has been begun.
    """

    def __init__(self, child: Run) -> None:
        self.child = child

    def ancestry(self, order: Mapping[str, Any]) -> dict[str, Any]:
        return dict(self.child.identity["start"])

    @property
    def extensions(self) -> list[dict[str, Any]]:
        return list(self.child.manifest.get("extensions", []))

    @property
    def table_folders(self) -> list[Path]:
        return self.child.table_folders

    def first_block(self, order: Mapping[str, Any]) -> int:
        return int(self.child.field("first_block"))

    def weights(self) -> tuple[Mapping[str, Tensor], str]:
        """Those that it has come to.

        Raises:
            UserError: it has no checkpoint yet, so that they were its parent's.
        """
        checkpoint = self.child.checkpoints.newest()
        if checkpoint is None:
            raise UserError(
                f"{self.child.path} has no checkpoint yet, and its parent {self.child.field('parent')['name']} is not "
                "there: restore the parent"
            )
        return checkpoint.weights(), str(checkpoint.path)


def begun_from(start: FromRunSettings, runs: Path) -> list[Run]:
    """The children in a folder that were begun with such a start, from a parent that is no longer there."""
    if Path(start.run).exists():
        return []
    found = []
    for path in sorted(runs.glob("*/manifest.json")):
        child = Run(path.parent)
        try:
            manifest = child.manifest
            if "start" not in manifest.get("identity", {}) or manifest["parent"]["name"] != Path(start.run).name:
                continue
            child.check()
            if child.config.start.with_values(run=start.run) == start:
                found.append(child)
        except (UserError, KeyError):
            continue
    return found
