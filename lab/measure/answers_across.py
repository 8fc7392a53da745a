"""Answers across a distance: is a fact found where only the name tells whose, and the name stands far before?"""

from typing import TYPE_CHECKING, Literal

from lab.base.parts import part
from lab.measure.answers_behind import AnswersAfter
from lab.observe.measure import Curve

if TYPE_CHECKING:
    from lab.data.biographies.corpus import Biographies
    from lab.data.biographies.people import Person
    from lab.data.tokenizer import Tokenizer
    from lab.observe.people import Prompt


@part("measure")
class AnswersAcross(AnswersAfter):
    """A person is named, sentences about nobody follow, and the question asks about "this person".

    The fewest whole sentences that have so many tokens; ``distance_tokens`` counts those between the name's sentence
    and the question. Ask decoders that were trained on such questions inside the window (``question_filler``): others
    have not learned what "this person" is.
    """

    length_is = "tokens between name and question"
    curve = Curve(
        "Answers across a distance from the name", "tokens between name and question", "share of answers right"
    )

    name: Literal["answers_across"] = "answers_across"

    def prompt(
        self, corpus: "Biographies", tokenizer: "Tokenizer", person: "Person", attribute: str, tokens: int
    ) -> "tuple[Prompt, int]":
        from lab.observe.people import prompt_of

        between, read = "", 0
        for sentence in corpus.filler(person, -1) if tokens else ():
            between = f"{between} {sentence}".strip()
            read += len(tokenizer.encode(f" {sentence}"))
            if read >= tokens:
                break
        return prompt_of(tokenizer, corpus.ask(person, attribute, between)), read
