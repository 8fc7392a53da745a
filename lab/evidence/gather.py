"""The evidence of a comparison: what each variant scores, paired differences to a reference, and what they say."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lab.base.errors import UserError
from lab.base.tables import Row
from lab.evidence.quantities import curves, per_document
from lab.evidence.weighing import weigh
from lab.observe.measure import measures
from lab.observe.scoring import clusters_of, rows_of
from lab.runs.control import Control, Seed
from lab.runs.model import Model


@dataclass(frozen=True)
class Evidence:
    """The tables of a comparison, tidy: lists of rows.

    ``documents``: what all intervals are made from, see :func:`observed`. ``estimates``: mean of each variant, all
    seeds together (seed empty) and one by one. ``differences``: to the reference, with interval, p-values, noise floor
    and verdict. ``seeds``: the differences seed by seed. ``effective``: effective contexts. ``curves``: see
    :func:`lab.evidence.quantities.curves`. ``details``: what measures have to tell beside, by name of the table.
    """

    reference: str
    evaluations: list[str]
    documents: list[Row]
    estimates: list[Row]
    differences: list[Row]
    seeds: list[Row]
    effective: list[Row]
    curves: list[Row]
    details: dict[str, list[Row]]


def gather(
    control: Control,
    settings: Mapping[str, str],
    reference: str | None,
    margin: float,
    dtype: str = "float32",
    steps: Mapping[Path, int] | None = None,
) -> Evidence:
    """Everything that all runs of a comparison were scored with alike.

    Args:
        settings: name of each measure to the digest of its settings.
        reference: the variant that the others are held against; None: the first.
        margin: of the effective context, in nats.
        dtype: that the decoders computed in while they were scored.
        steps: of each run by its path the optimiser step that is compared; None: the last that was scored.

    Raises:
        UserError: no such variant; the runs have no scores in common, or not of the same documents.
    """
    reference = check_reference(list(control.variants), reference)
    check_documents(control.runs)
    rows = {run.path: _rows_of(run, settings, dtype, steps[run.path] if steps else None) for run in control.runs}
    evaluations = sorted(set.intersection(*({row["evaluation"] for row in each} for each in rows.values())))
    if not evaluations:
        raise UserError(
            f"the runs have no scores in common ({_apart(control.runs, rows)}); score them with "
            "python -m lab.extrapolate runs=[...]"
        )
    documents: list[Row] = []
    drawn: list[Row] = []
    details: dict[str, list[Row]] = {}
    for evaluation in evaluations:
        chosen = in_common(
            {path: [row for row in each if row["evaluation"] == evaluation] for path, each in rows.items()}, evaluation
        )
        documents += observed(control, evaluation, chosen)
        drawn += _curves(control, evaluation, chosen)
        for name, by_seed in control.variants.items():
            of_variant = [row for run in by_seed.values() for row in chosen[run.path]]
            for measure in measures():
                told = [{"evaluation": evaluation, "variant": name} | row for row in measure.details(of_variant)]
                if told:
                    details.setdefault(measure.detail, []).extend(told)
    found = weigh(documents, reference, margin)
    if control.allowed:  # told on every table
        for table_rows in (*found.values(), drawn, *details.values()):
            table_rows[:] = [row | {"allowed": "; ".join(control.keys("allowed"))} for row in table_rows]
    return Evidence(reference, evaluations, documents, **found, curves=drawn, details=details)


def observed(control: Control, evaluation: str, rows: Mapping[Path, list[Row]]) -> Iterator[Row]:
    """Each document's number for each quantity in each run, that all runs have: the columns OBSERVED."""
    context, clusters = int(control.runs[0].context), clusters_of(control.runs[0], evaluation)
    found = {path: per_document(each, context) for path, each in rows.items()}
    common = set.intersection(
        *({(row["measure"], row["length_tokens"], row["document"]) for row in each} for each in found.values())
    )
    for name, by_seed in control.variants.items():
        for seed in ordered(by_seed):
            place = {
                "evaluation": evaluation,
                "clusters_told": clusters,
                "context_tokens": context,
                "variant": name,
                "seed": seed,
            }
            for row in found[by_seed[seed].path]:
                if (row["measure"], row["length_tokens"], row["document"]) in common:
                    yield place | row


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


def check_reference(names: Sequence[str], reference: str | None) -> str:
    """The variant that the others are held against, the first if None. Raises UserError if there is none so called."""
    if reference is not None and reference not in names:
        raise UserError(f"reference is {reference!r}: choose one of the variants {', '.join(names)}")
    return names[0] if reference is None else reference


def _rows_of(run: Model, settings: Mapping[str, str], dtype: str, step: int | None) -> list[Row]:
    path = run.path / "scores.csv"
    if not path.exists():
        raise UserError(f"{run.path} has no scores; score it with python -m lab.extrapolate runs={run.path}")
    return rows_of(run, set(settings.values()), dtype, step=step)


def _apart(runs: Sequence[Model], rows: Mapping[Path, list[Row]]) -> str:
    """What the first run and the first that differs were scored on, and a document of one of the two alone."""
    by_run = [sorted({row["evaluation"] for row in rows[run.path]}) for run in runs]
    chosen = [0, *[index for index, each in enumerate(by_run) if each != by_run[0]][:1]]
    told = [f"{runs[index].path} on {', '.join(by_run[index]) or 'nothing with these settings'}" for index in chosen]
    documents = [{str(row["document"]) for row in rows[runs[index].path]} for index in chosen]
    alone = sorted(set.symmetric_difference(documents[0], documents[-1]))
    if all(documents) and alone:
        told.append(f"{alone[0]} is in one of them alone")
    return "; ".join(told)


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


def _curves(control: Control, evaluation: str, rows: Mapping[Path, list[Row]]) -> Iterator[Row]:
    """The points of every measure's curve."""
    for name, by_seed in control.variants.items():
        for row in curves([rows[run.path] for run in by_seed.values()]):
            yield {"evaluation": evaluation, "variant": name} | row


def ordered(seeds: Mapping[Seed, Any]) -> list[Seed]:
    """Seeds in their order, those of chains behind."""
    return sorted(seeds, key=lambda seed: (isinstance(seed, str), seed if isinstance(seed, int) else 0, str(seed)))
