"""Pictures of scores, as PNG and SVG."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

Row = dict[str, Any]
# Okabe and Ito's palette: told apart by readers with any colour vision; line styles help in print.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
STYLES = ("-", "--", "-.", ":")


def curve(rows: Sequence[Row]) -> tuple[np.ndarray, np.ndarray]:
    """Positions [bins] (centres) and losses [documents, bins] of the rows of ``loss_by_position``."""
    losses: dict[str, dict[float, list[float]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        if row["measure"] == "loss_by_position":
            centre = (row["start_position"] + row["stop_position"] - 1) / 2
            losses[row["document"]][centre].append(row["loss_nats"])
    positions = sorted(next(iter(losses.values())))
    table = [[np.mean(document[position]) for position in positions] for document in losses.values()]
    return np.array(positions), np.array(table)


def draw_losses(axes: Axes, curves: Mapping[str, Sequence[Row]], context: int) -> None:
    """Mean over documents of the loss against position, one line each, with the window's edge."""
    for index, (label, rows) in enumerate(curves.items()):
        positions, losses = curve(rows)
        colour, style = COLOURS[index % len(COLOURS)], STYLES[index % len(STYLES)]
        mean = losses.mean(axis=0)
        axes.plot(positions + 1, mean, style, color=colour, label=label, linewidth=1.6)
        if len(curves) == 1 and len(losses) > 2:
            error = 1.96 * losses.std(axis=0, ddof=1) / np.sqrt(len(losses))
            axes.fill_between(
                positions + 1,
                mean - error,
                mean + error,
                color=colour,
                alpha=0.15,
                linewidth=0,
                label="95 % over documents (normal)",
            )
    axes.axvline(context, color="0.3", linewidth=1)
    axes.annotate(
        f"edge of the training window, C = {context}",
        (context, 0.98),
        xycoords=("data", "axes fraction"),
        xytext=(-4, 0),
        textcoords="offset points",
        rotation=90,
        ha="right",
        va="top",
        fontsize=8,
        color="0.3",
    )
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.set_xlabel("position in the block (tokens)")
    axes.set_ylabel("loss (nats per token)")
    axes.grid(alpha=0.25)
    axes.legend(fontsize=8, frameon=False)


def save(figure: Figure, path: Path) -> None:
    """``path`` with the endings .png and .svg; the same figure gives the same bytes."""
    FigureCanvasAgg(figure)
    with mpl.rc_context({"svg.hashsalt": "context-window-lab", "svg.fonttype": "path"}):
        figure.savefig(path.with_name(path.name + ".svg"), metadata={"Date": None})
        figure.savefig(path.with_name(path.name + ".png"), dpi=150, metadata={"Software": None})


def loss_by_position_picture(curves: Mapping[str, Sequence[Row]], context: int, path: Path) -> None:
    """Loss against position to ``path``.png and .svg; ``curves`` maps a label to rows of ``scores.csv``."""
    figure = Figure(figsize=(7, 4.2), layout="constrained")
    draw_losses(figure.subplots(), curves, context)
    save(figure, path)


def comparison_picture(
    curves: Mapping[str, Sequence[Row]], excesses: Mapping[str, Row], context: int, path: Path
) -> None:
    """Loss against position of several runs, and beside it each run's excess with its interval.

    Args:
        excesses: label to the run's row ``excess`` of its summary.
    """
    figure = Figure(figsize=(11, 4.6), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(3, 2))
    draw_losses(left, curves, context)
    for index, row in enumerate(excesses.values()):
        mean = row["mean_nats"]
        error = [[mean - row["low_nats"]], [row["high_nats"] - mean]]
        right.errorbar(mean, index, xerr=error, fmt="o", color=COLOURS[index % len(COLOURS)], capsize=3)
        right.annotate(
            f"{mean:+.2f}", (mean, index), xytext=(0, 6), textcoords="offset points", ha="center", fontsize=8
        )
    right.axvline(0, color="0.3", linewidth=1)
    right.set_yticks(range(len(excesses)), list(excesses))
    right.invert_yaxis()
    right.margins(y=0.12)
    right.set_xlabel("excess (nats): whole prefix minus restarted, 95 % interval")
    right.grid(alpha=0.25, axis="x")
    save(figure, path)
