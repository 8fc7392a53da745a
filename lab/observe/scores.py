"""``scores.csv``: every observation of a run, one a row; what is scored again takes the place of what it was."""

import hashlib
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from lab.base.errors import UserError
from lab.base.tables import read_table, write_table
from lab.observe.measure import BESIDE, OBSERVED, Row

# What names a row beside what is observed.
#   measure     its name; one choice of measure= may give rows of several
#   setting     digest of the measure's settings: the manifest, under "measured", spells them out
#   evaluation  name and digest of the held-out documents
#   step        optimiser step of the checkpoint
#   precision   type that the decoder computed in
#   document    what was scored
NAMED = ("measure", "setting", "evaluation", "step", "precision", "document")
# Beside: the document's author, or whatever else documents are alike in.
COLUMNS = (*NAMED, "cluster", *OBSERVED)
Key = tuple[Any, ...]


def proof(rows: Iterable[Row]) -> str:
    """sha256 of rows, in whatever order."""
    told = sorted(json.dumps([row[column] for column in COLUMNS] + _beside(row)) for row in rows)
    return hashlib.sha256("\n".join(told).encode()).hexdigest()


def _beside(row: Row) -> list[tuple[str, Any]]:
    """The columns that a row has only if it has a use for them."""
    return [(column, row[column]) for column in BESIDE if row.get(column) is not None]


def key(row: Row) -> Key:
    """What tells one observation from all others."""
    where = ("segment", "length_tokens", "distance_tokens", "start_position", "layer", "head")
    return tuple(row.get(column) for column in (*NAMED, *where))


class Scores:
    """The scores of a run.

    Raises:
        UserError: scores.csv is damaged, or holds an observation twice.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._rows: dict[Key, Row] = {}
        rows = read_table(path, COLUMNS, numbers=BESIDE) if path.exists() else []
        self.add(rows)
        if len(self._rows) != len(rows):
            raise UserError(f"{path} holds an observation twice; delete it and score the run again")

    @property
    def rows(self) -> list[Row]:
        """All rows, in the order in which they were observed first."""
        return list(self._rows.values())

    def select(self, **columns: Any) -> list[Row]:
        """The rows that have these values."""
        return [row for row in self._rows.values() if all(row[name] == value for name, value in columns.items())]

    def add(self, rows: Iterable[Row]) -> None:
        """Take up rows; one of the same key is replaced."""
        for row in rows:
            full = {column: row.get(column) for column in COLUMNS} | dict(_beside(row))
            self._rows[key(full)] = full

    def drop(self, rows: Sequence[Row]) -> None:
        """Forget rows."""
        for row in rows:
            del self._rows[key(row)]

    def write(self) -> None:
        """To the disk, whole or not at all; no rows are no file. Raises UserError if it cannot be written."""
        if self._rows:
            used = [column for column in BESIDE if any(column in row for row in self.rows)]
            write_table(self.path, [dict.fromkeys((*COLUMNS, *used)) | row for row in self.rows])
        else:
            self.path.unlink(missing_ok=True)
