"""Passkeys: the prompts to the token, what counts as found, and the three published criteria."""

import hashlib
import re
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from tiny_decoders import tiny
from torch import Tensor

from lab.base.errors import UserError
from lab.data.tokenizer import Tokenizer
from lab.experiment.compose import configuration_folder
from lab.measure.passkey import Passkey, accuracies, largest_distance, passkey_context
from lab.model.decoder import Decoder
from lab.observe.measure import Item, Source

TOKENIZERS = {
    "sotu_1k": Tokenizer("sotu_1k/tokenizer.json"),
    "sotu_4k": Tokenizer("sotu_4k/tokenizer.json"),
    "llama_32k": Tokenizer("llama_32k/tokenizer.json", "</s>"),
}
every_tokenizer = pytest.mark.parametrize("tokenizer", TOKENIZERS.values(), ids=TOKENIZERS)


def passkey(**changes) -> Passkey:
    """With the shipped wording."""
    node = yaml.safe_load(Path(configuration_folder(), "measure", "passkey.yaml").read_text())
    return Passkey.check(node | {"longest": 4} | changes, "measure.passkey")


def source(tokenizer: Tokenizer, context: int = 128) -> Source:
    return Source(lambda: iter(()), tokenizer, context)


# Prompts.

INSTRUCTION = (
    "Somewhere in the long and pointless text below stands one fact that matters. Find it and keep it in mind. You "
    "will be asked about it.\n"
)
FILLER = "Rain falls on the hills. The river runs to the sea. Birds cross the bay. We walk on. We come home. "
SENTENCES = "Rain falls on the hills. The river runs to the sea. Birds"
KEY_LINE = "\nThe pass key is 93021. Keep it in mind. 93021 is the pass key.\n"
QUESTION = "\nWhat is the pass key? The pass key is"
GOLDEN = {
    "sotu_1k": (
        f"{INSTRUCTION}{FILLER}{SENTENCES}{KEY_LINE}{FILLER}{SENTENCES}{QUESTION}",
        "93a0a72d75ad73f60011c3bc5ea8c2cc5b1680e538f487cf2a916b91f9bffc33",
    ),
    "llama_32k": (
        f"{INSTRUCTION} {FILLER * 3}{SENTENCES} {KEY_LINE} {FILLER * 3}Rain falls on the hills {QUESTION}",
        "2846edf7ed822a99589b970ebcab9fedb4136627aea45d6ec9e0bbe08e498293",
    ),
}


@pytest.mark.parametrize("name", GOLDEN)
def test_the_first_prompt_of_seed_0_is_this_one(name):
    measure, tokenizer = passkey(), TOKENIZERS[name]
    key = measure.keys(256, 0)[0]
    ids, distance = measure.prompt(tokenizer, 256, 128, key)
    text, digest = GOLDEN[name]
    assert (key, distance) == ("93021", 128)
    assert tokenizer.decode(ids) == text
    assert ids.dtype == np.uint32
    assert hashlib.sha256(ids.astype("<u4").tobytes()).hexdigest() == digest


@every_tokenizer
@pytest.mark.parametrize("length", [110, 128, 256, 1000, 4096])
def test_a_prompt_has_exactly_its_length_and_the_key_line_begins_at_the_stated_distance(tokenizer, length):
    measure = passkey()
    for number in range(0, 32, 3):
        asked, (key, *_) = round(length * (number + 1) / 32), measure.keys(length, number)
        ids, distance = measure.prompt(tokenizer, length, asked, key)
        assert len(ids) == length
        line = tokenizer.encode(f"\nThe pass key is {key}. Keep it in mind. {key} is the pass key.\n")
        question = tokenizer.encode("\nWhat is the pass key? The pass key is")
        assert ids[length - distance :][: len(line)].tolist() == line.tolist()
        assert ids[-len(question) :].tolist() == question.tolist()
        text = tokenizer.decode(ids)
        assert text.startswith("Somewhere in the long and pointless text")
        assert re.findall(r"\d+", text) == [key, key]
        # The distance is the one asked for, or the nearest that leaves line, question and instruction whole.
        instruction = tokenizer.encode(measure.instruction + "\n")
        nearest, farthest = len(line) + len(question), length - len(instruction)
        assert distance == min(max(asked, nearest), farthest)


@every_tokenizer
def test_the_text_around_the_key_is_the_filler_over_and_over(tokenizer):
    ids, distance = passkey().prompt(tokenizer, 700, 300, "12345")
    before, after = tokenizer.decode(ids[:-distance]), tokenizer.decode(ids[-distance:])
    assert before.count("The river runs to the sea. Birds cross the bay.") >= 3
    assert after.count("The river runs to the sea. Birds cross the bay.") >= 3


def test_distances_are_spaced_evenly_over_each_length_and_lengths_double_from_the_context_on():
    measure = passkey(distances=4, trials=3)
    items = list(measure.items(source(TOKENIZERS["sotu_1k"])))
    assert [item.name for item in items] == [
        f"length={length} distance={distance}"
        for length in (128, 256, 512)
        for distance in (length // 4, length // 2, length * 3 // 4, length)
    ]
    assert measure.reads_documents is False
    given = passkey(lengths=[300, 200, 300], distances=1).items(source(TOKENIZERS["sotu_1k"]))
    assert [item.name for item in given] == ["length=200 distance=200", "length=300 distance=300"]


def test_at_an_odd_context_the_shortest_prompt_is_the_context():
    assert passkey().lengths_of(129) == [129, 258, 516]


@pytest.mark.parametrize(("distances", "shortest"), [(7, 110), (32, 128), (110, 110), (100, 110), (127, 128)])
def test_every_distance_is_an_item_of_its_own(distances, shortest):
    measure = passkey(lengths=[shortest], distances=distances, trials=1)
    measure.fits(shortest)
    names = [item.name for item in measure.items(source(TOKENIZERS["llama_32k"]))]
    assert len(set(names)) == len(names) == distances


def test_more_distances_than_tokens_are_refused():
    with pytest.raises(UserError, match=r"measure\.passkey\.distances is 129, more than .* tokens \(128\); lower"):
        passkey(distances=129).fits(128)


# Keys.


def test_every_key_has_five_digits_and_differs_between_trials_distances_lengths_and_seeds():
    measure = passkey(trials=50)
    keys = [measure.keys(length, number) for length in (128, 256) for number in range(32)]
    flat = [key for drawn in keys for key in drawn]
    assert all(re.fullmatch(r"[1-9]\d{4}", key) for key in flat)
    assert len(set(flat)) > 0.97 * len(flat)  # of 90,000, drawn 3,200 times
    assert len({tuple(drawn) for drawn in keys}) == len(keys)
    assert all(len(set(drawn)) > 45 for drawn in keys)
    assert int(min(flat)) < 11_000
    assert int(max(flat)) > 99_000
    again, other = passkey(trials=50), passkey(trials=50, seed=1)
    assert again.keys(256, 5) == measure.keys(256, 5) != other.keys(256, 5)


def test_more_trials_keep_the_keys_of_fewer():
    assert passkey(trials=20).keys(256, 3)[:10] == passkey(trials=10).keys(256, 3)


# What cannot be scored.


@every_tokenizer
def test_too_short_a_length_is_refused_with_the_number_of_tokens_needed(tokenizer):
    measure = passkey(lengths=[64], distances=32)
    with pytest.raises(UserError, match=r"measure\.passkey: 64 tokens leave no room .* have \d+ with") as caught:
        next(measure.items(source(tokenizer)))
    (needed,) = re.findall(r"have (\d+) with", str(caught.value))
    lengths = {
        len(tokenizer.encode(measure.instruction + "\n"))
        + len(tokenizer.encode("\n" + measure.key_line.format(key=key) + "\n"))
        + len(tokenizer.encode("\n" + measure.question))
        for number in range(32)
        for key in measure.keys(64, number)
    }
    assert int(needed) == max(lengths)


@every_tokenizer
def test_what_has_no_room_is_refused_before_anything_is_scored_whatever_the_key(tokenizer):
    """Keys may differ in tokens: those of sotu_1k by six."""
    for length in range(70, 114):
        measure = passkey(lengths=[length], trials=20)
        try:
            items = list(measure.items(source(tokenizer)))
        except UserError:
            continue
        for item in items:
            for key in measure.keys(length, item.details["number"]):
                ids, _ = measure.prompt(tokenizer, length, item.details["distance"], key)
                assert len(ids) == length
        return
    pytest.fail("no length was taken")


def test_a_length_among_others_that_is_too_short_is_the_one_that_is_named():
    with pytest.raises(UserError, match="50 tokens leave no room"):
        next(passkey(lengths=[4000, 50]).items(source(TOKENIZERS["llama_32k"])))


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"longest": 0}, r"measure\.passkey\.longest is 0"),
        ({"distances": 0}, r"measure\.passkey\.distances is 0"),
        ({"trials": -1}, r"measure\.passkey\.trials is -1"),
        ({"seed": -1}, r"measure\.passkey\.seed is -1"),
        ({"seed": "x"}, r"measure\.passkey\.seed is 'x'"),
        ({"lengths": []}, r"measure\.passkey\.lengths is \[\]"),
        ({"lengths": 256}, r"measure\.passkey\.lengths is 256"),
        ({"lengths": [256, 0]}, r"measure\.passkey\.lengths is 0"),
        ({"filler": ""}, r"measure\.passkey\.filler is ''"),
        ({"question": " \n"}, r"measure\.passkey: question is"),
        ({"instruction": None}, r"measure\.passkey\.instruction is null"),
        ({"key_line": "The key is 5."}, r"measure\.passkey: key_line .* must hold \{key\}"),
    ],
)
def test_settings_that_make_no_sense_are_refused_with_their_key(changes, reason):
    with pytest.raises(UserError, match=reason):
        passkey(**changes)


def test_other_braces_in_the_key_line_are_text():
    tokenizer = TOKENIZERS["llama_32k"]
    ids, distance = passkey(key_line="{x} The key: {key}. {}").prompt(tokenizer, 128, 64, "12345")
    assert "{x} The key: 12345. {}" in tokenizer.decode(ids[-distance:])


# Scoring.


class Answering(Decoder):
    """Reads the prompt, finds the key in it and answers with it, in the words of ``template``."""

    def prepare(self, tokenizer: Tokenizer, template: str) -> "Answering":
        self.tokenizer, self.template = tokenizer, template
        self.prompts: list[list[int]] = []
        return self

    def hidden(self, tokens: Tensor, documents: Tensor | None = None, cache: object = None) -> Tensor:
        if not cache.length:
            (prompt,) = tokens.tolist()
            self.prompts.append(prompt)
            key = re.search(r"The pass key is (\d+)\.", self.tokenizer.decode(prompt)).group(1)
            answer = self.template.format(key=key, reversed=key[::-1], less=int(key) - 1)
            silence = self.tokenizer.encode(".").tolist() * 100
            self.answer = self.tokenizer.encode(answer).tolist() + silence
            self.given = 0
        cache.length += tokens.shape[1]
        return torch.zeros(*tokens.shape, 1)

    def logits(self, hidden: Tensor) -> Tensor:
        self.given += 1
        scores = torch.zeros(*hidden.shape[:-1], self.tokenizer.vocabulary)
        scores[..., self.answer[self.given - 1]] = 1.0
        return scores


def answering(tokenizer: Tokenizer, template: str) -> Answering:
    return tiny(kind=Answering, vocabulary=tokenizer.vocabulary).prepare(tokenizer, template)


def score(measure: Passkey, decoder: Decoder, item: Item, context: int = 128) -> list[dict]:
    with torch.inference_mode():
        return measure.score(decoder, item, context)


@every_tokenizer
@pytest.mark.parametrize(
    ("answer", "correct"),
    [
        (" {key}.", 1),
        ("\n{key}", 1),
        (" {key} {less}", 1),
        (" {less}.", 0),
        (" {key}0", 0),
        (" 0{key}", 0),
        (" 7 {key}", 0),
        (" a secret", 0),
    ],
)
def test_the_key_is_found_if_it_is_the_first_run_of_digits_of_the_answer(tokenizer, answer, correct):
    measure = passkey(distances=2, trials=3)
    items = list(measure.items(source(tokenizer)))
    decoder = answering(tokenizer, answer)
    for item in items[:3]:
        rows = score(measure, decoder, item)
        length, distance = item.details["length"], item.details["distance"]
        assert [row["segment"] for row in rows] == [0, 1, 2]
        assert {row["length_tokens"] for row in rows} == {length}
        assert [row["correct"] for row in rows] == [correct] * 3
        prompts = decoder.prompts[-3:]
        for row, key, prompt in zip(rows, measure.keys(length, item.details["number"]), prompts, strict=True):
            expected, actual = measure.prompt(tokenizer, length, distance, key)
            assert prompt == expected.tolist()
            assert row["distance_tokens"] == actual
    assert len(decoder.prompts) == 9
    assert len(set(map(tuple, decoder.prompts))) == 9


@every_tokenizer
def test_a_decoder_that_answers_keys_of_some_distances_only_is_scored_by_distance(tokenizer):
    measure = passkey(lengths=[256], distances=4, trials=2)
    right, wrong = answering(tokenizer, " {key}"), answering(tokenizer, " {less}")
    rows = []
    for item in measure.items(source(tokenizer)):
        decoder = right if item.details["distance"] <= 128 else wrong
        rows += [{"measure": "passkey", "document": item.name, **row} for row in score(measure, decoder, item)]
    assert accuracies(rows, "document") == {
        ("length=256 distance=128",): 1.0,
        ("length=256 distance=192",): 0.0,
        ("length=256 distance=256",): 0.0,
        ("length=256 distance=64",): 1.0,
    }
    assert largest_distance(rows, 256) == 128
    assert accuracies(rows, "length_tokens") == {(256,): 0.5}


def test_an_untrained_decoder_answers_wrongly_and_is_scored_all_the_same():
    tokenizer = TOKENIZERS["sotu_1k"]
    measure = passkey(distances=2, trials=2, longest=1)
    decoder = tiny(vocabulary=1024)
    for item in measure.items(source(tokenizer)):
        assert [row["correct"] for row in score(measure, decoder, item)] == [0, 0]


# The three criteria.


def trials(length: int, found: dict[int, list[int]]) -> list[dict]:
    """Rows of a length: for each distance whether its keys were found."""
    return [
        {
            "measure": "passkey",
            "document": f"length={length} distance={distance}",
            "length_tokens": length,
            "distance_tokens": distance + 3,
            "correct": correct,
        }
        for distance, keys in found.items()
        for correct in keys
    ]


@pytest.mark.parametrize(
    ("found", "largest"),
    [
        ({10: [1, 1], 20: [1, 0], 30: [0, 1]}, 30),
        ({10: [1, 1], 20: [0, 0], 30: [1, 1]}, 10),  # a gap ends it
        ({10: [0, 0], 20: [1, 1]}, 0),
        ({10: [0, 0, 0, 0, 1], 20: [0] * 5}, 10),  # just 20 %
        ({10: [0, 0, 0, 0, 0, 1], 20: [1] * 6}, 0),  # less
        ({100: [1], 20: [1], 3: [1]}, 100),  # by number, whatever the order of rows
        ({100: [1], 20: [0], 3: [1]}, 3),
        ({}, 0),
    ],
)
def test_k_max_is_the_largest_distance_up_to_which_a_fifth_of_the_keys_are_found(found, largest):
    others = trials(512, {5: [0], 1000: [1]}) + [{"measure": "copy", "length_tokens": 256, "document": "a"}]
    assert largest_distance(trials(256, found) + others, 256) == largest


def test_k_max_takes_another_share():
    rows = trials(64, {10: [1, 1], 20: [1, 0], 30: [1, 1]})
    assert [largest_distance(rows, 64, share) for share in (0.5, 0.51, 1.0)] == [30, 10, 10]


def test_the_passkey_context_is_the_largest_length_with_four_fifths_found_whatever_lies_between():
    rows = (
        trials(128, {64: [1, 1, 1, 1], 128: [1]})
        + trials(256, {64: [1, 1], 256: [0, 0]})
        + trials(512, {64: [1, 1, 1, 1], 512: [0]})
        + trials(1024, {64: [0]})
    )
    assert passkey_context(rows) == 512
    assert passkey_context(rows, share=0.81) == 128
    assert passkey_context(rows, share=0.5) == 512
    assert passkey_context(trials(128, {64: [0]})) == 0
    assert passkey_context([]) == 0


def test_accuracies_are_shares_of_keys_by_any_columns():
    rows = trials(128, {64: [1, 0], 128: [1, 1]}) + trials(256, {64: [0]})
    rows += [{"measure": "copy", "length_tokens": 128, "document": "a", "correct": None}]
    assert accuracies(rows, "length_tokens") == {(128,): 0.75, (256,): 0.0}
    assert accuracies(rows, "length_tokens", "distance_tokens") == {(128, 67): 0.5, (128, 131): 1.0, (256, 67): 0.0}
    assert accuracies(rows) == {(): 0.6}
    assert accuracies([], "length_tokens") == {}
