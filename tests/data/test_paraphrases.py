"""Biographies that a model wrote: whose texts are taken, what is read of the file, how the corpus has them."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from made_biographies import WORDS, biographies

from lab.base.errors import UserError
from lab.data.biographies.corpus import Biographies
from lab.data.biographies.paraphrases import Paraphrased, read_paraphrases, tells_all, written
from lab.data.biographies.people import ATTRIBUTES, Person
from lab.experiment.compose import settings_of
from lab.experiment.paraphrasing import PROMPT, SLOTS, make_paraphrases, prompt_of
from lab.experiment.settings import TrainSettings
from lab.model.building import build_decoder
from lab.model.decoding import sample, samples

PEOPLE = biographies().people


def text_of(person: Person, order: list[int], end: str = "") -> str:
    values = [person.value(ATTRIBUTES[number]) for number in order]
    return f"Of {person.name} one knows: {'; '.join(values)}.{end}"


@given(order=st.permutations(range(6)), number=st.integers(0, len(PEOPLE) - 1), lacking=st.integers(0, 6))
def test_a_text_is_taken_if_name_and_all_values_are_in_it_and_each_is_found(
    order: list[int], number: int, lacking: int
) -> None:
    person = PEOPLE[number]
    whole = text_of(person, order)
    assert tells_all(person, whole)
    found = written(person, whole)
    assert {name: whole[slice(*span)] for name, span in found.spans.items()} == {
        name: person.value(name) for name in ATTRIBUTES
    }
    assert whole[slice(*found.name)] == person.name
    left_out = person.name if lacking == 6 else person.value(ATTRIBUTES[lacking])
    assert not tells_all(person, whole.replace(left_out, "nothing"))


def test_an_office_in_the_city_of_birth_is_found_where_it_is_told_again() -> None:
    person = PEOPLE[0]
    at_home = Person(**{name: getattr(person, name) for name in Person.__slots__} | {"office_city": person.birth_city})
    text = text_of(at_home, [0, 1, 2, 3, 4, 5])
    spans = written(at_home, text).spans
    assert spans["birth_city"][0] < spans["employer"][0] < spans["office_city"][0]


# The file.


def file_of(folder: Path, people: list[Person], texts: int = 1, tail: str = "") -> Path:
    path = folder / "paraphrases.jsonl"
    lines = [json.dumps({"made": {"seed": 0}}) + "\n"]
    for person in people:
        of_person = [text_of(person, [*range(number, 6), *range(number)]) for number in range(texts)]
        lines.append(Paraphrased(person.name, of_person, 8, texts).line())
    path.write_text("".join(lines) + tail)
    return path


def test_of_two_lines_about_a_person_the_later_counts_and_half_a_line_is_none(tmp_path: Path) -> None:
    again = Paraphrased(PEOPLE[0].name, ["later"], 16, 1).line()
    made, found = read_paraphrases(file_of(tmp_path, PEOPLE[:3], tail=again + again[:20]))
    assert made == {"seed": 0}
    assert [*found] == [person.name for person in PEOPLE[:3]]
    assert found[PEOPLE[0].name].texts == ["later"]


@pytest.mark.parametrize(
    "content",
    ["", "\n", "[]\n", "{}\n", '{"made": 1}\n', '{"made": {}}\n{"name": "a"}\n', '{"made": {}}\nno JSON\n']
    + ['{"made": {}}\n{"name": "a", "texts": "b", "drawn": 1, "telling": 1}\n', '{"made": {}}\n[1]\n']
    + ['{"made": {}}\n{"name": "a", "texts": [1], "drawn": 1, "telling": 1}\n'],
)
def test_a_file_that_is_no_such_file_is_refused_by_name(content: str, tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(content)
    with pytest.raises(UserError, match=r"a\.jsonl"):
        read_paraphrases(tmp_path / "a.jsonl")


# The corpus.


def test_the_entries_of_training_are_the_texts_and_fresh_ones_are_templates(tmp_path: Path) -> None:
    path = file_of(tmp_path, PEOPLE, texts=3)
    plain, corpus = biographies(wordings=2), biographies(wordings=2, paraphrases=str(path))
    texts = [entry.text for entry in corpus.documents("train", "")]
    assert sorted(map(str, texts)) == sorted(
        text_of(person, [*range(number, 6), *range(number)]) for person in PEOPLE for number in range(2)
    )
    for split in ("validation", "test"):
        assert [*corpus.documents(split, "")] == [*plain.documents(split, "")]
    assert corpus.manifest()["digest"] != plain.manifest()["digest"]
    assert corpus.held_out_digest == plain.held_out_digest
    other = biographies(wordings=1, paraphrases=str(path))
    assert other.manifest()["digest"] != corpus.manifest()["digest"]
    assert corpus.written(PEOPLE[3])[1].spans.keys() == set(ATTRIBUTES)
    assert (
        settings_of("train", TrainSettings, ["data=biographies", f"data.corpus.paraphrases={path}"]).data.corpus.label
        == "single_paraphrased"
    )


@pytest.mark.parametrize(
    ("keys", "told"),
    [
        ({"wordings": 2}, "has 1 texts about .*, and 2 are read"),
        ({"people": 40}, "has 0 texts about .*, and 1 are read"),
        ({"orders": 1}, "is read as it is"),
        ({"full_name": True}, "is read as it is"),
        ({"entry_filler": 2}, "is read as it is"),
        ({"style": "grammar"}, "is read as it is"),
    ],
)
def test_texts_that_are_too_few_or_to_be_changed_are_refused(keys: dict[str, Any], told: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=told):
        biographies(**keys, paraphrases=str(file_of(tmp_path, PEOPLE)))


def test_a_text_that_was_changed_since_and_lacks_a_value_is_refused(tmp_path: Path) -> None:
    path = file_of(tmp_path, PEOPLE)
    path.write_text(path.read_text().replace(PEOPLE[4].university, "a university", 1))
    with pytest.raises(UserError, match=f"does not tell all about .*{PEOPLE[4].last}|does not tell all about"):
        biographies(paraphrases=str(path))


# Drawing.


def tiny(vocabulary: int = 64) -> Any:
    overrides = ["experiment=smoke", "model=rope", f"scale.vocabulary={vocabulary}"]
    config = settings_of("train", TrainSettings, overrides)
    made = build_decoder(config.model, config.scale, kernel="auto", compute_dtype="float32", seed=0)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.mul_(6 if parameter.dim() > 1 else 1)
    return made.eval()


def test_texts_that_are_drawn_together_are_as_frequent_as_those_drawn_alone() -> None:
    decoder, prompt = tiny(16), torch.tensor([[1, 2, 3]])
    logits = decoder.logits(decoder.hidden(prompt))[0, -1].double()
    wanted = torch.softmax(logits / 0.7, dim=0).detach().numpy()
    drawn = samples(decoder, prompt, 4000, 1, temperature=0.7, seed=5)
    counts = np.bincount([each[0] for each in drawn], minlength=16)
    assert np.abs(counts / 4000 - wanted).max() < 5 * np.sqrt(0.25 / 4000)
    (one,) = samples(decoder, prompt, 1, 12, temperature=0.7, seed=3)
    assert one == [*sample(decoder, prompt, 12, temperature=0.7, seed=3)]


def test_each_text_ends_at_its_end_and_is_the_same_however_others_go_on() -> None:
    decoder, prompt = tiny(16), torch.tensor([[1, 2, 3]])
    whole = samples(decoder, prompt, 6, 20, temperature=1.0, seed=2)
    assert all(len(each) == 20 for each in whole)
    ends = {whole[0][4]}
    cut = samples(decoder, prompt, 6, 20, temperature=1.0, seed=2, ends=ends)
    for text, short in zip(whole, cut, strict=True):
        first = next((place for place, token in enumerate(text) if token in ends), 20)
        assert short == text[:first]
    with pytest.raises(ValueError, match="one prompt"):
        samples(decoder, torch.zeros(2, 3, dtype=torch.long), 2, 5, temperature=1.0)


def test_the_prompt_holds_all_that_is_to_be_told() -> None:
    person = PEOPLE[0]
    asked = prompt_of(PROMPT, person)
    assert "{" not in asked
    assert all(person.value(attribute) in asked for attribute in ATTRIBUTES)
    assert asked.rpartition("\n")[2] == f"{person.name} was born on"
    assert set(SLOTS) == {"name", *ATTRIBUTES}


@pytest.mark.parametrize(
    ("keys", "told"),
    [
        ({"texts": 0}, "--texts is 0"),
        ({"tries": 0}, "--tries is 0"),
        ({"people": 0}, "--people is 0"),
        ({"temperature": 0.0}, "--temperature is 0: give more than 0"),
        ({"temperature": float("nan")}, "--temperature is nan: give more than 0"),
        ({"overrides": ["data=sotu"]}, "data=sotu is no data=biographies"),
        ({"prompt": "Write about {name}."}, r"lacks \{birth_date\}"),
        ({"prompt": "\udcff"}, "prompt.txt: not UTF-8; name a file with a prompt"),
        ({"run": "nowhere"}, "nowhere"),
    ],
)
def test_what_cannot_be_asked_for_is_one_line_and_writes_nothing(
    keys: dict[str, Any], told: str, tmp_path: Path
) -> None:
    given: dict[str, Any] = {"overrides": ["data=biographies"], "run": "none", "people": 2, "texts": 1, "tries": 8}
    given |= {"temperature": 0.5, "seed": 0, "prompt": None, "overwrite": False} | keys
    if given["prompt"] is not None:
        (tmp_path / "prompt.txt").write_text(given["prompt"], errors="surrogateescape")
        given["prompt"] = tmp_path / "prompt.txt"
    with pytest.raises(UserError, match=told):
        make_paraphrases(**given, output=tmp_path / "texts.jsonl")
    assert not (tmp_path / "texts.jsonl").exists()


def test_biographies_of_words_know_the_words_that_a_model_wrote(tmp_path: Path) -> None:
    corpus = biographies(paraphrases=str(file_of(tmp_path, PEOPLE)))
    assert isinstance(corpus, Biographies)
    assert any("one knows" in text for text in corpus.everything())
    assert WORDS.decode(WORDS.encode("one knows")) != "one knows"
