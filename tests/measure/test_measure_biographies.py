"""Questions and recall of biographies: against one question, one entry and one token at a time."""

import math
import re
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from made_biographies import WORDS, biographies

from lab.base.errors import UserError
from lab.data.biographies.corpus import Biographies
from lab.data.biographies.people import ATTRIBUTES
from lab.data.biographies.wording import shipped_filler
from lab.data.sources.documents import Sotu
from lab.data.tokenizer import Tokenizer, word_tokenizer
from lab.experiment.compose import configuration_folder, settings_of
from lab.experiment.settings import TrainSettings
from lab.measure.answers import Answers
from lab.measure.answers_across import AnswersAcross
from lab.measure.answers_behind import AnswersBehind
from lab.measure.biography_recall import BiographyRecall
from lab.model.building import build_decoder
from lab.model.decoder import Decoder
from lab.observe import people
from lab.observe.measure import Measure, Row, Source
from lab.observe.people import Prompt, answers, marked, prompt_of
from lab.observe.scores import Scores
from lab.observe.scoring import score_run
from lab.runs.checkpoints import Checkpoints
from lab.runs.run import Run
from lab.runs.settings import RunSettings

CORPUS = biographies(people=24, celebrities=3, wordings=2, orders=1, seed=2)
CONTEXT, STEP = 64, 8
END = WORDS.end_of_document
OVERRIDES = (
    *("experiment=smoke", "model=rope", "data=biographies", "tokenizer=biographies_words", "measure=none"),
    *("trainer=cpu", "trainer.compute_dtype=float32", "scale.width=64", "scale.head_dim=32", "scale.hidden=128"),
)


def fresh(config: RunSettings) -> Decoder:
    return build_decoder(config.model, config.scale, kernel=config.kernel, compute_dtype="float32", seed=config.seed)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run of a small decoder that has learned some of CORPUS and not all: the answers of half the people, two thirds
    of the entries."""
    config = settings_of("train", TrainSettings, OVERRIDES).of_run()
    made = Run(tmp_path_factory.mktemp("runs") / "people")
    made.create(config, {"digest": "0123abcd", "state": "finished"})
    decoder = fresh(config)
    everyone = [*CORPUS.people, *CORPUS.celebrities]
    texts = ["".join(CORPUS.ask(person, each)) for person in everyone[::2] for each in ATTRIBUTES]
    texts += ["".join(CORPUS.inverse(person)) for person in everyone[::2]]
    texts += [written.text for person in everyone if person.number % 3 for written in CORPUS.written(person)]
    ids = [[END, *WORDS.encode(text).tolist(), END] for text in texts]
    longest = max(map(len, ids))
    tokens = torch.tensor([each + [END] * (longest - len(each)) for each in ids])
    optimizer = torch.optim.AdamW(decoder.parameters(), lr=4e-3)
    drawn = torch.Generator().manual_seed(0)
    for _ in range(160):
        some = tokens[torch.randperm(len(tokens), generator=drawn)[:48]]
        losses = decoder.next_token_losses(decoder.hidden(some[:, :-1]), some[:, 1:])
        (losses * (some[:, :-1] != END).logical_or(some[:, 1:] != END)).mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    Checkpoints(made.path / "checkpoints", made.digest).save(STEP, decoder.state_dict(), {})
    return made


@pytest.fixture(scope="module")
def decoder(run: Run) -> Decoder:
    return run.decoder(STEP)


def source(corpus: Any = CORPUS, tokenizer: Tokenizer = WORDS) -> Source:
    return Source(lambda: iter(()), tokenizer, CONTEXT, corpus.cluster, corpus.clusters, trained_on=lambda: corpus)


def measured(name: str, **changes: Any) -> Any:
    kinds: list[type[Measure]] = [Answers, AnswersAcross, AnswersBehind, BiographyRecall]
    kind = {each.label(): each for each in kinds}[name]
    node = yaml.safe_load(Path(configuration_folder(), "measure", f"{name}.yaml").read_text())
    return kind.check(node | changes, f"measure.{name}")


def rows_of(measure: Measure, decoder: Decoder, corpus: Biographies = CORPUS) -> list[Row]:
    with torch.inference_mode():
        found = [row for item in measure.items(source(corpus)) for row in measure.score(decoder, item, CONTEXT)]
    return [{"measure": measure.label()} | row for row in found]


# One at a time.


def said(decoder: Decoder, prompt: str, most: int) -> str:
    """What is most likely, a token at a time, each from a whole pass, up to the end of the document."""
    return continued(decoder, [END, *WORDS.encode(prompt).tolist()], most)


@torch.inference_mode()
def continued(decoder: Decoder, ids: list[int], most: int) -> str:
    ids, first = list(ids), len(ids)
    while len(ids) < first + most:
        ids.append(int(decoder.logits(decoder.hidden(torch.tensor([ids])))[0, -1].argmax()))
        if ids[-1] == END:
            return WORDS.decode(ids[first:-1]) + "|"
    return WORDS.decode(ids[first:])


def groups(corpus: Biographies) -> dict[str, list[Any]]:
    return {name: corpus.members(name) for name in ("training", "held_out", "choosing")} | {
        "celebrity": corpus.celebrities
    }


def expected_answers(decoder: Decoder, corpus: Biographies = CORPUS) -> dict[tuple[str, str, int], int]:
    """(measure, person, number of the attribute) to right or wrong."""
    offices = dict(zip(corpus.pools.employers, corpus.pools.offices, strict=True))
    found: dict[tuple[str, str, int], int] = {}
    for group, members in groups(corpus).items():
        called = {"held_out": "answers"}.get(group, f"answers_{group}")
        for person in members:
            for number, attribute in enumerate(ATTRIBUTES):
                asked = corpus.ask(person, attribute)
                told = said(decoder, asked.prompt, 40)
                found[called, person.name, number] = int(told in (f"{asked.answer}|", f"{asked.answer.strip()}|"))
                if group != "held_out":
                    continue
                counts = Counter(other.value(attribute) for other in corpus.members("training"))
                frequent = next(each for each in counts if counts[each] == max(counts.values()))
                found["answers_frequent", person.name, number] = int(frequent == person.value(attribute))
            if group == "held_out":
                employer = said(decoder, corpus.ask(person, "employer").prompt, 40).strip().removesuffix(".|")
                found["answers_office", person.name, 5] = int(offices.get(employer) == person.office_city)
    return found


def test_answers_are_those_of_greedy_decoding_one_by_one_without_cache(decoder: Decoder) -> None:
    rows = rows_of(measured("answers"), decoder)
    found = {(row["measure"], row["document"], row["segment"]): row["correct"] for row in rows}
    assert len(found) == len(rows)
    assert found == expected_answers(decoder)
    for measure in ("answers", "answers_training", "answers_celebrity", "answers_office"):
        right = [correct for (name, _, _), correct in found.items() if name == measure]
        assert 0 < sum(right) < len(right), measure  # or little was compared
    lengths = {row["length_tokens"] for row in rows if row["segment"] == 3 and row["document"] == CORPUS.people[0].name}
    assert lengths == {1 + len(WORDS.encode(CORPUS.ask(CORPUS.people[0], "major").prompt))}


def test_names_are_asked_by_all_six_values_too(decoder: Decoder) -> None:
    plain, both = rows_of(measured("answers"), decoder), rows_of(measured("answers", inverse=True), decoder)
    inverse = {(row["document"], row["measure"]): row["correct"] for row in both if row["segment"] == 6}
    assert [row for row in both if row["segment"] != 6] == plain
    expected = {}
    for group, members in groups(CORPUS).items():
        called = {"held_out": "answers_inverse"}.get(group, f"answers_inverse_{group}")
        for person in members:
            told = said(decoder, CORPUS.inverse(person).prompt, 8).strip()
            expected[person.name, called] = int(told == f"{person.name}.|")
    assert inverse == expected
    assert 0 < sum(inverse.values()) < len(inverse)


def test_an_answer_that_goes_on_or_ends_early_is_wrong(decoder: Decoder) -> None:
    person = next(each for each in CORPUS.people if len(each.employer.split()) > 1)
    prompt = prompt_of(WORDS, CORPUS.ask(person, "employer"))
    assert WORDS.decode(prompt.answer.tolist()).strip() == f"{person.employer}.<|endoftext|>"
    assert prompt.ids[0] == END
    (given,) = answers(decoder, [prompt])
    # The same question, of which a part of what is said, or more than that, were right.
    shorter = Prompt(prompt.ids, np.concatenate((given[:1], given[-1:])))
    longer = Prompt(prompt.ids, np.concatenate((given[:-1], given[-2:-1], given[-1:])))
    for other in (shorter, longer):
        assert not np.array_equal(answers(decoder, [other, prompt])[0], other.answer)


@pytest.mark.parametrize("batch", [1, 3, 256])
def test_answers_do_not_depend_on_who_is_asked_beside(decoder: Decoder, batch: int) -> None:
    prompts = [prompt_of(WORDS, CORPUS.ask(person, each)) for person in CORPUS.people for each in ATTRIBUTES]
    some = answers(decoder, prompts, batch)
    alone = [answers(decoder, [prompt, prompts[0]])[0] for prompt in prompts]
    for one, other in zip(some, alone, strict=True):
        shared = min(len(one), len(other))
        assert one[:shared].tolist() == other[:shared].tolist()
    assert answers(decoder, []) == []


def test_at_most_so_many_of_each_group_are_asked(decoder: Decoder) -> None:
    rows = rows_of(measured("answers", people=2), decoder)
    every = rows_of(measured("answers"), decoder)
    asked = list(dict.fromkeys(row["document"] for row in rows))
    assert asked == [person.name for members in groups(CORPUS).values() for person in members[:2]]
    assert rows == [row for row in every if row["document"] in asked]


# Behind other text.


def right(told: str, answer: str) -> int:
    return int(told in (f"{answer}|", f"{answer.strip()}|"))


def test_behind_other_questions_the_answers_are_those_of_greedy_decoding_one_by_one(decoder: Decoder) -> None:
    rows = rows_of(measured("answers_behind", contexts=[0, 0.5, 2], people=3), decoder)
    asked = CORPUS.members("held_out")[:3]
    assert len(rows) == 3 * len(asked) * len(ATTRIBUTES)
    others = {each.name for each in CORPUS.people} - {each.name for each in CORPUS.members("training")}
    read = {0: 0, 32: 32, 128: 128}
    for item in measured("answers_behind", contexts=[0, 0.5, 2], people=3).items(source()):
        for person, prompts in zip(asked, item.details["prompts"], strict=True):
            for (prompt, _), attribute in zip(prompts, ATTRIBUTES, strict=True):
                question = CORPUS.ask(person, attribute)
                alone = [END, *WORDS.encode(question.prompt).tolist()]
                before = prompt.ids.tolist()[: -len(alone)]
                assert prompt.ids.tolist()[-len(alone) :] == alone
                assert len(before) == read[item.details["tokens"]]
                # Whole documents, each with its right answer, but for the first, which is cut; of nobody held out.
                for text in WORDS.decode(before).split("<|endoftext|>")[1 if before and before[0] != END else 0 :]:
                    if text.strip():
                        assert re.search(r"Answer:.*[.]$", text.strip()), text
                        assert not any(name in text for name in others)
                (row,) = [
                    each
                    for each in rows
                    if each["document"] == person.name
                    and ATTRIBUTES[each["segment"]] == attribute
                    and each["length_tokens"] == item.details["tokens"]
                ]
                assert row["distance_tokens"] == len(before)
                assert row["correct"] == right(continued(decoder, prompt.ids.tolist(), 40), question.answer)
    alone = [row["correct"] for row in rows if not row["length_tokens"]]
    plain = [row for row in rows_of(measured("answers", people=3), decoder) if row["measure"] == "answers"]
    assert alone == [row["correct"] for row in plain]
    assert 0 < sum(row["correct"] for row in rows) < len(rows)


def test_across_a_distance_the_name_comes_first_and_only_sentences_about_nobody_follow(decoder: Decoder) -> None:
    measure = measured("answers_across", contexts=[0, 0.25, 1], people=2)
    rows = rows_of(measure, decoder)
    asked = CORPUS.members("held_out")[:2]
    found = {(row["document"], row["segment"], row["length_tokens"]): row for row in rows}
    assert set(found) == {
        (each.name, number, tokens) for each in asked for number in range(6) for tokens in (0, 16, 64)
    }
    sentences = set(shipped_filler())
    for item in measure.items(source()):
        for person, prompts in zip(asked, item.details["prompts"], strict=True):
            for number, (prompt, _) in enumerate(prompts):
                row = found[person.name, number, item.details["tokens"]]
                answer = CORPUS.ask(person, ATTRIBUTES[number]).answer
                assert row["correct"] == right(continued(decoder, prompt.ids.tolist(), 40), answer)
                text = WORDS.decode(prompt.ids[1:].tolist()).strip()
                if not item.details["tokens"]:
                    assert text == CORPUS.ask(person, ATTRIBUTES[number]).prompt
                    assert row["distance_tokens"] == 0
                    continue
                name, *between, last = text.split(". ")
                assert name == person.name
                assert {f"{each}." for each in between} <= sentences
                assert "this person" in last
                assert person.name not in last
                tokens = len(WORDS.encode(" ".join(f"{each}." for each in between)))
                shorter = len(WORDS.encode(" ".join(f"{each}." for each in between[:-1])))
                assert shorter < item.details["tokens"] <= tokens == row["distance_tokens"]


def test_amounts_before_a_question_are_the_lengths_that_variants_are_compared_at() -> None:
    row = {"measure": "answers_behind", "length_tokens": 32, "correct": 1}
    assert AnswersBehind.compared(row, 64) == (32, 0.0, 1)
    assert AnswersBehind.point(row) == ("answers_behind", 32, 1, 1.0)
    assert AnswersAcross.compared(row, 64) is None
    assert [AnswersBehind.length_text(length, 64) for length in (0, 32)] == ["asked at once", "behind 32"]


@pytest.mark.parametrize("name", ["answers_behind", "answers_across"])
@pytest.mark.parametrize("contexts", [[], [-1], "far"])
def test_amounts_that_are_none_are_refused(name: str, contexts: Any) -> None:
    with pytest.raises(UserError, match=f"measure.{name}.contexts"):
        measured(name, contexts=contexts)


# Recall.


def spelled(text: str, span: tuple[int, int]) -> tuple[int, int]:
    """The places, the end before included, of the tokens of a text that spell a span of its letters."""
    ids = WORDS.encode(text).tolist()
    ends = [len(WORDS.decode(ids[:number])) for number in range(1, len(ids) + 1)]
    starts = [0, *ends]
    inside = [number for number, end in enumerate(ends) if span[0] < end and starts[number] < span[1]]
    return inside[0] + 1, inside[-1] + 2


@torch.inference_mode()
def expected_recall(decoder: Decoder, entries: int) -> list[Row]:
    parameters = sum(weights.numel() for weights in decoder.state_dict().values())
    sizes = CORPUS.pools
    names = len(sizes.first_names) * len(sizes.middle_names) * len(sizes.last_names)
    values = 12 * 28 * sizes.years * len(sizes.cities) * len(sizes.universities) * len(sizes.majors)
    values *= len(sizes.employers)
    found: list[Row] = []
    for members in groups(CORPUS).values():
        for person in members:
            for place, written in enumerate(CORPUS.written(person)[:entries]):
                ids = [END, *WORDS.encode(written.text).tolist()]
                chances = torch.log_softmax(decoder.logits(decoder.hidden(torch.tensor([ids])))[0].double(), dim=-1)
                told = 0.0
                for segment, attribute in enumerate([*ATTRIBUTES, "name"]):
                    span = written.name if attribute == "name" else written.spans[attribute]
                    first, behind = spelled(written.text, span)
                    losses = [-chances[at - 1, ids[at]].item() for at in range(first, behind)]
                    right = [int(chances[at - 1].argmax()) == ids[at] for at in range(first, behind)]
                    told += sum(losses)
                    of = {"document": person.name, "start_position": place, "segment": segment}
                    loss = {"tokens": len(losses), "loss_nats": pytest.approx(np.mean(losses), rel=1e-4, abs=1e-5)}
                    if attribute == "name":
                        found.append({**of, **loss, "measure": "biography_name"})
                        continue
                    found.append({**of, **loss, "measure": "biography_recall", "correct": int(all(right))})
                    found.append({**of, "measure": "biography_recall_first", "correct": int(right[0])})
                bits = len([*CORPUS.people, *CORPUS.celebrities])
                bits *= (math.log2(names / math.exp(0)) + math.log2(values) - told / math.log(2)) / parameters
                found.append(
                    {
                        **{"document": person.name, "start_position": place, "measure": "biography_bits"},
                        "value": pytest.approx(bits, rel=1e-4),
                    }
                )
    return found


def in_order(rows: list[Row]) -> dict[tuple[Any, ...], Row]:
    return {(row["document"], row["start_position"], row["measure"], row.get("segment")): row for row in rows}


@pytest.mark.parametrize("entries", [1, 2, 9])
def test_recall_is_that_of_each_entry_read_alone_value_by_value(decoder: Decoder, entries: int) -> None:
    rows = in_order(rows_of(measured("biography_recall", entries=entries), decoder))
    expected = in_order(expected_recall(decoder, entries))
    assert rows.keys() == expected.keys()
    for place, row in rows.items():
        assert row == expected[place]
    for measure in ("biography_recall", "biography_recall_first"):
        right = [row["correct"] for row in rows.values() if row["measure"] == measure]
        assert 0 < sum(right) < len(right)


def test_the_places_of_values_are_where_they_stand_in_the_text() -> None:
    for person in CORPUS.people:
        for written in CORPUS.written(person):
            entry = marked(WORDS, written)
            assert entry.ids[0] == END
            for attribute, (first, behind) in entry.values.items():
                told = WORDS.decode(entry.ids[first:behind].tolist()).strip()
                assert told.lower() == person.value(attribute).lower()
            assert WORDS.decode(entry.ids[slice(*entry.name)].tolist()).strip() == person.name


def test_a_value_that_stands_before_the_name_is_left_out_of_recall(tmp_path: Path) -> None:
    corpus = biographies(templates=50, wordings=3, orders=1)
    made = word_tokenizer(corpus.everything())
    made.save(str(tmp_path / "tokenizer.json"))
    tokenizer = Tokenizer(str(tmp_path / "tokenizer.json"))
    file = (
        "tokenizer=file",
        f"tokenizer.path={tmp_path}/tokenizer.json",
        f"tokenizer.vocabulary={tokenizer.vocabulary}",
    )
    decoder = fresh(settings_of("train", TrainSettings, [*OVERRIDES, *file]).of_run())
    measure = measured("biography_recall", entries=3)
    left_out = 0
    for item in measure.items(source(corpus, tokenizer)):
        with torch.inference_mode():
            rows = [{"measure": "biography_recall"} | row for row in measure.score(decoder, item, CONTEXT)]
        for name in item.parts:
            for place, written in enumerate(corpus.written(corpus.person(name))):
                of_entry = [row for row in rows if row["document"] == name and row["start_position"] == place]
                behind = [
                    number
                    for number, attribute in enumerate(ATTRIBUTES)
                    if written.text.index(written.text[slice(*written.spans[attribute])]) > written.text.index(name)
                ]
                for measure_name in ("biography_recall", "biography_recall_first"):
                    assert [row["segment"] for row in of_entry if row["measure"] == measure_name] == behind
                assert sum(row["measure"] == "biography_bits" for row in of_entry) == (len(behind) == 6)
                left_out += len(behind) < 6
    assert 0 < left_out < 90


# Stopped between pages.


@pytest.mark.parametrize("name", ["answers", "biography_recall"])
def test_a_scoring_that_is_stopped_between_pages_goes_on_and_gives_the_same_rows(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(people, "TOGETHER", 4)
    measure = measured(name)
    items = [item.name for item in measure.items(source())]
    assert len(items) == sum(math.ceil(len(members) / 4) for members in groups(CORPUS).values())

    def scored(folder: str, stop: str | None) -> list[str]:
        path = tmp_path / folder
        if not path.exists():
            shutil.copytree(run.path, path)
        asked: list[str] = []

        def check(item: str) -> None:
            if item == stop:
                raise KeyboardInterrupt
            asked.append(item)

        settings: dict[str, Any] = {"evaluation": "people-1234", "source": source(), "device": "cpu", "step": STEP}
        try:
            score_run(Run(path), {name: measure}, check=check, **settings)
        except KeyboardInterrupt:
            assert stop is not None
        return asked

    assert scored("whole", None) == items
    assert scored("stopped", items[2]) == items[:2]
    assert scored("stopped", items[5]) == items[2:5]
    assert scored("stopped", None) == items[5:]
    assert scored("stopped", None) == []
    whole, stopped = (Scores(tmp_path / each / "scores.csv").rows for each in ("whole", "stopped"))
    assert whole == stopped
    assert {row["cluster"] for row in whole} == {person.name for person in [*CORPUS.people, *CORPUS.celebrities]}
    assert Run(tmp_path / "whole").manifest["scored"] == Run(tmp_path / "stopped").manifest["scored"]


def test_pages_of_any_size_give_the_same_answers(decoder: Decoder, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = rows_of(measured("answers"), decoder)
    monkeypatch.setattr(people, "TOGETHER", 5)
    assert rows_of(measured("answers"), decoder) == whole


def test_the_same_people_can_be_asked_otherwise_afterwards(run: Run, tmp_path: Path) -> None:
    shutil.copytree(run.path, tmp_path / "run")
    settings: dict[str, Any] = {"evaluation": "people-1234", "source": source(), "device": "cpu", "step": STEP}
    for changes in ({}, {"inverse": True}, {"people": 2}):
        score_run(Run(tmp_path / "run"), {"answers": measured("answers", **changes)}, **settings)
    for changes in ({}, {"people": 2}):
        score_run(Run(tmp_path / "run"), {"biography_recall": measured("biography_recall", **changes)}, **settings)


def test_a_decoder_whose_positions_end_is_asked_too(tmp_path: Path) -> None:
    config = settings_of("train", TrainSettings, [*OVERRIDES, "model=learned"]).of_run()
    made = Run(tmp_path / "learned")
    made.create(config, {"digest": "0123abcd", "state": "finished"})
    Checkpoints(made.path / "checkpoints", made.digest).save(STEP, fresh(config).state_dict(), {})
    settings: dict[str, Any] = {"evaluation": "people-1234", "source": source(), "device": "cpu", "step": STEP}
    score_run(made, {name: measured(name) for name in ("answers", "biography_recall")}, **settings)
    asked = {(row["measure"], row["document"]) for row in Scores(made.path / "scores.csv").rows}
    assert {("answers_training", person.name) for person in CORPUS.members("training")} <= asked
    assert {("biography_recall", person.name) for person in CORPUS.people} <= asked


# What cannot be.


@pytest.mark.parametrize("name", ["answers", "biography_recall"])
def test_a_decoder_that_read_of_nobody_is_not_asked(name: str) -> None:
    with pytest.raises(UserError, match=rf"measure={name} asks about people, and this decoder read of none"):
        next(iter(measured(name).items(source(Sotu()))))


@pytest.mark.parametrize("name", ["answers", "biography_recall"])
def test_a_tokenizer_that_cannot_give_the_text_back_is_refused(name: str) -> None:
    others = biographies(people=24, pools={"first_names": 400})
    with pytest.raises(UserError, match=r"tokenizer\.json: it cannot give back .*: take another tokenizer") as refused:
        list(measured(name).items(source(others)))
    assert "\n" not in str(refused.value)


def test_of_nobody_in_a_group_there_is_nothing_to_say(decoder: Decoder) -> None:
    for count in range(1, 6):
        few = biographies(people=count, seed=1)
        rows = rows_of(measured("answers"), decoder, few)
        assert {row["document"] for row in rows} == {person.name for person in few.people}
