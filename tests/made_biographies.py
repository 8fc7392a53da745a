"""Small corpora of biographies, and the tokenizer of their words, for several files of tests."""

from pathlib import Path
from typing import Any

import yaml

from lab.data.biographies.corpus import Biographies
from lab.data.tokenizer import Tokenizer
from lab.experiment.compose import configuration_folder

WORDS = Tokenizer("biographies_words/tokenizer.json")
PILOT: dict[str, Any] = yaml.safe_load(Path(configuration_folder(), "data", "biographies.yaml").read_text())["corpus"]


def biographies(**changes: Any) -> Biographies:
    """The pilot's corpus of 30 people, with changes; ``pools`` are changed one by one."""
    node = {key: value for key, value in PILOT.items() if key != "name"} | {"people": 30}
    pools = node["pools"] | changes.pop("pools", {})
    return Biographies(**node | {"pools": pools} | changes)


def answers_only(ids: list[int]) -> list[bool]:
    """Of a block of joined questions which tokens are learned: those behind "Answer:", up to the end of each document.

    Read from the text alone: a block that begins inside a question, its answer or just between is told by what follows.
    """
    answer, colon = WORDS.encode("Answer: x").tolist()[:2]
    first = ids[: ids.index(WORDS.end_of_document)] if WORDS.end_of_document in ids else ids
    inside = answer not in first and ids[0] != colon
    found: list[bool] = []
    for place, token in enumerate(ids):
        found.append(inside)
        if token == colon and (place == 0 or ids[place - 1] == answer):
            inside = True
        elif token == WORDS.end_of_document:
            inside = False
    return found
