"""Recall of biographies: does a decoder know by heart what it was trained on?"""

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from lab.base.parts import part
from lab.base.settings import Count, key
from lab.data.biographies.people import ATTRIBUTES
from lab.observe.measure import Item, Row, Source
from lab.observe.people_measure import PeopleMeasure

if TYPE_CHECKING:
    from lab.model.decoder import Decoder


@part("measure")
class BiographyRecall(PeopleMeasure):
    """Share of values that are the likeliest, token by token, where a person's own training entry states them
    (Allen-Zhu and Li 2023, arXiv 2309.14316).

    An entry is read alone, not in a window with others, where a decoder could copy; a value that stands before the name
    is left out, for nothing tells it yet. A decoder that sees what comes after is shown a gap in the place of each
    token of a value, one value at a time, wherever it stands; it has no loss of the name, and no bits. Of every person,
    whatever the group: ``biography_recall`` all tokens of a value, ``biography_recall_first`` its first; ``segment`` is
    the attribute's number. ``loss_nats`` is the mean over the value's tokens; ``biography_name`` holds that of the
    name. ``biography_bits``: what of a person is stored, in bits a parameter of the decoder if all people are so: the
    capacity of Part 3.3 (Allen-Zhu and Li 2024, arXiv 2404.05405), N (log2(N0 / e^p1) + log2(S0 / e^p2)) / P with N
    people of N0 names and S0 sets of values, P parameters, and p1, p2 the summed losses of name and values in nats.
    """

    unit = "values not known"
    difference_unit = "of the values"
    length_is = "entry"
    length_shown = "read alone"

    name: Literal["biography_recall"] = "biography_recall"
    people: Count | None = key("read of each group, at most")
    entries: Count = key("read of each person, at most: the first of those trained on")

    def items(self, source: Source) -> Iterator[Item]:
        from lab.observe.people import biographies_of, marked, pages

        corpus = biographies_of(source, "measure=biography_recall")
        for group, people in pages(corpus, self.people):
            entries = [
                (person.name, place, marked(source.tokenizer, written))
                for person in people
                for place, written in enumerate(corpus.written(person)[: self.entries])
            ]
            names = tuple(person.name for person in people)
            # The people, who are the same however they are written about.
            ids = np.frombuffer("\n".join(names).encode(), dtype=np.uint8).astype(np.uint32)
            everyone = len(corpus.people) + len(corpus.celebrities)
            known = math.log2(corpus.pools.names) + math.log2(corpus.pools.biographies)
            details = {
                "entries": entries,
                "end": source.tokenizer.end_of_document,
                "gap": source.tokenizer.unknown,
                "people": everyone,
                "bits": known,
            }
            yield Item(f"recall/{group}/{people[0].number}-{people[-1].number}", ids, details, names)

    def score(self, decoder: "Decoder", item: Item, context: int) -> list[Row]:
        import torch

        from lab.observe.losses import observed
        from lab.observe.people import padded

        entries = item.details["entries"]
        if not decoder.causal:
            return self._of_gaps(decoder, entries, item.details["gap"])
        ids = padded([each.ids for _, _, each in entries], item.details["end"]).astype(np.int64)
        tokens = torch.from_numpy(ids).to(decoder.embedding.device)
        logits = decoder.logits(decoder.hidden(tokens[:, :-1])).float()
        losses = torch.nn.functional.cross_entropy(logits.transpose(1, 2), tokens[:, 1:], reduction="none").cpu()
        right = (logits.argmax(dim=-1) == tokens[:, 1:]).cpu()
        rows: list[Row] = []
        parameters = sum(parameter.numel() for parameter in decoder.parameters())
        for number, (person, place, entry) in enumerate(entries):
            of_entry = {"document": person, "start_position": place}
            begun = len(rows)
            for segment, attribute in enumerate(ATTRIBUTES):
                first, behind = entry.values[attribute]
                if first < entry.name[0]:
                    continue
                where = slice(first - 1, behind - 1)  # a token is foretold one place before it
                told = of_entry | {"segment": segment} | observed(losses[number, where])
                rows.append(told | {"correct": int(right[number, where].all())})
                rows.append(
                    of_entry
                    | {"measure": "biography_recall_first", "segment": segment}
                    | {"correct": int(right[number, first - 1])}
                )
            first, behind = entry.name
            name = observed(losses[number, first - 1 : behind - 1])
            rows.append(of_entry | {"measure": "biography_name", "segment": len(ATTRIBUTES)} | name)
            losses_of = [row["tokens"] * row["loss_nats"] for row in rows[begun:] if "loss_nats" in row]
            if len(losses_of) == len(ATTRIBUTES) + 1:
                bits = item.details["people"] * (item.details["bits"] - sum(losses_of) / math.log(2)) / parameters
                rows.append(of_entry | {"measure": "biography_bits", "value": bits})
        return rows

    def _of_gaps(self, decoder: "Decoder", entries: Sequence[Any], gap: int) -> list[Row]:
        """What a decoder that sees what comes after puts in the place of each value."""
        from lab.observe.people import filled

        places = [
            ({"document": person, "start_position": place, "segment": segment}, entry.ids, entry.values[attribute])
            for person, place, entry in entries
            for segment, attribute in enumerate(ATTRIBUTES)
        ]
        shown = []
        for _, ids, (first, behind) in places:
            text = ids.copy()
            text[first:behind] = gap
            shown.append(text)
        rows: list[Row] = []
        for (of_value, ids, (first, behind)), said in zip(places, filled(decoder, shown), strict=True):
            right = said[first:behind] == ids[first:behind]
            rows.append(of_value | {"correct": int(right.all())})
            rows.append(of_value | {"measure": "biography_recall_first", "correct": int(right[0])})
        return rows

    @classmethod
    def notes(cls, rows: Sequence[Row]) -> list[tuple[str, str, str]]:
        lines = []
        for measure in ("biography_recall", "biography_recall_first"):
            found = [row["correct"] for row in rows if row["measure"] == measure]
            if found:
                lines.append((f"{measure}, right", "", f"{np.mean(found):.1%}"))
        bits = [row["value"] for row in rows if row["measure"] == "biography_bits"]
        if bits:
            lines.append(("stored, bits a parameter", "", f"{np.mean(bits):.3f}"))
        return lines
