"""Answers behind other text: is a fact found where the question stands beyond the window?"""

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
from pydantic import Field

from lab.base.parts import part
from lab.base.settings import Count, key
from lab.measure.answers import ATTRIBUTES
from lab.observe.measure import Compared, Curve, Item, Measure, Point, Row, Source

if TYPE_CHECKING:
    from lab.data.biographies.corpus import Biographies
    from lab.data.biographies.people import Person
    from lab.data.tokenizer import Tokenizer
    from lab.observe.people import Prompt


class AnswersAfter(Measure):
    """Share of questions about the held-out group whose answer, decoded greedily, is right, by what is read before.

    The same people and attributes at each amount, so that only what stands before the question differs. ``segment`` is
    the attribute's number, ``length_tokens`` the amount that was asked for, ``distance_tokens`` the tokens that were
    read; 0 is the question alone. Facts stand in the weights: whatever is lost here is lost by position.
    """

    unit = "answers wrong"
    difference_unit = "of the answers"
    shows_shortest = True
    foretells = False

    contexts: Annotated[list[Annotated[float, Field(ge=0)]], Field(min_length=1)] = key(
        "amounts of text before the question, in contexts C; 0: none"
    )
    people: Count | None = key("asked about, at most")

    @abstractmethod
    def prompt(
        self, corpus: "Biographies", tokenizer: "Tokenizer", person: "Person", attribute: str, tokens: int
    ) -> "tuple[Prompt, int]":
        """A question behind about so many tokens, and how many it has become."""

    def items(self, source: Source) -> Iterator[Item]:
        from lab.observe.people import biographies_of, pages

        corpus = biographies_of(source, f"measure={self.label()}")
        for group, people in pages(corpus, self.people):
            if group != "held_out":
                continue
            for tokens in sorted({round(contexts * source.context) for contexts in self.contexts}):
                prompts = [
                    [self.prompt(corpus, source.tokenizer, person, attribute, tokens) for attribute in ATTRIBUTES]
                    for person in people
                ]
                ids = np.concatenate([each.ids for of_person in prompts for each, _ in of_person])
                names = tuple(person.name for person in people)
                name = f"{self.label()}/{tokens}/{people[0].number}-{people[-1].number}"
                yield Item(name, ids, {"tokens": tokens, "prompts": prompts}, names)

    def score(self, decoder: Any, item: Item, context: int) -> list[Row]:
        from lab.observe.people import answers

        prompts = item.details["prompts"]
        said = iter(answers(decoder, [each for of_person in prompts for each, _ in of_person]))
        return [
            {
                "document": name,
                "segment": number,
                "length_tokens": item.details["tokens"],
                "distance_tokens": read,
                "correct": int(np.array_equal(next(said), prompt.answer)),
            }
            for name, of_person in zip(item.parts, prompts, strict=True)
            for number, (prompt, read) in enumerate(of_person)
        ]

    @classmethod
    def compared(cls, row: Row, context: int) -> Compared | None:
        if row["measure"] != cls.label():
            return None
        return Compared(row["length_tokens"], 1.0 - row["correct"], 1)

    @classmethod
    def point(cls, row: Row) -> Point | None:
        if row["measure"] != cls.label():
            return None
        return Point(cls.label(), row["length_tokens"], row["correct"])

    @classmethod
    def length_text(cls, length: int, context: int) -> str:
        return f"behind {length:,}" if length else "asked at once"

    @classmethod
    def notes(cls, rows: Sequence[Row]) -> list[tuple[str, str, str]]:
        lines = []
        for tokens in sorted({row["length_tokens"] for row in rows if row["measure"] == cls.label()}):
            right = [row["correct"] for row in rows if row["measure"] == cls.label() and row["length_tokens"] == tokens]
            lines.append((f"{cls.label()}, right", cls.length_text(tokens, 0), f"{np.mean(right):.1%}"))
        return lines


@part("measure")
class AnswersBehind(AnswersAfter):
    """The usual question, which names the person, behind exactly so many tokens of other questions and answers.

    These are of the training group, a document each, as a decoder that was trained on questions has read them side by
    side in its window; the first is cut so that the number is exact. Nothing in them is of use, and nothing has to be
    carried over a distance: a decoder that no longer answers fails at where the question stands.
    """

    length_is = "tokens before the question"
    curve = Curve("Answers behind other questions", "tokens of other questions before", "share of answers right")

    name: Literal["answers_behind"] = "answers_behind"

    def prompt(
        self, corpus: "Biographies", tokenizer: "Tokenizer", person: "Person", attribute: str, tokens: int
    ) -> "tuple[Prompt, int]":
        from lab.observe.people import prompt_of

        asked = prompt_of(tokenizer, corpus.ask(person, attribute))
        others, read = corpus.members("training"), 0
        before = [asked.ids]
        for number in range(person.number, person.number + (tokens if others else 0)):
            if read >= tokens:
                break
            other = others[number % len(others)]
            one = prompt_of(tokenizer, corpus.ask(other, ATTRIBUTES[number % len(ATTRIBUTES)]))
            before.insert(0, np.concatenate((one.ids, one.answer[:-1])))  # the next begins with the end of a document
            read += len(before[0])
        ids = np.concatenate(before)
        return asked._replace(ids=ids[max(0, read - tokens) :]), min(read, tokens)
