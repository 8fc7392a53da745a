"""Tidy CSV files: one observation a line, columns by name, units in the names; the last column is the format."""

import csv
import gzip
import io
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lab.base.errors import UserError
from lab.base.files import write_whole

Row = dict[str, Any]
FORMAT = 3  # of all tables, in their column ``format``; raised when what stands in them changes its meaning
# All other columns hold numbers. By name, because a document may well be called 1984.
TEXT = {
    "measure",
    "setting",
    "evaluation",
    "precision",
    "document",
    "cluster",
    "line",
    "quantity",
    "variant",
    "reference",
    "run",
    "key",
    "order_fingerprint",
    "kind",
    "value",
    "prompt",
    "continuation",
    "verdict",
    "unit",
    "allowed",
    "told",
    "length_told",
    "clusters_told",
    "claim",
    "sentence",
    "source",
    "interval_told",
    "contestant",
    "scale",
    "device",
    "study",
}
# A number, but of a child whose parent has another seed the seeds of the chain: 1 of 0.
MIXED = {"seed"}


def write_table(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """One observation a line; columns as in the first row, then the format; floats with all their digits; None is an
    empty cell. A name that ends in .gz is compressed.

    Raises:
        UserError: the file cannot be written.
    """
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=[*rows[0], "format"], lineterminator="\n")
    writer.writeheader()
    writer.writerows(row | {"format": FORMAT} for row in map(dict, rows))
    content = text.getvalue().encode()
    write_whole(path, gzip.compress(content, mtime=0) if path.suffix == ".gz" else content)


def read_table(path: Path, columns: Sequence[str] = (), remedy: str = "delete it and score the run again") -> list[Row]:
    """The rows of a table without their format, numbers as numbers, an empty cell of a number as None.

    Args:
        columns: that the table must have; more are welcome.
        remedy: what to do about a damaged one, for the message.

    Raises:
        UserError: no such file, another format, a column is missing, a line does not fit the header, or a number is
            none.
    """
    try:
        content = path.read_bytes()
        text = (gzip.decompress(content) if path.suffix == ".gz" else content).decode()
        table = csv.DictReader(io.StringIO(text, newline=""), strict=True)
        rows = list(table)
    except (OSError, EOFError, zlib.error, csv.Error, UnicodeDecodeError) as error:
        reason = error.strerror.lower() if isinstance(error, OSError) and error.strerror else error
        raise UserError(f"{path} cannot be read ({reason}); {remedy}") from None
    told = {row.get("format") for row in rows} or {str(FORMAT)}
    if told != {str(FORMAT)} and "format" not in (table.fieldnames or ()):
        raise UserError(f"{path} was written by an earlier version of the lab (it has no column format); {remedy}")
    missing = set(columns) - set(table.fieldnames or ())
    if missing:
        raise UserError(f"{path} lacks the column {', '.join(sorted(missing))}; {remedy}")
    if not rows or not text.endswith("\n"):
        raise UserError(f"{path} is empty or ends in the middle of a line; {remedy}")
    for number, row in enumerate(rows, start=2):
        if None in row or None in row.values():
            raise UserError(f"{path} line {number} does not fit its header; {remedy}")
    if other := told - {str(FORMAT)}:
        named = f"format {min(map(str, other))}" if min(map(str, other)) else "an empty format"
        raise UserError(f"{path} has {named}, and this version reads {FORMAT}; {remedy}")
    try:
        return [
            {key: value if key in TEXT else parse(key, value) for key, value in row.items() if key != "format"}
            for row in rows
        ]
    except ValueError as error:
        raise UserError(f"{path}: {error}; {remedy}") from None


def parse(column: str, value: str) -> int | float | str | None:
    """The number that a text holds, None for an empty one; ValueError names the column of one that holds none."""
    if not value:
        return None
    for kind in (int, float):
        try:
            return kind(value)
        except ValueError:
            continue
    if column in MIXED:
        return value
    raise ValueError(f"column {column} holds {value!r}, which is no number")
