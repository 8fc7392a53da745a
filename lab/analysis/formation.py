"""Formation: in which layer does a decoder come to know where its tokens stand?"""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Literal

from lab.analysis.vector_study import VectorStudy
from lab.base.parts import part
from lab.observe.measure import Row
from lab.observe.study import Headline, Lines, Number, Points, numbers_by_layer

if TYPE_CHECKING:
    from lab.observe.fold import Fold
    from lab.observe.vectors import Vectors

FIRST = 4  # initial tokens, which the paper finds apart from all others in the first layer


@part("study")
class Formation(VectorStudy):
    """Positional bases inside C, layer by layer (arXiv 2405.18009).

    Their two principal components; how much of their squared length each position has; whether a position is told apart
    by the nearest basis of the other half of the windows; and how much of it all is of the first four positions.
    """

    pictures = (
        Points(
            title="Principal components of the positional basis",
            by="layer",
            along="component_1",
            upward="component_2",
            shade="position",
            labels=("layer", "component 1", "component 2", "position"),
        ),
        Lines(
            title="Positions told apart",
            by="layer",
            along="position",
            upward="told_apart",
            by_label="layer",
            along_label="position",
            upward_label="nearest basis is its own (1) or not (0)",
            positions=True,
        ),
    )
    headline = Headline("layer", "layer_told_apart", "layer", "positions told apart (share)")

    name: Literal["formation"] = "formation"

    def rows(self, fold: "Fold", vectors: "Vectors") -> list[Row]:
        import torch

        found = []
        for layer in range(vectors.layers):
            m = vectors.m(layer)[: vectors.context]
            # Bases inside C have mean 0.
            left, sizes, _ = torch.linalg.svd(m, full_matrices=False)
            coordinates = left[:, :2] * sizes[:2]
            coordinates = coordinates * torch.where(coordinates[-1] < 0, -1.0, 1.0)  # a sign is free
            squares = m.square().sum(-1)
            total = squares.sum()
            shares = squares / total if total > 0 else squares
            explained = sizes.square() / total if total > 0 else sizes
            told = vectors.told_apart(layer)
            of_layer = {
                "component_1_variance": float(explained[0]),
                "component_2_variance": float(explained[1]),
                "layer_told_apart": float(told.mean()),
                "layer_first_share": float(shares[:FIRST].sum()),
                "layer_agreement": vectors.agreement(layer),
                "windows": vectors.windows,
            }
            for position in range(vectors.context):
                found.append(
                    {
                        "layer": layer,
                        "position": position,
                        "component_1": float(coordinates[position, 0]),
                        "component_2": float(coordinates[position, 1]),
                        "share_of_squares": float(shares[position]),
                        "told_apart": float(told[position]),
                    }
                    | of_layer
                )
        return found

    def numbers(self, fold: "Fold", rows: Sequence[Row]) -> Iterator[Number]:
        return numbers_by_layer(rows, ("layer_told_apart", "layer_first_share"))
