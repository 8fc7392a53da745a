"""Pictures of the gradient lens over a set of prompts."""

import math
from collections.abc import Sequence

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from lab.base.tables import Row
from lab.gradients.capture import MATRICES
from lab.gradients.parts import PARTS
from lab.gradients.projection import OF_WIDTH
from lab.report.figures import heat_map
from lab.report.pictures import COLOURS, STYLES

TOKENS = ("target", "answer", "random", "frequent")


def places_figure(curves: Sequence[Row]) -> Figure | None:
    """Where target, answer, a random and a frequent token stand, by layer: a panel for each matrix's vectors at the
    prompts' last token, then for each matrix's principal direction; bands are 95 % intervals over prompts."""
    own = [row for row in curves if row["quantity"].startswith("place of ")]
    panels = [(matrix, kind, f"{kind} of {matrix}") for matrix, kind in OF_WIDTH]
    panels += [(matrix, "principal", f"{matrix}: whole gradient") for matrix in MATRICES]
    panels = [each for each in panels if any((row["matrix"], row["vector"]) == each[:2] for row in own)]
    if not panels:
        return None
    across = min(4, len(panels))
    down = math.ceil(len(panels) / across)
    figure = Figure(figsize=(2.9 * across, 2.3 * down + 0.6), layout="constrained")
    grid = figure.subplots(down, across, squeeze=False, sharey=True)
    for axes in [*grid.flat][len(panels) :]:
        axes.set_axis_off()
    for axes, (matrix, vector, title) in zip(grid.flat, panels, strict=False):
        for number, what in enumerate(TOKENS):
            rows = sorted(
                (
                    row
                    for row in own
                    if (row["matrix"], row["vector"], row["quantity"]) == (matrix, vector, f"place of {what}")
                ),
                key=lambda row: int(row["layer"]),
            )
            layers = [row["layer"] for row in rows]
            colour = COLOURS[number]
            axes.plot(
                layers,
                [row["mean"] for row in rows],
                STYLES[number],
                color=colour,
                label=what,
                marker="o",
                markersize=2.5,
            )
            if rows and all(row["low"] is not None for row in rows):
                low, high = ([row[end] for row in rows] for end in ("low", "high"))
                axes.fill_between(layers, low, high, color=colour, alpha=0.15, linewidth=0)
        axes.set_title(title, fontsize=8)
        axes.set_ylim(1.03, -0.03)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.tick_params(labelsize=7)
        axes.grid(alpha=0.25)
    figure.supxlabel("layer", fontsize=8)
    figure.supylabel("place among all tokens (0: top, 1: bottom)", fontsize=8)
    figure.legend(*grid.flat[0].get_legend_handles_labels(), loc="outside upper center", ncols=4, fontsize=8)
    return figure


def lengths_figure(curves: Sequence[Row]) -> Figure | None:
    """Mean length of the backward signals of ``down`` by part of the prompt and layer, as colours."""
    own = [row for row in curves if (row["quantity"], row["matrix"]) == ("delta_norm", "down")]
    if not own:
        return None
    ordered = sorted(own, key=lambda row: PARTS.index(row["part"]))
    return heat_map(ordered, "part", "layer", "mean", ("", "layer", "mean length"), reverse=True)
