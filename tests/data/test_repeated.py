"""The diet with strings that come twice."""

import re

import numpy as np
import pytest

from lab.base.errors import UserError
from lab.data.sources.documents import Sotu
from lab.data.sources.repeated import SotuCopy, repeated

RECIPE = {"share": 0.5, "words": 12, "longest_characters": 1500, "seed": 0}


def copies(text: str, original: str) -> list[tuple[int, str]]:
    """(characters from copy to copy, string) of all lines of twelve words that come twice with one line between."""
    assert original
    lines = text.split("\n")
    found, at = [], 0
    for number, line in enumerate(lines):
        later = text.find(f"\n{line}\n", at + len(line))
        if len(line.split()) == 12 and line not in original and later >= 0 and line not in lines[:number]:
            found.append((later + 1 - at, line))
        at += len(line) + 1
    return found


def test_training_text_alone_has_strings_that_come_twice_and_the_rest_is_as_it_was() -> None:
    plain, diet = Sotu(), SotuCopy(**RECIPE)
    for split in ("validation", "test"):
        assert [*diet.documents(split, "")] == [*plain.documents(split, "")]
    before, after = [*plain.documents("train", "")], [*diet.documents("train", "")]
    assert [each.name for each in before] == [each.name for each in after]
    distances = []
    for one, other in list(zip(before, after, strict=True))[:20]:
        assert one.text is not None
        assert other.text is not None
        found = copies(other.text, one.text)
        distances += [distance for distance, _ in found]
        vocabulary = set(one.text.split())
        assert all(set(string.split()) <= vocabulary for _, string in found)
        rest = other.text
        for _, string in found:
            rest = rest.replace(f"\n{string}\n", " ")
        assert re.sub(r"\s+", "", rest) == re.sub(r"\s+", "", one.text)
    # From a sixteenth of the longest stretch to the longest, and the string and the rest of a word; even in logarithm.
    logs = np.log([distance - 70 for distance in distances])
    assert 1500 / 16 < min(distances) < 250
    assert 1000 < max(distances) < 1800
    assert abs(np.median(logs) - (np.log(1500) + np.log(1500 / 16)) / 2) < 0.2


def test_a_share_of_the_stretches_stands_between_copies() -> None:
    text = " ".join(f"word{number}" for number in range(20_000))
    counts = {}
    for share in (0.0, 0.5, 1.0):
        counts[share] = len(copies(repeated(text, "a", **RECIPE | {"share": share}), text))
    assert counts[0.0] == 0
    assert counts[1.0] > 200
    assert counts[0.5] == pytest.approx(counts[1.0] / 2, rel=0.2)


def test_it_is_drawn_by_name_and_seed_alone() -> None:
    text = " ".join(f"word{number}" for number in range(2_000))
    assert repeated(text, "a", **RECIPE) == repeated(text, "a", **RECIPE)
    assert repeated(text, "a", **RECIPE) != repeated(text, "b", **RECIPE)
    assert repeated(text, "a", **RECIPE) != repeated(text, "a", **RECIPE | {"seed": 1})
    digests = {SotuCopy(**RECIPE | change).manifest()["digest"] for change in ({}, {"seed": 1}, {"share": 0.25})}
    assert len(digests | {Sotu().manifest()["digest"]}) == 4


def test_stretches_too_short_for_a_string_are_told() -> None:
    with pytest.raises(
        UserError, match=r"at most 100 characters are too short .* 12 words: give at least 16 a word, 192"
    ):
        SotuCopy(**RECIPE | {"longest_characters": 100})
