"""Answers: what a decoder says when it is asked about people whom it has read of."""

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np

from lab.base.parts import part
from lab.base.settings import Count, key
from lab.data.biographies.people import ATTRIBUTES
from lab.observe.measure import Item, Row, Source
from lab.observe.people_measure import PeopleMeasure

if TYPE_CHECKING:
    from lab.model.decoder import Decoder


@part("measure")
class Answers(PeopleMeasure):
    """Share of questions whose answer, decoded greedily, is right letter by letter and ends there.

    As in Physics of Language Models, Part 3.1 (Allen-Zhu and Li 2023, arXiv 2309.14316).

    The six attributes of the people of each group: ``answers`` of those held out, whom no question that was trained on
    was about; ``answers_training``, ``answers_choosing``, ``answers_celebrity`` of the others. ``segment`` is the
    attribute's number. Beside, of the held-out group: ``answers_frequent``, right if the value that is most frequent in
    the training group were said; ``answers_office``, right if the office were that of the employer that was said; with
    ``inverse``, ``answers_inverse``: the name asked by all six values.
    """

    unit = "answers wrong"
    difference_unit = "of the answers"
    length_is = "question"
    length_shown = "asked at once"

    name: Literal["answers"] = "answers"
    people: Count | None = key("asked about of each group, at most")
    inverse: bool = key("true: ask for names by their six values too")

    def items(self, source: Source) -> Iterator[Item]:
        from lab.observe.people import biographies_of, pages, prompt_of

        corpus = biographies_of(source, "measure=answers")
        training = corpus.members("training")
        frequent = {
            attribute: Counter(person.value(attribute) for person in training).most_common(1)[0][0]
            for attribute in ATTRIBUTES
            if training
        }
        for group, people in pages(corpus, self.people):
            asked = [[corpus.ask(person, attribute) for attribute in ATTRIBUTES] for person in people]
            if self.inverse:
                for person, questions in zip(people, asked, strict=True):
                    questions.append(corpus.inverse(person))
            prompts = [[prompt_of(source.tokenizer, each) for each in questions] for questions in asked]
            ids = np.concatenate([each.ids for of_person in prompts for each in of_person])
            details = {
                "group": group,
                "people": people,
                "prompts": prompts,
                "frequent": frequent,
                "offices": dict(zip(corpus.pools.employers, corpus.pools.offices, strict=True)),
                "tokenizer": source.tokenizer,
            }
            # Named by what it holds: who is asked otherwise, or with fewer others, is another document.
            name = f"{group}/{people[0].number}-{people[-1].number}{'/names' if self.inverse else ''}"
            yield Item(name, ids, details, tuple(person.name for person in people))

    def score(self, decoder: "Decoder", item: Item, context: int) -> list[Row]:
        from lab.observe.people import answers

        group, tokenizer = item.details["group"], item.details["tokenizer"]
        prompts = item.details["prompts"]
        said = iter(answers(decoder, [each for of_person in prompts for each in of_person]))
        rows = []
        for person, of_person in zip(item.details["people"], prompts, strict=True):
            employer = ""
            for number, prompt in enumerate(of_person):
                given = next(said)
                attribute = ATTRIBUTES[number] if number < len(ATTRIBUTES) else "name"
                right = {_measure(group, attribute): int(np.array_equal(given, prompt.answer))}
                if attribute == "employer":
                    employer = tokenizer.decode(given[:-1]).strip().removesuffix(".")
                if group == "held_out" and attribute in ATTRIBUTES:
                    frequent = item.details["frequent"].get(attribute)
                    right["answers_frequent"] = int(person.value(attribute) == frequent)
                if group == "held_out" and attribute == "office_city":
                    right["answers_office"] = int(item.details["offices"].get(employer) == person.office_city)
                place = {"document": person.name, "segment": number, "length_tokens": len(prompt.ids)}
                rows += [place | {"measure": measure, "correct": correct} for measure, correct in right.items()]
        return rows

    @classmethod
    def notes(cls, rows: Sequence[Row]) -> list[tuple[str, str, str]]:
        lines = []
        for measure in ("answers_training", "answers", "answers_frequent", "answers_celebrity", "answers_inverse"):
            of_measure = [row for row in rows if row["measure"] == measure]
            if of_measure:
                lines.append((f"{measure}, right", "", f"{np.mean([row['correct'] for row in of_measure]):.1%}"))
        for number, attribute in enumerate(ATTRIBUTES):
            found = [row["correct"] for row in rows if row["measure"] == cls.label() and row["segment"] == number]
            if found:
                lines.append((f"answers, {attribute.replace('_', ' ')}, right", "", f"{np.mean(found):.1%}"))
        return lines


def _measure(group: str, attribute: str) -> str:
    """What a row of a group's question is called."""
    if attribute == "name":
        return "answers_inverse" if group == "held_out" else f"answers_inverse_{group}"
    return "answers" if group == "held_out" else f"answers_{group}"
