"""Evidence is bound to the run that made it: what is moved, edited, added or taken away is refused by name."""

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from commands import the_one_line

from lab.base.interruption import Interrupted
from lab.data.settings import EvaluationSettings
from lab.experiment.compose import settings_of
from lab.experiment.settings import ScoreSettings
from lab.observe.measure import Source
from lab.observe.score_runs import sources_of
from lab.observe.scores import Scores
from lab.observe.scoring import score_run
from lab.runs.manifest import seal
from lab.runs.run import Run, open_model

Lab = Callable[..., subprocess.CompletedProcess[str]]
QUICK = ("logger=csv", "measure=none", "trainer.accelerator=cpu", "trainer.log_every=1")
SMOKE = ("experiment=smoke", *QUICK, "scale.tokens=4096", "trainer.checkpoint_every=2")
SCORE = ("measure=truncated_perplexity", "scoring.longest=2", "scoring.documents=5", "accelerator=cpu")
# The code may be edited while the tests run.
COMPARE = ("runs=runs/*", "allow=[code]", *SCORE)


@pytest.fixture(scope="module")
def scored(here: Lab, trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with runs/: nope and rope, scored; and derived/, one of rope's beside it."""
    folder = tmp_path_factory.mktemp("scored")
    for name in ("runs", "derived"):
        shutil.copytree(trained / "runs", folder / name)
    result = here("extrapolate", "runs=runs/*", *SCORE, folder=folder)
    assert result.returncode == 0, result.stderr
    (rope,) = (folder / "derived").glob("rope-*")
    extension = ("extension=temperature", "extension.temperature=1.2")
    result = here("extend", f"run=derived/{rope.name}", *extension, folder=folder)
    assert result.returncode == 0, result.stderr
    return folder


@pytest.fixture
def copy(scored: Path, tmp_path: Path) -> Path:
    """A copy that a test may change."""
    shutil.copytree(scored, tmp_path, dirs_exist_ok=True)
    return tmp_path


def run_of(folder: Path, model: str) -> Run:
    (path,) = (folder / "runs").glob(f"{model}-*")
    return Run(path)


def refused(here: Lab, folder: Path, command: str, *overrides: str) -> str:
    """The line with which a command is refused."""
    return the_one_line(here(command, *overrides, folder=folder), last=True)


def test_what_nobody_has_touched_is_compared(here: Lab, copy: Path) -> None:
    before = {path: path.read_bytes() for path in copy.glob("runs/*/*.*")}
    result = here("compare", *COMPARE, folder=copy)
    assert result.returncode == 0, result.stderr
    assert {path: path.read_bytes() for path in copy.glob("runs/*/*.*")} == before


# Checkpoints.


def test_a_checkpoint_of_another_run_of_the_same_shapes_is_refused_by_name_when_it_is_scored(
    here: Lab, copy: Path
) -> None:
    nope, rope = (run_of(copy, model) for model in ("nope", "rope"))
    shapes = [{name: value.shape for name, value in run.checkpoint(4).weights().items()} for run in (nope, rope)]
    assert shapes[0] == shapes[1]
    shutil.rmtree(rope.path / "checkpoints" / "step=00000004")
    shutil.copytree(nope.path / "checkpoints" / "step=00000004", rope.path / "checkpoints" / "step=00000004")
    told = f"step=00000004: it is of another run (digest {nope.digest[:8]}); checkpoints are there of steps 2"
    assert told in refused(here, copy, "extrapolate", f"runs={rope.path}", *SCORE, "scoring.longest=4")
    assert told in refused(here, copy, "generate", f"run={rope.path}", "prompt=The", "checkpoint=4")
    listed = here("status", "runs", folder=copy).stdout
    assert f"4, broken: it is of another run (digest {nope.digest[:8]})" in listed


def test_a_checkpoint_of_another_run_of_the_same_shapes_is_refused_by_name_when_it_is_gone_on_with(
    here: Lab, copy: Path
) -> None:
    nope, rope = (run_of(copy, model) for model in ("nope", "rope"))
    shutil.rmtree(rope.path / "checkpoints")
    shutil.copytree(nope.path / "checkpoints", rope.path / "checkpoints")
    rope.update_manifest(state="training")
    line = refused(here, copy, "train", *SMOKE, "model=rope", "resume.allow=[code]")
    assert f"{rope.path.name}/checkpoints holds broken checkpoints only" in line
    assert f"step=00000004: it is of another run (digest {nope.digest[:8]})" in line


def test_edited_weights_in_a_checkpoint_made_anew_are_refused_while_the_manifest_is_as_it_was(
    here: Lab, copy: Path
) -> None:
    rope = run_of(copy, "rope")
    weights, state = rope.checkpoint(4).weights(), rope.checkpoint(4).state()
    weights["embedding"][0, 0] += 1
    rope.checkpoints.save(4, weights, state)
    assert rope.checkpoints.checkpoint(4).flaw() is None
    line = refused(here, copy, "extrapolate", f"runs={rope.path}", *SCORE, "scoring.longest=4")
    assert "step=00000004 holds other weights than the run had when it was finished; restore them" in line
    # Nor is one taken that the run had not when it was finished.
    rope.checkpoints.save(3, weights, state)
    line = refused(here, copy, "extrapolate", f"runs={rope.path}", *SCORE, "checkpoint=3")
    assert "step=00000003 holds other weights than the run had when it was finished" in line
    rope.update_manifest(proof=rope.prove())
    assert torch.equal(rope.decoder(3).embedding, weights["embedding"])


def test_the_finished_run_proves_every_checkpoint_that_it_kept_and_its_metrics(copy: Path) -> None:
    rope = run_of(copy, "rope")
    proof = rope.manifest["proof"]
    assert set(proof["weights"]) == {"2", "4"}
    assert proof == rope.prove()


# Metrics.


def test_edited_metrics_of_a_finished_run_are_refused(here: Lab, copy: Path) -> None:
    rope = run_of(copy, "rope")
    path = rope.path / "metrics.csv"
    whole = path.read_text()
    *before, last = whole.splitlines(keepends=True)
    for edited in (whole.replace(",7.", ",6.", 1), "".join(before), whole + last):
        assert edited != whole
        path.write_text(edited)
        line = refused(here, copy, "compare", *COMPARE)
        assert f"{path.relative_to(copy)} is not what it was when the run was finished; restore it, or leave" in line
    path.write_text(whole)
    assert here("compare", *COMPARE, folder=copy).returncode == 0


# Scores.


def edit_number(scores: Scores, other: Scores) -> None:
    row = scores.rows[3]
    scores.add([row | {"loss_nats": row["loss_nats"] + 1e-12}])


def remove(scores: Scores, other: Scores) -> None:
    scores.drop(scores.rows[:1])


def add(scores: Scores, other: Scores) -> None:
    scores.add([scores.rows[0] | {"document": "another"}])


def take(scores: Scores, other: Scores) -> None:
    scores.add(other.rows[4:5])


def take_all(scores: Scores, other: Scores) -> None:
    scores.add(other.rows)


@pytest.mark.parametrize("change", [edit_number, remove, add, take, take_all])
def test_a_row_that_is_edited_removed_added_or_of_another_run_is_refused_by_name(
    here: Lab, copy: Path, change: Callable[[Scores, Scores], None]
) -> None:
    nope, rope = (Scores(run_of(copy, model).path / "scores.csv") for model in ("nope", "rope"))
    change(rope, nope)
    rope.write()
    for command in (("compare", *COMPARE), ("extrapolate", "runs=runs/*", *SCORE)):
        line = refused(here, copy, *command)
        assert f"{rope.path.relative_to(copy)}: the rows of truncated_perplexity held_out-" in line
        assert "are not what was written; restore it, or delete it and score the run again" in line
    rope.path.unlink()
    assert here("compare", *COMPARE, folder=copy).returncode == 0


def test_rows_that_were_never_scored_are_refused_by_name(here: Lab, copy: Path) -> None:
    for model in ("nope", "rope"):
        scores = Scores(run_of(copy, model).path / "scores.csv")
        scores.add([row | {"evaluation": "kjv-12345678", "loss_nats": 0.5} for row in scores.rows])
        scores.write()
    line = refused(here, copy, "compare", *COMPARE)
    assert "the rows of truncated_perplexity kjv-12345678 were not written by a scoring of this run" in line


# The manifest.

LABEL = "the first"  # of measures or documents
FIELDS: list[tuple[str, list[str | int], Any]] = [
    ("rope", ["attempts", 0, "hardware", "cpu"], "another"),
    ("rope", ["attempts", 0, "code", "sha256"], "f00d" * 16),
    ("rope", ["attempts", 0, "first_step"], 2),
    ("rope", ["blocks", "fingerprint"], "0" * 32),
    ("rope", ["tokens"], 8192),
    ("rope", ["state"], "training"),
    ("rope", ["initial_weights", "embedding"], "f00d" * 16),
    ("rope", ["measured", LABEL, "code"], "f00d" * 16),
    ("rope", ["measured", LABEL, "hardware", "threads"], 99),
    ("rope", ["scored", LABEL], "f00d" * 16),
    ("rope", ["documents", LABEL], {}),
    ("rope", ["proof", "metrics"], "f00d" * 16),
    ("rope", ["proof", "weights", "4"], "f00d" * 16),
    ("rope", ["skipped_documents"], {"one": "why"}),
    ("derived", ["parent", "weights_sha256"], "f00d" * 16),
    ("derived", ["parent", "step"], 2),
    ("derived", ["command"], "another"),
]


@pytest.mark.parametrize(("run", "place", "value"), FIELDS, ids=[".".join(map(str, case[1])) for case in FIELDS])
def test_any_edit_of_a_manifest_that_leaves_its_sha256_is_refused(
    here: Lab, copy: Path, run: str, place: list[str | int], value: Any
) -> None:
    given = "runs=runs/*" if run == "rope" else "runs=derived/*"
    (path,) = copy.glob("runs/rope-*" if run == "rope" else "derived/rope-*-temperature-*")
    manifest = open_model(path).manifest
    node: Any = manifest
    for key in place[:-1]:
        node = node[next(iter(node)) if key == LABEL else key]
    last = next(iter(node)) if place[-1] == LABEL else place[-1]
    assert node[last] != value
    node[last] = value
    (path / "manifest.json").write_text(json.dumps(manifest))
    for command in ("compare", "extrapolate"):
        line = refused(here, copy, command, given, *SCORE)
        assert f"{path.relative_to(copy)}/manifest.json is damaged (it is not as it was written: its sha256" in line


@pytest.mark.parametrize("value", ["", "f00d" * 16, None, 7, "none"])
def test_a_manifest_without_its_own_sha256_is_refused(here: Lab, copy: Path, value: object) -> None:
    rope = run_of(copy, "rope")
    manifest = rope.manifest | {"sha256": value}
    if value == "none":
        del manifest["sha256"]
    (rope.path / "manifest.json").write_text(json.dumps(manifest))
    assert "it is not as it was written: its sha256 differs" in refused(here, copy, "compare", *COMPARE)


def test_the_sha256_of_a_manifest_is_of_what_it_says_and_not_of_how_it_is_written(copy: Path) -> None:
    rope = run_of(copy, "rope")
    manifest = rope.manifest
    assert manifest["sha256"] == seal(manifest)
    (rope.path / "manifest.json").write_text(json.dumps(dict(reversed(manifest.items()))))
    assert rope.manifest == manifest


# Documents.


def source_of(run: Run) -> tuple[str, Source]:
    settings = settings_of("extrapolate", ScoreSettings, [*SCORE, "runs=none"]).evaluation
    assert isinstance(settings, EvaluationSettings)
    ((label, source),) = sources_of([run], settings)
    return label, source


def backwards(source: Source) -> Source:
    """The same documents by name, their tokens in reverse."""
    return Source(
        lambda: ((item.name, item.ids[::-1].copy()) for item in source.documents()),
        source.tokenizer,
        source.context,
        source.cluster,
        source.clusters,
    )


def score_again(run: Run, label: str, source: Source) -> None:
    measures = settings_of("extrapolate", ScoreSettings, [*SCORE, "runs=none"]).measure.chosen
    score_run(run, measures, label, source, "cpu", run.steps)


@pytest.mark.parametrize("evaluation", ["the compared", "another-12345678"])
def test_scores_of_other_texts_under_the_same_names_are_refused_with_the_document(
    here: Lab, copy: Path, evaluation: str
) -> None:
    nope, rope = (run_of(copy, model) for model in ("nope", "rope"))
    label, source = source_of(rope)
    first = next(source.long_enough(129, 1)).name
    if evaluation == "the compared":
        (rope.path / "scores.csv").unlink()
        score_again(rope, label, backwards(source))
        told = f"runs/{rope.path.name} was scored on another {first} of {label}; restore that document"
    else:
        score_again(nope, evaluation, source)
        score_again(rope, evaluation, backwards(source))
        told = (
            f"{first} of {evaluation} was one text when runs/{nope.path.name} was scored and another when "
            f"runs/{rope.path.name} was: delete the scores.csv of the one that is wrong and score it again"
        )
    assert told in refused(here, copy, "compare", *COMPARE)
    (rope.path / "scores.csv").unlink()
    assert here("compare", *COMPARE, folder=copy).returncode == 0


# Scorings that were stopped.


def stopped(run: Run, label: str, source: Source, after: int) -> None:
    """Score, and stop after some documents."""
    seen: list[str] = []

    def check(name: str) -> None:
        if len(seen) == after:
            raise Interrupted("stopped")
        seen.append(name)

    measures = settings_of("extrapolate", ScoreSettings, [*SCORE, "runs=none"]).measure.chosen
    with pytest.raises(Interrupted):
        score_run(run, measures, label, source, "cpu", run.steps, check)


def test_a_scoring_that_was_stopped_is_gone_on_with_by_a_comparison_or_refused(here: Lab, copy: Path) -> None:
    runs = [run_of(copy, model) for model in ("nope", "rope")]
    label, source = source_of(runs[0])
    whole = (runs[1].path / "scores.csv").read_bytes()
    (runs[1].path / "scores.csv").unlink()
    stopped(runs[1], label, source, after=2)
    assert len(Scores(runs[1].path / "scores.csv").rows) == 2 * 3
    assert here("compare", *COMPARE, folder=copy).returncode == 0
    assert (runs[1].path / "scores.csv").read_bytes() == whole
    # Of other documents, which the comparison does not score, it may not be taken for a whole one.
    for run in runs:
        stopped(run, "another-12345678", source, after=2)
    line = refused(here, copy, "compare", *COMPARE)
    assert "scores.csv: truncated_perplexity is not scored to its end; score the run again, it goes on" in line
    for run in runs:
        score_again(run, "another-12345678", source)
    assert here("compare", *COMPARE, folder=copy).returncode == 0
