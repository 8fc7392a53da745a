"""The short table on the terminal."""

import math
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from lab.tables import Row

SUMMARY = ("quantity", "start_position", "stop_position", "mean_nats", "low_nats", "high_nats", "documents")


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
