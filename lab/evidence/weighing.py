"""From documents to evidence: estimates, paired differences and verdicts, from one table alone."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lab.base.errors import UserError
from lab.base.shown import plain
from lab.base.tables import Row, read_table
from lab.evidence.differences import holm, noise_floor, verdict
from lab.evidence.interval import Interval, mean_interval, widening
from lab.evidence.quantities import WHOLE, Quantity, effective_contexts, samples
from lab.observe.measure import measure_of
from lab.runs.control import Seed

OBSERVED = (
    *("evaluation", "clusters_told", "context_tokens", "variant", "seed"),
    *("measure", "length_tokens", "cluster", "document", "mean", "weight"),
)
POSSIBLE: dict[str, Callable[[Any], bool]] = {
    "context_tokens": lambda number: isinstance(number, int) and number > 0,
    "length_tokens": lambda number: isinstance(number, int) and number >= 0,
    "seed": lambda number: not isinstance(number, float),
    "mean": lambda number: True,
    "weight": lambda number: number > 0,
}


def published(path: Path) -> list[Row]:
    """The documents of an earlier comparison, from its table: rows with the columns OBSERVED.

    Raises:
        UserError: it cannot be read, a length or weight makes no sense, or a document stands twice in it.
    """
    remedy = "take it whole from where it was published"
    rows = read_table(path, OBSERVED, remedy=remedy)
    seen: set[tuple[Any, ...]] = set()
    for number, row in enumerate(rows, start=2):
        wrong = [name for name, may_be in POSSIBLE.items() if row[name] is None or not may_be(row[name])]
        if wrong:
            raise UserError(f"{path} line {number}: {wrong[0]} is {row[wrong[0]]}, which it cannot be; {remedy}")
        place = place_of(row)
        if place in seen:
            raise UserError(f"{path} line {number}: {plain(row['document'])} stands twice for one quantity; {remedy}")
        seen.add(place)
    return rows


def place_of(row: Row) -> tuple[Any, ...]:
    """What a row of documents is a number of."""
    return tuple(row[name] for name in ("evaluation", "variant", "seed", "measure", "length_tokens", "document"))


def joined(tables: Mapping[str, Sequence[Row]]) -> list[Row]:
    """The rows of several tables, by what they are called: what stands in more than one counts once.

    Raises:
        UserError: two tables have different numbers of one document.
    """
    found: dict[tuple[Any, ...], tuple[str, Row]] = {}
    for name, rows in tables.items():
        for row in rows:
            first, before = found.setdefault(place_of(row), (name, row))
            if any(before[column] != row[column] for column in ("mean", "weight", "cluster")):
                of = (
                    f"{row['measure']} of {plain(str(row['variant']))}, seed {row['seed']}, in {plain(row['document'])}"
                )
                raise UserError(
                    f"{first} and {name} have different numbers of {of}: give one of them, or each a name (NAME=PATH)"
                )
    return [row for _, row in found.values()]


def weigh(documents: Sequence[Row], reference: str, margin: float) -> dict[str, list[Row]]:
    """Estimates, differences, seeds and effective contexts, from rows of :func:`observed` alone."""
    found: dict[str, list[Row]] = {"estimates": [], "differences": [], "seeds": [], "effective": []}
    for evaluation in dict.fromkeys(row["evaluation"] for row in documents):
        layout = Layout([row for row in documents if row["evaluation"] == evaluation])
        others = [name for name in layout.variants if name != reference]
        for quantity in layout.tables:
            for name in layout.variants:
                found["estimates"] += _estimates(evaluation, layout, quantity, name)
        found["differences"] += _judged(
            [
                _difference(evaluation, layout, quantity, name, reference)
                for quantity in layout.tables
                for name in others
            ]
        )
        for quantity in layout.tables:
            for name in others:
                found["seeds"] += _by_seed(evaluation, layout, quantity, name, reference)
        found["effective"] += _effective(evaluation, layout, margin)
    return found


class Layout:
    """One set of documents: ``variants`` with their seeds, ``samples`` of each run, and ``tables`` of each quantity, of
    the variants that have it in all their runs."""

    def __init__(self, documents: Sequence[Row]) -> None:
        self.context = int(documents[0]["context_tokens"])
        self.clusters = str(documents[0]["clusters_told"])
        by_run: dict[tuple[str, Seed], list[Row]] = {}
        for row in documents:
            by_run.setdefault((row["variant"], row["seed"]), []).append(row)
        self.samples = {run: samples(rows) for run, rows in by_run.items()}
        self.variants: dict[str, list[Seed]] = {}
        for name, seed in by_run:
            self.variants.setdefault(name, []).append(seed)
        for seeds in self.variants.values():  # of two variants in one order, whatever tables they come from
            seeds.sort(key=lambda seed: (len(str(seed)), str(seed)))
        quantities = dict.fromkeys(quantity for each in self.samples.values() for quantity in each)
        self.tables = {quantity: self._table(quantity) for quantity in quantities}

    def _table(self, quantity: Quantity) -> "Table":
        have = {
            name: [self.samples[name, seed][quantity] for seed in seeds]
            for name, seeds in self.variants.items()
            if all(quantity in self.samples[name, seed] for seed in seeds)
        }
        every = [each for samples in have.values() for each in samples]
        common = sorted(set.intersection(*(set(each.values) for each in every))) if every else []
        values = {
            name: np.array([[each.values[cluster] for cluster in common] for each in samples])
            for name, samples in have.items()
        }
        return Table(values, [every[0].documents[cluster] for cluster in common if cluster != WHOLE])


@dataclass(frozen=True)
class Table:
    """A quantity in all runs: ``values`` of each variant [seeds, clusters], clusters in one order, and how many
    ``documents`` each has; of a number that is of no document [seeds, 1], and no documents."""

    values: dict[str, np.ndarray]
    documents: list[int]


def _estimates(evaluation: str, layout: Layout, quantity: Quantity, name: str) -> Iterator[Row]:
    """The mean of a variant over its seeds (seed empty), and of each seed."""
    table = layout.tables[quantity]
    values = table.values[name]
    lines: list[tuple[Seed | None, Interval]] = [(None, mean_interval(values, table.documents))]
    lines += [
        (seed, mean_interval(line[None], table.documents))
        for seed, line in zip(layout.variants[name], values, strict=True)
    ]
    for seed, interval in lines:
        yield {
            "evaluation": evaluation,
            "measure": quantity.measure,
            "length_tokens": quantity.length_tokens,
            "variant": name,
            "seed": seed,
            **_told(interval, layout.clusters),
        }


def _told(interval: Interval, clusters: str) -> Row:
    """The columns of an interval, and over what it is."""
    wide = None
    if interval.known:
        wide = widening(interval.seeds if interval.over_seeds else 1, tuple(sorted(interval.documents)))
    return {
        "mean": interval.mean,
        "low": interval.low,
        "high": interval.high,
        "documents": sum(interval.documents),
        "clusters": interval.clusters,
        "clusters_told": clusters,
        "seeds": interval.seeds,
        "over_seeds": int(interval.over_seeds),
        "widened": wide.factor if wide else None,
        "coverage": wide.coverage if wide else None,
    }


def _difference(evaluation: str, layout: Layout, quantity: Quantity, name: str, reference: str) -> tuple[Row, Interval]:
    table = layout.tables[quantity]
    one, other = table.values[name], table.values[reference]
    paired = len(one) == len(other)
    # Of unequal numbers of seeds (a factor that is the seed) nothing can be paired: means over them, these alone.
    values = one - other if paired else (one.mean(axis=0) - other.mean(axis=0))[None]
    difference = mean_interval(values, table.documents)
    by_seed = values.mean(axis=1) if paired else np.array([])
    floor = max(noise_floor(one), noise_floor(other)) if min(len(one), len(other)) > 1 else None
    row = {
        "evaluation": evaluation,
        "measure": quantity.measure,
        "length_tokens": quantity.length_tokens,
        "length_told": quantity.length_text(layout.context),
        "variant": name,
        "reference": reference,
        **_told(difference, layout.clusters),
        "p_value": difference.p_value,
        "least_of_seeds": float(by_seed.min()) if by_seed.size else None,
        "most_of_seeds": float(by_seed.max()) if by_seed.size else None,
        "noise_floor": floor,
    }
    return row, difference


def _judged(found: Sequence[tuple[Row, Interval]]) -> list[Row]:
    """The rows with p-values corrected for the family, all differences of one measure on one set of documents."""
    judged: list[Row] = []
    for measure in dict.fromkeys(row["measure"] for row, _ in found):
        family = [(row, difference) for row, difference in found if row["measure"] == measure]
        corrected = holm([difference.p_value for _, difference in family])
        for (row, difference), p_holm in zip(family, corrected, strict=True):
            kind = measure_of(measure)
            unit = kind.difference_unit if kind is not None else "nats"
            text = verdict(difference, p_holm, row["variant"], row["reference"], unit, row["clusters_told"])
            judged.append(row | {"p_holm": p_holm, "verdict": text})
    return judged


def _by_seed(evaluation: str, layout: Layout, quantity: Quantity, name: str, reference: str) -> Iterator[Row]:
    table = layout.tables[quantity]
    one, other = table.values[name], table.values[reference]
    if len(one) != len(other):
        return
    for seed, line in zip(layout.variants[name], one - other, strict=True):
        yield {
            "evaluation": evaluation,
            "measure": quantity.measure,
            "length_tokens": quantity.length_tokens,
            "variant": name,
            "reference": reference,
            "seed": seed,
            "mean": float(line.mean()),
            "clusters": line.size,
        }


def _effective(evaluation: str, layout: Layout, margin: float) -> Iterator[Row]:
    for (name, seed), found_of in layout.samples.items():
        for measure, found in effective_contexts(found_of, layout.context, margin).items():
            shown, low, high = found.told
            yield {
                "evaluation": evaluation,
                "measure": measure,
                "variant": name,
                "seed": seed,
                "margin_nats": margin,
                **found._asdict(),
                "told": shown,
                "interval_told": low if low == high else f"{low} to {high}",
            }
