"""Tidy CSV files, and the short table on the terminal."""

import csv
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from lab.errors import UserError

Row = dict[str, Any]


def write_table(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """One observation a line; columns as in the first row. Written beside and renamed, so never half a file."""
    beside = path.with_name(path.name + ".new")
    with open(beside, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    os.replace(beside, path)


def read_table(path: Path) -> list[Row]:
    """The rows of a table, numbers as numbers.

    Raises:
        UserError: no such file, or a line that does not fit the header.
    """
    try:
        with open(path, newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file, strict=True))
    except (OSError, csv.Error, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read ({error}); score the run again with overwrite=true") from None
    for number, row in enumerate(rows, start=2):
        if None in row or None in row.values():
            raise UserError(f"{path} line {number} does not fit its header; score the run again with overwrite=true")
    return [{key: parse(value) for key, value in row.items()} for row in rows]


def parse(value: str) -> Any:
    """An int or a float where the text is one."""
    for kind in (int, float):
        try:
            return kind(value)
        except ValueError:
            continue
    return value


def print_summary(title: str, rows: Sequence[Row]) -> None:
    """The short table of a run, as :func:`lab.measure.summary.summarise` makes it."""
    table = Table(
        "", "positions", "mean (nats)", "95 % interval", title=title, title_justify="left", title_style="bold"
    )
    for row in rows:
        table.add_row(
            row["quantity"],
            f"{row['start_position']} to {row['stop_position'] - 1}",
            f"{row['mean_nats']:.3f}",
            f"{row['low_nats']:.3f} to {row['high_nats']:.3f}",
        )
    table.caption = (
        f"over {rows[0]['documents']} held-out documents; excess: the same tokens given the whole prefix, minus given "
        "only the last C/2 to C tokens from position 0"
    )
    table.caption_justify = "left"
    Console().print(table)
