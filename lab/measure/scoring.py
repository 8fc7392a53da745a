"""Score runs with measures: rows into each run's ``scores.csv``, and into its manifest what they were made with."""

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

from lab.components import make
from lab.data.tokenizer import Tokenizer
from lab.errors import UserError
from lab.measure.measure import Item, Measure, Row, Source
from lab.measure.scores import Scores
from lab.model.decoder import Decoder
from lab.runs import Run

WRITE_SECONDS = 10.0  # of scoring that a killed process loses at most
NO_SETTING = ("documents", "batch_tokens")  # they change no observation


def make_measures(nodes: Mapping[str, Mapping[str, Any]], context: int) -> list[Measure]:
    """The measures of a configuration.

    Raises:
        UserError: a setting makes no sense, or does not fit the context.
    """
    measures = []
    for name, node in nodes.items():
        if not isinstance(node, Mapping):
            raise UserError(f"measure.{name} is {node!r}: a key that nothing reads; conf/measure/ has what there is")
        measure: Measure = make(node)
        measure.check(context)
        measures.append(measure)
    return measures


def setting_of(node: Mapping[str, Any]) -> str:
    """Digest of what in a measure's configuration decides an observation."""
    settings = {key: value for key, value in node.items() if key not in NO_SETTING}
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:8]


def rows_of(run: Run, settings: Collection[str], evaluation: str, step: int) -> list[Row]:
    """The observations of a run by these settings, of one set of documents (and of what is made up), at a step."""
    return [
        row
        for row in Scores(run.path / "scores.csv").select(step=step)
        if row["setting"] in settings and row["evaluation"] in (evaluation, "none")
    ]


def code_of(measure: Measure) -> str:
    """sha256 of the code that a measure's numbers come from: its own file, what all share, token ids, the model."""
    own = Path(inspect.getfile(type(measure)))
    shared = [own.with_name("measure.py"), own.with_name("losses.py"), Path(inspect.getfile(Tokenizer))]
    model = sorted(Path(inspect.getfile(Decoder)).parent.rglob("*.py"))
    return hashlib.sha256(b"".join(path.read_bytes() for path in (own, *shared, *model))).hexdigest()


def score_run(
    run: Run,
    nodes: Mapping[str, Mapping[str, Any]],
    evaluation: str,
    source: Source,
    device: str,
    step: int,
    check: Callable[[str], None] = lambda before: None,
) -> bool:
    """Score a run's decoder with measures, what is scored already excepted.

    Args:
        nodes: the measures' configurations, by name.
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
    context = run.config["scale"]["context"]
    precision = run.config["trainer"]["compute_dtype"]
    scores = Scores(run.path / "scores.csv")
    decoder = None
    for node, measure in zip(nodes.values(), make_measures(nodes, context), strict=True):
        named = {
            "setting": setting_of(node),
            "evaluation": evaluation if measure.reads_documents else "none",
            "step": step,
            "precision": precision,
        }
        label = "/".join(str(value) for value in (measure.name, *named.values()))
        settings = {key: value for key, value in node.items() if key not in NO_SETTING}
        record = named | {"measure": measure.name, "settings": settings, "code": code_of(measure)}
        before, rows = run.manifest.get("measured", {}).get(label, {}), scores.select(**named)
        written = run.manifest.get("scored_rows", {}).get(label)  # none while it is being scored
        if written is not None and rows and written != len(rows):
            raise UserError(
                f"{scores.path} has {len(rows)} rows of {measure.name} on {named['evaluation']}, and {written} were "
                "written; restore it, or delete it and score the run again"
            )
        other_code = bool(rows) and before.get("code", record["code"]) != record["code"]
        done = set() if other_code else {row["document"] for row in rows}
        items = [item for item in measure.items(source) if item.name not in done]
        if not items:
            continue
        if decoder is None:
            decoder = run.load_decoder(run.checkpoint(step)).to(device)
        if other_code:
            print(f"{run.path}: {measure.name} was scored by other code and is scored again", file=sys.stderr)
            scores.drop(rows)
            scores.write()  # before the manifest names the new code: a process killed between leaves no old row
        _note(run, "measured", label, record)
        _note(run, "scored_rows", label, None)
        score_items(decoder, measure, scores, items, named, source.context, f"{run.path.name} {measure.name}", check)
        _note(run, "scored_rows", label, len(scores.select(**named)))
    return decoder is not None


def _note(run: Run, table: str, label: str, value: Any) -> None:
    """Set an entry of a table in the manifest; None takes it out."""
    entries = run.manifest.get(table, {}) | {label: value}
    run.update_manifest(**{table: {key: each for key, each in entries.items() if each is not None}})


@torch.inference_mode()
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
            rows = measure.score(decoder, item, context)
            scores.add({"measure": measure.name, **row, **named, "document": item.name} for row in rows)
            if time.perf_counter() - written > WRITE_SECONDS:
                scores.write()
                written = time.perf_counter()
    except RuntimeError as error:
        if not isinstance(error, torch.OutOfMemoryError) and "DefaultCPUAllocator" not in str(error):
            raise
        raise UserError(
            f"out of memory at {item.name} in {measure.name}: lower scoring.longest or scoring.batch_tokens"
        ) from None
    finally:
        progress.close()
        scores.write()
