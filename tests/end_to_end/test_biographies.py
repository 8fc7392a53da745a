"""Biographies and questions from the command line: what cannot be is told in one line, and nothing is written."""

import json
import re
from pathlib import Path

import pytest
from commands import lab, the_one_line
from made_biographies import WORDS

from lab.base.errors import UserError
from lab.data.biographies.people import group_of
from lab.data.tokenizer import word_tokenizer
from lab.experiment.compose import settings_of
from lab.experiment.settings import TrainSettings
from lab.experiment.setup import Setup

SMALL = (
    *("experiment=biographies", "scale.layers=1", "scale.width=32", "scale.hidden=64", "scale.heads=2"),
    *("scale.kv_heads=1", "scale.head_dim=16", "data.corpus.people=40", "scale.tokens=4096", "scale.warmup_steps=1"),
    *("scale.validation_blocks=2", "trainer.accelerator=cpu", "trainer.compute_dtype=float32"),
)
REFUSED = {
    "data.corpus.people=500000": "500,000 people, but the pools give 432,000 full names (60 x 60 x 120); take fewer",
    "data.corpus.people=0": "data.corpus.people is 0: give 1 or more",
    "data.corpus.pools.cities=201": "pools.cities is 201; give 1 to 200, the entries of",
    "data.corpus.pools.majors=0": "data.corpus.pools.majors is 0: give 1 or more",
    "data.corpus.years=0": "data.corpus.years is 0: give 1 or more",
    "data.corpus.question_wordings=10": "question_wordings is 10; give 1 to 9, the wordings there are",
    "data.corpus.question_wordings=0": "data.corpus.question_wordings is 0: give 1 or more",
    "data.corpus.templates=51": "templates is 51; give 1 to 50, the templates that each attribute has",
    "data.corpus.templates=0": "data.corpus.templates is 0: give 1 or more",
    "data.corpus.wordings=0": "data.corpus.wordings is 0: give 1 or more",
    "data.corpus.rich_wordings=0": "data.corpus.rich_wordings is 0: give 1 or more",
    "data.corpus.orders=-1": "data.corpus.orders is -1: give 0 or more",
    "data.corpus.celebrities=-1": "data.corpus.celebrities is -1: give 0 or more",
    "data.corpus.rewritten=1.5": "data.corpus.rewritten is 1.5: give 1 or less",
    "data.corpus.style=prose": "data.corpus.style is 'prose': give templates or grammar",
    "data.corpus.content=answers": "data.corpus.content is 'answers'",
    "data.corpus.content=both": "weights is missing: give each of entries, questions a share of the tokens",
    "data.corpus.content=both data.weights={entries:1}": "weights.questions is missing",
    "data.weights={entries:1}": "weights is given, but the corpus has no subsets",
    "data.corpus.content=questions data.corpus.people=1": "questions are about the training group, and none of 1",
    "data.lanes=41": "lanes is 41 but split train has 40 documents; give at least 1 lane and no more lanes",
    "data.lanes=41 data.corpus.adjacent=true data.corpus.wordings=5": "lanes is 41 but split train has 40",
    "data.lanes=7 data.workers=2": "lanes is 7: it must be a multiple of processes x workers = 1 x 2",
    "measure.answers.people=0": "measure.answers.people is 0: give 1 or more",
    "measure.biography_recall.entries=0": "measure.biography_recall.entries is 0: give 1 or more",
}


def built(*overrides: str) -> Setup:
    return Setup(settings_of("train", TrainSettings, [*SMALL, *overrides]))


@pytest.mark.parametrize("overrides", REFUSED)
def test_a_bad_value_is_refused_before_anything_is_written(
    overrides: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError) as refusal:
        built(*overrides.split()).data.train_dataloader()
    assert REFUSED[overrides] in str(refusal.value)
    assert "\n" not in str(refusal.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "overrides",
    [
        "data.corpus.people=500000",
        "data.corpus.pools.employers=264",
        "data.corpus.wordings=0",
        "data.lanes=41",
        "data.corpus.content=both",
    ],
)
def test_the_command_says_so_in_one_line(overrides: str, tmp_path: Path) -> None:
    line = the_one_line(lab("train", *SMALL, *overrides.split(), cwd=tmp_path))
    assert REFUSED.get(overrides, "pools.employers is 264; give 1 to 263") in line
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "overrides",
    [
        "data.corpus.pools.last_names=121",
        "data.corpus.pools.majors=41",
        "data.corpus.years=51",
        "data.corpus.templates=50",
        "data.corpus.style=grammar",
        "data.corpus.content=questions data.corpus.pools.first_names=400",
    ],
)
def test_a_tokenizer_of_other_people_is_refused_though_nothing_is_measured(overrides: str) -> None:
    setup = built(*overrides.split(), "measure=none")
    with pytest.raises(UserError, match=r"tokenizer\.json: it cannot give back .*take another tokenizer") as refused:
        _ = setup.spelling
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("measure", ["measure=none", "measure=[answers,biography_recall]"])
def test_it_is_refused_before_a_run_is_made(measure: str, tmp_path: Path) -> None:
    line = the_one_line(lab("train", *SMALL, "data.corpus.pools.last_names=121", measure, cwd=tmp_path))
    assert re.search(r"tokenizer\.json: it cannot give back .*take another tokenizer", line)
    assert not list(tmp_path.rglob("manifest.json"))


def test_a_tokenizer_that_loses_letters_is_refused(tmp_path: Path) -> None:
    made = word_tokenizer(["Anna was born in Rome."])
    made.save(str(tmp_path / "tokenizer.json"))
    given = (
        "tokenizer=file",
        f"tokenizer.path={tmp_path}/tokenizer.json",
        f"tokenizer.vocabulary={made.get_vocab_size()}",
    )
    line = the_one_line(lab("train", *SMALL, *given, cwd=tmp_path))
    assert re.search(r"tokenizer\.json: it cannot give back ", line)


@pytest.mark.parametrize("measure", ["answers", "biography_recall"])
def test_a_decoder_of_other_texts_is_asked_nothing(measure: str, by_heart: Path, tmp_path: Path) -> None:
    told = f"measure={measure} asks about people, and this decoder read of none: train it with data=biographies"
    line = the_one_line(lab("extrapolate", f"runs={by_heart}", f"measure={measure}", cwd=tmp_path))
    assert told in line
    given = ("experiment=smoke", "data=sotu", "logger=csv", f"measure={measure}")
    line = the_one_line(lab("train", *given, cwd=tmp_path))
    assert told in line


def test_the_chain_from_biographies_to_questions_scores_people_who_were_not_asked_about(tmp_path: Path) -> None:
    read = lab("train", *SMALL, "runs=read", cwd=tmp_path)
    assert read.returncode == 0, read.stderr
    (parent,) = [path.parent for path in tmp_path.glob("read/*/manifest.json")]
    asked = ("experiment=questions", "start=run", f"start.run={parent}", "scale.tokens=4096", "runs=asked")
    child = lab("train", *asked, cwd=tmp_path)
    assert child.returncode == 0, child.stderr
    (scores,) = tmp_path.glob("asked/*/scores.csv")
    text = scores.read_text()
    for measure in ("answers", "answers_training", "answers_choosing", "answers_frequent", "answers_office"):
        assert re.search(rf"\b{measure},", text), measure
    again = lab("extrapolate", f"runs={scores.parent}", "measure=answers", "measure.answers.inverse=true", cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    assert "answers_inverse," in scores.read_text()

    # Keys of the parent's corpus, which the default has not, are given as any others, and a sweep over them, too.
    far = lab(
        "train",
        "-m",
        *asked,
        "data.corpus.question_filler=1,2",
        "measure=[answers_behind,answers_across]",
        cwd=tmp_path,
    )
    assert far.returncode == 0, far.stderr
    taught = sorted(tmp_path.glob("asked/rope-*_filler-*"))
    assert {
        json.loads((each / "manifest.json").read_text())["identity"]["data"]["corpus"]["question_filler"]
        for each in taught
    } == {1, 2}
    for each in taught:
        text = (each / "scores.csv").read_text()
        assert "answers_behind," in text
        assert "answers_across," in text
        assert (each / "answers_across.png").is_file()
        assert "++" not in (each / "manifest.json").read_text()
    line = the_one_line(lab("train", *asked, "data.corpus.colour=red", cwd=tmp_path))
    assert "data.corpus.colour is a key that nothing reads" in line
    missing = lab("compare", "runs=asked/*", "factor=data", "measure=answers_behind", "output=compared", cwd=tmp_path)
    assert missing.returncode == 0, missing.stderr
    assert (tmp_path / "compared" / "held_out_answers_behind.png").is_file()


def test_prepare_writes_the_documents_out_and_says_how_often_a_person_is_read_of(tmp_path: Path) -> None:
    command = ("prepare", "biographies", *SMALL, "data.corpus.wordings=5", "data.corpus.orders=1", "--output", "texts")
    result = lab(*command, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    rows = {
        split: [json.loads(line) for line in (tmp_path / "texts" / f"{split}.jsonl").read_text().splitlines()]
        for split in ("train", "validation", "test")
    }
    corpus = built(*command[2 + len(SMALL) : -2]).stream.corpus
    for split, found in rows.items():
        expected = [(entry.name, entry.text) for entry in corpus.documents(split, "")]
        assert [(row["name"], row["text"]) for row in found] == expected
    tokens = sum(len(WORDS.encode(row["text"])) + 1 for row in rows["train"])
    assert (
        f"reads each of 200 entries {4096 / tokens:.1f} times, of a person {5 * 4096 / tokens:.1f} times"
        in result.stdout
    )
    assert "train.jsonl" in the_one_line(lab(*command, cwd=tmp_path))
    line = the_one_line(lab("prepare", "biographies", "data=sotu", "--output", "other", cwd=tmp_path))
    assert "data=sotu is no data=biographies" in line
    assert not (tmp_path / "other").exists()
    questions = (*command[:-1], "asked", "data.corpus.content=questions")
    assert lab(*questions, cwd=tmp_path).returncode == 0
    first = json.loads((tmp_path / "asked" / "train.jsonl").read_text().splitlines()[0])
    assert first["text"][: first["prompt"]].endswith(" Answer:")
    person = corpus.person(first["name"].split("/")[1])  # type: ignore[attr-defined]
    assert group_of(person) == "training"


def test_questions_without_a_run_to_go_on_from_are_told_so_and_nothing_else(tmp_path: Path) -> None:
    line = the_one_line(lab("train", "experiment=questions", "data.corpus.people=20", cwd=tmp_path))
    assert line == "error: start.run must be given: add start.run=... to the command"


def test_a_model_that_cannot_write_has_no_text_taken_and_goes_on_where_it_stopped(tmp_path: Path) -> None:
    trained = lab("train", "experiment=smoke", "model=rope", "measure=none", "logger=csv", cwd=tmp_path)
    assert trained.returncode == 0, trained.stderr
    (run,) = (tmp_path / "runs").glob("rope-*")
    keys = ("paraphrases", "data=biographies", "data.corpus.people=20", "--run", str(run), "--output", "texts.jsonl")

    def asked(*more: str) -> str:
        result = lab("prepare", *keys, *more, cwd=tmp_path)
        assert result.returncode == 0, result.stderr
        return result.stdout

    told = asked("--people", "2", "--tries", "8")
    assert "0 texts about 2 people" in told
    assert "of 16 texts that were drawn 0 tell the name and all six values: 0.0%" in told
    assert "2 people have fewer than 1: give more --tries, and it goes on" in told
    first = (tmp_path / "texts.jsonl").read_text()
    assert asked("--people", "2", "--tries", "8") == told  # nothing is drawn again
    assert (tmp_path / "texts.jsonl").read_text() == first
    (tmp_path / "texts.jsonl").write_text(first[:-30])  # as a killed process leaves it
    asked("--people", "2", "--tries", "8")
    assert (tmp_path / "texts.jsonl").read_text() == first
    assert "of 20 texts" in asked("--people", "2", "--tries", "10")
    line = the_one_line(lab("prepare", *keys, "--seed", "1", cwd=tmp_path))
    assert "texts.jsonl: holds texts of another seed" in line
    refused = lab(
        "train", "experiment=biographies", "data.corpus.people=20", "data.corpus.paraphrases=texts.jsonl", cwd=tmp_path
    )
    assert "has 0 texts about" in the_one_line(refused)
