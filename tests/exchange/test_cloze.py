"""The cloze task: its questions against the texts, and its answers against a decoder asked by hand."""

import json
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("lm_eval")

from lab.base.errors import UserError
from lab.data.sources.documents import Sotu
from lab.evidence.weighing import published
from lab.experiment.cloze import Document, make_cloze, questions
from lab.experiment.compose import settings_of
from lab.experiment.evaluating import evaluate
from lab.experiment.settings import EvaluateSettings
from lab.observe.scores import Scores
from lab.runs.imported import Imported

SOTU = Sotu()
TEXTS = [
    Document(entry.name, SOTU.cluster(entry.name), entry.text)
    for entry in SOTU.documents("test", "")
    if entry.text is not None
]
FIRST = questions(TEXTS, 300, 400, seed=0)
ASKED: list[dict[str, Any]] = [each._asdict() for each in FIRST]


def test_the_right_word_ends_the_passage_in_the_document_and_its_sentence_ends_there() -> None:
    texts = {each.name: " ".join(each.text.split()) for each in TEXTS}
    for each in ASKED:
        whole = f"{each['passage']} {each['choices'][each['answer']]}"
        assert re.search(rf"(^| ){re.escape(whole)}[.;!?]( |$)", texts[each["document"]])
        assert 350 < len(each["passage"]) <= 400
        assert re.fullmatch("[a-z]{4,}", each["choices"][each["answer"]])


def test_as_many_are_asked_of_each_author_and_none_twice() -> None:
    authors = {each.cluster for each in TEXTS}
    assert Counter(each["cluster"] for each in ASKED) == {author: 300 // len(authors) for author in authors}
    assert all(each["cluster"] == SOTU.cluster(each["document"]) for each in ASKED)
    assert len({each["passage"] for each in ASKED}) == len(ASKED)
    assert len({each["document"] for each in ASKED}) > 30


def test_wrong_words_end_sentences_as_often_and_the_right_one_stands_anywhere() -> None:
    ends = Counter(
        word
        for each in TEXTS
        for text in [" ".join(each.text.split())]
        for word in re.findall(r" ([a-z]{4,})[.;!?](?= |$)", text[400:])
    )
    for each in ASKED:
        right = ends[each["choices"][each["answer"]]]
        assert len(set(each["choices"])) == 4
        for word in each["choices"]:
            low, high = sorted((ends[word], right))
            assert low > 0
            assert sum(low < often < high for often in ends.values()) <= 40
    assert len({word for each in ASKED for word in each["choices"]}) > 600
    # Who takes the most frequent of the four is right as seldom as by chance, a quarter, give or take.
    guessed = [max(each["choices"], key=lambda word: (ends[word], word)) for each in ASKED]
    right = sum(guess == each["choices"][each["answer"]] for guess, each in zip(guessed, ASKED, strict=True))
    assert 0.15 < right / len(ASKED) < 0.37
    places = Counter(each["answer"] for each in ASKED)
    assert all(50 < places[place] < 100 for place in range(4))


def test_questions_follow_from_the_seed() -> None:
    assert questions(TEXTS, 300, 400, seed=0) == FIRST
    assert questions(TEXTS, 300, 400, seed=1) != FIRST


def test_several_models_answer_as_by_hand_and_claims_are_given_a_number_of_each_question(
    llama: Path, take: Callable[..., Imported], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_cloze(["data=sotu"], tmp_path / "tasks", count=36, characters=100, seed=0, overwrite=False)
    models = [take(llama), take(llama, model="nope")]
    settings = settings_of("evaluate", EvaluateSettings, ["run=a", "tasks=cloze"])
    given = {"run": [str(each.path) for each in models], "folder": str(tmp_path / "tasks"), "longest": 200}
    evaluate(settings.with_values(**given, output=str(tmp_path / "answers")))
    asked = [json.loads(line) for line in (tmp_path / "tasks" / "cloze.jsonl").read_text().splitlines()]
    table = published(tmp_path / "answers" / "task_documents.csv.gz")
    assert len(table) == 2 * len(asked)
    for model in models:
        tokenizer, decoder = model.tokenizer(), model.decoder(model.steps)
        rows = {row["document"]: row for row in Scores(model.path / "scores.csv").rows}
        told = {row["document"]: row for row in table if row["variant"] == model.label}
        for number, question in enumerate(asked):
            scores = []
            for word in question["choices"]:
                before = tokenizer.encode(question["passage"]).tolist()
                whole = tokenizer.encode(f"{question['passage']} {word}").tolist()
                with torch.inference_mode():
                    logits = decoder.logits(decoder.hidden(torch.tensor([whole]))).float().log_softmax(-1)
                scores.append(sum(float(logits[0, at - 1, whole[at]]) for at in range(len(before), len(whole))))
            first, second = sorted(scores)[-1], sorted(scores)[-2]
            if first - second > 1e-4:
                right = float(scores.index(first) == question["answer"])
                assert rows[str(number)]["value"] == told[str(number)]["mean"] == right
            assert told[str(number)]["cluster"] == question["cluster"]
            assert told[str(number)]["measure"] == "cloze: acc"
            assert told[str(number)]["clusters_told"] == "authors"
    shown = capsys.readouterr().out
    assert "36 questions, 3 of each of 12 authors" in shown
    assert "task_documents.csv.gz: for python -m lab.claims --documents" in shown


@pytest.mark.parametrize(
    ("keys", "told"),
    [
        ({"count": 0}, "--count is 0: give 1 or more"),
        ({"characters": -1}, "--characters is -1: give 1 or more"),
        ({"characters": 10_000_000}, "the test split of sotu has too few sentences with 10,000,000 characters"),
        ({"count": 3}, "--count is 3, and there are 12 authors: give at least one for each"),
    ],
)
def test_what_cannot_be_asked_is_one_line_and_writes_nothing(keys: dict[str, int], told: str, tmp_path: Path) -> None:
    given: dict[str, Any] = {"count": 20, "characters": 100, "seed": 0} | keys
    with pytest.raises(UserError, match=told):
        make_cloze(["data=sotu"], tmp_path / "tasks", **given, overwrite=False)
    assert not (tmp_path / "tasks").exists()


def test_what_is_there_is_kept_unless_it_is_to_be_replaced(tmp_path: Path) -> None:
    given: dict[str, Any] = {"count": 24, "characters": 100}
    make_cloze(["data=sotu"], tmp_path, **given, seed=0, overwrite=False)
    before = (tmp_path / "cloze.jsonl").read_text()
    with pytest.raises(UserError, match=r"cloze\.jsonl: exists"):
        make_cloze(["data=sotu"], tmp_path, **given, seed=1, overwrite=False)
    assert (tmp_path / "cloze.jsonl").read_text() == before
    make_cloze(["data=sotu"], tmp_path, **given, seed=1, overwrite=True)
    assert (tmp_path / "cloze.jsonl").read_text() != before


def test_a_table_that_cannot_be_written_is_told_before_anything_is_asked(
    llama: Path, take: Callable[..., Imported], tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    make_cloze(["data=sotu"], tmp_path / "tasks", count=24, characters=100, seed=0, overwrite=False)
    settings = settings_of("evaluate", EvaluateSettings, ["run=a", "tasks=cloze"])
    model = take(llama)
    given = {"run": str(model.path), "folder": str(tmp_path / "tasks"), "output": str(tmp_path / "file")}
    with pytest.raises(UserError, match="file"):
        evaluate(settings.with_values(**given))
    assert not (model.path / "scores.csv").exists()
