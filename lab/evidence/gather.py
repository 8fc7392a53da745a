"""The evidence of a comparison: what each variant scores, paired differences to a reference, and what they say."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lab.base.errors import UserError
from lab.base.tables import Row
from lab.evidence.differences import holm, noise_floor, verdict
from lab.evidence.interval import Interval, mean_interval, widening
from lab.evidence.quantities import Quantity, curves, effective_contexts, quantities
from lab.observe.measure import measure_of, measures
from lab.observe.scoring import clusters_of, rows_of
from lab.runs.control import Control, Seed
from lab.runs.run import Model


@dataclass(frozen=True)
class Evidence:
    """The tables of a comparison, tidy: lists of rows.

    ``estimates``: mean of each variant, all seeds together (seed empty) and one by one. ``differences``: to the
    reference, with interval, p-values, noise floor and verdict. ``seeds``: the differences seed by seed. ``curves``:
    see :func:`lab.evidence.quantities.curves`. ``effective``: effective contexts. ``details``: what measures have to
    tell beside, by name of the table.
    """

    reference: str
    evaluations: list[str]
    estimates: list[Row]
    differences: list[Row]
    seeds: list[Row]
    curves: list[Row]
    effective: list[Row]
    details: dict[str, list[Row]]


def gather(
    control: Control,
    settings: Mapping[str, str],
    reference: str | None,
    margin: float,
    dtype: str = "float32",
) -> Evidence:
    """Everything that all runs of a comparison were scored with alike.

    Args:
        settings: name of each measure to the digest of its settings.
        reference: the variant that the others are held against; None: the first.
        margin: of the effective context, in nats.
        dtype: that the decoders computed in while they were scored.

    Raises:
        UserError: no such variant; the runs have no scores in common, or not of the same documents.
    """
    reference = check_reference(control, reference)
    names = list(control.variants)
    check_documents(control.runs)
    rows = {run.path: _rows_of(run, settings, dtype) for run in control.runs}
    evaluations = sorted(set.intersection(*({row["evaluation"] for row in each} for each in rows.values())))
    if not evaluations:
        raise UserError("the runs have no scores in common; score them with python -m lab.extrapolate runs=[...]")
    estimates: list[Row] = []
    differences: list[Row] = []
    seeds: list[Row] = []
    drawn: list[Row] = []
    effective: list[Row] = []
    details: dict[str, list[Row]] = {}
    for evaluation in evaluations:
        chosen = in_common(
            {path: [row for row in each if row["evaluation"] == evaluation] for path, each in rows.items()}, evaluation
        )
        tables = _tables(control, chosen)
        clusters = clusters_of(control.runs[0], evaluation)
        for quantity, table in tables.items():
            place = {"evaluation": evaluation, "measure": quantity.measure, "length_tokens": quantity.length_tokens}
            for name in names:
                estimates += _estimates(place, name, control.variants[name], table, clusters)
        here = [
            _difference(evaluation, quantity, table, name, reference, _context(control), clusters)
            for quantity, table in tables.items()
            for name in names
            if name != reference
        ]
        differences += _judged(here)
        for quantity, table in tables.items():
            for name in names:
                if name != reference:
                    seeds += _by_seed(evaluation, quantity, control, table, name, reference)
        drawn += _curves(control, evaluation, chosen)
        effective += _effective(control, evaluation, chosen, margin)
        for name, by_seed in control.variants.items():
            of_variant = [row for run in by_seed.values() for row in chosen[run.path]]
            for measure in measures():
                told = [{"evaluation": evaluation, "variant": name} | row for row in measure.details(of_variant)]
                if told:
                    details.setdefault(measure.detail, []).extend(told)
    if control.allowed:  # told on every table
        for table_rows in (estimates, differences, seeds, drawn, effective, *details.values()):
            table_rows[:] = [row | {"allowed": "; ".join(control.keys("allowed"))} for row in table_rows]
    return Evidence(reference, evaluations, estimates, differences, seeds, drawn, effective, details)


def in_common(rows: Mapping[Path, list[Row]], evaluation: str) -> dict[Path, list[Row]]:
    """The rows of each run that are of documents which all runs were scored on by that measure.

    Raises:
        UserError: all runs were scored by a measure, and on no document in common.
    """
    read: list[dict[str, set[str]]] = []
    for each in rows.values():
        documents: dict[str, set[str]] = {}
        for row in each:
            documents.setdefault(row["measure"], set()).add(row["document"])
        read.append(documents)
    common = {name: set.intersection(*(each[name] for each in read)) for name in set.intersection(*map(set, read))}
    for name, documents_in_common in sorted(common.items()):
        if not documents_in_common:
            raise UserError(
                f"{name} of {evaluation}: no document was scored in all runs; score them again with "
                "python -m lab.extrapolate"
            )
    return {
        path: [row for row in each if row["document"] in common.get(row["measure"], ())] for path, each in rows.items()
    }


def check_reference(control: Control, reference: str | None) -> str:
    """The variant that the others are held against, the first if None. Raises UserError if there is none so called."""
    names = list(control.variants)
    if reference is not None and reference not in names:
        raise UserError(f"reference is {reference!r}: choose one of the variants {', '.join(names)}")
    return names[0] if reference is None else reference


def _rows_of(run: Model, settings: Mapping[str, str], dtype: str) -> list[Row]:
    path = run.path / "scores.csv"
    if not path.exists():
        raise UserError(f"{run.path} has no scores; score it with python -m lab.extrapolate runs={run.path}")
    return rows_of(run, set(settings.values()), dtype)


def check_documents(runs: Sequence[Model]) -> None:
    """Raises UserError if two runs were scored on different texts under one name; names the first."""
    seen: dict[tuple[str, str], tuple[str, Model]] = {}
    for run in runs:
        for evaluation, documents in run.manifest.get("documents", {}).items():
            for name, digest in documents.items():
                before, other = seen.setdefault((evaluation, name), (digest, run))
                if before != digest:
                    raise UserError(
                        f"{name} of {evaluation} was one text when {other.path} was scored and another when {run.path} "
                        "was: delete the scores.csv of the one that is wrong and score it again"
                    )


def _context(control: Control) -> int:
    return int(control.runs[0].context)


@dataclass(frozen=True)
class Table:
    """A quantity in all runs: ``values`` of each variant [seeds, clusters], clusters in one order, and how many
    ``documents`` each has."""

    values: dict[str, np.ndarray]
    documents: list[int]


def _tables(control: Control, rows: Mapping[Any, list[Row]]) -> dict[Quantity, Table]:
    """Of each quantity that all runs have."""
    context = _context(control)
    found = {run.path: quantities(rows[run.path], context) for run in control.runs}
    first = found[control.runs[0].path]
    tables: dict[Quantity, Table] = {}
    for quantity in first:
        if not all(quantity in other for other in found.values()):
            continue
        clusters = sorted(first[quantity].values)
        values = {
            name: np.array(
                [[found[by_seed[seed].path][quantity].values[each] for each in clusters] for seed in ordered(by_seed)]
            )
            for name, by_seed in control.variants.items()
        }
        tables[quantity] = Table(values, [first[quantity].documents[each] for each in clusters])
    return tables


def _estimates(place: Row, name: str, by_seed: Mapping[Seed, Model], table: Table, clusters: str) -> Iterator[Row]:
    """The mean of a variant over its seeds (seed empty), and of each seed."""
    values = table.values[name]
    lines: list[tuple[Seed | None, Interval]] = [(None, mean_interval(values, table.documents))]
    lines += [
        (seed, mean_interval(line[None], table.documents)) for seed, line in zip(ordered(by_seed), values, strict=True)
    ]
    for seed, interval in lines:
        yield place | {"variant": name, "seed": seed} | _told(interval, clusters)


def _told(interval: Interval, clusters: str) -> Row:
    """The columns of an interval, and over what it is."""
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
        "widened": wide.factor if interval.known else None,
        "coverage": wide.coverage if interval.known else None,
    }


def _difference(
    evaluation: str,
    quantity: Quantity,
    table: Table,
    name: str,
    reference: str,
    context: int,
    clusters: str,
) -> tuple[Row, Interval]:
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
        "length_told": quantity.length_text(context),
        "variant": name,
        "reference": reference,
        **_told(difference, clusters),
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


def _by_seed(
    evaluation: str,
    quantity: Quantity,
    control: Control,
    table: Table,
    name: str,
    reference: str,
) -> Iterator[Row]:
    one, other = table.values[name], table.values[reference]
    if len(one) != len(other):
        return
    for seed, line in zip(ordered(control.variants[name]), one - other, strict=True):
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


def _curves(control: Control, evaluation: str, rows: Mapping[Path, list[Row]]) -> Iterator[Row]:
    """The points of every measure's curve."""
    for name, by_seed in control.variants.items():
        for row in curves([rows[run.path] for run in by_seed.values()]):
            yield {"evaluation": evaluation, "variant": name} | row


def ordered(seeds: Mapping[Seed, Any]) -> list[Seed]:
    """Seeds in their order, those of chains behind."""
    return sorted(seeds, key=lambda seed: (isinstance(seed, str), seed if isinstance(seed, int) else 0, str(seed)))


def _effective(control: Control, evaluation: str, rows: Mapping[Any, list[Row]], margin: float) -> Iterator[Row]:
    for name, by_seed in control.variants.items():
        for seed in ordered(by_seed):
            for measure, found in effective_contexts(rows[by_seed[seed].path], _context(control), margin).items():
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
