"""How people are written about: entries of six sentences, questions and their answers.

Entries follow bioS and its augmentations (arXiv 2309.14316, section 2 and appendix A): templates drawn for each
attribute, the full name in the first sentence and pronouns after, or the full name in all.
"""

import hashlib
import random
from collections.abc import Iterator
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Literal, NamedTuple

from lab.base.errors import UserError
from lab.data.biographies.grammar import PIECES, SLOTS, Piece, shipped_grammar
from lab.data.biographies.people import ATTRIBUTES, Person, lines_of, shipped_biographies

Style = Literal["templates", "grammar"]
MENTIONS = ("subject", "possessive", "object")
AGREEMENT = {"was": ("was", "were"), "is": ("is", "are"), "has": ("has", "have")}  # of one, of "they"
WORDS = {
    "he": {"subject": "he", "possessive": "his", "object": "him"},
    "she": {"subject": "she", "possessive": "her", "object": "her"},
    "they": {"subject": "they", "possessive": "their", "object": "them"},
}

# The first of each is the paper's.
QUESTIONS: dict[str, tuple[str, ...]] = {
    "birth_date": (
        "What is the birth date of {name}?",
        "When was {name} born?",
        "On which day was {name} born?",
        "What is the date of birth of {name}?",
        "On what date did {name} come into the world?",
        "When did the life of {name} begin?",
        "What is the birthday of {name}?",
        "Do you know when {name} was born?",
        "On which date did {name} enter the world?",
    ),
    "birth_city": (
        "What is the birth city of {name}?",
        "Where was {name} born?",
        "In which city was {name} born?",
        "What is the birthplace of {name}?",
        "In what city did {name} come into the world?",
        "Where did the life of {name} begin?",
        "What is the native city of {name}?",
        "Do you know where {name} was born?",
        "From which city did {name} originally come?",
    ),
    "university": (
        "Which university did {name} study?",
        "At which university did {name} study?",
        "Where did {name} study?",
        "What is the alma mater of {name}?",
        "Which university gave {name} a degree?",
        "From which university did {name} graduate?",
        "What university did {name} attend?",
        "Do you know at which university {name} studied?",
        "Where did {name} receive a degree?",
    ),
    "major": (
        "What major did {name} study?",
        "What was the major of {name}?",
        "What did {name} study?",
        "Which field did {name} study?",
        "In which field did {name} receive a degree?",
        "What was the field of study of {name}?",
        "In what did {name} major?",
        "Do you know what {name} studied?",
        "Which subject did {name} choose at university?",
    ),
    "employer": (
        "Which company did {name} work for?",
        "Who was the employer of {name}?",
        "For which company did {name} work?",
        "Which company employed {name}?",
        "Who gave {name} a job?",
        "What company hired {name}?",
        "At which company did {name} have a job?",
        "Do you know for which company {name} worked?",
        "Which employer did {name} have?",
    ),
    "office_city": (
        "Where did {name} work?",
        "In which city did {name} work?",
        "In which city was the office of {name}?",
        "What was the city of the office of {name}?",
        "Where was the office of {name}?",
        "In what city did {name} go to work?",
        "What city did {name} work in?",
        "Do you know in which city {name} worked?",
        "In which city did {name} have a job?",
    ),
}
INVERSE = (
    "Who was born on {birth_date} in {birth_city}, studied {major} at {university} "
    "and worked for {employer} in {office_city}? Answer:"
)


class Written(NamedTuple):
    """An entry. `spans`: of each attribute [start, stop) in characters of the value where it is stated; `name`: the
    same of the full name where it stands first."""

    text: str
    spans: dict[str, tuple[int, int]]
    name: tuple[int, int]


class Asked(NamedTuple):
    """A question; the whole text is `prompt + answer`. The answer begins with a space and ends with a full stop."""

    prompt: str
    answer: str


def read_templates(folder: Path) -> dict[str, list[list[Piece]]]:
    """The templates of each attribute, a file each, in pieces.

    Raises:
        UserError: an attribute without template; a template (file and line are told) that lacks {value} or has it
            twice, has none of {subject}, {possessive}, {object}, a slot that does not exist or one of {was}, {is},
            {has} before any {subject}, or does not end with its only full stop.
    """
    found = {}
    for attribute in ATTRIBUTES:
        path = folder / f"{attribute}.txt"
        lines = lines_of(path) if path.is_file() else ()
        if not lines:
            raise UserError(f"{path}: the attribute {attribute} has no template; write one a line")
        found[attribute] = [_template(line, attribute, f"{path}:{number}") for number, line in enumerate(lines, 1)]
    return found


def _template(line: str, attribute: str, place: str) -> list[Piece]:
    """A template's pieces, without its full stop."""
    pieces: list[Piece] = []
    at = 0
    for slot in PIECES.finditer(line):
        name = slot[2]
        if name not in SLOTS:
            raise UserError(f"{place}: no such slot: {slot[0]}; there are {', '.join(SLOTS)}")
        pieces.append(("text", line[at : slot.start()]))
        pieces.append(("value", attribute) if name == "value" else ("slot", name))
        at = slot.end()
    pieces.append(("text", line[at:-1]))
    slots = [name for kind, name in pieces if kind == "slot"]
    letters = "".join(text for kind, text in pieces if kind == "text")
    if line.count("{value}") != 1:
        raise UserError(f"{place}: a template without its slot, or with two: it needs {{value}} once")
    if not set(slots) & set(MENTIONS):
        raise UserError(f"{place}: a template without its slot: it needs {{subject}}, {{possessive}} or {{object}}")
    if set(slots) & set(AGREEMENT) and "subject" not in slots[: min(map(slots.index, set(slots) & set(AGREEMENT)))]:
        raise UserError(f"{place}: {{was}}, {{is}} and {{has}} agree with a {{subject}} before them; put one there")
    if set(letters) & set("{}[].") or not line.endswith("."):
        raise UserError(f"{place}: a template ends with its only full stop and has no other braces than its slots'")
    return [piece for piece in pieces if piece[1]]


@lru_cache(maxsize=1)
def shipped_templates() -> dict[str, list[list[Piece]]]:
    """The templates that come with the lab, about fifty an attribute."""
    return read_templates(shipped_biographies() / "templates")


def read_filler(path: Path) -> tuple[str, ...]:
    """Sentences about nobody, one a line. Raises UserError if one does not end with its only full stop, or none is."""
    sentences = lines_of(path)
    if not sentences:
        raise UserError(f"{path}: it has no sentence; write one a line")
    for number, sentence in enumerate(sentences, 1):
        if sentence.find(".") != len(sentence) - 1:
            raise UserError(f"{path}:{number}: a sentence ends with its only full stop")
    return sentences


@lru_cache(maxsize=1)
def shipped_filler() -> tuple[str, ...]:
    """The sentences about nobody that come with the lab, in words that the templates use too."""
    return read_filler(shipped_biographies() / "filler.txt")


def filler(seed: int, name: str, number: int) -> Iterator[str]:
    """Sentences about nobody, without end: the same for the same use of one person."""
    drawn, sentences = random.Random(int.from_bytes(_drawn("filler", seed, name, number), "little")), shipped_filler()
    while True:
        yield sentences[int(drawn.random() * len(sentences))]


def entry(
    person: Person,
    drawing: int,
    order: int | None,
    *,
    seed: int,
    templates: int,
    full_name: bool,
    style: Style,
    apart: int = 0,
) -> Written:
    """One biography: a pure function of its arguments.

    Args:
        drawing: which draw of wordings (0 to M - 1 for the paper's multiM).
        order: which shuffle of the six attributes (0 to P - 1 for permuteP); None is the order of ATTRIBUTES. It
            depends on seed, name and `order` alone, so that all drawings share it.
        templates: of each attribute the first so many are drawn from; the grammar has no such number.
        full_name: in every sentence in place of the pronoun.
        style: `templates`, a sentence an attribute; or `grammar`, which puts up to three in one and, inside a
            sentence, in any order.
        apart: so many sentences about nobody stand behind the first one, which has the name.

    Raises:
        UserError: more templates than there are, or none.
    """
    attributes = list(ATTRIBUTES) if order is None else _shuffled(seed, person.name, order)
    if style == "grammar":
        sentences = _by_grammar(attributes, _drawn("grammar", seed, person.name, drawing))
    elif style == "templates":
        sentences = _by_templates(attributes, _drawn("wording", seed, person.name, drawing), templates)
    else:
        raise ValueError(f"style is {style!r}, neither templates nor grammar")
    if apart:
        between = [[("text", each[:-1])] for each in islice(filler(seed, person.name, drawing), apart)]
        sentences = [sentences[0], *between, *sentences[1:]]
    return _write(person, sentences, full_name)


def every_template(person: Person, templates: int) -> Iterator[str]:
    """The first templates of each attribute, each by the name of a person and by the pronoun."""
    for sentences in shipped_templates().values():
        for sentence in sentences[:templates]:
            yield _write(person, [sentence, sentence], full_name=False).text


def _drawn(what: str, seed: int, name: str, number: int) -> bytes:
    """64 bytes for one use of one person."""
    return hashlib.blake2b(f"{seed} {number} {name}".encode(), key=what.encode()).digest()


def _shuffled(seed: int, name: str, order: int) -> list[str]:
    """The attributes in an order that is uniform (but for 2**-64) among all 720."""
    digest = _drawn("order", seed, name, order)
    shuffled = list(ATTRIBUTES)
    for last in range(len(shuffled) - 1, 0, -1):
        other = int.from_bytes(digest[8 * last : 8 * last + 8], "little") % (last + 1)
        shuffled[last], shuffled[other] = shuffled[other], shuffled[last]
    return shuffled


def _by_templates(attributes: list[str], digest: bytes, templates: int) -> list[list[Piece]]:
    shipped = shipped_templates()
    fewest = min(map(len, shipped.values()))
    if not 1 <= templates <= fewest:
        raise UserError(f"templates is {templates}; give 1 to {fewest}, the templates that each attribute has")
    places = {name: 8 * number for number, name in enumerate(ATTRIBUTES)}  # a sentence is the same in every order
    return [
        shipped[name][int.from_bytes(digest[places[name] : places[name] + 8], "little") % templates]
        for name in attributes
    ]


def _by_grammar(attributes: list[str], digest: bytes) -> list[list[Piece]]:
    grammar = shipped_grammar()
    drawn = random.Random(int.from_bytes(digest, "little"))
    sentences = []
    at = 0
    while at < len(attributes):
        together = attributes[at : at + 1 + int(3 * drawn.random())]
        at += len(together)
        for last in range(len(together) - 1, 0, -1):
            other = int(drawn.random() * (last + 1))
            together[last], together[other] = together[other], together[last]
        sentences.append(grammar.sentence(together, drawn))
    return sentences


def _write(person: Person, sentences: list[list[Piece]], full_name: bool) -> Written:
    """Sentences with their slots filled, a space between; who is spoken of twice in a sentence is a pronoun then."""
    words = WORDS[person.pronoun]
    name = person.name
    written: list[str] = []
    spans: dict[str, tuple[int, int]] = {}
    named: tuple[int, int] | None = None
    at = 0
    for number, sentence in enumerate(sentences):
        by_name = full_name or number == 0
        several = False  # what {was} agrees with
        begins = True
        for kind, text in sentence:
            if kind == "slot":
                if text in AGREEMENT:
                    text = AGREEMENT[text][several]
                else:
                    if text == "subject":
                        several = person.pronoun == "they" and not by_name
                    if by_name:
                        named = named or (at, at + len(name))
                        text = f"{name}'s" if text == "possessive" else name
                        by_name = False
                    else:
                        text = words[text]
            elif kind == "value":
                attribute, text = text, person.value(text)
                spans[attribute] = (at, at + len(text))
            if begins:
                text = text[0].upper() + text[1:]
                begins = False
            written.append(text)
            at += len(text)
        written.append(". ")
        at += 2
    if named is None:
        raise ValueError("the first sentence does not name the person")
    return Written("".join(written)[:-1], spans, named)


def question(person: Person, attribute: str, wording: int = 0, between: str = "") -> Asked:
    """One of QUESTIONS and its answer.

    Args:
        wording: number of the wording; 0 is the paper's.
        between: text that stands between the name and the question, which then asks for "this person".

    Raises:
        UserError: no such wording.
    """
    wordings = QUESTIONS[attribute]
    if not 0 <= wording < len(wordings):
        raise UserError(f"wording is {wording}; give 0 to {len(wordings) - 1}, the questions there are for {attribute}")
    if between:
        asked = f"{person.name}. {between} {wordings[wording].format(name='this person')}"
    else:
        asked = wordings[wording].format(name=person.name)
    return Asked(f"{asked} Answer:", f" {person.value(attribute)}.")


def inverse(person: Person) -> Asked:
    """All six values are given, the full name is asked for (as in arXiv 2309.14402, inverse search)."""
    values = {attribute: person.value(attribute) for attribute in ATTRIBUTES}
    return Asked(INVERSE.format(**values), f" {person.name}.")
