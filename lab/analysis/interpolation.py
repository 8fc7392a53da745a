"""Interpolation: are the positional vectors of an extended decoder those of its parent, stretched?"""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Literal

from lab.analysis.vector_study import VectorStudy
from lab.base.errors import UserError
from lab.base.parts import part
from lab.base.settings import Count, key
from lab.observe.measure import Row
from lab.observe.study import Headline, Lines, Map, Number, numbers_by_layer

if TYPE_CHECKING:
    from lab.observe.fold import Fold
    from lab.observe.vectors import Vectors

FIRST = 4  # tokens whose vectors are points apart, and are not stretched
STEP = 0.05  # between ratios that are tried


@part("study")
class Interpolation(VectorStudy):
    """Of a derived run, by layer, against the run that it is of (arXiv 2405.18009).

    Cosines between the bases of its positions and of those inside C; and the effective interpolation ratio. That is
    ours, as the paper's definition is not known: of the ratios 1, 1.05, ... 2 s the one by which the parent's bases
    behind the first four, stretched linearly, have the greatest mean cosine with the derived run's up to s C.
    """

    of_extensions = True
    pictures = (
        Map(
            title="Cosine of the bases of the parent (down) and of the extended decoder (across), middle layer",
            down="parent_position",
            across="position",
            value="middle_cosine",
            labels=("position inside C", "position", "cosine"),
        ),
        Lines(
            title="Mean cosine of stretched and extended bases",
            by="layer",
            along="ratio",
            upward="stretched_cosine",
            by_label="layer",
            along_label="ratio",
            upward_label="mean cosine",
        ),
    )
    headline = Headline("layer", "layer_ratio", "layer", "effective interpolation ratio")

    name: Literal["interpolation"] = "interpolation"
    contexts: Count = key("s: positions up to s C are compared; no more than vectors.longest")
    bins: Count = key("of positions inside C in the map; divides C")

    def fits(self, context: int) -> None:
        super().fits(context)
        self.check_contexts("contexts", self.contexts, 2)
        if context % self.bins:
            raise UserError(f"bins is {self.bins}: it must divide C = {context}")

    def rows(self, fold: "Fold", vectors: "Vectors") -> list[Row]:
        import numpy as np
        from torch.nn import functional

        from lab.extension.vector_replacement import stretched

        context, length = vectors.context, self.contexts * vectors.context
        assert vectors.origin is not None
        size = context // self.bins
        ratios = [round(float(each), 2) for each in np.arange(1, 2 * self.contexts + STEP / 2, STEP)]
        found: list[Row] = []
        for layer in range(1, vectors.layers):
            # u is the parent's, so that what the extension moves is seen.
            before, u = vectors.origin.m(layer)[:context], vectors.origin.u(layer)
            after = vectors.p(layer)[:length] - u
            matched = {}
            for ratio in ratios:
                wanted = stretched(before, ratio, FIRST, length, "linear")
                matched[ratio] = float(functional.cosine_similarity(wanted, after, dim=-1)[FIRST:].mean())
            best = max(matched, key=lambda each: matched[each])
            of_layer: Row = {"layer": layer, "layer_ratio": best, "layer_cosine": matched[best]}
            none = dict.fromkeys(
                ("ratio", "stretched_cosine", "parent_position", "position", "cosine", "middle_cosine")
            )
            of_layer |= none
            found += [of_layer | {"ratio": ratio, "stretched_cosine": each} for ratio, each in matched.items()]
            cosines = functional.normalize(before, dim=-1) @ functional.normalize(after, dim=-1).T
            binned = cosines.view(self.bins, size, length // size, size).mean((1, 3))
            middle = layer == (vectors.layers - 1) // 2
            for down in range(self.bins):
                for across in range(length // size):
                    cosine = float(binned[down, across])
                    place: Row = {"parent_position": down * size, "position": across * size, "cosine": cosine}
                    found.append(of_layer | place | {"middle_cosine": cosine if middle else None})
        return found

    def numbers(self, fold: "Fold", rows: Sequence[Row]) -> Iterator[Number]:
        """Of each layer the ratio, as a share of s, and the cosine that it gives."""
        shares = [{"layer": row["layer"], "ratio over s": row["layer_ratio"] / self.contexts} for row in rows]
        yield from numbers_by_layer(shares, ("ratio over s",))
        yield from numbers_by_layer(rows, ("layer_cosine",))
