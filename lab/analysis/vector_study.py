"""What a study of positional vectors is: it is given those of a decomposition, and may read documents beside."""

from abc import abstractmethod
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, ClassVar

from lab.analysis.decomposition import Decomposition
from lab.base.errors import UserError
from lab.base.settings import key
from lab.observe.measure import Item, Row, Source
from lab.observe.study import Study

if TYPE_CHECKING:
    from lab.model.decoder import Decoder
    from lab.observe.fold import Fold, Observed
    from lab.observe.vectors import Vectors


def numbered(items: Iterable[Item]) -> Iterator[Item]:
    """Items that know which of how many they are, for :func:`of_document`."""
    every = [*items]
    for number, item in enumerate(every):
        yield Item(item.name, item.ids, {"number": number, "count": len(every)})


def of_document(item: Item, total: Any, count: int) -> tuple[Any, Any]:
    """A sum over one item, for a fold in which each has a place of its own: its means are documents'."""
    import torch

    totals = torch.zeros(item.details["count"], dtype=torch.float64)
    counts = torch.zeros(item.details["count"], dtype=torch.int64)
    totals[item.details["number"]], counts[item.details["number"]] = total, count
    return totals, counts


class VectorStudy(Study):
    """A study of the vectors that ``vectors`` gives, which are made if they are not there.

    Attributes:
        of_extensions: True: it compares a derived run's vectors with those of the run that it is of.
    """

    of_extensions: ClassVar[bool] = False

    vectors: Decomposition = key("how the positional vectors are made")

    @property
    def documents_of(self) -> str:
        return self.vectors.documents_of

    @property
    def beside(self) -> dict[str, Decomposition]:
        """Further vectors that it needs, by name, of the same documents."""
        return {}

    def fits(self, context: int) -> None:
        self.vectors.fits(context)

    def items(self, source: Source) -> Iterator[Item]:
        return iter(())  # the vectors are all that it needs

    @abstractmethod
    def rows(self, fold: "Fold", vectors: "Vectors") -> list[Row]:
        """The table, of the vectors and of what was observed; the fold of the vectors if nothing was."""

    def check_contexts(self, name: str, contexts: int, fewest: int) -> None:
        """Raises UserError if there are not vectors of so many contexts, or fewer are asked for than mean anything."""
        if not fewest <= contexts <= self.vectors.longest:
            raise UserError(
                f"{name} is {contexts}: give {fewest} to vectors.longest = {self.vectors.longest} contexts, as there "
                "are vectors of no more positions"
            )


class VectorDocumentStudy(VectorStudy):
    """One that reads documents beside."""

    @property
    def documents_of(self) -> str:
        return "test"

    @abstractmethod
    def items(self, source: Source) -> Iterator[Item]:
        """What is observed. Raises UserError if there is nothing."""

    @abstractmethod
    def observe(self, decoder: "Decoder", item: Item, vectors: "Vectors") -> "Observed":
        """Sums and counts over one item, for :meth:`lab.observe.fold.Fold.add`."""
