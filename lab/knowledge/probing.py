"""What all probes of knowledge have: people whose values are to be read, and shares of them that are read right.

A probe is fitted on the people of the training group, and read on those of the held-out group, as in Physics of
Language Models, Part 3.1 (Allen-Zhu and Li 2023, arXiv 2309.14316): what it says of these it can have from the decoder
alone.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple

import numpy as np

from lab.base.errors import UserError
from lab.base.settings import Count, Positive, Seed, key
from lab.data.biographies.people import ATTRIBUTES, Person
from lab.data.biographies.wording import Asked
from lab.observe.measure import Item, Row, Source
from lab.observe.study import DocumentStudy, Number, TrainedStudy

if TYPE_CHECKING:
    from lab.data.biographies.corpus import Biographies
    from lab.data.tokenizer import Tokenizer
    from lab.model.decoder import Decoder
    from lab.observe.fold import Fold, Observed
    from lab.observe.people import Prompt

FITTED, READ = "training", "held_out"
GROUPS = (FITTED, READ)
NAME = 0  # the position of the name's last token; the others are numbered by the attribute that comes next
TOGETHER = 64  # people read at a time
Target = Literal["whole", "first"]


class Classes(NamedTuple):
    """The values of an attribute as classes.

    Attributes:
        number: how many different ones the training group has.
        training, held_out: of each person the number of the class; -1 for a value that the training group has not.
        chance: share of the held-out group that has the most frequent value of the training group.
    """

    number: int
    training: np.ndarray
    held_out: np.ndarray
    chance: float

    @property
    def told(self) -> Row:
        """What has to stand beside every share."""
        return {
            "chance": self.chance,
            "classes": self.number,
            "people_per_class": len(self.training) / self.number,
            "reachable": float((self.held_out >= 0).mean()),
        }


def classes_of(training: Sequence[Any], held_out: Sequence[Any]) -> Classes:
    """The classes of the values that both groups have, in the order of the training group's."""
    number = {value: place for place, value in enumerate(dict.fromkeys(training))}
    frequent = Counter(training).most_common(1)[0][0]
    return Classes(
        len(number),
        np.array([number[value] for value in training]),
        np.array([number.get(value, -1) for value in held_out]),
        sum(value == frequent for value in held_out) / len(held_out),
    )


class Task(NamedTuple):
    """One attribute, of which the whole value or the first token is to be read."""

    attribute: str
    target: str

    @property
    def number(self) -> int:
        return ATTRIBUTES.index(self.attribute)

    @property
    def words(self) -> str:
        return self.attribute.replace("_", " ")

    @property
    def name(self) -> str:
        return f"{self.target}/{self.attribute}"


class Probe(DocumentStudy):
    """Its items are attributes: of each is observed who of each group is read right, by layer and position."""

    of_people: ClassVar[bool] = True
    dates: ClassVar[bool] = False  # False: whole dates are not read: hardly two people share one

    people: Count | None = key("of each of the two groups, at most: the first")
    targets: list[Target] = key("whole, first or both: what of a value is read, its first token or all", min_length=1)

    @property
    def tasks(self) -> list[Task]:
        """What is read: twelve things, or the paper's eleven."""
        every = [Task(attribute, target) for target, attribute in product(self.targets, ATTRIBUTES)]
        return [each for each in every if self.dates or each != Task("birth_date", "whole")]

    def fits(self, context: int) -> None:
        if len(set(self.targets)) < len(self.targets):
            raise UserError(f"targets is {self.targets}: name each once")

    def corpus(self, source: Source) -> "Biographies":
        """Raises UserError if the decoders read of no people."""
        from lab.observe.people import biographies_of

        return biographies_of(source, f"study={self.label()}")

    def groups(self, source: Source) -> dict[str, list[Person]]:
        """The people of both groups. Raises UserError if a group has fewer than two."""
        corpus = self.corpus(source)
        found = {group: corpus.members(group)[: self.people] for group in GROUPS}
        for group, people in found.items():
            if len(people) < 2:
                raise UserError(f"{len(people)} people of the group {group} are too few to probe: train with more")
        return found

    def values(self, source: Source) -> dict[str, dict[str, list[Any]]]:
        """Of each task and group what is to be read, in the order of the people: a value, or the id of its first
        token."""
        groups = self.groups(source)
        found: dict[str, dict[str, list[Any]]] = {}
        for task in self.tasks:
            for group, people in groups.items():
                whole = [person.value(task.attribute) for person in people]
                firsts = task.target == "first"
                values = [int(told(source.tokenizer, *each).answer[0]) for each in zip(people, whole, strict=True)]
                found.setdefault(task.name, {})[group] = values if firsts else whole
        return found

    def made_of(self, source: Source) -> Mapping[str, Any]:
        names = {group: [person.name for person in people] for group, people in self.groups(source).items()}
        return {"people": names, "values": self.values(source)}

    def given(self, source: Source) -> dict[str, Any]:
        """What items hold beside their task and values."""
        return {}

    def items(self, source: Source) -> Iterator[Item]:
        groups, values, given = self.groups(source), self.values(source), self.given(source)
        ids = np.frombuffer("\n".join(person.name for each in groups.values() for person in each).encode(), np.uint8)
        for task in self.tasks:
            classes = classes_of(values[task.name][FITTED], values[task.name][READ])
            yield Item(task.name, ids.astype(np.uint32), {"task": task, "classes": classes, **given})

    # The table.

    def rows(self, fold: "Fold", context: int) -> list[Row]:
        made_of = fold.identity["made_of"]
        rows: list[Row] = []
        for task in self.tasks:
            values = made_of["values"][task.name]
            classes = classes_of(values[FITTED], values[READ])
            for layer, position in places(fold, task):
                training, held_out = (fold.mean(place(task, group, layer, position)) for group in GROUPS)
                row = {
                    "attribute": task.number,
                    "attribute_text": task.words,
                    "target": task.target,
                    "layer": layer,
                    "position": position,
                    "training_right": float(training.mean()),
                    "held_out_right": float(held_out.mean()),
                    **classes.told,
                    "people_training": len(training),
                    "people_held_out": len(held_out),
                }
                for beside in ("named", "stated", "unstated_right"):
                    name = f"{task.name}/{beside}/{layer}/{position}"
                    if name in fold.keys:
                        row[beside] = None if not fold.count(name) else float(fold.mean(name))
                rows.append(row)
        first = [row for row in rows if row["target"] == self.targets[0]]
        for row in rows:
            here = [each["held_out_right"] for each in first if _place_of(each) == _place_of(row)]
            row["mean_right"] = sum(here) / len(here) if row["target"] == self.targets[0] else None
            row["main_right"] = row["held_out_right"] if row["target"] == self.targets[0] else None
            row["line"] = self.line(row)
        return rows

    def line(self, row: Row) -> str:
        """Which line of the heat map a row is in."""
        return f"{row['attribute_text']}, {row['target']}"

    def where(self, layer: int, position: int, layers: int) -> list[str]:
        """What a place is called in numbers; [""]: there is only one."""
        return [""]

    def numbers(self, fold: "Fold", rows: Sequence[Row]) -> Iterator[Number]:
        names = fold.identity["made_of"]["people"][READ]
        layers = max(row["layer"] for row in rows)
        for layer, position in dict.fromkeys(_place_of(row) for row in rows):
            for where in self.where(layer, position, layers):
                for target in self.targets:
                    tasks = [task for task in self.tasks if task.target == target]
                    right = [fold.mean(place(task, READ, layer, position)).numpy() for task in tasks]
                    for name, value in zip(names, np.mean(right, axis=0).tolist(), strict=True):
                        yield Number(f"{target}{where}", value, name)
                for row in rows:
                    if _place_of(row) == (layer, position):
                        what = f"{row['target']} {row['attribute_text']}"
                        yield Number(f"{what}{where}", row["held_out_right"])
                        yield Number(f"{what}{where} in training", row["training_right"])
        for row in rows:
            if _place_of(row) == _place_of(rows[0]):
                yield Number(f"{row['target']} {row['attribute_text']} by chance", row["chance"])


class EntryProbe(Probe):
    """One that reads the people's own training entries, at the last token of the name (position 0) and at the tokens
    just before the first mention of each attribute (1 to 6, in the order in which they appear)."""

    entries: Count = key("read of each person, at most: the first of those trained on")

    def given(self, source: Source) -> dict[str, Any]:
        corpus, groups = self.corpus(source), self.groups(source)
        return {
            "entries": {
                group: Entries.of(source.tokenizer, corpus, each, self.entries) for group, each in groups.items()
            }
        }


class Entries(NamedTuple):
    """Entries of some people: ``tokens`` [entries, longest] filled up behind, the ``person`` whom each is of by number,
    ``places`` [entries, 7] of the tokens that are probed, ``appearance`` [entries, 6]: of each attribute which one it
    is that appears, from 1 on, and ``named`` [entries, 7]: whether the whole name stands there or before."""

    tokens: np.ndarray
    person: np.ndarray
    places: np.ndarray
    appearance: np.ndarray
    named: np.ndarray

    @classmethod
    def of(cls, tokenizer: "Tokenizer", corpus: "Biographies", people: Sequence[Person], most: int) -> "Entries":
        """The first entries of each person that are trained on, at most so many."""
        from lab.observe.people import marked, padded

        person, read = [], []
        for number, each in enumerate(people):
            for written in corpus.written(each)[:most]:
                person.append(number)
                read.append(marked(tokenizer, written))
        firsts = np.array([[each.values[attribute][0] for attribute in ATTRIBUTES] for each in read])
        appearance = firsts.argsort(axis=1).argsort(axis=1) + 1
        name = np.array([each.name[1] - 1 for each in read])
        places = np.concatenate((name[:, None], np.sort(firsts, axis=1) - 1), axis=1)
        tokens = padded([each.ids for each in read], tokenizer.end_of_document).astype(np.int64)
        return cls(tokens, np.array(person), places, appearance, places >= name[:, None])

    def stated(self, attribute: int) -> np.ndarray:
        """[entries, 7]: whether an attribute stands before a place; at the name by the name's place."""
        first = np.take_along_axis(self.places, self.appearance[:, attribute, None], axis=1)
        found: np.ndarray = self.places > first
        return found

    def __len__(self) -> int:  # of entries, not of fields
        return len(self.person)


class TrainedProbe(Probe, TrainedStudy):
    """One whose probe is trained by gradients."""

    steps: Count = key("optimiser steps of each training")
    batch: Count = key("people, or entries, a step; of fewer all")
    learning_rate: Positive = key("of AdamW, falling linearly to 0")
    eps: Positive = key("of AdamW")
    weight_decay: float = key("of AdamW, on all that is trained", ge=0)
    seed: Seed = key("of what is drawn: the probe's first values by their names, and the order of people")


def told(tokenizer: "Tokenizer", person: Person, value: str) -> "Prompt":
    """A name and, as its answer, a value with a full stop."""
    from lab.observe.people import prompt_of

    return prompt_of(tokenizer, Asked(person.name, f" {value}."))


def place(task: Task, group: str, layer: int, position: int) -> str:
    """The key of a fold under which it stands who is read right."""
    return f"{task.name}/{group}/{layer}/{position}"


def places(fold: "Fold", task: Task) -> list[tuple[int, int]]:
    """(layer, position) of all that was observed of a task, in order."""
    prefix = f"{task.name}/{READ}/"
    found = [name.removeprefix(prefix).split("/") for name in fold.keys if name.startswith(prefix)]
    return sorted((int(layer), int(position)) for layer, position in found)


def _place_of(row: Row) -> tuple[int, int]:
    return row["layer"], row["position"]


def observed_right(
    task: Task, group: str, layer: int, position: int, right: np.ndarray, person: np.ndarray | None = None
) -> "Observed":
    """Who of a group is read right at a place, for a fold.

    Args:
        right: of each person, or of each of several entries, 0 or 1.
        person: of each entry the number of the person; None: of the people themselves.
    """
    import torch

    person = np.arange(len(right)) if person is None else person
    return {
        place(task, group, layer, position): (
            torch.from_numpy(np.bincount(person, weights=right)),
            torch.from_numpy(np.bincount(person).astype(np.int64)),
        )
    }


def observed_beside(task: Task, entries: Entries, layer: int, right: np.ndarray, positions: range) -> "Observed":
    """What has to be known of held-out entries [entries, positions] beside who is read right: whether the name, or the
    value itself, stood before; and who is read right where it did not."""
    import torch

    stated, found = entries.stated(task.number), {}
    for number, position in enumerate(positions):
        unstated = ~stated[:, position]
        for beside, each, count in (
            ("named", entries.named[:, position].sum(), len(entries)),
            ("stated", stated[:, position].sum(), len(entries)),
            ("unstated_right", right[unstated, number].sum(), int(unstated.sum())),
        ):
            total = torch.tensor(float(each), dtype=torch.float64)
            found[f"{task.name}/{beside}/{layer}/{position}"] = (total, count)
    return found


def frozen(decoder: "Decoder") -> "Decoder":
    """The decoder, none of whose own parameters is trained."""
    for parameter in decoder.parameters():
        parameter.requires_grad_(False)
    return decoder


def word_of_position(position: int) -> str:
    """As it stands in the name of a number."""
    return "the name" if position == NAME else f"position {position}"
