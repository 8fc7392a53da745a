"""People that are made up, and what is written about them, against parsers and counts written apart from them."""

import itertools
import re
from collections import Counter
from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from lab.base.errors import UserError
from lab.data.biographies import people as people_module
from lab.data.biographies.grammar import Grammar
from lab.data.biographies.people import (
    ATTRIBUTES,
    POOLS,
    Person,
    Pools,
    draw_people,
    group_of,
    pools,
    shipped_biographies,
)
from lab.data.biographies.wording import QUESTIONS, Style, Written, entry, inverse, question, read_templates

PAPER = dict(zip(POOLS, (400, 400, 1000, 200, 300, 100, 263), strict=True))
PILOT = dict(zip(POOLS, (60, 60, 120, 60, 60, 40, 60), strict=True))
DATA = shipped_biographies()
DATE = (
    "(?:January|February|March|April|May|June|July|August|September|October|November|December)"
    " (?:[1-9]|1[0-9]|2[0-8]), (?:19|20)[0-9][0-9]"
)
PRONOUNS = {"he": ("he", "his", "him"), "she": ("she", "her", "her"), "they": ("they", "their", "them")}


def lines(name: str) -> list[str]:
    return (DATA / name).read_text().splitlines()


def everyone(count: int = 300, seed: int = 0) -> list[Person]:
    return draw_people(count, seed, pools(PAPER, 200))


def write(
    person: Person,
    drawing: int = 0,
    order: int | None = None,
    seed: int = 0,
    templates: int = 50,
    full_name: bool = False,
    style: Style = "templates",
) -> Written:
    return entry(person, drawing, order, seed=seed, templates=templates, full_name=full_name, style=style)


# Pools


def test_the_pools_have_the_papers_sizes_and_no_entry_twice() -> None:
    for name, size in PAPER.items():
        assert len(lines(f"{name}.txt")) == len(set(lines(f"{name}.txt"))) == size
    names = [name for file in POOLS[:3] for name in lines(f"{file}.txt")]
    assert len(set(names)) == 1800
    assert all(re.fullmatch("[A-Z][a-z]+", name) for name in names)


def test_no_name_is_a_word_of_a_value_or_a_template() -> None:
    names = {name.lower() for file in POOLS[:3] for name in lines(f"{file}.txt")}
    others = [*POOLS[3:], *(f"templates/{attribute}" for attribute in ATTRIBUTES), "grammar"]
    words = {word.lower() for file in others for line in lines(f"{file}.txt") for word in re.findall("[A-Za-z]+", line)}
    assert not names & words


def test_cities_have_a_state_and_no_value_has_a_full_stop_or_a_stray_comma() -> None:
    cities = lines("cities.txt")
    assert all(re.fullmatch("[A-Za-z -]+, [A-Z]{2}", city) for city in cities)
    assert len({city.partition(",")[0] for city in cities}) == 200
    for file in ("universities", "majors"):
        assert all(re.fullmatch("[A-Z][A-Za-z ]+", value) for value in lines(f"{file}.txt"))
    assert all(re.fullmatch("[A-Z][A-Za-z ]+\t[A-Za-z -]+, [A-Z]{2}", value) for value in lines("employers.txt"))


def test_offices_are_the_papers_133_cities_with_new_york_for_36_employers_and_8_of_the_pilots() -> None:
    employers, offices = zip(*(line.split("\t") for line in lines("employers.txt")), strict=True)
    cities = lines("cities.txt")
    assert len(set(employers)) == 263
    assert set(offices) <= set(cities)
    assert Counter(offices).most_common(1) == [("New York, NY", 36)]
    assert len(set(offices)) == 133
    assert set(offices[:60]) <= set(cities[:60])
    assert offices[:60].count("New York, NY") == 8


def test_the_pilots_templates_have_a_small_vocabulary_and_tell_the_person_before_the_value() -> None:
    words = set()
    for attribute in ATTRIBUTES:
        templates = lines(f"templates/{attribute}.txt")
        assert len(templates) == len(set(templates)) == 50
        words |= {word for line in templates[:12] for word in re.findall(r"\{\w+\}|\w+|[^\w\s]", line)}
        # So that what is said can be foretold, in whatever order; of the others some begin with the value.
        assert all(line.endswith(" {value}.") for line in templates[:31])
        assert any(line.startswith("{value}") for line in templates[31:])
    assert len(words) < 150


def test_pools_are_the_first_entries_of_each_file() -> None:
    small = pools(PILOT, 50)
    assert small.first_names == tuple(lines("first_names.txt")[:60])
    assert small.cities == tuple(lines("cities.txt")[:60])
    assert [*zip(small.employers, small.offices, strict=True)] == [
        tuple(line.split("\t")) for line in lines("employers.txt")[:60]
    ]
    assert small.names == 60 * 60 * 120


@pytest.mark.parametrize(
    ("sizes", "years", "message"),
    [
        (PAPER | {"cities": 201}, 200, r"pools\.cities is 201; give 1 to 200"),
        (PAPER | {"majors": 0}, 200, r"pools\.majors is 0; give 1 to 100"),
        (PAPER | {"towns": 3}, 200, r"pools\.towns: no such pool"),
        ({"cities": 3}, 200, r"pools\.first_names has no size"),
        (PAPER, 0, "years is 0"),
    ],
)
def test_pools_that_are_not_there_are_refused(sizes: dict[str, int], years: int, message: str) -> None:
    with pytest.raises(UserError, match=message) as refused:
        pools(sizes, years)
    assert "\n" not in str(refused.value)


def test_a_file_with_a_line_twice_or_an_empty_one_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "cities.txt"
    path.write_text("One, AA\nTwo, BB\nOne, AA\n")
    with pytest.raises(UserError, match=r"cities\.txt:3: 'One, AA' stands in line 1 too"):
        people_module.lines_of(path)
    path.write_text("One, AA\n\n")
    with pytest.raises(UserError, match=r"cities\.txt:2: an empty line"):
        people_module.lines_of(path)


# People


def tiny(first: int, middle: int, last: int) -> Pools:
    sizes = dict(zip(POOLS, (first, middle, last, 3, 3, 3, 3), strict=True))
    return pools(sizes, 2)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 4), st.integers(1, 4), st.integers(1, 4), st.integers(0, 2**32), st.data())
def test_the_first_people_are_the_same_however_many_there_are(
    first: int, middle: int, last: int, seed: int, data: st.DataObject
) -> None:
    names = first * middle * last
    everybody = draw_people(names, seed, tiny(first, middle, last))
    assert len({person.name for person in everybody}) == names
    assert [person.number for person in everybody] == [*range(names)]
    skip = data.draw(st.integers(0, names))
    count = data.draw(st.integers(0, names - skip))
    assert draw_people(count, seed, tiny(first, middle, last), skip) == everybody[skip : skip + count]


def test_ten_thousand_names_are_unique_and_another_seed_gives_others() -> None:
    names = {person.name for person in draw_people(10_000, 0, pools(PILOT, 50))}
    assert len(names) == 10_000
    others = {person.name for person in draw_people(10_000, 1, pools(PILOT, 50))}
    assert len(names & others) < 500  # 10,000 of 432,000 by chance: 231


def test_more_people_than_names_are_refused() -> None:
    with pytest.raises(UserError, match=r"9 people, but the pools give 8 full names \(2 x 2 x 2\)"):
        draw_people(8, 0, tiny(2, 2, 2), skip=1)


def test_names_and_values_are_uniform_and_independent() -> None:
    sample = draw_people(40_000, 3, pools(PILOT, 50))
    dates = [re.fullmatch(r"(\w+) (\d+), (\d+)", person.birth_date) for person in sample]
    assert all(dates)
    columns: dict[str, tuple[list[str], int]] = {
        "first": ([person.first for person in sample], 60),
        "middle": ([person.middle for person in sample], 60),
        "last": ([person.last for person in sample], 120),
        "pronoun": ([person.pronoun for person in sample], 3),
        "birth_city": ([person.birth_city for person in sample], 60),
        "university": ([person.university for person in sample], 60),
        "major": ([person.major for person in sample], 40),
        "employer": ([person.employer for person in sample], 60),
        "month": ([date[1] for date in dates if date], 12),
        "day": ([date[2] for date in dates if date], 28),
        "year": ([date[3] for date in dates if date], 50),
    }
    for name, (column, size) in columns.items():
        counts = Counter(column)
        assert len(counts) == size, name
        assert stats.chisquare([*counts.values()]).pvalue > 1e-4, name
    for one, other in itertools.combinations(columns, 2):
        table = np.zeros((columns[one][1], columns[other][1]))
        places = [
            {value: number for number, value in enumerate(sorted(set(columns[name][0])))} for name in (one, other)
        ]
        for left, right in zip(columns[one][0], columns[other][0], strict=True):
            table[places[0][left], places[1][right]] += 1
        assert stats.chi2_contingency(table).pvalue > 1e-4, (one, other)
    years = sorted({int(date[3]) for date in dates if date})
    assert years == [*range(1900, 1950)]


def test_the_office_follows_from_the_employer() -> None:
    offices = dict(line.split("\t") for line in lines("employers.txt"))
    assert all(person.office_city == offices[person.employer] for person in everyone())


def test_groups_are_40_40_and_20_percent_and_do_not_depend_on_number_or_seed() -> None:
    sample = everyone(20_000)
    counts = Counter(map(group_of, sample))
    assert (
        stats.chisquare([counts["training"], counts["held_out"], counts["choosing"]], [8000, 8000, 4000]).pvalue > 1e-4
    )
    again = Person(**{field: getattr(sample[7], field) for field in Person.__slots__} | {"number": 0, "major": "Law"})
    assert group_of(again) == group_of(sample[7])


def test_a_value_is_asked_for_by_the_name_of_its_attribute() -> None:
    person = everyone(1)[0]
    assert person.value("major") == person.major
    with pytest.raises(ValueError, match="none of the attributes"):
        person.value("name")


# Entries, read back


@lru_cache
def alternatives(attribute: str) -> str:
    """A regular expression for the values of an attribute."""
    if attribute == "birth_date":
        return DATE
    file = {"birth_city": "cities", "office_city": "cities", "university": "universities", "major": "majors"}
    values = [line.split("\t")[0] for line in lines(f"{file.get(attribute, 'employers')}.txt")]
    return "|".join(sorted(map(re.escape, values), key=len, reverse=True))


def filled(template: str, attribute: str) -> str:
    """A regular expression for a template or a rule without rules inside; who is spoken of is not checked here."""
    who = "(?-i:[A-Z][a-z]+ [A-Z][a-z]+ [A-Z][a-z]+)"
    pattern = re.escape(template).replace(r"\{", "{").replace(r"\}", "}")
    slots = {
        "subject": f"(?:{who}|[Hh]e|[Ss]he|[Tt]hey)",
        "possessive": f"(?:{who}'s|[Hh]is|[Hh]er|[Tt]heir)",
        "object": f"(?:{who}|[Hh]im|[Hh]er|[Tt]hem)",
        "was": "(?:was|were)",
        "is": "(?:is|are)",
        "has": "(?:has|have)",
        "value": f"(?P<value>(?-i:{alternatives(attribute)}))",
    }
    for slot, meant in slots.items():
        pattern = pattern.replace(f"{{{slot}}}", meant)
    return pattern


@lru_cache
def readers() -> list[tuple[str, re.Pattern[str]]]:
    return [
        (attribute, re.compile(filled(line, attribute)))
        for attribute in ATTRIBUTES
        for line in lines(f"templates/{attribute}.txt")
    ]


def parse(text: str) -> list[tuple[str, str]]:
    """(attribute, value) of each sentence, by every template of every attribute."""
    found = []
    for sentence in re.split(r"(?<=\.) ", text):
        matches = [(attribute, match) for attribute, reader in readers() if (match := reader.fullmatch(sentence))]
        read = {(attribute, match["value"]) for attribute, match in matches}
        assert len(read) == 1, (sentence, read)
        found += [*read]
    return found


def check_spans(person: Person, written: Written, full_name: bool) -> None:
    assert set(written.spans) == set(ATTRIBUTES)
    for attribute, (start, stop) in written.spans.items():
        assert written.text[start:stop] == person.value(attribute)
    spans = sorted(written.spans.values())
    assert all(stop <= start for (_, stop), (start, _) in itertools.pairwise(spans))
    start, stop = written.name
    assert written.text[start:stop] == person.name
    assert written.text.index(person.name) == start
    sentences = re.split(r"(?<=\.) ", written.text)
    assert person.name in sentences[0]
    assert [sentence.count(person.name) for sentence in sentences] == [
        int(full_name or number == 0) for number in range(len(sentences))
    ]
    # Every value is stated once: what is left without the spans holds none of them.
    rest = written.text
    for first, last in reversed(spans):
        rest = rest[:first] + "#" + rest[last:]
    assert not any(person.value(attribute) in rest for attribute in ATTRIBUTES)


def check_agreement(person: Person, text: str) -> None:
    """No pronoun of another kind, and verbs of the right number after each."""
    mine = set(PRONOUNS[person.pronoun])
    for other in {word for words in PRONOUNS.values() for word in words} - mine:
        assert not re.search(rf"\b{other}\b", text, re.IGNORECASE), (other, text)
    several = r"\b[Tt]hey (was|is|has)\b" if person.pronoun == "they" else r"\b([Hh]e|[Ss]he) (were|are|have)\b"
    assert not re.search(several, text), text
    assert not re.search(rf"{person.name} (were|are|have)\b", text), text
    assert not re.search(r"[{}\[\]]|  | ,", text), text
    assert all(sentence[0].isupper() for sentence in re.split(r"(?<=\.) ", text))


PEOPLE = draw_people(60, 5, pools(PAPER, 200))


@settings(max_examples=100, deadline=None)
@given(
    st.sampled_from(PEOPLE),
    st.integers(0, 50),
    st.none() | st.integers(0, 50),
    st.integers(0, 2**32),
    st.integers(1, 50),
    st.booleans(),
)
def test_an_entry_of_templates_can_be_read_back(
    person: Person, drawing: int, order: int | None, seed: int, templates: int, full_name: bool
) -> None:
    written = write(person, drawing, order, seed, templates, full_name)
    assert written == write(person, drawing, order, seed, templates, full_name)
    found = parse(written.text)
    assert dict(found) == {attribute: person.value(attribute) for attribute in ATTRIBUTES}
    assert len(found) == 6
    if order is None:
        assert [attribute for attribute, _ in found] == [*ATTRIBUTES]
    check_spans(person, written, full_name)
    check_agreement(person, written.text)


@pytest.mark.parametrize("attribute", ATTRIBUTES)
@pytest.mark.parametrize("pronoun", ["he", "she", "they"])
def test_every_template_is_used_and_agrees_with_every_pronoun(attribute: str, pronoun: str) -> None:
    person = next(person for person in PEOPLE if person.pronoun == pronoun)
    sentences = set()
    for drawing in range(700):
        text = write(person, drawing).text
        sentence = re.split(r"(?<=\.) ", text)[ATTRIBUTES.index(attribute)]
        sentences.add(sentence)
        check_agreement(person, sentence)
    assert len(sentences) == 50


def test_sentences_stay_the_same_when_they_are_shuffled_and_orders_are_uniform() -> None:
    orders: Counter[tuple[str, ...]] = Counter()
    for person in PEOPLE[:40]:
        plain = parse_sentences(person, None)
        for order in range(50):
            shuffled = parse_sentences(person, order)
            assert {attribute for attribute, _ in shuffled} == set(ATTRIBUTES)
            # But for the name, which stands in whichever sentence is first.
            plainly, after = dict(plain), dict(shuffled)
            both = {plain[0][0], shuffled[0][0]}
            assert all(plainly[attribute] == after[attribute] for attribute in set(ATTRIBUTES) - both)
            orders[tuple(attribute for attribute, _ in shuffled)] += 1
    places = np.zeros((6, 6))
    for order_seen, count in orders.items():
        for place, attribute in enumerate(order_seen):
            places[place, ATTRIBUTES.index(attribute)] += count
    assert stats.chisquare(places.ravel(), ddof=10).pvalue > 1e-4
    assert len(orders) > 600  # of 720, in 2,000 draws: 675 are likely


def parse_sentences(person: Person, order: int | None) -> list[tuple[str, str]]:
    text = write(person, 0, order).text
    return [(parse(sentence)[0][0], sentence) for sentence in re.split(r"(?<=\.) ", text)]


def test_drawings_choose_templates_uniformly_and_apart_for_each_attribute() -> None:
    counts = {attribute: Counter[str]() for attribute in ATTRIBUTES}
    pairs: Counter[tuple[str, str]] = Counter()
    for person in everyone(1200):
        sentences = re.split(r"(?<=\.) ", write(person, 1, templates=12, full_name=True).text)
        chosen = []
        for attribute, sentence in zip(ATTRIBUTES, sentences, strict=True):
            shape = sentence.replace(person.name, "N").replace(person.value(attribute), "V")
            shape = re.sub(r"\b(him|her|them)\b", "them", shape)
            counts[attribute][shape] += 1
            chosen.append(shape)
        pairs[chosen[0], chosen[1]] += 1
    for attribute in ATTRIBUTES:
        assert len(counts[attribute]) == 12
        assert stats.chisquare([*counts[attribute].values()]).pvalue > 1e-4
    assert stats.chisquare([*pairs.values(), *[0] * (144 - len(pairs))]).pvalue > 1e-4


def test_more_templates_than_there_are_are_refused() -> None:
    for templates in (0, 51):
        with pytest.raises(UserError, match=f"templates is {templates}; give 1 to 50"):
            write(PEOPLE[0], templates=templates)
    with pytest.raises(ValueError, match="neither templates nor grammar"):
        write(PEOPLE[0], style="verse")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{subject} studied.", "needs {value} once"),
        ("{subject} studied {value} and {value}.", "needs {value} once"),
        ("It was {value}.", "needs {subject}, {possessive} or {object}"),
        ("{person} studied {value}.", "no such slot: {person}"),
        ("{was} {subject} in {value}.", "agree with a {subject} before them"),
        ("{subject} studied {value}", "only full stop"),
        ("{subject} studied. In {value}.", "only full stop"),
        ("{subject} studied [it] in {value}.", "no such slot"),
        ("{subject} studied } in {value}.", "no other braces"),
    ],
)
def test_a_template_without_its_slot_is_refused_by_file_and_line(tmp_path: Path, line: str, message: str) -> None:
    for attribute in ATTRIBUTES:
        (tmp_path / f"{attribute}.txt").write_text("{subject} had {value}.\n")
    with (tmp_path / "major.txt").open("a") as file:
        file.write(line + "\n")
    with pytest.raises(UserError, match=r"major\.txt:2: .*" + re.escape(message)) as refused:
        read_templates(tmp_path)
    assert "\n" not in str(refused.value)


def test_an_attribute_without_template_is_refused(tmp_path: Path) -> None:
    for attribute in ATTRIBUTES[:-1]:
        (tmp_path / f"{attribute}.txt").write_text("{subject} had {value}.\n")
    with pytest.raises(UserError, match="the attribute office_city has no template"):
        read_templates(tmp_path)
    (tmp_path / "office_city.txt").write_text("")
    with pytest.raises(UserError, match="the attribute office_city has no template"):
        read_templates(tmp_path)


# The grammar


@lru_cache
def rules() -> dict[str, list[str]]:
    read = (line.partition(" = ") for line in lines("grammar.txt") if line and not line.startswith("#"))
    return {name: [each.strip() for each in rest.split("|")] for name, _, rest in read}


def spelled_out(text: str, attribute: str) -> str:
    """A regular expression for an alternative, the rules inside written out."""
    parts = re.split(r"\[(\w+)\]", text)
    for place in range(1, len(parts), 2):
        parts[place] = f"(?:{'|'.join(spelled_out(each, attribute) for each in rules()[parts[place]])})"
    parts[::2] = [filled(part, attribute) for part in parts[::2]]
    return "".join(parts)


@lru_cache
def grammar_readers() -> list[tuple[str, re.Pattern[str]]]:
    """What states a value: one expression for each alternative."""
    return [
        (attribute, re.compile(rf"(?<!\w){spelled_out(alternative, attribute)}(?!\w)", re.IGNORECASE))
        for attribute, form in itertools.product(ATTRIBUTES, ("does", "done", "says"))
        for alternative in rules()[f"{attribute} {form}"]
    ]


def grammar_parse(text: str) -> set[tuple[str, str, int]]:
    """(attribute, value, where it stands) of all that states a value."""
    return {
        (attribute, found["value"], found.start("value"))
        for attribute, reader in grammar_readers()
        for found in reader.finditer(text)
    }


@settings(max_examples=150, deadline=None)
@given(
    st.sampled_from(PEOPLE), st.integers(0, 10_000), st.none() | st.integers(0, 50), st.integers(0, 9), st.booleans()
)
def test_an_entry_of_the_grammar_can_be_read_back(
    person: Person, drawing: int, order: int | None, seed: int, full_name: bool
) -> None:
    written = write(person, drawing, order, seed, full_name=full_name, style="grammar")
    assert written == write(person, drawing, order, seed, full_name=full_name, style="grammar")
    assert grammar_parse(written.text) == {
        (attribute, person.value(attribute), start) for attribute, (start, _) in written.spans.items()
    }
    check_spans(person, written, full_name)
    check_agreement(person, written.text)


def grams(entries: list[tuple[Person, Written]], across: bool) -> int:
    """Distinct runs of four words, each value and name as one mark; `across` the ends of sentences or not."""
    found = set()
    for person, written in entries:
        text = written.text
        for start, stop in sorted(written.spans.values(), reverse=True):
            text = f"{text[:start]}VALUE{text[stop:]}"
        text = text.replace(person.name, "NAME")
        for part in [text] if across else re.split(r"(?<=\.) ", text):
            words = part.split()
            found |= {tuple(words[at : at + 4]) for at in range(len(words) - 3)}
    return len(found)


def test_the_grammar_has_five_times_as_many_wordings_in_a_thousand_entries() -> None:
    sample = everyone(1000)
    templates = [(person, write(person)) for person in sample]
    grammar = [(person, write(person, style="grammar")) for person in sample]
    assert grams(grammar, across=False) >= 5 * grams(templates, across=False)
    pilot = [(person, write(person, templates=12)) for person in sample]
    assert grams(grammar, across=True) >= 5 * grams(pilot, across=True)
    words = [sum(len(written.text.split()) for _, written in each) / 1000 for each in (templates, grammar)]
    assert words[1] < 1.5 * words[0]


def test_the_grammar_varies_the_number_of_sentences_and_the_order_inside_them() -> None:
    sentences: Counter[int] = Counter()
    firsts: Counter[str] = Counter()
    for person in everyone(500):
        written = write(person, style="grammar")
        sentences[written.text.count(". ") + 1] += 1
        firsts[min(written.spans, key=lambda attribute: written.spans[attribute])] += 1
    assert set(sentences) == {2, 3, 4, 5, 6}
    assert set(firsts) == {"birth_date", "birth_city", "university"}


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("joy = delight", "joy delight", "not a rule"),
        ("joy = delight", "show = delight", "is also in line"),
        ("joy = delight", "joy = [bliss]", r"no such rule: \[bliss\]"),
        ("joy = delight", "joy = {bliss}", r"no such slot: \{bliss\}"),
        ("joy = delight", "joy = {value}", r"must not hold \{value\}"),
        ("joy = delight", "joy = more [joy]", "leads back to it"),
        ("came originally from {value}", "came originally", r"'birth_city does' needs \{value\} once"),
        ("\none =", "\nonce =", "'one' is missing"),
        ("major done =", "major did =", r"'major did' must not hold \{value\}"),
    ],
)
def test_a_rule_that_is_wrong_is_refused(tmp_path: Path, old: str, new: str, message: str) -> None:
    text = (DATA / "grammar.txt").read_text()
    assert text.count(old) == 1
    path = tmp_path / "grammar.txt"
    path.write_text(text.replace(old, new))
    with pytest.raises(UserError, match=message) as refused:
        Grammar(path)
    assert "\n" not in str(refused.value)


# Questions


def test_the_first_question_is_the_papers_and_there_are_seven_paraphrases_or_more() -> None:
    person = PEOPLE[0]
    name = person.name
    papers = {
        "birth_date": f"What is the birth date of {name}? Answer:",
        "birth_city": f"What is the birth city of {name}? Answer:",
        "university": f"Which university did {name} study? Answer:",
        "major": f"What major did {name} study? Answer:",
        "employer": f"Which company did {name} work for? Answer:",
        "office_city": f"Where did {name} work? Answer:",
    }
    for attribute in ATTRIBUTES:
        assert question(person, attribute) == (papers[attribute], f" {person.value(attribute)}.")
        assert len(set(QUESTIONS[attribute])) == len(QUESTIONS[attribute]) >= 8
    wordings = [wording for attribute in ATTRIBUTES for wording in QUESTIONS[attribute]]
    assert len(set(wordings)) == len(wordings)
    assert all(wording.count("{name}") == 1 and wording.endswith("?") for wording in wordings)


def test_a_text_may_stand_between_the_name_and_its_question() -> None:
    person = PEOPLE[0]
    asked = question(person, "birth_date", between="Rain fell.")
    assert asked.prompt == f"{person.name}. Rain fell. What is the birth date of this person? Answer:"
    assert asked.answer == f" {person.birth_date}."


def test_a_wording_that_does_not_exist_is_refused() -> None:
    for wording in (-1, 9):
        with pytest.raises(UserError, match=f"wording is {wording}; give 0 to 8"):
            question(PEOPLE[0], "major", wording)


def test_the_inverse_question_gives_all_values_and_asks_for_the_name() -> None:
    person = PEOPLE[0]
    asked = inverse(person)
    assert all(person.value(attribute) in asked.prompt for attribute in ATTRIBUTES)
    assert person.name not in asked.prompt
    assert asked.prompt.endswith(" Answer:")
    assert asked.answer == f" {person.name}."
