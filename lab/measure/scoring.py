"""Score runs with measures: rows into each run's ``scores.csv``, and into its manifest what they were made with."""

import hashlib
import inspect
import json
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from lab.components import make
from lab.data.tokenizer import Tokenizer
from lab.errors import UserError
from lab.measure.measure import Measure, Source
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
        measured = run.manifest.get("measured", {})
        record = named | {"measure": measure.name, "settings": dict(node), "code": code_of(measure)}
        before, rows = measured.get(label, {}), scores.select(**named)
        other_code = before.get("code", record["code"]) != record["code"] and bool(rows)
        if not other_code and before.get("settings") == record["settings"] and "items" in before and rows:
            continue
        if decoder is None:
            decoder = run.load_decoder(run.checkpoint(step)).to(device)
        if other_code:
            print(f"{run.path}: {measure.name} was scored by other code and is scored again", file=sys.stderr)
            scores.drop(rows)
            scores.write()  # before the manifest names the new code: a process killed between leaves no old row
        run.update_manifest(measured=measured | {label: record})
        count = score_items(decoder, measure, scores, source, named, f"{run.path.name} {measure.name}", check)
        run.update_manifest(measured=measured | {label: record | {"items": count}})
    return decoder is not None


@torch.inference_mode()
def score_items(
    decoder: Decoder,
    measure: Measure,
    scores: Scores,
    source: Source,
    named: Mapping[str, Any],
    label: str,
    check: Callable[[str], None],
) -> int:
    """Score what is not scored yet, write it down, and return how many items there are."""
    items = list(measure.items(source))
    done = {row["document"] for row in scores.select(**named)}
    terminal = sys.stderr.isatty()
    progress = tqdm(items, label, unit=" items", file=sys.stderr, mininterval=0.1 if terminal else 30.0)
    written = time.perf_counter()
    try:
        for item in progress:
            if item.name in done:
                continue
            check(item.name)
            rows = measure.score(decoder, item, source.context)
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
    return len(items)
