"""Tidy CSV files, and the short table on the terminal."""

import csv
import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from lab.errors import UserError
from lab.files import write_whole

Row = dict[str, Any]
SCORES = ("measure", "document", "segment", "start_position", "stop_position", "tokens", "loss_nats")
SUMMARY = ("quantity", "start_position", "stop_position", "mean_nats", "low_nats", "high_nats", "documents")
# All other columns hold numbers. By name, because a document may well be called 1984.
TEXT = {"measure", "document", "quantity", "variant", "run"}


def write_table(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """One observation a line; columns as in the first row; floats with all their digits.

    Raises:
        UserError: the file cannot be written.
    """
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_whole(path, text.getvalue().encode())


def read_table(path: Path, columns: Sequence[str] = ()) -> list[Row]:
    """The rows of a table, numbers as numbers.

    Args:
        columns: that the table must have, such as ``SCORES``; more are welcome.

    Raises:
        UserError: no such file, a column is missing, a line does not fit the header, or a number is none.
    """
    remedy = "score the run again with overwrite=true"
    try:
        text = path.read_bytes().decode()
        table = csv.DictReader(io.StringIO(text, newline=""), strict=True)
        rows = list(table)
    except (OSError, csv.Error, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read ({error}); {remedy}") from None
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


def parse(column: str, value: str) -> int | float:
    """The number that a text holds; ValueError names the column of one that holds none."""
    for kind in (int, float):
        try:
            return kind(value)
        except ValueError:
            continue
    raise ValueError(f"column {column} holds {value!r}, which is no number")


def summary_table(title: str, rows: Sequence[Row]) -> Table:
    """The short table of a run, from the columns ``SUMMARY``."""
    table = Table("", "positions", title=title, title_justify="left", title_style="bold", caption_justify="left")
    table.add_column("mean (nats)", justify="right")
    table.add_column("95 % interval", justify="right")
    for row in rows:
        low, high = row["low_nats"], row["high_nats"]
        table.add_row(
            row["quantity"],
            f"{row['start_position']} to {row['stop_position'] - 1}",
            f"{row['mean_nats']:.3f}",
            "not known" if math.isnan(low) or math.isnan(high) else f"{low:.3f} to {high:.3f}",
        )
    documents = rows[0]["documents"]
    table.caption = (
        f"over {documents} held-out document{'s' * (documents != 1)}; excess: the same tokens given the whole prefix, "
        "minus given only the last C/2 to C tokens from position 0"
    )
    return table


def print_summary(title: str, rows: Sequence[Row]) -> None:
    """The short table of a run on the terminal."""
    Console().print(summary_table(title, rows))
