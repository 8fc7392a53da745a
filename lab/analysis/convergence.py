"""Convergence: how many windows do positional vectors need, and how many fewer if tokens are taken out of them?"""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from lab.analysis.decomposition import Decomposition
from lab.analysis.vector_study import VectorStudy
from lab.base.parts import part
from lab.base.settings import Count, key
from lab.observe.measure import Row
from lab.observe.study import Lines, Number

if TYPE_CHECKING:
    from lab.observe.fold import Fold
    from lab.observe.vectors import Vectors

ESTIMATORS = ("mean", "additive")


@part("study")
class Convergence(VectorStudy):
    """How far two halves of the windows agree on the basis m, by layer, number of windows and estimator; and how many
    windows the mean needs, of those tried, to agree as far as the additive fit does. (Halves agree on p whatever is
    read: they share its mean.)"""

    pictures = tuple(
        Lines(
            title=f"Agreement of two halves of the windows on the positional basis, {estimator}",
            by="layer",
            along="windows",
            upward=f"{estimator}_agreement",
            by_label="layer",
            along_label="windows",
            upward_label="mean cosine",
        )
        for estimator in ESTIMATORS
    )

    name: Literal["convergence"] = "convergence"
    counts: Annotated[list[Annotated[int, Field(ge=2)]], Field(min_length=1)] = key(
        "of windows that are tried: the first of the documents"
    )

    @property
    def beside(self) -> dict[str, Decomposition]:
        return {
            _name(estimator, count): self.vectors.with_values(estimator=estimator, windows=count)
            for estimator in ESTIMATORS
            for count in sorted(set(self.counts))
        }

    def rows(self, fold: "Fold", vectors: "Vectors") -> list[Row]:
        found = []
        for layer in range(vectors.layers):
            agreements = {name: each.agreement(layer) for name, each in vectors.beside.items()}
            for count in sorted(set(self.counts)):
                own = {estimator: agreements[_name(estimator, count)] for estimator in ESTIMATORS}
                of_mean = vectors.beside[_name("mean", count)]
                enough = [each for each in self.counts if agreements[_name("mean", each)] >= own["additive"]]
                row: Row = {"layer": layer, "windows": of_mean.windows}
                row |= {f"{estimator}_agreement": value for estimator, value in own.items()}
                row |= {"mean_agreement_predicted": of_mean.predicted_agreement(layer)}
                found.append(row | {"mean_needs_windows": min(enough, default=None)})
        return found

    def numbers(self, fold: "Fold", rows: Sequence[Row]) -> Iterator[Number]:
        for row in rows:
            for estimator in ESTIMATORS:
                quantity = f"agreement by {estimator} of {row['windows']} windows in layer {row['layer']}"
                yield Number(quantity, row[f"{estimator}_agreement"])


def _name(estimator: str, count: Count) -> str:
    return f"{estimator} of {count}"
