"""Edit facts: a derived run of all of them at once, or each by itself for its scores alone."""

import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lab.base.errors import UserError
from lab.base.files import discard, new_folder, refuse_link, sha256_of, write_whole
from lab.base.interruption import Interruption
from lab.base.progress import progress
from lab.base.tables import Row, read_table, write_table
from lab.experiment.edit_evidence import evidence
from lab.experiment.edit_preparing import Prepared, changed_matrix, computing, given_texts, prepared, to_write, updated
from lab.experiment.edit_scoring import ASKED_BY, Scorer, drifts, interval, summary
from lab.experiment.edit_settings import EditSettings
from lab.gradients.edits import Update
from lab.report.edit import print_edit
from lab.runs.edited import Edited, edit_label, edited_identity
from lab.runs.extensions import write_tensor
from lab.runs.identity import digest
from lab.runs.manifest import make_results
from lab.runs.run import open_model

SCORES, LOSSES = "edit_scores.csv", "edit_losses.csv"
DOCUMENTS = "edit_documents.csv.gz"
STOPPED = "came: nothing is kept of an edit"


def edit(settings: EditSettings, command: str) -> Edited | None:
    """Make the edited run of a finished run, a method and facts, or find it; score it, and tell how it does.

    Its identity is the parent's with the edit; its directory stands beside the parent's, and holds the matrix that was
    changed. With ``alone`` there is none: each fact is edited by itself, and the tables go into the folder ``to``.

    Raises:
        UserError: the parent is missing, unfinished or damaged; a fact cannot be used, or all are known already;
            there is no such layer; a gradient is not finite.
        Interrupted: on a signal.
    """
    if settings.alone != (settings.to is not None):
        raise UserError("alone and to belong together: alone=true to=FOLDER")
    ready = prepared(settings)
    with Interruption() as interruption:
        interruption.install()
        if settings.to is not None:
            _each_alone(ready, settings, Path(settings.to), interruption)
            return None
        run, asked = _there(ready), settings.scores.plain() | {"evaluation": settings.evaluation.plain()}
        if run is None or run.manifest.get("edit_scores", {}).get("asked") != asked:
            scorer = Scorer(ready, settings)  # what it needs is there, or nothing is made
            run = run or _written(ready, settings, command, interruption)
            _score(ready, run, scorer, asked, interruption)
    _tell_scores(run)
    return run


def _there(ready: Prepared) -> Edited | None:
    """The run that was asked for before, if it was."""
    parent = ready.parent
    for path in parent.derived():
        found = open_model(parent.path.parent / path.name)
        if isinstance(found, Edited) and found.manifest.get("asked") == ready.asked:
            found.check()
            print(f"{found.path} is there")
            return found
    return None


def _written(ready: Prepared, settings: EditSettings, command: str, interruption: Interruption) -> Edited:
    """The run with all facts that are not known yet."""
    decoder = computing(ready, settings)
    with ready.parent.locked():
        left = to_write(ready, decoder)
        texts = given_texts(ready, decoder, interruption)
        update = updated(ready, decoder, left, texts, partial(interruption.check, STOPPED))
        return _made(ready, changed_matrix(decoder, update), update, left, command)


def _made(ready: Prepared, matrix: Tensor, update: Update, left: Sequence[int], command: str) -> Edited:
    parent, facts = ready.parent, ready.facts
    with new_folder(parent.path.parent / f".{parent.path.name}.edit.new") as beside:
        edit = ready.edit | {"weights": {f"{update.place.module}.weight": write_tensor(matrix, beside)}}
        identity = edited_identity(parent, edit)
        name = digest(identity)
        run = Edited(parent.path.parent / f"{parent.path.name}-{ready.method.name}-{name[:8]}")
        if run.stands(name):
            print(f"{run.path} is there")
            return run
        lines = "".join(f"{json.dumps(fact.plain, ensure_ascii=False)}\n" for fact in facts)
        write_whole(beside / "facts.jsonl", lines.encode())
        if update.rows:
            write_table(beside / "edit_steps.csv", update.rows)
        manifest: dict[str, Any] = {
            "kind": "edited",
            "digest": name,
            "identity": identity,
            "state": "finished",
            "parent": {
                "name": parent.path.resolve().name,
                "digest": parent.digest,
                "step": ready.step,
                "weights_sha256": ready.checkpoint.weights_digest(),
            },
            "extensions": [each.plain() for each in parent.extensions],
            "command": command,
            "asked": ready.asked,
            "written": [number + 1 for number in left],
            "found": update.record,
        }
        run.create(parent.config, manifest, beside)
    written = f"{len(left)} {'fact' if len(left) == 1 else 'facts'}"
    print(f"{run.path}: {parent.label} with {edit_label(edit)}, {written}")
    return run


# How it does.


def _score(ready: Prepared, run: Edited, scorer: Scorer, asked: dict[str, Any], interruption: Interruption) -> None:
    """Write both tables into the run.

    Args:
        asked: with what, to be written down.
    """
    left = [number - 1 for number in run.field("written") if number <= len(ready.facts)]
    before, after = scorer.decoder(), run.decoder().to(scorer.device)
    with run.locked():
        tables = {SCORES: scorer.of_facts(before, after, left), LOSSES: scorer.of_text(before, after, 0)}
        interruption.check("came: nothing is kept of the scores; the same command makes them")
        for name, rows in tables.items():
            discard(run.path / name)
            if rows:
                write_table(run.path / name, rows)
        proof = {name: sha256_of(run.path / name) for name, rows in tables.items() if rows}
        run.update_manifest(edit_scores={"asked": asked, "sha256": proof})


def _tell_scores(run: Edited) -> None:
    """Print what a run's tables come to. Raises UserError if they are not what was written."""
    written = run.field("edit_scores")["sha256"]
    kept = [name for name in (SCORES, LOSSES) if name in written]
    for name in kept:
        path = run.path / name
        if not path.exists() or sha256_of(path) != written[name]:
            raise UserError(f"{path} is not what was written; restore it, or delete {run.path}")
    tell(run.path, run.label, kept)


def _each_alone(ready: Prepared, settings: EditSettings, to: Path, interruption: Interruption) -> None:
    """Each fact in an edit of its own, of which nothing is kept but scores."""
    refuse_link(to)
    decoder, scorer = computing(ready, settings), Scorer(ready, settings)
    rows: list[Row] = []
    losses: list[Row] = []
    with ready.parent.locked():
        left = to_write(ready, decoder)
        make_results(to)
        texts = given_texts(ready, decoder, interruption)
        before, after = scorer.decoder(), scorer.decoder()
        for number in progress("facts", "facts", left):
            update = updated(ready, decoder, [number], texts, partial(interruption.check, STOPPED))
            name = f"{update.place.module}.weight"
            parameter, own = after.get_parameter(name), before.get_parameter(name)
            with torch.no_grad():
                parameter.copy_(changed_matrix(decoder, update))
            rows += scorer.of_facts(before, after, [number])
            losses += scorer.of_text(before, after, number + 1)
            with torch.no_grad():
                parameter.copy_(own)
    tables = {SCORES: rows, LOSSES: losses}
    for name, each in tables.items():
        if each:
            write_table(to / name, each)
    of_facts = f"{Path(settings.facts or 'fact').stem}-{ready.edit['facts'][:8]}"
    write_table(to / DOCUMENTS, [*evidence(ready.parent, of_facts, rows, losses, scorer.text)])
    title = f"{ready.parent.label} with {edit_label(ready.edit)}, each alone"
    tell(to, title, [name for name in tables if tables[name]])
    print(f"{to / DOCUMENTS}: for python -m lab.claims --documents")


def tell(folder: Path, title: str, tables: Sequence[str]) -> None:
    """Print what the tables in a folder come to."""
    remedy = "delete it, and make the edit again"
    found = summary(read_table(folder / SCORES, ("number", "part", "moment", *ASKED_BY), remedy))
    drift = None
    if LOSSES in tables:
        drift = interval(
            drifts(read_table(folder / LOSSES, ("number", "document", "cluster", "moment", "loss_nats"), remedy))
        )
    print_edit(title, found, drift)
    print(f"{', '.join(tables)} in {folder}")
