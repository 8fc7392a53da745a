"""A recursive grammar of biographies: in the place of the paper's bioR, whose entries a large decoder wrote.

(arXiv 2309.14316, section 2.) It joins one to three attributes in a sentence, varies their order inside it, and leads
in with sources and witnesses. It is no natural language: its rules are written down in `data/biographies/grammar.txt`.
"""

import random
import re
from functools import lru_cache
from pathlib import Path

from lab.base.errors import UserError
from lab.data.biographies.people import ATTRIBUTES, shipped_biographies

SENTENCES = ("one", "two", "three")
FORMS = ("does", "done", "says", "tail")  # the rules that every attribute has; all but the tail state the value
DEEPEST = 12  # rules inside each other; from there on the first alternative is taken, which leads to an end
PIECES = re.compile(r"\[([^\[\]]*)\]|\{([^{}]*)\}")
SLOTS = ("subject", "possessive", "object", "was", "is", "has", "value")

# What is written: letters ("text", ...), a slot ("slot", ...), a value ("value", attribute), a rule ("rule", ...).
Piece = tuple[str, str]


class Grammar:
    """The rules of a file. Raises UserError, with the line, for a rule that is wrong."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rules: dict[str, list[list[Piece]]] = {}
        self._lines: dict[str, int] = {}
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
        except FileNotFoundError:
            raise UserError(f"{path}: no such file; install the lab again") from None
        for number, line in enumerate(lines, 1):
            if line.strip() and not line.startswith("#"):
                self._read(line, number)
        needed = [*SENTENCES, *(f"{attribute} {form}" for attribute in ATTRIBUTES for form in FORMS)]
        for name in needed:
            if name not in self.rules:
                raise UserError(f"{path}: the rule {name!r} is missing; write it")
        for name in self.rules:
            self._check(name)

    def sentence(self, attributes: list[str], drawn: random.Random) -> list[Piece]:
        """A sentence that states each of one to three attributes once, in this order, without the full stop."""
        return list(self._expand(SENTENCES[len(attributes) - 1], attributes, drawn, 0))

    def _expand(self, name: str, attributes: list[str], drawn: random.Random, depth: int) -> list[Piece]:
        alternatives = self.rules[name]
        chosen = alternatives[0 if depth >= DEEPEST else int(drawn.random() * len(alternatives))]
        pieces: list[Piece] = []
        for piece in chosen:
            kind, text = piece
            if kind == "rule":
                if text[0].isdigit():
                    text = f"{attributes[int(text[0]) - 1]}{text[1:]}"
                pieces += self._expand(text, attributes, drawn, depth + 1)
            else:
                pieces.append(piece)
        return pieces

    def _read(self, line: str, number: int) -> None:
        name, equals, rest = line.partition("=")
        name = name.strip()
        if not equals or not name or not rest.strip():
            raise UserError(f"{self.path}:{number}: not a rule; write NAME = ONE | OTHER")
        if name in self.rules:
            raise UserError(f"{self.path}:{number}: {name!r} is also in line {self._lines[name]}; take one out")
        attribute, _, form = name.partition(" ")
        alternatives = []
        for text in rest.split("|"):
            pieces = self._pieces(text.strip(), attribute, number)
            states = attribute in ATTRIBUTES and form in FORMS[:-1]
            if sum(kind == "value" for kind, _ in pieces) != states:
                wanted = "needs {value} once" if states else "must not hold {value}"
                raise UserError(f"{self.path}:{number}: an alternative of {name!r} {wanted}: {text.strip()!r}")
            alternatives.append(pieces)
        self.rules[name] = alternatives
        self._lines[name] = number

    def _pieces(self, text: str, attribute: str, number: int) -> list[Piece]:
        pieces: list[Piece] = []
        at = 0
        for found in PIECES.finditer(text):
            pieces.append(("text", text[at : found.start()]))
            rule, slot = found.groups()
            if slot is not None and slot not in SLOTS:
                raise UserError(f"{self.path}:{number}: no such slot: {found[0]}; there are {', '.join(SLOTS)}")
            pieces.append(
                ("rule", rule) if slot is None else ("value", attribute) if slot == "value" else ("slot", slot)
            )
            at = found.end()
        pieces.append(("text", text[at:]))
        return [piece for piece in pieces if piece[1]]

    def _check(self, name: str) -> None:
        """That a rule names rules that exist, and comes to an end on first alternatives."""
        place = f"{self.path}:{self._lines[name]}"
        for alternative in self.rules[name]:
            for kind, text in alternative:
                if kind == "rule" and not self._named(text):
                    raise UserError(f"{place}: no such rule: [{text}]; write it")
        waiting, seen = [name], set()
        while waiting:
            for kind, text in self.rules[waiting.pop()][0]:
                if kind != "rule":
                    continue
                if text == name:
                    raise UserError(f"{place}: the first alternative of {name!r} leads back to it; put another first")
                for other in self._named(text):
                    if other not in seen:
                        seen.add(other)
                        waiting.append(other)

    def _named(self, text: str) -> list[str]:
        """The rules that [text] may stand for, none if there is no such rule."""
        number, _, form = text.partition(" ")
        if number in ("1", "2", "3") and form in FORMS:
            return [f"{attribute} {form}" for attribute in ATTRIBUTES]
        return [text] if text in self.rules else []


@lru_cache(maxsize=1)
def shipped_grammar() -> Grammar:
    """The grammar that comes with the lab."""
    return Grammar(shipped_biographies() / "grammar.txt")
