"""Biographies that a model wrote: the file of them, and what of a text has to be there.

In the place of bioR (arXiv 2309.14316, section 2 and appendix A), whose entries Llama wrote, each drawn again until all
six attributes were in it.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from lab.base.errors import UserError
from lab.base.files import read_text
from lab.base.shown import plain
from lab.data.biographies.people import ATTRIBUTES, Person
from lab.data.biographies.wording import Written


class Paraphrased(NamedTuple):
    """What was written about a person: ``texts`` that tell everything, of ``telling`` that do among ``drawn``."""

    name: str
    texts: list[str]
    drawn: int
    telling: int

    def line(self) -> str:
        """A line of the file."""
        return json.dumps(self._asdict(), ensure_ascii=False) + "\n"


def tells_all(person: Person, text: str) -> bool:
    """Whether a text has a person's full name and all six values in it, letter by letter."""
    return person.name in text and all(person.value(attribute) in text for attribute in ATTRIBUTES)


def written(person: Person, text: str) -> Written:
    """A text with the places of what it tells: where each is spelled first; of an office in the city of birth, where it
    is spelled again, if it is."""
    spans: dict[str, tuple[int, int]] = {}
    for attribute in ATTRIBUTES:
        value = person.value(attribute)
        start = text.index(value)
        if attribute == "office_city" and value == person.birth_city:
            again = text.find(value, start + 1)
            start = again if again >= 0 else start
        spans[attribute] = (start, start + len(value))
    start = text.index(person.name)
    return Written(text, spans, (start, start + len(person.name)))


def read_paraphrases(path: Path) -> tuple[Mapping[str, Any], dict[str, Paraphrased]]:
    """How a file's texts were made, and what it holds of each person; of two lines about one the later.

    A last line that is not whole, as a killed process leaves it, is left out.

    Raises:
        UserError: it cannot be read, or is no such file.
    """
    try:
        lines = read_text(path).splitlines(keepends=True)
    except UnicodeDecodeError:
        raise UserError(f"{path}: not UTF-8, so not as it was written; write it again") from None
    if lines and not lines[-1].endswith("\n"):
        lines.pop()
    made: Mapping[str, Any] | None = None
    found: dict[str, Paraphrased] = {}
    for number, line in enumerate(lines, 1):
        try:
            row = json.loads(line)
            if number == 1:
                made = dict(row["made"])
                continue
            each = Paraphrased(**row)
            if not isinstance(each.texts, list) or not all(isinstance(text, str) for text in each.texts):
                raise TypeError
            found[str(each.name)] = each._replace(drawn=int(each.drawn), telling=int(each.telling))
        except (ValueError, TypeError, KeyError):
            raise UserError(f"{path} line {number}: not as it was written; write the file again") from None
    if made is None:
        raise UserError(f"{path}: no biographies in it; write them again")
    return made, found


def texts_of(path: Path, needed: Mapping[Person, int]) -> dict[str, list[str]]:
    """By the names of people the first texts about each, as many as are needed.

    Raises:
        UserError: as :func:`read_paraphrases`; or there are fewer, or one does not tell all.
    """
    _, found = read_paraphrases(path)
    texts: dict[str, list[str]] = {}
    for person, count in needed.items():
        of_person = found[person.name].texts if person.name in found else []
        if len(of_person) < count:
            raise UserError(
                f"{path}: has {len(of_person)} texts about {person.name}, and {count} are read: have more written, for "
                "as many people and the same seed"
            )
        texts[person.name] = of_person[:count]
        if wrong := next((text for text in texts[person.name] if not tells_all(person, text)), None):
            raise UserError(f"{path}: {plain(wrong)[:60]} ... does not tell all about {person.name}; take it out")
    return texts
