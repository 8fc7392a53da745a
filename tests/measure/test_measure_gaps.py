"""Decoders that see what comes after, asked about people: against one gap-filled text at a time."""

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from made_biographies import WORDS, biographies

from lab.data.biographies.people import ATTRIBUTES
from lab.experiment.compose import configuration_folder, settings_of
from lab.experiment.settings import TrainSettings
from lab.measure.answers import Answers
from lab.measure.answers_behind import AnswersBehind
from lab.measure.biography_recall import BiographyRecall
from lab.model.building import build_decoder
from lab.model.decoder import Decoder
from lab.observe.measure import Measure, Row, Source
from lab.observe.people import marked
from lab.training.objectives import gap_of

CORPUS = biographies(people=24, wordings=2, orders=1, seed=2)
CONTEXT = 64
END, GAP = WORDS.end_of_document, gap_of(WORDS)


@pytest.fixture(scope="module")
def decoder() -> Decoder:
    """It has learned the answers of half the people, and the entries of a third."""
    config = settings_of(
        "train",
        TrainSettings,
        (
            *("experiment=smoke", "model=bidirectional_rope", "objective=masked", "data=biographies", "measure=none"),
            *("tokenizer=biographies_words", "scale.width=64", "scale.head_dim=32", "scale.hidden=128"),
        ),
    )
    made = build_decoder(config.model, config.scale, kernel="auto", compute_dtype="float32", seed=0)
    texts: list[tuple[list[int], range]] = []  # and which of their tokens are gaps
    for person in CORPUS.people:
        for attribute in ATTRIBUTES if person.number % 2 else ():
            asked = CORPUS.ask(person, attribute)
            prompt, ids = WORDS.encode(asked.prompt).tolist(), WORDS.encode(asked.prompt + asked.answer).tolist()
            texts.append(([END, *ids, END], range(len(prompt) + 1, len(ids) + 2)))
        for written in CORPUS.written(person)[:1] if person.number % 3 == 1 else ():
            entry = marked(WORDS, written)
            texts += [([*entry.ids.tolist(), END], range(*entry.values[attribute])) for attribute in ATTRIBUTES]
    longest = max(len(ids) for ids, _ in texts)
    targets = torch.tensor([ids + [END] * (longest - len(ids)) for ids, _ in texts])
    gaps = torch.tensor([[place in hidden for place in range(longest)] for _, hidden in texts])
    optimizer = torch.optim.AdamW(made.parameters(), lr=4e-3)
    drawn = torch.Generator().manual_seed(0)
    for _ in range(400):
        some = torch.randperm(len(texts), generator=drawn)[:48]
        losses = made.next_token_losses(made.hidden(targets[some].masked_fill(gaps[some], GAP)), targets[some])
        (losses * gaps[some]).sum().div(gaps[some].sum()).backward()
        optimizer.step()
        optimizer.zero_grad()
    return made.eval()


def rows_of(kind: type[Measure], decoder: Decoder, **changes: Any) -> list[Row]:
    node = yaml.safe_load(Path(configuration_folder(), "measure", f"{kind.label()}.yaml").read_text())
    measure: Any = kind.check(node | changes, f"measure.{kind.label()}")
    source = Source(lambda: iter(()), WORDS, CONTEXT, CORPUS.cluster, CORPUS.clusters, trained_on=lambda: CORPUS)
    with torch.inference_mode():
        found = [row for item in measure.items(source) for row in measure.score(decoder, item, CONTEXT)]
    return [{"measure": measure.label()} | row for row in found]


@torch.inference_mode()
def told(decoder: Decoder, ids: list[int], hidden: range) -> list[int]:
    """The likeliest token of each hidden place of one text."""
    shown = [GAP if place in hidden else token for place, token in enumerate(ids)]
    logits = decoder(torch.tensor([shown]))[0]
    return [int(logits[place].argmax()) for place in hidden]


def answered(decoder: Decoder, before: list[int], prompt: str, answer: str) -> int:
    asked = [*before, END, *WORDS.encode(prompt).tolist()]
    right = [*WORDS.encode(prompt + answer).tolist()[len(asked) - len(before) - 1 :], END]
    return int(told(decoder, asked + right, range(len(asked), len(asked) + len(right))) == right)


def test_answers_are_what_stands_in_as_many_gaps_as_the_right_answer_has_tokens(decoder: Decoder) -> None:
    rows = [row for row in rows_of(Answers, decoder) if row["measure"] in ("answers", "answers_training")]
    people = {person.name: person for person in CORPUS.people}
    for row in rows:
        asked = CORPUS.ask(people[row["document"]], ATTRIBUTES[row["segment"]])
        assert row["correct"] == answered(decoder, [], asked.prompt, asked.answer)
    assert len(rows) == 6 * len([*CORPUS.members("held_out"), *CORPUS.members("training")])
    assert 0 < sum(row["correct"] for row in rows) < len(rows)


def test_behind_other_questions_too(decoder: Decoder) -> None:
    rows = rows_of(AnswersBehind, decoder, contexts=[0, 0.5])
    alone = [row["correct"] for row in rows if row["length_tokens"] == 0]
    plain = [row["correct"] for row in rows_of(Answers, decoder) if row["measure"] == "answers"]
    assert alone == plain
    assert len(rows) == 2 * len(alone)


def test_recall_is_what_stands_in_the_gaps_of_a_value_wherever_it_stands(decoder: Decoder) -> None:
    rows = rows_of(BiographyRecall, decoder)
    whole = {(row["document"], row["segment"]): row for row in rows if row["measure"] == "biography_recall"}
    first = {(row["document"], row["segment"]): row for row in rows if row["measure"] == "biography_recall_first"}
    assert len(whole) == len(first) == 6 * len(CORPUS.people)
    for person in CORPUS.people:
        written = CORPUS.written(person)[0]
        encoding = WORDS.library.encode(written.text, add_special_tokens=False)
        for number, attribute in enumerate(ATTRIBUTES):
            start, stop = written.spans[attribute]
            inside = [place for place, (a, b) in enumerate(encoding.offsets) if a < stop and b > start]
            inside = [place for place in inside if written.text[slice(*encoding.offsets[place])].strip()]
            hidden = range(inside[0] + 1, inside[-1] + 2)
            ids = [END, *encoding.ids]
            said, right = told(decoder, ids, hidden), [ids[place] for place in hidden]
            assert whole[person.name, number]["correct"] == int(said == right)
            assert first[person.name, number]["correct"] == int(said[0] == right[0])
    assert 0 < sum(row["correct"] for row in whole.values()) < len(whole)
    assert not [row for row in rows if row["measure"] in ("biography_name", "biography_bits")]
