"""The pictures of a comparison, from its tables alone: one figure a question."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from lab.base.tables import Row
from lab.observe.measure import Measure
from lab.observe.study import Headline, Lines, Points
from lab.report.pictures import style_of

HIGHEST_PERPLEXITY = 1e5
WIDEST = 13.0  # inches of a map, whatever it has
MOST_TICKS = 20  # written along a side of a map
OVER_SEEDS = "95 % interval over seeds and documents' clusters"
FIXED_SEEDS = "95 % interval over documents' clusters, these seeds"
# A legend covers the lines behind it, so that it can be read.
LEGEND: dict[str, Any] = {"fontsize": 8, "title_fontsize": 8, "facecolor": "white", "edgecolor": "none"}


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
    along = sorted({float(row["tokens"]) for row in rows})
    if along and along[0] == 0:  # which no logarithm has
        axes.set_xscale("symlog", base=2, linthresh=next((each for each in along if each), 1.0))
    else:
        axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:.0f}")
    if curve.perplexity:
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.set_xlabel(curve.along)
    axes.set_ylabel(curve.upward)
    axes.grid(alpha=0.25)
    told = f"band: {' or '.join(sorted(bands))}" if bands else None
    axes.legend(title=told, **LEGEND)
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
    if lines.positions or lines.doublings:
        axes.set_xscale("log", base=2)
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:.0f}")
    axes.set_xlabel(lines.along_label)
    axes.set_ylabel(lines.upward_label)
    axes.grid(alpha=0.25)
    axes.legend(title=lines.by_label, **LEGEND)
    return figure


def points_figure(rows: Sequence[Row], points: Points) -> Figure:
    """A study's table as points, a panel for each value of ``points.by``, shaded by another column."""
    values = sorted({row[points.by] for row in rows})
    across = min(4, len(values))
    down = math.ceil(len(values) / across)
    figure = Figure(figsize=(2.6 * across, 2.3 * down + 0.4), layout="constrained")
    panels = figure.subplots(down, across, squeeze=False)
    by, along, upward, shade = points.labels
    drawn = None
    for axes, value in zip(panels.flat, [*values, *[None] * (down * across - len(values))], strict=True):
        if value is None:
            axes.set_axis_off()
            continue
        own = [row for row in rows if row[points.by] == value]
        drawn = axes.scatter(
            [row[points.along] for row in own],
            [row[points.upward] for row in own],
            c=[row[points.shade] for row in own],
            cmap="viridis",
            s=6,
        )
        axes.set_title(f"{by} {value}", fontsize=8)
        axes.tick_params(labelsize=6)
    figure.supxlabel(along, fontsize=8)
    figure.supylabel(upward, fontsize=8)
    if drawn is not None:
        bar = figure.colorbar(drawn, ax=list(panels.flat), shrink=0.6)
        bar.set_label(shade, fontsize=8)
        bar.ax.tick_params(labelsize=7)
    return figure


def headline_figure(rows: Sequence[Row], headline: Headline) -> Figure:
    """What several runs are compared by: a line for each variant, with a band where it has an interval; along words
    instead of numbers, marks with bars."""
    if any(isinstance(row[headline.along], str) for row in rows):
        return _marks_figure(rows, headline)
    figure = Figure(figsize=(7, 4.2), layout="constrained")
    axes = figure.subplots()
    variants = list(dict.fromkeys(str(row["variant"]) for row in rows))
    banded = False
    for name in variants:
        own = sorted((row for row in rows if row["variant"] == name), key=lambda row: float(row[headline.along]))
        colour, style = style_of(name, variants)
        along = [row[headline.along] for row in own]
        axes.plot(along, [row["value"] for row in own], style, color=colour, label=name, marker="o", markersize=3)
        if all(row["low"] is not None for row in own):
            axes.fill_between(
                along, [row["low"] for row in own], [row["high"] for row in own], color=colour, alpha=0.15, linewidth=0
            )
            banded = True
    axes.set_xlabel(headline.along_label)
    axes.set_ylabel(headline.value_label)
    if headline.along == "step":  # kept at doublings
        axes.set_xscale("log", base=2)
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:.0f}")
    else:
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(alpha=0.25)
    title = "band: 95 % interval over runs (Student)" if banded else None
    axes.legend(title=title, **LEGEND)
    return figure


def _marks_figure(rows: Sequence[Row], headline: Headline) -> Figure:
    words = list(dict.fromkeys(str(row[headline.along]) for row in rows))
    variants = list(dict.fromkeys(str(row["variant"]) for row in rows))
    figure = Figure(figsize=(7, 1.2 + 0.28 * len(words)), layout="constrained")
    axes = figure.subplots()
    for number, name in enumerate(variants):
        colour, _ = style_of(name, variants)
        shift = (number - (len(variants) - 1) / 2) * 0.6 / len(variants)
        for row in (row for row in rows if row["variant"] == name):
            at = words.index(str(row[headline.along])) + shift
            axes.plot(row["value"], at, "o", color=colour, markersize=4)
            if row["low"] is not None:
                axes.plot([row["low"], row["high"]], [at, at], color=colour, linewidth=1.2)
        axes.plot([], [], "o", color=colour, label=name)
    axes.axvline(0, color="0.6", linewidth=0.8)
    axes.set_yticks(range(len(words)), words, fontsize=8)
    axes.invert_yaxis()
    axes.set_xlabel(headline.value_label)
    axes.set_ylabel(headline.along_label)
    axes.grid(alpha=0.25, axis="x")
    axes.legend(title="bars: 95 % interval over runs, if three or more", **LEGEND)
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
    """Mark the end of the training window; the legend names it, so that no name stands on a curve."""
    axes.axvline(context, color="0.3", linewidth=1, label=f"C = {context:,}")


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
    wide, high = 0.62 * len(columns) + 2, 0.36 * len(lines) + 1.2
    figure = Figure(figsize=(min(max(4.5, wide), WIDEST), min(max(2.2, high), WIDEST)), layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(table, aspect="auto", cmap="viridis" if reverse else "viridis_r")
    each = math.ceil(len(lines) / MOST_TICKS)
    axes.set_yticks(range(0, len(lines), each), [str(line) for line in lines[::each]])
    each = math.ceil(len(columns) / MOST_TICKS)
    named = [f"{column:,}" if isinstance(column, int | float) else str(column) for column in columns]
    axes.set_xticks(range(0, len(columns), each), named[::each], rotation=45, ha="right")
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
    axes.legend(**LEGEND)
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


def pairs_figure(
    rows: Sequence[Row],
    compared: Mapping[str, Sequence[float] | np.ndarray],
    boundaries: Mapping[str, float],
    title: str,
) -> Figure:
    """By how much each pair of RoPE's dimensions is interpolated, beside other rules.

    Args:
        rows: pair, factor, and length where there are several sets.
        compared: factors of each pair by other rules.
        boundaries: indices that a rule has, by name.
    """
    figure = Figure(figsize=(7, 4.2), layout="constrained")
    axes = figure.subplots()
    for name, factors in compared.items():
        axes.plot(range(len(factors)), factors, ":", linewidth=1.2, label=name)
    for length in dict.fromkeys(row["length"] for row in rows):
        own = [row for row in rows if row["length"] == length]
        label = "this one" if length is None else f"this one, {length:,} tokens"
        axes.plot([row["pair"] for row in own], [row["factor"] for row in own], marker="o", markersize=3, label=label)
    for name, index in boundaries.items():
        axes.axvline(index, color="grey", linewidth=0.8)
        axes.annotate(f" {name}", (index, 1), xycoords=("data", "axes fraction"), va="top", fontsize=8, color="grey")
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_formatter("{x:g}")
    axes.set_xlabel("pair of dimensions, from the fastest")
    axes.set_ylabel("factor that its frequency is divided by")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.legend(**LEGEND)
    axes.set_title(title, fontsize=10)
    return figure
