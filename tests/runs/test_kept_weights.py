"""trainer.keep_weights: weights of chosen optimiser steps are kept alone, to be scored and to begin from."""

import contextlib
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from commands import the_one_line

from lab.base.interruption import Interrupted, Interruption
from lab.experiment.compose import settings_of
from lab.experiment.lifecycle import continue_run, fit_and_conclude, make_run
from lab.experiment.settings import TrainSettings
from lab.experiment.setup import Setup
from lab.observe.scores import Scores
from lab.runs.run import Run

Lab = Callable[..., subprocess.CompletedProcess[str]]
STEPS = 9
SMOKE = (
    *("experiment=smoke", "logger=csv", "measure=none", "trainer.accelerator=cpu", "scale.tokens=9216"),
    *("trainer.log_every=1", "trainer.validate_every=3", "trainer.keep_weights=[doubling,validation]"),
)
DOUBLING, VALIDATED = [1, 2, 4, 8], [3, 6, 9]
SCORE = ("measure=truncated_perplexity", "scoring.longest=2", "scoring.documents=3", "accelerator=cpu")


def train(here: Lab, folder: Path, *overrides: str) -> Run:
    """A run by the command."""
    result = here("train", *SMOKE, *overrides, folder=folder)
    assert result.returncode == 0, result.stderr
    (manifest,) = folder.glob("runs/*/manifest.json")
    return Run(manifest.parent)


@pytest.fixture(scope="module")
def whole(here: Lab, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run that was never stopped, and has every checkpoint beside."""
    every = ("trainer.checkpoint_every=1", "trainer.keep_last=100")
    return train(here, tmp_path_factory.mktemp("whole"), "model=rope", *every)


@pytest.fixture(scope="module")
def lean(here: Lab, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The same run with one checkpoint."""
    return train(here, tmp_path_factory.mktemp("lean"), "model=rope", "trainer.keep_last=1")


@pytest.fixture
def copy(lean: Run, tmp_path: Path) -> Run:
    """A copy that a test may change."""
    shutil.copytree(lean.path, tmp_path / "runs" / lean.path.name)
    return Run(tmp_path / "runs" / lean.path.name)


def weights_of(run: Run, folder: str) -> dict[int, bytes]:
    """The file of weights of each step in one of a run's two folders."""
    paths = sorted((run.path / folder).glob("step=*"))
    return {int(path.name.removeprefix("step=")): (path / "weights.safetensors").read_bytes() for path in paths}


@pytest.mark.parametrize(
    ("rules", "steps"),
    [("[]", []), ("[doubling]", DOUBLING), ("[validation]", VALIDATED), ("[3,5,doubling]", sorted({3, 5, *DOUBLING}))],
)
def test_the_steps_are_those_that_the_rules_name(here: Lab, tmp_path: Path, rules: str, steps: list[int]) -> None:
    run = train(here, tmp_path, f"trainer.keep_weights={rules}")
    assert list(weights_of(run, "weights")) == steps


def test_they_are_bit_equal_to_those_of_the_checkpoint_of_their_step_and_nothing_is_beside_them(whole: Run) -> None:
    kept, full = weights_of(whole, "weights"), weights_of(whole, "checkpoints")
    assert list(kept) == sorted(DOUBLING + VALIDATED)
    assert kept == {step: full[step] for step in kept}
    assert len(set(full.values())) == STEPS
    for path in (whole.path / "weights").iterdir():
        assert {each.name for each in path.iterdir()} == {"weights.safetensors", "checkpoint.json"}


def test_they_decide_nothing_and_what_is_kept_of_the_run_is_the_same_without_them(
    here: Lab, lean: Run, tmp_path: Path
) -> None:
    run = train(here, tmp_path, "model=rope", "trainer.keep_last=1", "trainer.keep_weights=[]")
    assert run.digest == lean.digest
    for name in ("weights.safetensors", "training.safetensors", "training.json"):
        assert (run.checkpoint().path / name).read_bytes() == (lean.checkpoint().path / name).read_bytes()
    assert (run.path / "metrics.csv").read_bytes() == (lean.path / "metrics.csv").read_bytes()


def one_step(folder: Path, *overrides: str) -> tuple[Run, int]:
    """Make or continue a run that a signal stops after its next step; the step after which it went on."""
    setup = Setup(settings_of("train", TrainSettings, [*SMOKE, "model=rope", *overrides, f"runs={folder}"]))
    after = continue_run(setup) if setup.run.path.exists() else make_run(setup)
    stops = pytest.raises(Interrupted, match=f"saved at optimiser step {after + 1} of {STEPS}")
    with Interruption(tells=False) as interruption, contextlib.nullcontext() if after + 1 == STEPS else stops:
        interruption.received = "SIGTERM"
        fit_and_conclude(setup, interruption, after)
    return setup.run, after


def test_a_run_that_is_stopped_after_every_step_and_gone_on_with_keeps_the_same(tmp_path: Path, whole: Run) -> None:
    for attempt in range(STEPS):
        run, after = one_step(tmp_path)
        assert after == attempt
    assert weights_of(run, "weights") == weights_of(whole, "weights")
    assert run.manifest["proof"]["weights"].items() <= whole.manifest["proof"]["weights"].items()


def test_those_of_steps_that_a_run_has_gone_back_over_are_not_kept_unless_they_are_made_again(
    tmp_path: Path, whole: Run
) -> None:
    every = "trainer.checkpoint_every=1"
    for _ in range(4):
        run, _ = one_step(tmp_path, every)
    assert list(weights_of(run, "weights")) == [1, 2, 3, 4]
    shutil.rmtree(run.path / "checkpoints" / "step=00000004")
    assert one_step(tmp_path, every, "trainer.keep_weights=[]")[1] == 3
    assert list(weights_of(run, "weights")) == [1, 2, 3]
    shutil.rmtree(run.path / "checkpoints" / "step=00000004")
    assert one_step(tmp_path, every)[1] == 3
    assert weights_of(run, "weights") == {step: weights_of(whole, "weights")[step] for step in (1, 2, 3, 4)}


def test_they_are_scored_like_a_checkpoint(here: Lab, copy: Run, whole: Run) -> None:
    assert list(weights_of(copy, "checkpoints")) == [STEPS]
    folder = copy.path.parent.parent
    for run, step in ((copy, 4), (whole, 4), (copy, "last")):
        result = here("extrapolate", f"runs={run.path}", *SCORE, f"checkpoint={step}", folder=folder)
        assert result.returncode == 0, result.stderr
    rows = Scores(copy.path / "scores.csv")
    assert rows.select(step=4) == Scores(whole.path / "scores.csv").rows
    assert [row["loss_nats"] for row in rows.select(step=4)] != [row["loss_nats"] for row in rows.select(step=STEPS)]
    line = the_one_line(here("extrapolate", f"runs={copy.path}", *SCORE, "checkpoint=5", folder=folder), last=True)
    assert "step=00000005: checkpoint.json is missing; checkpoints are there of steps 1, 2, 3, 4, 6, 8, 9" in line


def test_those_of_another_run_are_refused_by_name(here: Lab, copy: Run, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    other = train(here, tmp_path / "other", "model=nope")
    shutil.rmtree(copy.path / "weights" / "step=00000004")
    shutil.copytree(other.path / "weights" / "step=00000004", copy.path / "weights" / "step=00000004")
    line = the_one_line(here("extrapolate", f"runs={copy.path}", *SCORE, "checkpoint=4", folder=tmp_path), last=True)
    assert f"weights/step=00000004: it is of another run (digest {other.digest[:8]})" in line
    # As if they were its own, but for the manifest.
    copy.kept.save(4, other.kept.checkpoint(4).weights(), {})
    line = the_one_line(here("extrapolate", f"runs={copy.path}", *SCORE, "checkpoint=4", folder=tmp_path), last=True)
    assert "weights/step=00000004 holds other weights than the run had when it was finished; restore them" in line


def test_a_child_that_begins_from_them_is_the_one_that_begins_from_the_checkpoint(
    here: Lab, lean: Run, whole: Run, tmp_path: Path
) -> None:
    children = []
    for run in (lean, whole):
        folder = tmp_path / run.path.parent.parent.name
        folder.mkdir()
        given = ("start=run", f"start.run={run.path}", "start.step=4", "scale.tokens=4096", *SMOKE[1:4])
        result = here("train", *given, folder=folder)
        assert result.returncode == 0, result.stderr
        (manifest,) = folder.glob("runs/*/manifest.json")
        children.append(Run(manifest.parent))
    one, other = children
    assert one.digest == other.digest
    assert one.manifest["parent"] == other.manifest["parent"]
    assert one.manifest["blocks"] == other.manifest["blocks"]
    assert weights_of(one, "checkpoints") == weights_of(other, "checkpoints")


def test_a_run_does_not_go_on_from_them(copy: Run) -> None:
    shutil.rmtree(copy.path / "checkpoints")
    assert copy.checkpoints.newest() is None
