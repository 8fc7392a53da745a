"""Score runs with measures: rows into each run's ``scores.csv``, and into its manifest what they were made with."""

import contextlib
import hashlib
import inspect
import json
import sys
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from lab.base.errors import UserError
from lab.base.settings import Settings
from lab.model.decoder import Decoder
from lab.model.memory import is_out_of_memory
from lab.observe.measure import Item, Measure, Row, Source
from lab.observe.scores import Scores
from lab.runs.run import Model

WRITE_SECONDS = 10.0  # of scoring that a killed process loses at most
# The rooms that are loaded while a decoder is scored; tests/test_rooms.py holds this list against what is loaded.
ROOMS = ("base", "model", "data", "cluster", "runs", "extension", "observe", "experiment")


def setting_of(measure: Measure) -> str:
    """Digest of what in a measure's settings decides an observation."""
    return hashlib.sha256(json.dumps(measure.identity(), sort_keys=True).encode()).hexdigest()[:8]


def rows_of(run: Model, settings: Collection[str], evaluation: str, step: int) -> list[Row]:
    """The observations of a run by these settings, of one set of documents (and of what is made up), at a step."""
    return [
        row
        for row in Scores(run.path / "scores.csv").select(step=step)
        if row["setting"] in settings and row["evaluation"] in (evaluation, "none")
    ]


def code_of(observer: Settings) -> str:
    """sha256 of the code that a measure's or study's numbers come from: the rooms that score, and its own file."""
    package = Path(__file__).parents[1]
    files = [path for room in ROOMS for path in sorted((package / room).rglob("*.py"))]
    total = hashlib.sha256()
    for path in (*files, Path(inspect.getfile(type(observer)))):
        total.update(path.relative_to(package).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return total.hexdigest()


def score_run(
    run: Model,
    measures: Mapping[str, Measure],
    evaluation: str,
    source: Source,
    device: str,
    step: int,
    check: Callable[[str], None] = lambda before: None,
) -> bool:
    """Score a run's decoder with measures, what is scored already excepted.

    Args:
        measures: by name.
        evaluation: what the documents of ``source`` are called in scores.csv.
        device: ``cpu`` or ``cuda``.
        step: of the checkpoint.
        check: called before each item with its name; may raise to stop.

    Returns:
        Whether there was anything left to score.

    Raises:
        UserError: a setting does not fit, no document is long enough, the checkpoint is missing, or scores.csv is
            damaged.
    """
    context, precision = run.context, run.config.trainer.compute_dtype
    scores = Scores(run.path / "scores.csv")
    decoder = None
    for measure in measures.values():
        measure.fits(context)  # of all, before the first is scored
    for measure in measures.values():
        named = {
            "setting": setting_of(measure),
            "evaluation": evaluation if measure.reads_documents else "none",
            "step": step,
            "precision": precision,
        }
        label = "/".join(str(value) for value in (measure.label(), *named.values()))
        record = named | {"measure": measure.label(), "settings": measure.identity(), "code": code_of(measure)}
        before, rows = run.manifest.get("measured", {}).get(label, {}), scores.select(**named)
        written = run.manifest.get("scored_rows", {}).get(label)  # none while it is being scored
        if written is not None and rows and written != len(rows):
            raise UserError(
                f"{scores.path} has {len(rows)} rows of {measure.label()} on {named['evaluation']}, and {written} were "
                "written; restore it, or delete it and score the run again"
            )
        other_code = bool(rows) and before.get("code", record["code"]) != record["code"]
        done = set() if other_code else {row["document"] for row in rows}
        items = [item for item in measure.items(source) if item.name not in done]
        if not items:
            continue
        if decoder is None:
            decoder = run.decoder(step).to(device)
        if other_code:
            print(f"{run.path}: {measure.label()} was scored by other code and is scored again", file=sys.stderr)
            scores.drop(rows)
            scores.write()  # before the manifest names the new code: a process killed between leaves no old row
        _note(run, "measured", label, record)
        _note(run, "scored_rows", label, None)
        score_items(decoder, measure, scores, items, named, source.context, f"{run.path.name} {measure.label()}", check)
        _note(run, "scored_rows", label, len(scores.select(**named)))
    return decoder is not None


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
    context: int,
    label: str,
    check: Callable[[str], None],
) -> None:
    """Score items and write their rows down, now and then and at the end."""
    terminal = sys.stderr.isatty()
    progress = tqdm(items, label, unit=" items", file=sys.stderr, mininterval=0.1 if terminal else 30.0)
    written = time.perf_counter()
    try:
        for item in progress:
            check(item.name)
            with contextlib.nullcontext() if measure.needs_gradients else torch.inference_mode():
                rows = measure.score(decoder, item, context)
            scores.add({"measure": measure.label(), **row, **named, "document": item.name} for row in rows)
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
        progress.close()
        scores.write()
