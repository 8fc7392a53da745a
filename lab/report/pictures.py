"""Pictures of scores, as PNG and SVG."""

import io
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from scipy import stats

from lab.errors import UserError
from lab.files import write_whole

Row = dict[str, Any]
# Okabe and Ito's palette: told apart by readers with any colour vision; line styles help in print.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
STYLES = ("-", "--", "-.", ":")


def curve(rows: Sequence[Row]) -> tuple[np.ndarray, np.ndarray]:
    """Positions [bins] (centres) and losses [documents, bins] of the rows of ``loss_by_position``.

    Raises:
        UserError: there are no such rows, or documents were scored at different positions.
    """
    losses: dict[str, dict[float, list[float]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        if row["measure"] == "loss_by_position":
            centre = (row["start_position"] + row["stop_position"] - 1) / 2
            losses[row["document"]][centre].append(row["loss_nats"])
    if not losses:
        raise UserError("the scores hold no rows of loss_by_position; score the run again with overwrite=true")
    positions = sorted(next(iter(losses.values())))
    for name, document in losses.items():
        if sorted(document) != positions:
            raise UserError(f"the scores of {name} lack positions that others have; score again with overwrite=true")
    table = [[np.mean(document[position]) for position in positions] for document in losses.values()]
    return np.array(positions), np.array(table)


def draw_losses(axes: Axes, curves: Mapping[str, Sequence[Row]], context: int) -> None:
    """Mean over documents of the loss against the number of tokens read, one line each, with the window's edge.

    The band is Student's 95 % interval of the mean over documents; three or more of them have one.
    """
    bands = False
    for index, (label, rows) in enumerate(curves.items()):
        positions, losses = curve(rows)
        colour, style = COLOURS[index % len(COLOURS)], STYLES[index % len(STYLES)]
        mean = losses.mean(axis=0)
        axes.plot(positions + 1, mean, style, color=colour, label=label, linewidth=1.6)
        if len(losses) > 2:
            error = stats.t.ppf(0.975, len(losses) - 1) * losses.std(axis=0, ddof=1) / np.sqrt(len(losses))
            axes.fill_between(positions + 1, mean - error, mean + error, color=colour, alpha=0.12, linewidth=0)
            bands = True
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
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:.0f}")
    axes.set_xlabel("tokens read (position + 1)")
    axes.set_ylabel("loss (nats per token)")
    axes.grid(alpha=0.25)
    lines, _ = axes.get_legend_handles_labels()
    band = [Patch(color="0.5", alpha=0.25, linewidth=0, label="95 % interval over documents")] * bands
    axes.legend(handles=[*lines, *band], fontsize=8, frameon=False)


def save(figure: Figure, path: Path) -> None:
    """``path`` with the endings .png and .svg; the same figure gives the same bytes."""
    FigureCanvasAgg(figure)
    with mpl.rc_context({"svg.hashsalt": "context-window-lab", "svg.fonttype": "path"}):
        for ending, metadata in (("svg", {"Date": None}), ("png", {"Software": None})):
            content = io.BytesIO()
            figure.savefig(content, format=ending, dpi=150, metadata=metadata)
            write_whole(path.with_name(f"{path.name}.{ending}"), content.getvalue())


def loss_by_position_picture(curves: Mapping[str, Sequence[Row]], context: int, path: Path) -> None:
    """Loss against position to ``path``.png and .svg.

    Args:
        curves: label to rows of ``scores.csv``, one line each.
        context: C in tokens, marked as the window's edge.
        path: without its ending.

    Raises:
        UserError: the rows hold no such losses, or a file cannot be written.
    """
    figure = Figure(figsize=(7, 4.2), layout="constrained")
    draw_losses(figure.subplots(), curves, context)
    save(figure, path)


def comparison_picture(
    curves: Mapping[str, Sequence[Row]], excesses: Mapping[str, Row], context: int, path: Path
) -> None:
    """Loss against position of several runs, and beside it each run's excess with its interval.

    Args:
        excesses: label to the run's row ``excess`` of its summary; same labels and order as ``curves``.

    Others and errors as in :func:`loss_by_position_picture`.
    """
    figure = Figure(figsize=(11, 4.6), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(3, 2))
    draw_losses(left, curves, context)
    for index, row in enumerate(excesses.values()):
        mean, colour = row["mean_nats"], COLOURS[index % len(COLOURS)]
        right.plot([row["low_nats"], row["high_nats"]], [index, index], "|-", color=colour, linewidth=1.6)
        right.plot(mean, index, "o", color=colour)
        right.annotate(
            f"{mean:+.2f}", (mean, index), xytext=(0, 8), textcoords="offset points", ha="center", fontsize=8
        )
    right.axvline(0, color="0.3", linewidth=1, zorder=1)
    right.set_yticks(range(len(excesses)), list(excesses))
    right.invert_yaxis()
    right.margins(y=0.12)
    right.set_xlabel("excess (nats per token), 95 % interval\ngiven the whole prefix minus restarted")
    right.grid(alpha=0.25, axis="x")
    save(figure, path)
