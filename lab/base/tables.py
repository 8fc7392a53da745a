"""Tidy CSV files: one observation a line, columns by name, units in the names; the last column is the format."""

import csv
import gzip
import io
import math
import re
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lab.base.errors import UserError
from lab.base.files import LARGEST, read_stored, write_whole

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
    "given",
    "source",
    "interval_told",
    "contestant",
    "scale",
    "predictor",
    "feature",
    "device",
    "study",
    "origin",
    "factors",
    "attribute_text",
    "target",
    "target_text",
    "answer_text",
    "subject",
    "matrix",
    "vector",
    "part",
    "token_text",
    "of_token",
    "top_tokens",
    "bottom_tokens",
    "moment",
    "other_text",
    "optimizer",
}
LARGEST_NUMBER = 2**64  # whole numbers are smaller: seeds are, and of larger ones not each has a float
# A number, but of a child whose parent has another seed the seeds of the chain: 1 of 0.
MIXED = {"seed"}

# A spreadsheet computes a cell that begins so, unless it is a number or a range of numbers.
FORMULA = re.compile(r"'*[=+\-@\t\r]")
NUMBERS = re.compile(r"[+-]?[\d.,]+(e[+-]?\d+)?( to [+-]?[\d.,]+(e[+-]?\d+)?)?( .?\w+)?", re.ASCII)


def write_table(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """One observation a line; columns as in the first row, then the format; floats with all their digits; None is an
    empty cell. A text that a spreadsheet would take for a formula gets an apostrophe, which reading takes off. A name
    that ends in .gz is compressed.

    Raises:
        UserError: the file cannot be written.
    """
    text = io.StringIO()
    columns = [*rows[0], "format"]
    few, all_quoted = (
        csv.DictWriter(text, columns, lineterminator="\n", quoting=quoting)
        for quoting in (csv.QUOTE_MINIMAL, csv.QUOTE_ALL)
    )
    few.writeheader()
    for row in rows:
        cells = {key: guarded(value) for key, value in row.items()} | {"format": FORMAT}
        # Until Python 3.13 csv does not quote a carriage return, which would end the line.
        returns = any(isinstance(value, str) and "\r" in value for value in cells.values())
        (all_quoted if returns else few).writerow(cells)
    content = text.getvalue().encode()
    write_whole(path, gzip.compress(content, mtime=0) if path.suffix == ".gz" else content)


def guarded(value: Any) -> Any:
    """A value of a cell, a formula with an apostrophe before it."""
    formula = isinstance(value, str) and FORMULA.match(value) and not NUMBERS.fullmatch(value)
    return f"'{value}" if formula else value


def unguarded(text: str) -> str:
    """The text that :func:`guarded` was given."""
    return text[1:] if text.startswith("'") and FORMULA.match(text) else text


def read_table(
    path: Path,
    columns: Sequence[str] = (),
    remedy: str = "delete it and score the run again",
    numbers: Sequence[str] = (),
) -> list[Row]:
    """The rows of a table without their format, numbers as numbers, an empty cell of a number as None.

    Args:
        columns: that the table must have, their numbers finite; more are welcome.
        numbers: further ones that hold finite numbers here, whatever they hold elsewhere, if the table has them.
        remedy: what to do about a damaged one, for the message.

    Raises:
        UserError: no such file, another format, a column is missing, a line does not fit the header, or a number is
            none, or not finite.
    """
    try:
        content = read_stored(path)
        text = (decompressed(content) if path.suffix == ".gz" else content).decode()
        table = csv.DictReader(io.StringIO(text, newline=""), strict=True)
        rows = list(table)
    except (OSError, EOFError, ValueError, zlib.error, csv.Error) as error:
        reason = error.strerror.lower() if isinstance(error, OSError) and error.strerror else error
        raise UserError(f"{path} cannot be read ({reason}); {remedy}") from None
    told = {row.get("format") for row in rows} or {str(FORMAT)}
    if told != {str(FORMAT)} and "format" not in (table.fieldnames or ()):
        raise UserError(f"{path} was written by an earlier version of the lab (it has no column format); {remedy}")
    missing = set(columns) - set(table.fieldnames or ())
    if missing:
        raise UserError(f"{path} lacks the column {', '.join(sorted(missing))}; {remedy}")
    if len(set(table.fieldnames or ())) < len(table.fieldnames or ()):
        raise UserError(f"{path} has a column twice; {remedy}")
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
            {
                key: unguarded(value)
                if key in TEXT and key not in numbers
                else parse(key, value, finite=key in columns or key in numbers)
                for key, value in row.items()
                if key != "format"
            }
            for row in rows
        ]
    except ValueError as error:
        raise UserError(f"{path}: {error}; {remedy}") from None


def decompressed(content: bytes) -> bytes:
    """What gzip has packed. Raises ValueError for more than a table may be."""
    with gzip.open(io.BytesIO(content)) as file:
        text = file.read(LARGEST + 1)
    if len(text) > LARGEST:
        raise ValueError(f"it unpacks to more than {LARGEST:,} bytes")
    return text


def parse(column: str, value: str, finite: bool) -> int | float | str | None:
    """The number that a text holds, None for an empty one; ValueError names the column of one that holds none, or one
    that is not finite where it must be."""
    if not value:
        return None
    for kind in (int, float):
        try:
            number: int | float = kind(value)
        except ValueError:
            continue
        if isinstance(number, int) and abs(number) >= LARGEST_NUMBER:
            raise ValueError(f"column {column} holds {value[:20]}..., which is larger than any number here")
        if finite and not math.isfinite(number):
            raise ValueError(f"column {column} holds {value[:40]}, which is no finite number")
        return number
    if column in MIXED:
        return value
    raise ValueError(f"column {column} holds {value[:80]!r}, which is no number")
