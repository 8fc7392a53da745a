"""Summaries: what is written against whole passes, facts against the text, ROUGE-L against a loop of its own."""

import re
import sys
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from made_biographies import biographies
from nltk.stem.porter import PorterStemmer

from lab.base.errors import UserError
from lab.data.sources.documents import Sotu
from lab.data.sources.reports import Facts, Reports
from lab.data.tokenizer import Tokenizer
from lab.experiment.compose import settings_of
from lab.experiment.settings import TrainSettings
from lab.measure.summaries import Summaries
from lab.measure.summary_facts import SummaryFacts, tells
from lab.model.building import build_decoder
from lab.model.decoder import Decoder
from lab.observe.measure import Item, Measure, Row, Source
from lab.observe.written import copied

TOKENIZER = Tokenizer("sotu_1k/tokenizer.json")
END = TOKENIZER.end_of_document
CORPUS = Reports(reports=8, longest_characters=256, seed=0)
KNOWN = 2  # reports of the test split that the decoder has learned by heart
KEYS: dict[str, Any] = {"documents": 4, "tokens": 100, "temperature": None, "top_p": 1.0, "seed": 0}


def source(corpus: Any = CORPUS) -> Source:
    return Source(lambda: iter(()), TOKENIZER, 256, trained_on=lambda: corpus)


@pytest.fixture(scope="module")
def decoder() -> Decoder:
    """One that can write the summaries of two reports, and of others what resembles one."""
    overrides = ["experiment=smoke", "model=rope", "scale.width=64", "scale.head_dim=32", "scale.hidden=128"]
    config = settings_of("train", TrainSettings, overrides)
    made = build_decoder(config.model, config.scale, kernel="auto", compute_dtype="float32", seed=0)
    texts = [next(CORPUS.read("test", "", number)).text or "" for number in range(KNOWN)]
    ids = [[END, *TOKENIZER.encode(text).tolist(), END] for text in texts]
    longest = max(map(len, ids))
    tokens = torch.tensor([each + [END] * (longest - len(each)) for each in ids])
    optimizer = torch.optim.AdamW(made.parameters(), lr=5e-3)
    for _ in range(120):
        made.next_token_losses(made.hidden(tokens[:, :-1]), tokens[:, 1:]).mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    return made.eval()


def scored(measure: Measure, decoder: Decoder) -> dict[str, list[Row]]:
    with torch.inference_mode():
        return {item.name: measure.score(decoder, item, 256) for item in measure.items(source())}


def slowly(decoder: Decoder, prompt: str, most: int = 100) -> str:
    """What the likeliest tokens spell, a whole pass for each."""
    ids = [END, *TOKENIZER.encode(prompt).tolist()]
    first = len(ids)
    with torch.inference_mode():
        while len(ids) < first + most:
            ids.append(int(decoder.logits(decoder.hidden(torch.tensor([ids])))[0, -1].argmax()))
            if ids[-1] == END:
                return TOKENIZER.decode(ids[first:-1]).strip()
    return TOKENIZER.decode(ids[first:]).strip()


def rouge_l(wanted: str, said: str) -> float:
    """F of the longest common subsequence of stemmed words (Lin 2004), by its table."""
    stem = PorterStemmer().stem
    one, other = (
        [stem(word) if len(word) > 3 else word for word in re.findall("[a-z0-9]+", text.lower())]
        for text in (wanted, said)
    )
    table = np.zeros((len(one) + 1, len(other) + 1), dtype=int)
    for i, a in enumerate(one):
        for j, b in enumerate(other):
            table[i + 1, j + 1] = table[i, j] + 1 if a == b else max(table[i, j + 1], table[i + 1, j])
    common = table[-1, -1]
    return 0.0 if not common else float(2 * common / (len(one) + len(other)))


def test_the_facts_that_are_told_are_those_that_the_likeliest_continuation_spells(decoder: Decoder) -> None:
    rows = scored(SummaryFacts(**KEYS), decoder)
    assert [*rows] == [f"reports/test/{number}" for number in range(4)]
    for number, (name, of_report) in enumerate(rows.items()):
        entry = next(CORPUS.read("test", "", number))
        prompt = (entry.text or "")[: entry.prompt]
        said, facts = slowly(decoder, prompt), CORPUS.facts(name)
        told = {row["segment"]: row for row in of_report if row["measure"] == "summary_facts"}
        assert [told[place]["correct"] for place in range(6)] == [int(fact in said) for fact in facts]
        if number < KNOWN:
            assert said == (entry.text or "")[entry.prompt :].strip()
            assert all(row["correct"] for row in told.values())
        for place, fact in enumerate(facts):
            before = TOKENIZER.encode(prompt[: prompt.rindex(fact)])
            whole = TOKENIZER.encode(prompt)
            assert (
                abs(len(whole) - len(before) - told[place]["distance_tokens"]) <= 2
            )  # a word's first token may differ
            assert told[place]["length_tokens"] == len(whole) + 1
        lines = [row["correct"] for row in of_report if row["measure"] == "summary_facts_copied"]
        assert dict(zip(Facts._fields, lines, strict=True)) == {
            **{"date": 1, "subject": 1, "person": 0, "place": 0, "dollars": 0, "until": 1}
        }
    distances = [
        [row["distance_tokens"] for row in each if row["measure"] == "summary_facts"] for each in rows.values()
    ]
    assert all(each[0] > each[number] > each[5] for each in distances for number in (2, 3, 4))


def test_rouge_is_that_of_the_likeliest_continuation_and_of_the_first_and_last_line(decoder: Decoder) -> None:
    for number, of_report in enumerate(scored(Summaries(**KEYS), decoder).values()):
        entry = next(CORPUS.read("test", "", number))
        prompt, wanted = (entry.text or "")[: entry.prompt], (entry.text or "")[entry.prompt :]
        found = {row["measure"]: row["value"] for row in of_report}
        assert found["summaries"] == pytest.approx(rouge_l(wanted, slowly(decoder, prompt)), abs=1e-12)
        lines = prompt.split("\n")
        assert found["summaries_copied"] == pytest.approx(rouge_l(wanted, f"{lines[0]} {lines[2]}"), abs=1e-12)
        assert found["summaries_rouge1"] >= found["summaries_rouge2"]
        if number < KNOWN:
            assert found["summaries"] == found["summaries_rouge1"] == found["summaries_rouge2"] == 1


def test_what_is_compared_is_what_is_missing(decoder: Decoder) -> None:
    rows = [row for each in scored(SummaryFacts(**KEYS), decoder).values() for row in each]
    compared = [found for row in rows if (found := SummaryFacts.compared(row, 256)) is not None]
    assert len(compared) == 4 * 6
    told = np.mean([row["correct"] for row in rows if row["measure"] == "summary_facts"])
    assert np.mean([each.value for each in compared]) == pytest.approx(1 - told)
    assert {each.length_tokens for each in compared} == {256}
    notes = {name: value for name, _, value in SummaryFacts.notes(rows)}
    assert notes["facts told"] == f"{told:.1%}"
    assert notes["facts in first and last line"] == "50.0%"


def test_so_many_documents_are_asked_and_so_many_tokens_written(decoder: Decoder) -> None:
    assert len([*SummaryFacts(**KEYS | {"documents": 3}).items(source())]) == 3
    assert len([*SummaryFacts(**KEYS | {"documents": None}).items(source())]) == CORPUS.chunks("test", "")
    measure = SummaryFacts(**KEYS | {"tokens": 3})
    item: Item = next(iter(measure.items(source())))
    assert len(TOKENIZER.encode(measure.written(decoder, item))) <= 3


def test_with_a_temperature_texts_are_drawn_from_the_seed(decoder: Decoder) -> None:
    item: Item = [*SummaryFacts(**KEYS).items(source())][-1]
    drawn = [SummaryFacts(**KEYS | {"temperature": 1.5, "seed": seed}).written(decoder, item) for seed in (0, 0, 1, 2)]
    assert drawn[0] == drawn[1]
    assert len(set(drawn)) == 3
    assert all(a != b for a, b in pairwise(drawn[1:]))


@pytest.mark.parametrize(
    ("measure", "corpus"),
    [(SummaryFacts, Sotu()), (Summaries, Sotu()), (SummaryFacts, biographies(content="questions"))],
)
def test_a_decoder_that_read_no_prompts_or_no_reports_is_refused(measure: type[Measure], corpus: Any) -> None:
    with pytest.raises(UserError, match=rf"measure={measure.label()} asks for .* data=reports"):
        [*measure(**KEYS).items(source(corpus))]


def test_that_the_package_for_rouge_is_missing_is_told_before_anything_is_scored(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "rouge_score.rouge_scorer", None)
    with pytest.raises(UserError, match=r"rouge-score is missing; install it: pip install '\.\[rouge\]'"):
        Summaries(**KEYS).items(source())


@pytest.mark.parametrize(
    ("text", "told"),
    [("granted 1234 dollars", True), ("granted 12345 dollars", False), ("1234.", True), ("(1234)", True), ("", False)],
)
def test_a_fact_is_told_where_it_is_no_part_of_a_longer_number(text: str, told: bool) -> None:
    assert tells(text, "1234") == told


def test_of_a_prompt_of_few_lines_all_are_copied() -> None:
    assert copied("a\nb\n\nc\nSummary:") == "a c"
    assert copied("a\nSummary:") == "a"
    assert copied("Summary:") == ""
