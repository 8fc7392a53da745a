"""What a run directory holds of metrics, read without Lightning, which takes seconds to load."""

import csv
import re
from pathlib import Path

from lab.base.errors import UserError
from lab.base.files import read_text


def rows_in(path: Path) -> list[list[str]]:
    """The rows of a table without its header. Raises UserError if it cannot be read."""
    try:
        return list(csv.reader(read_text(path).splitlines()[1:]))
    except (OSError, ValueError, csv.Error) as error:
        raise UserError(f"{path} cannot be read ({error}); restore it") from None


def number_of(text: str) -> int:
    """The step at the beginning of a row, -1 if none stands there."""
    return int(text) if re.fullmatch(r"\d{1,18}", text, re.ASCII) else -1


def last_step(run: Path) -> int:
    """The step of the last row of a run's metrics.csv, 0 if there is none."""
    path = run / "metrics.csv"
    rows = rows_in(path) if path.exists() else []
    return max((number_of(row[0]) for row in rows if row), default=0)
