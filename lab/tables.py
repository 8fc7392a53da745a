"""Tidy CSV files: one observation a line, columns by name, units in the names."""

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lab.errors import UserError
from lab.files import write_whole

Row = dict[str, Any]
# All other columns hold numbers. By name, because a document may well be called 1984.
TEXT = {
    "measure",
    "setting",
    "evaluation",
    "precision",
    "document",
    "quantity",
    "variant",
    "reference",
    "run",
    "key",
    "order_fingerprint",
    "kind",
    "value",
    "verdict",
    "unit",
    "allowed",
    "told",
    "length_told",
    "interval_told",
    "contestant",
    "scale",
    "device",
}


def write_table(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """One observation a line; columns as in the first row; floats with all their digits; None is an empty cell.

    Raises:
        UserError: the file cannot be written.
    """
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_whole(path, text.getvalue().encode())


def read_table(path: Path, columns: Sequence[str] = (), remedy: str = "delete it and score the run again") -> list[Row]:
    """The rows of a table, numbers as numbers, an empty cell of a number as None.

    Args:
        columns: that the table must have; more are welcome.
        remedy: what to do about a damaged one, for the message.

    Raises:
        UserError: no such file, a column is missing, a line does not fit the header, or a number is none.
    """
    try:
        text = path.read_bytes().decode()
        table = csv.DictReader(io.StringIO(text, newline=""), strict=True)
        rows = list(table)
    except (OSError, csv.Error, UnicodeDecodeError) as error:
        reason = error.strerror.lower() if isinstance(error, OSError) and error.strerror else error
        raise UserError(f"{path} cannot be read ({reason}); {remedy}") from None
    missing = set(columns) - set(table.fieldnames or ())
    if missing:
        raise UserError(f"{path} lacks the column {', '.join(sorted(missing))}; {remedy}")
    if not rows or not text.endswith("\n"):
        raise UserError(f"{path} is empty or ends in the middle of a line; {remedy}")
    for number, row in enumerate(rows, start=2):
        if None in row or None in row.values():
            raise UserError(f"{path} line {number} does not fit its header; {remedy}")
    try:
        return [{key: value if key in TEXT else parse(key, value) for key, value in row.items()} for row in rows]
    except ValueError as error:
        raise UserError(f"{path}: {error}; {remedy}") from None


def parse(column: str, value: str) -> int | float | None:
    """The number that a text holds, None for an empty one; ValueError names the column of one that holds none."""
    if not value:
        return None
    for kind in (int, float):
        try:
            return kind(value)
        except ValueError:
            continue
    raise ValueError(f"column {column} holds {value!r}, which is no number")
