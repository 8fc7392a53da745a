"""Score runs with measures: rows into each run's ``scores.csv``, and into its manifest what they were made with."""

import contextlib
import hashlib
import importlib
import inspect
import json
import platform
import sys
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import torch

from lab.base.errors import UserError
from lab.base.progress import progress
from lab.base.settings import Settings
from lab.model import kernels
from lab.model.attention import Attention
from lab.model.decoder import Decoder
from lab.model.kernels.case import Case
from lab.model.memory import is_out_of_memory
from lab.model.precision import DTYPES, exact_products
from lab.observe.measure import Ids, Item, Measure, Row, Source
from lab.observe.scores import Scores, proof
from lab.runs.environment import digest_of_code, hardware, packages
from lab.runs.model import Model

SCORING = ("setting", "evaluation", "step", "precision")  # the columns that tell one scoring from another
WRITE_SECONDS = 10.0  # of scoring that a killed process loses at most
# The rooms that are loaded while a decoder is scored; tests/test_rooms.py holds this list against what is loaded.
ROOMS = ("base", "model", "data", "cluster", "runs", "extension", "observe", "experiment")


def setting_of(measure: Measure) -> str:
    """Digest of what in a measure's settings decides an observation."""
    return hashlib.sha256(json.dumps(measure.identity(), sort_keys=True).encode()).hexdigest()[:8]


def rows_of(
    run: Model,
    settings: Collection[str],
    dtype: str = "float32",
    evaluation: str | None = None,
    step: int | None = None,
) -> list[Row]:
    """The observations of a run by these settings, proven to be what was written.

    Args:
        settings: digests of measures' settings.
        dtype: that the decoder computed in.
        evaluation: of one set of documents, and of what is made up; None: of all.
        step: of an optimiser step; None: of the last that was scored.

    Raises:
        UserError: scores.csv is damaged, not what was written, or a scoring of these was stopped midway.
    """
    path, manifest = run.path / "scores.csv", run.manifest
    measured, complete = manifest.get("measured", {}), manifest.get("scored", {})
    labels = {tuple(record.get(column) for column in SCORING): label for label, record in measured.items()}

    def of_row(row: Row) -> str:
        place = tuple(row[column] for column in SCORING)
        return labels.get(place, "/".join(map(str, (row["measure"], *place))))

    rows = [row for row in Scores(path).select(precision=dtype) if row["setting"] in settings]
    by_label: dict[str, list[Row]] = {
        label: []  # of which all may be gone
        for (setting, _, _, precision), label in labels.items()
        if label in complete and setting in settings and precision == dtype
    }
    for row in rows:
        by_label.setdefault(of_row(row), []).append(row)
    for label, each in by_label.items():
        check_scored(run, label, each, manifest)
    if step is None:
        step = max((row["step"] for row in rows), default=0)
    wanted = (evaluation, "none")
    chosen = [row for row in rows if row["step"] == step and (evaluation is None or row["evaluation"] in wanted)]
    for label in dict.fromkeys(map(of_row, chosen)):
        if label not in complete:
            raise UserError(f"{path}: {label.split('/')[0]} is not scored to its end; score the run again, it goes on")
    return chosen


def clusters_of(run: Model, evaluation: str) -> str:
    """What the clusters of an evaluation's documents are called: ``authors``."""
    records = run.manifest.get("measured", {}).values()
    return next((str(each["clusters"]) for each in records if each["evaluation"] == evaluation), "documents")


def code_of(observer: Settings) -> str:
    """sha256 of the code that a measure's or study's numbers come from: the rooms that score, and its own file and
    those of what it is built on (:attr:`lab.observe.study.Study.built_on`, too)."""
    built_on: tuple[str, ...] = getattr(type(observer), "built_on", ())
    modules = dict.fromkeys((*(each.__module__ for each in type(observer).__mro__), *built_on))
    own = [each for each in modules if each.startswith("lab.") and each.split(".")[1] not in ROOMS]
    files = [Path(inspect.getfile(importlib.import_module(each))) for each in own]
    return digest_of_code(ROOMS, *(files or [Path(inspect.getfile(type(observer)))]))


def score_run(
    run: Model,
    measures: Mapping[str, Measure],
    evaluation: str,
    source: Source,
    device: str,
    step: int,
    check: Callable[[str], None] = lambda before: None,
    dtype: str = "float32",
) -> bool:
    """Score a run's decoder with measures, what is scored already excepted.

    The manifest says under ``measured`` what each measure's rows were made with, under ``scored`` their sha256 once
    they are all there, and under ``documents`` what was read.

    Args:
        measures: by name.
        evaluation: what the documents of ``source`` are called in scores.csv.
        device: ``cpu`` or ``cuda``.
        step: of the checkpoint.
        check: called before each item with its name; may raise to stop.
        dtype: that the whole decoder computes in.

    Returns:
        Whether there was anything left to score.

    Raises:
        UserError: a setting does not fit, no document is long enough, the checkpoint is missing, or scores.csv is
            damaged, or not what was written.
    """
    context = run.context
    scores = scores_of(run)
    decoder = None
    for measure in measures.values():
        measure.fits(context)  # of all, before the first is scored
    for measure in measures.values():
        if run.config.model.position.ends and not measure.reads_inside(context):
            told = f"{run.path}: {run.config.model.position.name} positions end at C = {context:,}"
            print(f"{told}; {measure.label()} looks beyond, and is left out")
            continue
        named = {
            "setting": setting_of(measure),
            "evaluation": evaluation if measure.reads_documents else "none",
            "step": step,
            "precision": dtype,
        }
        label = label_of(measure.label(), named)
        rows = scores.select(**named)
        manifest = run.manifest
        check_scored(run, label, rows, manifest)
        items = list(measure.items(source))
        refuse_searched(run, items)
        note_documents(run, str(named["evaluation"]), items)
        done = {row["document"] for row in rows}
        left = [item for item in items if not done.issuperset(item.documents)]
        before = manifest.get("measured", {}).get(label, {})
        if rows and before.get("code") != code_of(measure):
            print(f"{run.path}: {measure.label()} was scored by other code and is scored again", file=sys.stderr)
            left = items
        elif not left:
            if label not in manifest.get("scored", {}):  # a process was killed after its last row
                _note(run, "scored", label, proof(rows))
            continue
        if decoder is None:
            decoder = run.decoder(step).to(device)
            decoder.compute_dtype = DTYPES[dtype]
        record = named | {
            "measure": measure.label(),
            "settings": measure.identity(),
            "clusters": source.clusters if measure.reads_documents else "trials",
            "code": code_of(measure),
            **environment_of(decoder, device, dtype),
        }
        if rows and left != items and (other := differing(before, record)):
            print(f"{run.path}: {measure.label()} was begun with another {other} and is scored again", file=sys.stderr)
            left = items
        if rows and left == items:
            scores.drop(rows)
            scores.write()  # before the manifest names the new code: a process killed between leaves no old row
        _note(run, "measured", label, record)
        _note(run, "scored", label, None)
        score_items(decoder, measure, scores, left, named, source, f"{run.path.name} {measure.label()}", check)
        _note(run, "scored", label, proof(scores.select(**named)))
    return decoder is not None


def scores_of(run: Model) -> Scores:
    """The scores of a run that is held; who deletes scores.csv scores anew. Raises UserError if it is damaged."""
    scores = Scores(run.path / "scores.csv")
    if not scores.rows and run.manifest.get("measured"):
        run.update_manifest(measured={}, scored={}, documents={})
    return scores


def label_of(measure: str, named: Mapping[str, Any]) -> str:
    """What a scoring is called in the manifest."""
    return "/".join(str(value) for value in (measure, *named.values()))


def environment_of(decoder: Decoder, device: str, dtype: str) -> dict[str, Any]:
    """What of the surroundings decides an observation's bits. Raises UserError as :func:`kernel_of`."""
    return {
        "python": platform.python_version(),
        "packages": packages(),
        "hardware": hardware(),
        "kernel": kernel_of(decoder, device, dtype),
    }


def store_rows(run: Model, measure: str, record: Mapping[str, Any], rows: Sequence[Row]) -> None:
    """Take the rows of one whole scoring into ``scores.csv``, in place of those that it had.

    Args:
        measure: what the scoring is called; its rows may have further names.
        record: what they were made with; its columns SCORING are the rows' too.

    Raises:
        UserError: scores.csv is damaged, or not what was written.
    """
    named = {column: record[column] for column in SCORING}
    label, scores = label_of(measure, named), scores_of(run)
    before = scores.select(**named)
    check_scored(run, label, before, run.manifest)
    scores.drop(before)
    scores.add(row | named for row in rows)
    _note(run, "scored", label, None)
    _note(run, "measured", label, record)
    scores.write()
    _note(run, "scored", label, proof(scores.select(**named)))


def check_scored(run: Model, label: str, rows: Sequence[Row], manifest: Mapping[str, Any]) -> None:
    """Raises UserError if a measure's rows are not those that were written."""
    written = manifest.get("scored", {}).get(label)  # none while they are being scored
    if rows and written is not None and written != proof(rows):
        changed = "are not what was written"
    elif rows and label not in manifest.get("measured", {}):
        changed = "were not written by a scoring of this run"
    elif written is not None and not rows:
        changed = "are gone"
    else:
        return
    what = " ".join(label.split("/")[:3:2])
    raise UserError(
        f"{run.path / 'scores.csv'}: the rows of {what} {changed}; restore it, or delete it and score the run again"
    )


def digest_of_ids(ids: Ids) -> str:
    """By which a document is known: of the sha256 of its token ids."""
    return hashlib.sha256(ids.tobytes()).hexdigest()[:16]


def refuse_searched(run: Model, items: Sequence[Item]) -> None:
    """Raises UserError if what the run is was searched on a document that is to be scored."""
    searched = run.searched_on
    for item in items:
        if digest_of_ids(item.ids) in searched:
            raise UserError(
                f"{run.path} was found by a search on {item.name}, which is to be scored: score it on other documents, "
                "or search on others"
            )


def note_documents(run: Model, evaluation: str, items: Sequence[Item]) -> None:
    """Write down what was read, the sha256 of each document's token ids by name.

    Raises:
        UserError: a document is no longer what it was.
    """
    noted = run.manifest.get("documents", {})
    before = noted.get(evaluation, {})
    found = {item.name: digest_of_ids(item.ids) for item in items}
    for name, digest in found.items():
        if before.get(name, digest) != digest:
            raise UserError(f"{run.path} was scored on another {name} of {evaluation}; restore that document")
    if not found.keys() <= before.keys():
        run.update_manifest(documents=noted | {evaluation: before | found})


def kernel_of(decoder: Decoder, device: str, dtype: str) -> str:
    """The attention kernel that serves a decoder while it is scored. Raises UserError if its own cannot."""
    attention = cast(Attention, decoder.blocks[0].attention)
    slopes = decoder.position.slopes is not None
    case = Case(device, DTYPES[dtype], attention.window, slopes, causal=attention.causal)
    try:
        return kernels.choose(attention.kernel, case)
    except UserError as error:
        raise UserError(f"scoring.dtype is {dtype}: {error}") from None


def differing(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """What of the environment of a scoring is not as it was, "" if nothing."""
    return next((key for key in ("python", "packages", "hardware", "kernel") if before.get(key) != now[key]), "")


def _note(run: Model, table: str, label: str, value: Any) -> None:
    """Set an entry of a table in the manifest; None takes it out."""
    entries = run.manifest.get(table, {}) | {label: value}
    run.update_manifest(**{table: {key: each for key, each in entries.items() if each is not None}})


def score_items(
    decoder: Decoder,
    measure: Measure,
    scores: Scores,
    items: Sequence[Item],
    named: Mapping[str, Any],
    source: Source,
    label: str,
    check: Callable[[str], None],
) -> None:
    """Score items and write their rows down, now and then and at the end."""
    exact_products()
    documents = measure.reads_documents
    bar = progress(label, "items", items)
    written = time.perf_counter()
    try:
        for item in bar:
            check(item.name)
            with contextlib.nullcontext() if measure.needs_gradients else torch.inference_mode():
                rows = measure.score(decoder, item, source.context)
            for row in rows:
                document = row.get("document", item.name)
                place = {"document": document, "cluster": source.cluster(document) if documents else document}
                scores.add([{"measure": measure.label(), **row, **named, **place}])
            if time.perf_counter() - written > WRITE_SECONDS:
                scores.write()
                written = time.perf_counter()
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        raise UserError(
            f"out of memory at {item.name} in {measure.label()}: score shorter texts, or fewer tokens at a time"
        ) from None
    finally:
        bar.close()
        scores.write()
