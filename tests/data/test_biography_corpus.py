"""The corpus of biographies: the paper's data sets, their order, who is asked about, and what it is called by."""

import itertools
import re
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_biographies import PILOT, WORDS, biographies
from scipy import stats

from lab.base.errors import UserError
from lab.data.biographies import wording
from lab.data.biographies.corpus import Biographies
from lab.data.biographies.people import ATTRIBUTES, group_of
from lab.data.biographies.wording import QUESTIONS
from lab.data.settings import BiographiesSettings
from lab.data.stream.order import BlockStream
from lab.data.tokenizer import Tokenizer, word_tokenizer

# The sixteen of arXiv 2309.14316: (wordings, orders, full name) and the entries of a person.
PAPER = {
    "single": ((1, 0, False), 1),
    "single_fullname": ((1, 0, True), 1),
    "permute1": ((1, 1, False), 1),
    "permute2": ((1, 2, False), 2),
    "permute5": ((1, 5, False), 5),
    "permute1_fullname": ((1, 1, True), 1),
    "permute2_fullname": ((1, 2, True), 2),
    "permute5_fullname": ((1, 5, True), 5),
    "multi2": ((2, 0, False), 2),
    "multi5": ((5, 0, False), 5),
    "multi2_permute": ((2, 1, False), 2),
    "multi5_permute": ((5, 1, False), 5),
    "multi2_fullname": ((2, 0, True), 2),
    "multi5_fullname": ((5, 0, True), 5),
    "multi2_permute_fullname": ((2, 1, True), 2),
    "multi5_permute_fullname": ((5, 1, True), 5),
}
MENTIONS = "he|him|his|she|her|they|their|them"


def data_set(name: str, **changes: Any) -> Biographies:
    wordings, orders, full_name = PAPER[name][0]
    return biographies(**{"wordings": wordings, "orders": orders, "full_name": full_name} | changes)


def texts(corpus: Biographies, split: str = "train", subset: str = "") -> dict[str, str]:
    return {entry.name: entry.text or "" for entry in corpus.documents(split, subset)}


def of_person(corpus: Biographies, name: str) -> list[str]:
    """The entries of a person in the training split, in corpus order."""
    return [text for called, text in texts(corpus).items() if called.split("/")[1] == name]


def sentences(text: str, name: str) -> list[str]:
    """The sentences of an entry, whoever is spoken of by name or by pronoun."""
    found = []
    for sentence in text.removesuffix(".").split(". "):
        told = re.sub(rf"{name}'s|{name}|\b(?:{MENTIONS})\b", "X", sentence, flags=re.IGNORECASE)
        told = re.sub(r"\b(?:was|were|is|are|has|have)\b", "V", told)
        found.append(told[0].lower() + told[1:])
    return found


def orders_of(corpus: Biographies, name: str) -> list[tuple[str, ...]]:
    """Of each entry of a person the attributes in the order in which they are told."""
    person = corpus.person(name)
    return [
        tuple(sorted(ATTRIBUTES, key=lambda attribute: written.spans[attribute])) for written in corpus.written(person)
    ]


# The paper's data sets.


@pytest.mark.parametrize("name", PAPER)
def test_a_data_set_of_the_paper_has_its_entries_of_the_same_people(name: str) -> None:
    corpus, single = data_set(name), data_set("single")
    assert corpus.people == single.people
    found = texts(corpus)
    assert Counter(called.split("/")[1] for called in found) == dict.fromkeys(
        (person.name for person in corpus.people), PAPER[name][1]
    )
    assert len(set(found.values())) == len(found)
    for person in corpus.people:
        entries = of_person(corpus, person.name)
        assert [written.text for written in corpus.written(person)] == entries
        for entry in entries:
            mentions = entry.count(person.name)
            assert mentions == 1 or (mentions >= 6 and "fullname" in name)
            assert all(person.value(attribute) in entry for attribute in ATTRIBUTES)


@pytest.mark.parametrize("orders", [1, 2, 5])
@pytest.mark.parametrize("full_name", ["", "_fullname"])
def test_permuted_entries_are_the_same_sentences_in_other_orders(orders: int, full_name: str) -> None:
    corpus, single = data_set(f"permute{orders}{full_name}"), data_set(f"single{full_name}")
    moved = 0
    for person in corpus.people:
        (fixed,) = of_person(single, person.name)
        assert orders_of(single, person.name) == [ATTRIBUTES]
        for entry in of_person(corpus, person.name):
            assert sorted(sentences(entry, person.name)) == sorted(sentences(fixed, person.name))
            moved += sentences(entry, person.name) != sentences(fixed, person.name)
    assert moved >= 0.9 * 30 * orders


@pytest.mark.parametrize("wordings", [2, 5])
@pytest.mark.parametrize("full_name", ["", "_fullname"])
def test_entries_that_are_worded_anew_keep_the_order_and_permuted_ones_their_sentences(
    wordings: int, full_name: str
) -> None:
    multi, permuted = data_set(f"multi{wordings}{full_name}"), data_set(f"multi{wordings}_permute{full_name}")
    single = data_set(f"single{full_name}")
    for person in multi.people:
        fixed, shuffled = of_person(multi, person.name), of_person(permuted, person.name)
        assert fixed[:1] == of_person(single, person.name)
        assert orders_of(multi, person.name) == [ATTRIBUTES] * wordings
        for one, other in zip(fixed, shuffled, strict=True):
            assert sorted(sentences(one, person.name)) == sorted(sentences(other, person.name))


def test_each_entry_of_multi5_permute_is_shuffled_by_itself() -> None:
    corpus = data_set("multi5_permute", people=200)
    orders = [orders_of(corpus, person.name) for person in corpus.people]
    # Of five orders drawn from 720 two are the same in one of 72 people by chance.
    assert sum(len(set(five)) < 5 for five in orders) < 12
    places = Counter(order.index("birth_date") for five in orders for order in five)
    assert stats.chisquare([places[place] for place in range(6)]).pvalue > 1e-4


def test_by_full_name_nothing_else_changes() -> None:
    for name in (each for each in PAPER if f"{each}_fullname" in PAPER):
        plain, full = data_set(name), data_set(f"{name}_fullname")
        for person in plain.people[:10]:
            for one, other in zip(of_person(plain, person.name), of_person(full, person.name), strict=True):
                assert sentences(one, person.name) == sentences(other, person.name)


@pytest.mark.parametrize("name", PAPER)
def test_a_data_set_is_called_as_in_the_paper(name: str) -> None:
    wordings, orders, full_name = PAPER[name][0]
    settings = settings_with(wordings=wordings, orders=orders, full_name=full_name)
    assert settings.label == name


def settings_with(**changes: Any) -> BiographiesSettings:
    return BiographiesSettings.check(PILOT | changes, "data.corpus")


def test_what_else_a_data_set_has_is_in_its_name() -> None:
    assert settings_with(content="both").label == "mixed_single"
    assert settings_with(wordings=5, orders=5).label == "multi5_permute5"
    told = settings_with(adjacent=True, celebrities=3, rewritten=0.1, style="grammar", text=True).label
    assert told == "single_adjacent_celebrity_rewritten_grammar_text"


# The order of a run.


def documents_read(stream: BlockStream, blocks: int) -> list[list[str]]:
    """Of each lane the texts that its blocks hold, the last, which is cut off, left out."""
    found = []
    for lane in range(stream.lanes):
        tokens = np.concatenate([stream.block(item * stream.lanes + lane).tokens for item in range(blocks)])
        ends = np.flatnonzero(tokens == stream.tokenizer.end_of_document)
        starts = [0, *(ends[:-1] + 1)]
        found.append([WORDS.decode(tokens[first:end]) for first, end in zip(starts, ends, strict=True)])
    return found


@pytest.fixture(scope="module")
def of_two_hundred() -> dict[bool, list[list[str]]]:
    """Whom the documents are of, lane by lane, of some 3,600 that stand side by side and of some that do not."""
    found = {}
    for adjacent in (False, True):
        corpus = data_set("multi5_permute", people=200, adjacent=adjacent)
        owner = {text: name.split("/")[1] for name, text in texts(corpus).items()}
        stream = BlockStream(corpus, "train", WORDS, context=128, seed=1, lanes=8)
        found[adjacent] = [[owner[text] for text in lane] for lane in documents_read(stream, 200)]
    return found


def neighbours(lanes: list[list[str]]) -> tuple[int, int]:
    """How many documents are of the same person as the one before, and of how many."""
    pairs = [pair for lane in lanes for pair in itertools.pairwise(lane)]
    return sum(one == other for one, other in pairs), len(pairs)


def test_entries_of_a_person_stand_side_by_side_as_often_as_chance_has_it(
    of_two_hundred: dict[bool, list[list[str]]],
) -> None:
    same, pairs = neighbours(of_two_hundred[False])
    assert pairs > 3000
    assert stats.binomtest(same, pairs, 4 / 999).pvalue > 1e-4


def test_adjacent_entries_of_a_person_stand_side_by_side(of_two_hundred: dict[bool, list[list[str]]]) -> None:
    same, pairs = neighbours(of_two_hundred[True])
    assert same / pairs == pytest.approx(4 / 5, abs=0.01)
    for lane in of_two_hundred[True]:
        runs = [len(list(group)) for _, group in itertools.groupby(lane)]
        assert all(run % 5 == 0 for run in runs[:-1])


def test_a_pass_reads_every_entry_once(of_two_hundred: dict[bool, list[list[str]]]) -> None:
    for lanes in of_two_hundred.values():
        first = Counter(name for lane in lanes for name in lane[:125])  # 1,000 entries in 8 lanes
        assert set(first.values()) == {5}
        assert len(first) == 200


@pytest.mark.parametrize("adjacent", [False, True])
def test_a_chunk_that_is_read_from_an_offset_goes_on_where_it_stood(adjacent: bool) -> None:
    corpus = data_set("multi5", adjacent=adjacent)
    for chunk in range(0, corpus.chunks("train", ""), 7):
        whole = list(corpus.read("train", "", chunk))
        for number, entry in enumerate(whole):
            assert list(corpus.read("train", "", chunk, entry.next_offset)) == whole[number + 1 :]


# Who is asked about: nothing leaks.


PATTERNS = {
    (attribute, number): re.compile(f"^{re.escape(wording).replace(re.escape('{name}'), '(.+)')} Answer:")
    for attribute, wordings in QUESTIONS.items()
    for number, wording in enumerate(wordings)
}


def asked_about(text: str) -> str:
    """Whom a question is about, read from its words; "" of an entry."""
    names = {found[1] for pattern in PATTERNS.values() if (found := pattern.match(text))}
    assert len(names) == ("Answer" in text)
    return names.pop() if names else ""


@pytest.mark.parametrize("question_wordings", [1, 9])
@pytest.mark.parametrize("content", ["questions", "both"])
@pytest.mark.parametrize("more", [{}, {"wordings": 5, "orders": 1}, {"rewritten": 0.3}, {"adjacent": True}], ids=str)
def test_no_question_about_a_person_who_is_held_out_or_chosen_by_is_ever_trained_on(
    content: str, question_wordings: int, more: dict[str, Any]
) -> None:
    corpus = biographies(people=60, content=content, question_wordings=question_wordings, **more)
    weights = {"entries": 1, "questions": 1} if content == "both" else None
    stream = BlockStream(corpus, "train", WORDS, context=128, seed=5, lanes=4, weights=weights)
    epochs = 3 if question_wordings == 1 else 1
    questions = epochs * len(corpus.members("training")) * 6 * question_wordings
    blocks = questions * 20 * (1 + (content == "both")) // 4 // 128 + 4
    read = [text for lane in documents_read(stream, blocks) for text in lane]
    names = Counter(name for text in read if (name := asked_about(text)))
    training = {person.name for person in corpus.people if group_of(person) == "training"}
    assert set(names) == training
    assert names.total() > questions
    others = {person.name for person in corpus.people} - training
    assert not any(name in text for text in read if "Answer" in text for name in others)
    assert not any("?" in text for text in read if not asked_about(text))
    if content == "both":
        assert sum(any(name in text for text in read) for name in others) > len(others) / 2


@pytest.mark.parametrize("content", ["questions", "both"])
def test_validation_asks_about_those_to_choose_by_and_test_about_those_held_out(content: str) -> None:
    corpus = biographies(people=60, content=content)
    subset = "questions" if content == "both" else ""
    for split, group in (("train", "training"), ("validation", "choosing"), ("test", "held_out")):
        names = Counter(asked_about(text) for text in texts(corpus, split, subset).values())
        assert names == dict.fromkeys((person.name for person in corpus.people if group_of(person) == group), 6)


@pytest.mark.parametrize("name", ["single", "multi5", "multi5_permute_fullname"])
@pytest.mark.parametrize("style", ["templates", "grammar"])
def test_held_out_entries_are_of_the_held_out_in_words_that_were_not_trained_on(name: str, style: str) -> None:
    corpus = data_set(name, style=style, people=100)
    trained = set(texts(corpus).values())
    for split, group in (("validation", "choosing"), ("test", "held_out")):
        found = texts(corpus, split)
        names = Counter(called.split("/")[1] for called in found)
        assert names == dict.fromkeys((person.name for person in corpus.people if group_of(person) == group), 4)
        assert not trained & set(found.values())
    assert all(corpus.fresh(person).text not in trained for person in corpus.people)


def test_questions_are_about_the_celebrities_alone_if_there_are_any() -> None:
    plain, corpus = biographies(), biographies(celebrities=7, content="both")
    assert corpus.people == plain.people
    assert len({person.name for person in [*corpus.people, *corpus.celebrities]}) == 37
    celebrities = {person.name for person in corpus.celebrities}
    assert {asked_about(text) for text in texts(corpus, subset="questions").values()} == celebrities
    entries = Counter(name.split("/")[1] for name in texts(corpus, subset="entries"))
    assert {name: entries[name] for name in celebrities} == dict.fromkeys(celebrities, 5)
    assert entries.total() == 30 + 35
    for split in ("validation", "test"):
        assert not celebrities & {name.split("/")[1] for name in texts(corpus, split, "questions")}
    assert not any(
        person in corpus.celebrities for group in ("training", "held_out") for person in corpus.members(group)
    )


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 1.0])
def test_of_the_people_who_are_rewritten_as_many_as_asked_for_have_rich_entries(share: float) -> None:
    corpus = biographies(people=50, rewritten=share)
    entries = Counter(name.split("/")[1] for name in texts(corpus))
    assert Counter(entries.values()) == {count: n for count, n in ((5, 50 * share), (1, 50 - 50 * share)) if n}
    assert len({corpus.recipe_of(person) for person in corpus.people}) == (2 if 0 < share < 1 else 1)
    more = biographies(people=50, rewritten=min(1.0, share + 0.2))
    again = Counter(name.split("/")[1] for name in texts(more))
    assert all(again[name] == 5 for name, count in entries.items() if count == 5)


def test_speeches_stand_beside_in_a_subset_of_their_own() -> None:
    corpus = biographies(text=True)
    assert corpus.subsets("train") == ["entries", "text"]
    assert texts(corpus, subset="entries") == texts(biographies())
    assert next(iter(texts(corpus, subset="text").values())).startswith("Fellow-Citizens")


def test_documents_of_a_person_are_a_cluster() -> None:
    corpus = biographies(content="both")
    for subset in corpus.subsets("test"):
        assert {corpus.cluster(name) for name in texts(corpus, "test", subset)} == {
            person.name for person in corpus.members("held_out")
        }
    assert corpus.clusters == "people"
    assert corpus.cluster(corpus.people[0].name) == corpus.people[0].name


@pytest.mark.parametrize("templates", [1, 12, 50])
def test_a_tokenizer_of_all_words_can_spell_whoever_is_drawn(templates: int, tmp_path: Path) -> None:
    word_tokenizer(biographies(templates=templates).everything()).save(str(tmp_path / "tokenizer.json"))
    tokenizer = Tokenizer(str(tmp_path / "tokenizer.json"))
    others = {"templates": templates, "seed": 7, "people": 200, "wordings": 5, "orders": 1, "question_wordings": 9}
    for full_name in (False, True):
        corpus = biographies(content="both", full_name=full_name, **others)
        for split, subset in itertools.product(("train", "validation", "test"), ("entries", "questions")):
            for text in texts(corpus, split, subset).values():
                assert tokenizer.decode(tokenizer.encode(text)) == text
        for person in corpus.people:
            for asked in (corpus.inverse(person), corpus.ask(person, "major", between="On")):
                assert tokenizer.decode(tokenizer.encode("".join(asked))) == "".join(asked)


# What it is called by.


CHANGES: dict[str, dict[str, Any]] = {
    "content": {"content": "questions"},
    "people": {"people": 31},
    "seed": {"seed": 1},
    **{f"pools.{name}": {"pools": {name: 39}} for name in PILOT["pools"]},
    "years": {"years": 49},
    "templates": {"templates": 11},
    "style": {"style": "grammar"},
    "wordings": {"wordings": 2},
    "orders": {"orders": 1},
    "full_name": {"full_name": True},
    "adjacent": {"adjacent": True},
    "celebrities": {"celebrities": 1},
    "rewritten": {"rewritten": 0.5},
    "rich_wordings": {"rich_wordings": 4},
    "rich_orders": {"rich_orders": 2},
    "text": {"text": True},
    "question_wordings": {"question_wordings": 2},
    "entry_filler": {"entry_filler": 2},
    "question_filler": {"question_filler": 2},
}


def test_every_key_that_decides_the_texts_gives_another_digest() -> None:
    # What a model has written is another text: test_paraphrases.py.
    told = {key.partition(".")[0] for key in CHANGES} | {"name", "on_error", "paraphrases"}
    assert told == set(PILOT)
    digests = {key: biographies(**change).manifest()["digest"] for key, change in CHANGES.items()}
    digests[""] = biographies().manifest()["digest"]
    assert len(set(digests.values())) == len(digests)
    assert biographies().manifest()["digest"] == digests[""]
    assert biographies(on_error="skip").manifest()["digest"] == digests[""]


def test_a_template_that_was_changed_gives_another_digest(monkeypatch: pytest.MonkeyPatch) -> None:
    before = biographies().manifest()["digest"]
    changed = {name: [sentence[::1] for sentence in found] for name, found in wording.shipped_templates().items()}
    changed["major"] = [[*sentence, ("text", " indeed")] for sentence in changed["major"]]
    monkeypatch.setattr(wording, "shipped_templates", lambda: changed)
    assert biographies().manifest()["digest"] != before


def test_what_is_held_out_is_the_same_in_every_data_set_and_another_of_other_people() -> None:
    same = {data_set(name).held_out_digest for name in PAPER}
    for change in ({"content": "both"}, {"celebrities": 5}, {"rewritten": 0.5}, {"adjacent": True}, {"text": True}):
        same.add(biographies(**change).held_out_digest)
    assert len(same) == 1
    others = [biographies(**CHANGES[key]).held_out_digest for key in ("people", "seed", "years", "pools.cities")]
    assert len({*others, *same}) == 5


def test_texts_are_the_same_today_and_tomorrow() -> None:
    corpus, again = data_set("multi5_permute"), data_set("multi5_permute")
    assert texts(corpus) == texts(again)
    assert of_person(data_set("multi5_permute", people=7), corpus.people[3].name) == of_person(
        corpus, corpus.people[3].name
    )


# What cannot be.

EIGHT_NAMES = dict.fromkeys(("first_names", "middle_names", "last_names"), 2)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"people": 8, "celebrities": 1, "pools": EIGHT_NAMES}, "9 people, but the pools give 8 full names"),
        ({"question_wordings": 10}, "question_wordings is 10; give 1 to 9"),
        ({"templates": 51}, "templates is 51; give 1 to 50"),
        ({"pools": {"cities": 201}}, "pools.cities is 201; give 1 to 200"),
        (
            {"content": "questions", "people": 1},
            "questions are about the training group, and none of 1 people is in it",
        ),
    ],
)
def test_what_cannot_be_made_is_refused_in_one_line(change: dict[str, Any], told: str) -> None:
    with pytest.raises(UserError, match=re.escape(told)) as refused:
        biographies(**change)
    assert "\n" not in str(refused.value)


def test_nobody_has_a_name_that_nobody_has() -> None:
    with pytest.raises(UserError, match="Nobody At All is none of the 30 people"):
        biographies().person("Nobody At All")


# Sentences about nobody.


def test_filler_is_of_words_that_the_tokenizer_has_and_says_nothing_of_anyone() -> None:
    corpus = biographies()
    pools = corpus.pools
    said = {value for values in (pools.cities, pools.universities, pools.majors, pools.employers) for value in values}
    for sentence in wording.shipped_filler():
        assert WORDS.decode(WORDS.encode(sentence)) == sentence
        assert not any(value in sentence for value in said)
        assert not set(sentence.lower().strip(".").split()) & {
            "he",
            "she",
            "they",
            "his",
            "her",
            "their",
            "him",
            "them",
        }


@pytest.mark.parametrize("style", ["templates", "grammar"])
@pytest.mark.parametrize("full_name", [False, True])
def test_entries_with_filler_say_the_same_behind_it(style: str, full_name: bool) -> None:
    changes = {"wordings": 2, "orders": 1, "style": style, "full_name": full_name}
    plain, apart = biographies(**changes), biographies(entry_filler=3, **changes)
    sentences = set(wording.shipped_filler())
    drawn = set()
    for person in plain.people:
        for one, other in zip(plain.written(person), apart.written(person), strict=True):
            first, *rest = one.text.split(". ")
            given, *between = other.text.split(". ")
            assert given == first
            assert between[3:] == rest
            assert {f"{each}." for each in between[:3]} <= sentences
            drawn.add(tuple(between[:3]))
            for attribute, (start, stop) in other.spans.items():
                assert other.text[start:stop].lower() == person.value(attribute).lower()
            assert other.text[slice(*other.name)] == person.name
    assert len(drawn) > len(plain.people)  # of each wording its own


def test_filler_in_questions_stands_between_name_and_question_and_is_not_learned() -> None:
    corpus = biographies(people=60, content="questions", question_filler=3)
    plain = texts(biographies(people=60, content="questions"), "train", "")
    sentences = set(wording.shipped_filler())
    counts: Counter[int] = Counter()
    for chunk in range(corpus.chunks("train", "")):
        for entry in corpus.read("train", "", chunk):
            usual = plain[entry.name]
            assert entry.prompt is not None
            prompt, answer = entry.text[: entry.prompt], entry.text[entry.prompt :]
            assert usual.endswith(f"Answer:{answer}")
            between = [each for each in prompt.split(". ") if f"{each}." in sentences]
            counts[len(between)] += 1
            if not between:
                assert entry.text == usual
                continue
            name = asked_about(usual)
            assert prompt == f"{name}. {'. '.join(between)}. {usual.replace(name, 'this person')[: -len(answer)]}"
    assert set(counts) == {0, 1, 2, 3}
    assert min(counts.values()) > counts.total() / 8


def test_more_entries_than_can_be_held_are_refused_before_any_is_made() -> None:
    with pytest.raises(UserError, match=r"^30 people in .* are 30,000,000 entries, of which 20,000,000 can be held"):
        biographies(wordings=1000, orders=1000)
    with pytest.raises(UserError, match="are 20,000,010 entries"):
        biographies(people=20, rewritten=0.5, rich_wordings=2000, rich_orders=1000, orders=0)
