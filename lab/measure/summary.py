"""From the rows of ``scores.csv`` to the short table of a run."""

from collections import defaultdict
from collections.abc import Iterable, Sequence

import numpy as np

from lab.measure.interval import document_interval
from lab.measure.measure import Row


def by_document(rows: Iterable[Row], measure: str, start: int, stop: int) -> dict[str, float]:
    """Each document's token-weighted mean of a measure's rows inside positions [start, stop)."""
    losses, weights = defaultdict(list), defaultdict(list)
    for row in rows:
        if row["measure"] == measure and start <= row["start_position"] and row["stop_position"] <= stop:
            losses[row["document"]].append(row["loss_nats"])
            weights[row["document"]].append(row["tokens"])
    return {name: float(np.average(losses[name], weights=weights[name])) for name in losses}


def longest_of(rows: Iterable[Row], measure: str) -> int:
    """Where a measure's last position ends, 0 if it has no rows."""
    return max((row["stop_position"] for row in rows if row["measure"] == measure), default=0)


def summarise(rows: Sequence[Row], context: int, resamples: int = 10_000) -> list[Row]:
    """Loss in [0, C), [C, 2C), [2C, 4C), ..., and the excess, each with a 95 % interval over documents.

    A document counts once, however many of its segments were scored. Columns: quantity, start_position,
    stop_position, mean_nats, low_nats, high_nats, documents; low and high as in
    :func:`lab.measure.interval.document_interval`.
    """
    longest = {name: longest_of(rows, name) // context for name in ("loss_by_position", "excess")}
    quantities = []
    start, stop = 0, 1
    while start < longest["loss_by_position"]:
        named = ", ".join(f"{n}C" if n > 1 else "C" if n else "0" for n in (start, stop))
        quantities.append(("loss_by_position", f"loss [{named})", start, stop))
        start, stop = stop, min(2 * stop, longest["loss_by_position"])
    quantities.append(("excess", "excess", longest["excess"] // 2, longest["excess"]))
    table = []
    for measure, quantity, start, stop in quantities:
        values = by_document(rows, measure, start * context, stop * context)
        if not values:
            continue
        interval = document_interval(list(values.values()), resamples)
        table.append(
            {
                "quantity": quantity,
                "start_position": start * context,
                "stop_position": stop * context,
                "mean_nats": interval.mean,
                "low_nats": interval.low,
                "high_nats": interval.high,
                "documents": interval.documents,
            }
        )
    return table
