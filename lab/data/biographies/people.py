"""People who were made up: names, six attributes, and to which group each belongs.

The recipe of bioS ("Physics of Language Models: Part 3.1", arXiv 2309.14316, section 2): names and attributes are drawn
uniformly and independently, but that the city of the office follows from the employer. The pools have the paper's
sizes; their entries were made up for the lab (`data/biographies/`), cities and fields of study are real.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal

import numpy as np

from lab.base.errors import UserError

ATTRIBUTES = ("birth_date", "birth_city", "university", "major", "employer", "office_city")
POOLS = ("first_names", "middle_names", "last_names", "cities", "universities", "majors", "employers")
PRONOUNS = ("he", "she", "they")
MONTHS = (
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
)
DAYS = 28
FIRST_YEAR = 1900
TOGETHER = 4096  # candidates that are drawn at once: one stream of random numbers each such block

Group = Literal["training", "held_out", "choosing"]


@dataclass(frozen=True, slots=True)
class Person:
    """Attributes as they stand in a text: `birth_date` "October 2, 1996", cities "Princeton, NJ"."""

    number: int
    first: str
    middle: str
    last: str
    pronoun: str
    birth_date: str
    birth_city: str
    university: str
    major: str
    employer: str
    office_city: str

    @property
    def name(self) -> str:
        """First, middle and last name."""
        return f"{self.first} {self.middle} {self.last}"

    def value(self, attribute: str) -> str:
        """The value of one of ATTRIBUTES."""
        if attribute not in ATTRIBUTES:
            raise ValueError(f"{attribute!r} is none of the attributes {', '.join(ATTRIBUTES)}")
        found: str = getattr(self, attribute)
        return found


@dataclass(frozen=True)
class Pools:
    """What people are drawn from. `offices[i]` is the city of `employers[i]`; `years` counts from FIRST_YEAR on."""

    first_names: tuple[str, ...]
    middle_names: tuple[str, ...]
    last_names: tuple[str, ...]
    cities: tuple[str, ...]
    universities: tuple[str, ...]
    majors: tuple[str, ...]
    employers: tuple[str, ...]
    offices: tuple[str, ...]
    years: int

    @property
    def names(self) -> int:
        """How many full names there are."""
        return len(self.first_names) * len(self.middle_names) * len(self.last_names)

    @property
    def biographies(self) -> int:
        """How many sets of values there are; the city of an office follows from the employer."""
        dates = len(MONTHS) * DAYS * self.years
        return dates * len(self.cities) * len(self.universities) * len(self.majors) * len(self.employers)


def shipped_biographies() -> Path:
    """The folder of names, values and templates that come with the lab: in the installed package, else in the source
    tree."""
    package = Path(__file__).parents[2]
    installed = package / "biographies"
    return installed if installed.is_dir() else package.parent / "data" / "biographies"


def lines_of(path: Path) -> tuple[str, ...]:
    """The lines of a file that ships with the lab. Raises UserError if there is no such file, or a line is empty or
    comes twice."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; install the lab again") from None
    for number, line in enumerate(lines, 1):
        if not line.strip():
            raise UserError(f"{path}:{number}: an empty line; take it out")
    seen: dict[str, int] = {}
    for number, line in enumerate(lines, 1):
        if seen.setdefault(line, number) != number:
            raise UserError(f"{path}:{number}: {line!r} stands in line {seen[line]} too; take one out")
    return tuple(lines)


@lru_cache(maxsize=len(POOLS))
def _lines(path: Path) -> tuple[str, ...]:
    return lines_of(path)


def shipped_pool(name: str) -> tuple[str, ...]:
    """The entries of one of POOLS. Raises UserError as :func:`lines_of`."""
    return _lines(shipped_biographies() / f"{name}.txt")


def pools(sizes: Mapping[str, int], years: int) -> Pools:
    """The first entries of each file of `data/biographies/`.

    Args:
        sizes: entries of each of POOLS.
        years: of birth, from 1900 on (200 in the paper).

    Raises:
        UserError: a pool has no size, an unknown name, or fewer entries than asked for; a size or `years` is below 1.
    """
    if unknown := sorted(set(sizes) - set(POOLS)):
        raise UserError(f"pools.{unknown[0]}: no such pool; there are {', '.join(POOLS)}")
    taken = {}
    for name in POOLS:
        if name not in sizes:
            raise UserError(f"pools.{name} has no size; give the number of its entries")
        entries = shipped_pool(name)
        if not 1 <= sizes[name] <= len(entries):
            path = shipped_biographies() / f"{name}.txt"
            raise UserError(f"pools.{name} is {sizes[name]}; give 1 to {len(entries)}, the entries of {path}")
        taken[name] = entries[: sizes[name]]
    if years < 1:
        raise UserError(f"years is {years}; give the number of years of birth from {FIRST_YEAR} on, at least 1")
    employers = [entry.split("\t") for entry in taken.pop("employers")]
    return Pools(
        **taken,
        employers=tuple(name for name, _ in employers),
        offices=tuple(city for _, city in employers),
        years=years,
    )


def draw_people(count: int, seed: int, pools: Pools, skip: int = 0) -> list[Person]:
    """People numbered `skip` to `skip + count - 1`, each with a full name of its own.

    A candidate is drawn uniformly, and dropped whole if its name is taken; so the first n of m people are the n people,
    and two groups that are skipped apart are disjoint.

    Raises:
        UserError: more people than names.
    """
    if count < 0 or skip < 0:
        raise ValueError(f"people {skip} to {skip + count - 1} cannot be drawn")
    wanted = skip + count
    if wanted > pools.names:
        raise UserError(
            f"{wanted:,} people, but the pools give {pools.names:,} full names "
            f"({len(pools.first_names)} x {len(pools.middle_names)} x {len(pools.last_names)}); "
            "take fewer people or larger pools of names"
        )
    sizes = [
        len(pools.first_names),
        len(pools.middle_names),
        len(pools.last_names),
        len(PRONOUNS),
        len(MONTHS),
        DAYS,
        pools.years,
        len(pools.cities),
        len(pools.universities),
        len(pools.majors),
        len(pools.employers),
    ]
    people: list[Person] = []
    taken: set[tuple[int, int, int]] = set()
    block = 0
    while len(taken) < wanted:
        drawn = np.random.default_rng([seed, block]).integers(0, sizes, size=(TOGETHER, len(sizes))).tolist()
        block += 1
        for first, middle, last, pronoun, month, day, year, city, university, major, employer in drawn:
            number = len(taken)
            if number == wanted:
                break
            taken.add((first, middle, last))
            if len(taken) == number or number < skip:
                continue
            people.append(
                Person(
                    number,
                    pools.first_names[first],
                    pools.middle_names[middle],
                    pools.last_names[last],
                    PRONOUNS[pronoun],
                    f"{MONTHS[month]} {day + 1}, {FIRST_YEAR + year}",
                    pools.cities[city],
                    pools.universities[university],
                    pools.majors[major],
                    pools.employers[employer],
                    pools.offices[employer],
                )
            )
    return people


def group_of(person: Person) -> Group:
    """Whose questions are trained on (40 %), held out (40 %), or there to choose settings by (20 %).

    By a keyed hash of the name alone: it does not change with the number of people, their seed or their order.
    """
    digest = hashlib.blake2b(person.name.encode(), key=b"group of a person", digest_size=8).digest()
    place = int.from_bytes(digest, "little") % 5
    return "training" if place < 2 else "held_out" if place < 4 else "choosing"
