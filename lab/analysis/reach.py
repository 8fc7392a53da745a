"""Reach: how many positions does a windowed decoder tell apart, layer by layer, and how many could it?"""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Literal

from lab.analysis.vector_study import VectorStudy
from lab.base.parts import part
from lab.observe.measure import Row
from lab.observe.study import Headline, Lines, Number

if TYPE_CHECKING:
    from lab.observe.fold import Fold
    from lab.observe.vectors import Vectors


@part("study")
class Reach(VectorStudy):
    """Positions inside C that are told apart by their bases, against the layers x (W - 1) + 1 tokens whose presence a
    state of that layer can depend on (arXiv 2405.18009, "theoretical receptive field"; of full attention,
    all)."""

    pictures = (
        Lines(
            title="Positions told apart and reach",
            by="counted",
            along="layer",
            upward="positions",
            by_label="",
            along_label="layer",
            upward_label="positions inside C",
        ),
    )
    headline = Headline("layer", "told_apart", "layer", "positions told apart")

    name: Literal["reach"] = "reach"

    def rows(self, fold: "Fold", vectors: "Vectors") -> list[Row]:
        found = []
        for layer in range(vectors.layers):
            told = float(vectors.told_apart(layer).sum())
            reach = vectors.context
            if vectors.window is not None:
                reach = min(reach, layer * (vectors.window - 1) + 1)
            for counted, positions in (("told apart", told), ("reach", float(reach))):
                row: Row = {"layer": layer, "counted": counted, "positions": positions, "windows": vectors.windows}
                found.append(row | ({"told_apart": told} if counted == "told apart" else {"told_apart": None}))
        return found

    def numbers(self, fold: "Fold", rows: Sequence[Row]) -> Iterator[Number]:
        """Of each layer positions told apart, as a share of its reach."""
        by_layer: dict[int, dict[str, float]] = {}
        for row in rows:
            by_layer.setdefault(row["layer"], {})[row["counted"]] = row["positions"]
        for layer, counted in by_layer.items():
            yield Number(f"share of the reach told apart in layer {layer}", counted["told apart"] / counted["reach"])
