"""The pictures of a comparison, from its tables alone: one figure a question."""

from collections.abc import Sequence

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from lab.base.tables import Row
from lab.observe.measure import Measure
from lab.observe.study import Lines
from lab.report.pictures import style_of

HIGHEST_PERPLEXITY = 1e5
OVER_SEEDS = "95 % interval over seeds and documents' clusters"
FIXED_SEEDS = "95 % interval over documents' clusters, these seeds"


def curve_figure(rows: Sequence[Row], measure: type[Measure], variants: Sequence[str], context: int) -> Figure:
    """A measure's curve for each variant, or for one run, with a band and the window's edge.

    The band is the 95 % interval that ``low`` and ``high`` say, over seeds too or over the documents' clusters alone.
    Neighbouring points far along the axis are shown as one; the table has all.

    Args:
        rows: of one set of documents with measure, line, variant, tokens, mean, low, high, over_seeds.
        context: C in tokens.

    Raises:
        ValueError: the measure has no curve.
    """
    curve = measure.curve
    if curve is None:
        raise ValueError(f"{measure.label()} has no curve")
    figure = Figure(figsize=(7, 4.2), layout="constrained")
    axes = figure.subplots()
    bands: set[str] = set()
    for name in variants:
        own = sorted(
            (row for row in rows if row["line"] == measure.label() and row["variant"] == name),
            key=lambda row: float(row["tokens"]),
        )
        if not own:
            continue
        tokens, mean, low, high = (
            np.array([np.mean([row[column] for row in group], dtype=float) for group in grouped(own)])
            for column in ("tokens", "mean", "low", "high")
        )
        if curve.perplexity:
            mean, low, high = (np.exp(np.minimum(values, np.log(HIGHEST_PERPLEXITY))) for values in (mean, low, high))
        colour, style = style_of(name, variants)
        marker = "o" if len(tokens) < 20 else ""
        axes.plot(tokens, mean, style, color=colour, label=name, linewidth=1.6, marker=marker, markersize=3)
        if np.isfinite(low).all() and (high > low).any():
            axes.fill_between(tokens, low, high, color=colour, alpha=0.15, linewidth=0)
            bands.add(OVER_SEEDS if own[0]["over_seeds"] else FIXED_SEEDS)
    edge(axes, context)
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:.0f}")
    if curve.perplexity:
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.set_xlabel(curve.along)
    axes.set_ylabel(curve.upward)
    axes.grid(alpha=0.25)
    told = f"band: {' or '.join(sorted(bands))}" if bands else None
    axes.legend(fontsize=8, frameon=False, title=told, title_fontsize=8)
    return figure


def contrast_figure(rows: Sequence[Row], measure: type[Measure]) -> Figure | None:
    """The difference of a measure's two lines for each variant and length, as a map; None if it has none."""
    if measure.contrast is None:
        return None
    minuend, subtrahend = measure.contrast
    of_line = {(row["line"], row["variant"], row["tokens"]): row["mean"] for row in rows}
    gained = [
        {"variant": name, "tokens": tokens, "gain": of_line[minuend, name, tokens] - value}
        for (line, name, tokens), value in of_line.items()
        if line == subtrahend and (minuend, name, tokens) in of_line
    ]
    if not gained:
        return None
    along = measure.curve.along if measure.curve else "tokens"
    return heat_map(gained, "variant", "tokens", "gain", ("", along, "nats gained"), reverse=True)


def detail_figure(rows: Sequence[Row], measure: type[Measure], title: str) -> Figure | None:
    """A measure's own table as a map, None if it is not drawn."""
    told = measure.detail_map()
    if told is None or not rows:
        return None
    down, across, value, *labels = told
    ordered = sorted(rows, key=lambda row: row[down])
    figure = heat_map(ordered, down, across, value, (labels[0], labels[1], labels[2]), reverse=True)
    figure.axes[0].set_title(title, fontsize=9)
    return figure


def lines_figure(rows: Sequence[Row], lines: Lines, context: int) -> Figure:
    """A study's table as lines; a colour map tells more than a few apart.

    Args:
        rows: with the columns that ``lines`` names.
        context: C in tokens.
    """
    figure = Figure(figsize=(7, 4.2), layout="constrained")
    axes = figure.subplots()
    values = sorted({row[lines.by] for row in rows})
    shades = mpl.colormaps["viridis"](np.linspace(0, 0.9, len(values)))
    for value, shade in zip(values, shades, strict=True):
        own = sorted((row for row in rows if row[lines.by] == value), key=lambda row: float(row[lines.along]))
        along, upward = ([row[column] for row in own] for column in (lines.along, lines.upward))
        axes.plot(
            along,
            upward,
            "-",
            color=shade,
            label=f"{value:,}" if isinstance(value, int) else str(value),
            linewidth=1.6,
            marker="o",
            markersize=2.5,
        )
    if lines.positions:
        edge(axes, context)
        axes.set_xscale("log", base=2)
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:.0f}")
    axes.set_xlabel(lines.along_label)
    axes.set_ylabel(lines.upward_label)
    axes.grid(alpha=0.25)
    axes.legend(fontsize=8, frameon=False, title=lines.by_label, title_fontsize=8)
    return figure


def grouped(rows: Sequence[Row]) -> list[list[Row]]:
    """Points along a logarithmic axis, in groups that span an eighth of where they begin: a picture shows no more."""
    groups: list[list[Row]] = []
    for row in rows:
        if groups and row["tokens"] <= 1.125 * groups[-1][0]["tokens"]:
            groups[-1].append(row)
        else:
            groups.append([row])
    return groups


def edge(axes: Axes, context: int) -> None:
    """Mark the end of the training window."""
    axes.axvline(context, color="0.3", linewidth=1)
    axes.annotate(
        f"C = {context}",
        (context, 0.98),
        xycoords=("data", "axes fraction"),
        xytext=(-3, 0),
        textcoords="offset points",
        rotation=90,
        ha="right",
        va="top",
        fontsize=8,
        color="0.3",
    )


def heat_map(
    rows: Sequence[Row], down: str, across: str, value: str, labels: tuple[str, str, str], reverse: bool = False
) -> Figure:
    """A number for each pair of two columns, as colours with the numbers written in.

    Args:
        down, across, value: columns of the rows.
        labels: of the vertical axis, the horizontal axis, and the colours.
        reverse: dark for high numbers (accuracy) instead of low ones (loss).
    """
    lines = list(dict.fromkeys(row[down] for row in rows))
    columns = sorted({row[across] for row in rows})
    table = np.full((len(lines), len(columns)), np.nan)
    for row in rows:
        table[lines.index(row[down]), columns.index(row[across])] = row[value]
    figure = Figure(
        figsize=(max(4.5, 0.62 * len(columns) + 2), max(2.2, 0.36 * len(lines) + 1.2)), layout="constrained"
    )
    axes = figure.subplots()
    image = axes.imshow(table, aspect="auto", cmap="viridis" if reverse else "viridis_r")
    axes.set_yticks(range(len(lines)), [str(line) for line in lines])
    axes.set_xticks(range(len(columns)), [f"{column:,}" for column in columns], rotation=45, ha="right")
    middle = (np.nanmin(table) + np.nanmax(table)) / 2
    if table.size <= 400:
        for (line, column), number in np.ndenumerate(table):
            if not np.isnan(number):
                dark = number < middle if reverse else number > middle
                axes.text(
                    column, line, f"{number:z.2f}", ha="center", va="center", fontsize=7, color="w" if dark else "k"
                )
    axes.set_ylabel(labels[0])
    axes.set_xlabel(labels[1])
    figure.colorbar(image, ax=axes, label=labels[2])
    return figure


def training_figure(curves: Sequence[Row], variants: Sequence[str]) -> Figure:
    """Validation loss against tokens trained, a line a run; rows with variant, seed, tokens, validation_loss_nats."""
    figure = Figure(figsize=(7, 4.2), layout="constrained")
    axes = figure.subplots()
    for name in variants:
        colour, style = style_of(name, variants)
        of_variant = [row for row in curves if row["variant"] == name]
        for number, seed in enumerate(dict.fromkeys(row["seed"] for row in of_variant)):
            rows = [row for row in of_variant if row["seed"] == seed]
            axes.plot(
                [row["tokens"] / 1e6 for row in rows],
                [row["validation_loss_nats"] for row in rows],
                style,
                color=colour,
                linewidth=1,
                label=None if number else name,
            )
    axes.set_xlabel("tokens trained (millions)")
    axes.set_ylabel("validation loss (nats per token)")
    axes.grid(alpha=0.25)
    axes.legend(fontsize=8, frameon=False)
    return figure


def difference_figure(differences: Sequence[Row], variants: Sequence[str], unit: str) -> Figure:
    """Differences to the reference with their 95 % intervals, one line a variant; rows of one quantity."""
    figure = Figure(figsize=(6, 0.38 * len(differences) + 1.1), layout="constrained")
    axes = figure.subplots()
    for line, row in enumerate(differences):
        colour, _ = style_of(row["variant"], variants)
        axes.plot([row["low"], row["high"]], [line, line], "|-", color=colour, linewidth=1.6)
        axes.plot(row["mean"], line, "o", color=colour)
        if row["least_of_seeds"] is not None and row["seeds"] > 1:
            axes.plot([row["least_of_seeds"], row["most_of_seeds"]], [line + 0.22] * 2, "-", color="0.5", linewidth=1)
    axes.axvline(0, color="0.3", linewidth=1, zorder=1)
    axes.set_yticks(range(len(differences)), [row["variant"] for row in differences])
    axes.invert_yaxis()
    axes.xaxis.set_major_locator(MaxNLocator(5))
    told = OVER_SEEDS if differences[0]["over_seeds"] else FIXED_SEEDS
    axes.set_xlabel(f"minus {differences[0]['reference']} ({unit}); {told}; grey: range over seeds", fontsize=8)
    axes.grid(alpha=0.25, axis="x")
    return figure
