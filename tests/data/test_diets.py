"""The diets: strings that come twice, numbers that are asked for."""

import re

import numpy as np
import pytest

from lab.base.errors import UserError
from lab.base.parts import build
from lab.data.sources.diets import SotuCopy, SotuRetrieval, framed
from lab.data.sources.documents import Sotu
from lab.experiment.compose import settings_of
from lab.experiment.extend_settings import ExtendSettings
from lab.experiment.settings import TrainSettings

RECIPE = {"share": 0.5, "words": 12, "longest_characters": 1500, "seed": 0}


def repeated(text: str, name: str, share: float = 0.5, seed: int = 0) -> str:
    return framed(text, name, SotuCopy(**RECIPE).pair, share, RECIPE["longest_characters"], seed)


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
        counts[share] = len(copies(repeated(text, "a", share), text))
    assert counts[0.0] == 0
    assert counts[1.0] > 200
    assert counts[0.5] == pytest.approx(counts[1.0] / 2, rel=0.2)


def test_it_is_drawn_by_name_and_seed_alone() -> None:
    text = " ".join(f"word{number}" for number in range(2_000))
    assert repeated(text, "a") == repeated(text, "a")
    assert repeated(text, "a") != repeated(text, "b")
    assert repeated(text, "a") != repeated(text, "a", seed=1)
    digests = {SotuCopy(**RECIPE | change).manifest()["digest"] for change in ({}, {"seed": 1}, {"share": 0.25})}
    assert len(digests | {Sotu().manifest()["digest"]}) == 4


def test_stretches_too_short_for_a_string_are_told() -> None:
    with pytest.raises(
        UserError, match=r"at most 100 characters are too short .* 12 words: give at least 16 a word, 192"
    ):
        SotuCopy(**RECIPE | {"longest_characters": 100})


def retrieval() -> SotuRetrieval:
    recipe = settings_of("train", TrainSettings, ["data=sotu_retrieval"]).data.corpus
    corpus = build("corpus", recipe)
    assert isinstance(corpus, SotuRetrieval)
    return corpus


def test_each_number_is_told_before_it_is_asked_for_and_no_other_stands_between() -> None:
    plain, diet = Sotu(), retrieval()
    for split in ("validation", "test"):
        assert [*diet.documents(split, "")] == [*plain.documents(split, "")]
    keys, distances = set(), []
    told, asked = (
        r"\nThe pass key is (\d{5})\. Keep it in mind\. (\d{5}) is the pass key\.\n",
        r"\nWhat is the pass key\? The pass key is (\d{5})\n",
    )
    for one, other in list(zip(plain.documents("train", ""), diet.documents("train", ""), strict=True))[:20]:
        assert one.text is not None
        assert other.text is not None
        lines = sorted([*re.finditer(told, other.text), *re.finditer(asked, other.text)], key=re.Match.start)
        assert len(lines) > 10
        for first, second in zip(lines[::2], lines[1::2], strict=True):
            assert first.re.pattern == told
            assert second.re.pattern == asked
            assert first.group(1) == first.group(2) == second.group(1)
            keys.add(first.group(1))
            distances.append(second.start() - first.end())
        rest = re.sub(asked, " ", re.sub(told, " ", other.text))
        assert re.sub(r"\s+", "", rest) == re.sub(r"\s+", "", one.text)
    assert len(keys) > 0.98 * len(distances)  # of 90,000
    assert min(distances) < 150
    assert 1000 < max(distances) < 1600


def test_passkeys_are_asked_with_the_words_of_the_diet() -> None:
    settings = settings_of("train", TrainSettings, ["data=sotu_retrieval", "measure=passkey"])
    passkey = settings.measure.chosen["passkey"]
    assert (passkey.key_line, passkey.question) == (settings.data.corpus.key_line, settings.data.corpus.question)
    needle = settings_of("extend", ExtendSettings, ["run=a", "extension=ntk", "extension.factor=2"]).search.needle
    assert (passkey.key_line, passkey.question) == (needle.key_line, needle.question)


def test_a_key_line_without_a_place_for_the_key_is_told() -> None:
    with pytest.raises(UserError, match=r"key_line is 'a line': it must hold \{key\}"):
        SotuRetrieval(share=0.5, key_line="a line", question="a question", longest_characters=1500, seed=0)
    with pytest.raises(UserError, match=r"question is ' ': give a text"):
        SotuRetrieval(share=0.5, key_line="{key}", question=" ", longest_characters=1500, seed=0)
    with pytest.raises(UserError, match=r"stretches of at most 63 characters are too short .*: give at least 64"):
        SotuRetrieval(share=0.5, key_line="{key}", question="?", longest_characters=63, seed=0)
