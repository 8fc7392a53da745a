"""Facts of summaries: which of a report's facts does what a decoder writes tell?"""

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np

from lab.base.errors import UserError
from lab.base.parts import part
from lab.data.sources.documents import Corpus
from lab.data.sources.reports import Facts, Reports
from lab.observe.measure import Item, Row, Source
from lab.observe.written import WritingMeasure, copied

if TYPE_CHECKING:
    from lab.model.decoder import Decoder


@part("measure")
class SummaryFacts(WritingMeasure):
    """Share of the facts that a summary has to tell which stand in it, letter by letter: for ``data=reports``.

    ``segment`` is the fact's number; ``distance_tokens``, how far before the summary it stands. Beside it
    ``summary_facts_copied``: those that the first and last line of the report tell, which are three of the six.
    """

    unit = "facts not told"
    difference_unit = "of the facts"
    length_is = "context of the decoder; a prompt is read whole"

    name: Literal["summary_facts"] = "summary_facts"

    def corpus(self, source: Source) -> Corpus:
        corpus = super().corpus(source)
        if not isinstance(corpus, Reports):
            raise UserError(
                f"measure={self.label()} asks for facts of reports, and this decoder read of none: train it with "
                "data=reports, or take a measure that needs no facts"
            )
        return corpus

    def beside(self, corpus: Corpus, name: str) -> dict[str, object]:
        assert isinstance(corpus, Reports)
        return {"facts": corpus.facts(name)}

    def score(self, decoder: "Decoder", item: Item, context: int) -> list[Row]:
        said = {self.label(): self.written(decoder, item), "summary_facts_copied": copied(item.details["prompt"])}
        prompt, encode = item.details["prompt"], item.details["tokenizer"].encode
        rows = []
        for number, fact in enumerate(item.details["facts"]):
            place = {
                "segment": number,
                "length_tokens": len(item.ids),
                "distance_tokens": len(encode(prompt[prompt.rindex(fact) :])),
            }
            rows += [place | {"measure": measure, "correct": int(tells(text, fact))} for measure, text in said.items()]
        return rows

    @classmethod
    def notes(cls, rows: Sequence[Row]) -> list[tuple[str, str, str]]:
        lines = []
        for measure, text in ((cls.label(), "facts told"), ("summary_facts_copied", "facts in first and last line")):
            found = [row["correct"] for row in rows if row["measure"] == measure]
            if found:
                lines.append((text, "", f"{np.mean(found):.1%}"))
        for number, fact in enumerate(Facts._fields):
            found = [row["correct"] for row in rows if row["measure"] == cls.label() and row["segment"] == number]
            if found:
                lines.append((f"facts told, {fact}", "", f"{np.mean(found):.1%}"))
        return lines


def tells(text: str, fact: str) -> bool:
    """Whether a text has a fact in it, and not as a part of a longer word or number."""
    return re.search(rf"(?<!\w){re.escape(fact)}(?!\w)", text) is not None
