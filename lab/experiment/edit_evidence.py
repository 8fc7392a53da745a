"""What edits of facts, each alone, say to claims: one number a fact, and one a document of other text."""

from collections.abc import Iterator, Sequence

from lab.base.tables import Row
from lab.experiment.edit_scoring import ASKED_BY, PARTS
from lab.observe.measure import Item, Source
from lab.report.edit import HOW
from lab.runs.model import Model

STUDY = "edit"  # what the measures' names begin with
WANTED = {"fact": "facts", "paraphrase": "paraphrases", "neighbour": "neighbours"}


def evidence(
    parent: Model,
    of_facts: str,
    scores: Sequence[Row],
    losses: Sequence[Row],
    text: tuple[str, Source, list[Item]] | None,
) -> Iterator[Row]:
    """The columns OBSERVED of :mod:`lab.evidence.weighing`.

    A fact is a cluster of its own: of its prompts of a part the share that is as wanted after the edit. Of a document
    the loss after an edit less that before, mean over the edits.

    Args:
        of_facts: what the facts are called.
        text: what the other text is called, its clusters, and its documents.
    """
    context = parent.context
    place = {
        "context_tokens": context,
        "variant": parent.label,
        "seed": parent.identity.get("seed", 0),
        "length_tokens": context,
        "weight": 1.0,
    }
    for part in PARTS:
        for by in ASKED_BY:
            found: dict[int, list[float]] = {}
            for row in scores:
                if (row["part"], row["moment"]) == (part, "after") and row[by] is not None:
                    found.setdefault(row["number"], []).append(row[by])
            for number, values in found.items():
                fact = f"fact {number}"
                yield place | {
                    "evaluation": of_facts,
                    "clusters_told": "facts",
                    "measure": f"{STUDY}: {WANTED[part]} by {HOW[by]}",
                    "cluster": fact,
                    "document": fact,
                    "mean": sum(values) / len(values),
                }
    grown: dict[str, list[float]] = {}
    clusters = {row["document"]: row["cluster"] for row in losses}
    for document in clusters:
        own = {(row["number"], row["moment"]): row["loss_nats"] for row in losses if row["document"] == document}
        grown[document] = [own[number, "after"] - own[number, "before"] for number, moment in own if moment == "after"]
    for document, values in grown.items():
        assert text is not None
        yield place | {
            "evaluation": text[0],
            "clusters_told": text[1].clusters,
            "measure": f"{STUDY}: loss of other text after less before",
            "cluster": clusters[document],
            "document": document,
            "mean": sum(values) / len(values),
        }
