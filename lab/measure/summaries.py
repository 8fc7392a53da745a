"""Summaries: how much of a reference does what a decoder writes share with it?"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from lab.base.errors import UserError
from lab.base.parts import part
from lab.observe.measure import Item, Row, Source
from lab.observe.written import WritingMeasure, copied

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lab.model.decoder import Decoder

ROUGE = {"rouge1": "summaries_rouge1", "rouge2": "summaries_rouge2", "rougeL": "summaries"}


@part("measure")
class Summaries(WritingMeasure):
    """ROUGE-L of what is written, as F of recall and precision (Lin 2004, "ROUGE"), by the package rouge-score with its
    stemmer: ``summaries``. Beside it ``summaries_rouge1``, ``summaries_rouge2``, and of the first and last line of the
    prompt, copied, ``summaries_copied`` (ROUGE-L).
    """

    unit = "1 - ROUGE-L"
    difference_unit = "of ROUGE-L"
    length_is = "context of the decoder; a prompt is read whole"

    name: Literal["summaries"] = "summaries"

    def items(self, source: Source) -> "Iterator[Item]":
        _scorer()  # what is missing is told before anything is scored
        return super().items(source)

    def score(self, decoder: "Decoder", item: Item, context: int) -> list[Row]:
        scorer = _scorer()
        found = scorer.score(item.details["wanted"], self.written(decoder, item))
        values = {name: found[rouge].fmeasure for rouge, name in ROUGE.items()}
        lines = scorer.score(item.details["wanted"], copied(item.details["prompt"]))
        values["summaries_copied"] = lines["rougeL"].fmeasure
        return [{"measure": name, "length_tokens": len(item.ids), "value": value} for name, value in values.items()]

    @classmethod
    def share(cls, row: Row) -> float:
        return float(row["value"])

    @classmethod
    def notes(cls, rows: Sequence[Row]) -> list[tuple[str, str, str]]:
        lines = []
        for rouge, name in {**ROUGE, "rougeL of the first and last line": "summaries_copied"}.items():
            values = [row["value"] for row in rows if row["measure"] == name]
            if values:
                lines.append((rouge.replace("rouge", "ROUGE-"), "", f"{np.mean(values):.3f}"))
        return lines


def _scorer() -> Any:
    try:
        from rouge_score.rouge_scorer import RougeScorer
    except ImportError:
        raise UserError("the package rouge-score is missing; install it: pip install '.[rouge]'") from None
    return RougeScorer(list(ROUGE), use_stemmer=True)
