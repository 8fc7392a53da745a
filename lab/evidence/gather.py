"""The evidence of a comparison: what each variant scores, paired differences to a reference, and what they say."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lab.base.errors import UserError
from lab.base.tables import Row
from lab.evidence.differences import (
    Difference,
    coverage,
    document_difference,
    hierarchical_difference,
    holm,
    noise_floor,
    verdict,
)
from lab.evidence.interval import document_interval
from lab.evidence.quantities import Quantity, curves, effective_contexts, quantities
from lab.observe.measure import measure_of, measures
from lab.observe.scoring import rows_of
from lab.runs.control import Control, Seed
from lab.runs.run import Model

ENOUGH_SEEDS = 5  # from so many on an interval speaks of other seeds too
ENOUGH_DOCUMENTS = 40  # below, the interval's measured coverage is told


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
    resamples: int,
    reference: str | None,
    margin: float,
    dtype: str = "float32",
) -> Evidence:
    """Everything that all runs of a comparison were scored with alike.

    Args:
        settings: name of each measure to the digest of its settings.
        resamples: of the bootstrap.
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
        table = _table(control, chosen)
        for quantity, variants in table.items():
            place = {"evaluation": evaluation, "measure": quantity.measure, "length_tokens": quantity.length_tokens}
            for name, values in variants.items():
                estimates += _estimates(place, name, control.variants[name], values, resamples)
        here = [
            _difference(evaluation, quantity, variants, name, reference, resamples, _context(control))
            for quantity, variants in table.items()
            for name in names
            if name != reference
        ]
        differences += _judged(here)
        for quantity, variants in table.items():
            for name in names:
                if name != reference:
                    seeds += _by_seed(evaluation, quantity, control, variants, name, reference)
        drawn += _curves(control, evaluation, chosen)
        effective += _effective(control, evaluation, chosen, margin)
        for name, by_seed in control.variants.items():
            of_variant = [row for run in by_seed.values() for row in chosen[run.path]]
            for measure in measures():
                told = [{"evaluation": evaluation, "variant": name} | row for row in measure.details(of_variant)]
                if told:
                    details.setdefault(measure.detail, []).extend(told)
    tables = (estimates, differences, seeds, drawn, effective, *details.values())
    if control.allowed:  # told on every table
        for table_rows in tables:
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


def _table(control: Control, rows: Mapping[Any, list[Row]]) -> dict[Quantity, dict[str, np.ndarray]]:
    """Of each quantity that all runs have each variant's numbers [seeds, documents], documents in one order."""
    context = _context(control)
    found = {run.path: quantities(rows[run.path], context) for run in control.runs}
    common = [each for each in found[control.runs[0].path] if all(each in other for other in found.values())]
    table: dict[Quantity, dict[str, np.ndarray]] = {}
    for quantity in common:
        documents = sorted(found[control.runs[0].path][quantity])
        table[quantity] = {
            name: np.array([[found[by_seed[s].path][quantity][d] for d in documents] for s in ordered(by_seed)])
            for name, by_seed in control.variants.items()
        }
    return table


def _estimates(
    place: Row, name: str, by_seed: Mapping[Seed, Model], values: np.ndarray, resamples: int
) -> Iterator[Row]:
    lines: list[tuple[Seed | None, np.ndarray]] = [(None, values.mean(axis=0))]
    lines += list(zip(ordered(by_seed), values, strict=True))
    for seed, line in lines:
        interval = document_interval(list(line), resamples)
        yield {
            "evaluation": place["evaluation"],
            "measure": place["measure"],
            "length_tokens": place["length_tokens"],
            "variant": name,
            "seed": seed,
            "mean": interval.mean,
            "low": interval.low,
            "high": interval.high,
            "documents": interval.documents,
        }


def _difference(
    evaluation: str,
    quantity: Quantity,
    variants: Mapping[str, np.ndarray],
    name: str,
    reference: str,
    resamples: int,
    context: int,
) -> tuple[Row, Difference]:
    one, other = variants[name], variants[reference]
    if len(one) >= ENOUGH_SEEDS:
        difference = hierarchical_difference(one, other)
    else:
        documents = [f"{number:06d}" for number in range(one.shape[1])]  # in the order of their names
        difference = document_difference(
            dict(zip(documents, one.mean(axis=0), strict=True)),
            dict(zip(documents, other.mean(axis=0), strict=True)),
            resamples=resamples,
        )
    several = len(one) > 1
    by_seed = (one - other).mean(axis=1) if len(one) == len(other) else np.array([])
    floor = max(noise_floor(one).largest, noise_floor(other).largest) if several else None
    count = one.shape[1]
    row = {
        "evaluation": evaluation,
        "measure": quantity.measure,
        "length_tokens": quantity.length_tokens,
        "length_told": quantity.length_text(context),
        "variant": name,
        "reference": reference,
        "mean": difference.mean,
        "low": difference.low,
        "high": difference.high,
        "p_value": difference.p_value,
        "documents": count,
        "seeds": len(one),
        "least_of_seeds": float(by_seed.min()) if by_seed.size else None,
        "most_of_seeds": float(by_seed.max()) if by_seed.size else None,
        "noise_floor": floor,
        "coverage": coverage(count) if 4 <= count < ENOUGH_DOCUMENTS else None,
    }
    return row, difference


def _judged(found: Sequence[tuple[Row, Difference]]) -> list[Row]:
    """The rows with p-values corrected for the family, all differences of one measure on one set of documents."""
    judged: list[Row] = []
    for measure in dict.fromkeys(row["measure"] for row, _ in found):
        family = [(row, difference) for row, difference in found if row["measure"] == measure]
        corrected = holm([difference.p_value for _, difference in family])
        for (row, difference), p_holm in zip(family, corrected, strict=True):
            kind = measure_of(measure)
            unit = kind.difference_unit if kind is not None else "nats"
            text = verdict(difference, p_holm, row["variant"], row["reference"], unit)
            judged.append(row | {"p_holm": p_holm, "verdict": text + _caveat(row, text)})
    return judged


def _caveat(row: Row, text: str) -> str:
    """What the seeds have to say against a verdict that documents alone would give."""
    if " is better " not in text and " is worse " not in text:
        return ""
    if row["least_of_seeds"] is not None and row["least_of_seeds"] * row["most_of_seeds"] < 0:
        return "; but its seeds disagree"
    if row["noise_floor"] is not None and abs(row["mean"]) <= row["noise_floor"]:
        return f"; but seeds of one variant differ by {row['noise_floor']:.2g}"
    return ""


def _by_seed(
    evaluation: str,
    quantity: Quantity,
    control: Control,
    variants: Mapping[str, np.ndarray],
    name: str,
    reference: str,
) -> Iterator[Row]:
    if len(variants[name]) != len(variants[reference]):
        return
    for seed, line in zip(ordered(control.variants[name]), variants[name] - variants[reference], strict=True):
        yield {
            "evaluation": evaluation,
            "measure": quantity.measure,
            "length_tokens": quantity.length_tokens,
            "variant": name,
            "reference": reference,
            "seed": seed,
            "mean": float(line.mean()),
            "documents": line.size,
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
