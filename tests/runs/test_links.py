"""Destructive acts never follow links: of a link only itself is removed, or it is refused."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from commands import the_one_line

from lab.base.errors import UserError
from lab.runs.checkpoints import Checkpoints
from lab.runs.lock import hold, holder, lock_path
from lab.runs.run import Run

RUN = ("experiment=smoke", "logger=csv", "measure=none", "trainer.accelerator=cpu", "trainer.log_every=1")
SAME = (*RUN, "scale.tokens=4096", "trainer.checkpoint_every=2", "model=rope")


def all_in(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def runs(trained: Path, tmp_path: Path) -> Path:
    shutil.copytree(trained / "runs", tmp_path / "runs")
    return tmp_path / "runs"


def rope_of(runs: Path) -> Path:
    (path,) = runs.glob("rope-*")
    return path


def moved(path: Path, outside: Path) -> Path:
    """Put what is at a path elsewhere, and a link in its place."""
    outside.mkdir(exist_ok=True)
    target = outside / path.name
    shutil.move(path, target)
    path.symlink_to(target)
    return target


@pytest.mark.parametrize("command", [("status", "--remove", "NAME", "--yes"), ("train", *SAME, "overwrite=true")])
def test_a_run_that_is_a_link_is_not_emptied(
    command: tuple[str, ...], runs: Path, here: Callable, tmp_path: Path
) -> None:
    rope = rope_of(runs)
    target = moved(rope, tmp_path / "outside")
    before = all_in(target)
    line = the_one_line(here(*(rope.name if each == "NAME" else each for each in command), folder=tmp_path), last=True)
    assert f"{rope.name} is a link: nothing is written or deleted behind links" in line
    assert all_in(target) == before


@pytest.mark.parametrize("place", ["checkpoints", "weights", "analysis", "checkpoints/step=00000002", "manifest.json"])
@pytest.mark.parametrize("command", [("status", "--remove", "NAME", "--yes"), ("train", *SAME, "overwrite=true")])
def test_of_a_link_inside_a_run_nothing_but_itself_is_removed(
    place: str, command: tuple[str, ...], runs: Path, here: Callable, tmp_path: Path
) -> None:
    rope = rope_of(runs)
    if not (rope / place).exists():
        (rope / place).mkdir()
        (rope / place / "precious").write_text("years of work")
    target = moved(rope / place, tmp_path / "outside")
    before = all_in(target) if target.is_dir() else {"": target.read_bytes()}
    result = here(*(rope.name if each == "NAME" else each for each in command), folder=tmp_path)
    assert result.returncode in (0, 1)
    assert "Traceback" not in result.stdout + result.stderr
    assert (all_in(target) if target.is_dir() else {"": target.read_bytes()}) == before
    if command[0] == "status":
        assert not rope.exists()


def test_the_folder_of_runs_may_itself_be_a_link(runs: Path, here: Callable, tmp_path: Path) -> None:
    name = rope_of(runs).name
    moved(runs, tmp_path / "outside")
    assert here("train", *SAME, folder=tmp_path).returncode == 0
    assert here("status", "--remove", name, "--yes", folder=tmp_path).returncode == 0
    assert not (tmp_path / "outside" / "runs" / name).exists()


def test_a_link_to_nothing_as_runs_is_told_as_one(here: Callable, tmp_path: Path) -> None:
    (tmp_path / "runs").symlink_to("nowhere")
    for command in (("train", *SAME), ("status",)):
        line = the_one_line(here(*command, folder=tmp_path), last=True)
        assert "runs is a link to nowhere, which is not there" in line


def filled(folder: Path, *steps: int, **settings: int) -> Checkpoints:
    checkpoints = Checkpoints(folder / "checkpoints", **settings)
    for step in steps:
        checkpoints.save(step, {"a": torch.ones(3)}, {"step": step})
    return checkpoints


def test_retention_takes_a_step_that_is_a_link_away_and_leaves_what_it_leads_to(tmp_path: Path) -> None:
    checkpoints = filled(tmp_path, 1, 2)
    target = moved(checkpoints.path(1), tmp_path / "outside")
    before = all_in(target)
    assert checkpoints.checkpoint(1).flaw() == "step=00000001 is a link"
    checkpoints.save(3, {"a": torch.ones(3)}, {"step": 3})
    assert not os.path.lexists(checkpoints.path(1))
    assert all_in(target) == before


@pytest.mark.parametrize("kind", ["writing", "removing"])
def test_a_leftover_that_is_a_link_is_unlinked(kind: str, tmp_path: Path) -> None:
    checkpoints = filled(tmp_path, 1)
    target = moved(checkpoints.path(1), tmp_path / "outside")
    checkpoints.path(1).rename(checkpoints.folder / f".step=00000002.{kind}")
    before = all_in(target)
    checkpoints.save(2, {"a": torch.ones(3)}, {"step": 2})
    assert all_in(target) == before
    assert not os.path.lexists(checkpoints.folder / f".step=00000002.{kind}")


def test_checkpoints_behind_a_link_are_neither_written_nor_forgotten(tmp_path: Path) -> None:
    checkpoints = filled(tmp_path, 1, 2)
    target = moved(checkpoints.folder, tmp_path / "outside")
    before = all_in(target)
    for act in (
        lambda: checkpoints.save(3, {"a": torch.ones(3)}, {"step": 3}),
        checkpoints.retain,
        lambda: checkpoints.forget_after(0),
    ):
        with pytest.raises(UserError, match="checkpoints is a link"):
            act()
    assert all_in(target) == before


def test_a_lock_that_is_a_link_is_refused_and_its_target_keeps_its_content(tmp_path: Path) -> None:
    run = tmp_path / "run"
    (tmp_path / "precious").write_text("years of work")
    lock_path(run).symlink_to(tmp_path / "precious")
    with pytest.raises(UserError, match=r"\.run\.lock cannot be written: it is a link; delete the link"), hold(run):
        pass
    lock_path(run).unlink()
    os.link(tmp_path / "precious", lock_path(run))
    with pytest.raises(UserError, match=r"\.run\.lock has another name elsewhere \(a hard link\)"), hold(run):
        pass
    assert (tmp_path / "precious").read_text() == "years of work"


def test_a_run_is_held_under_all_names_that_lead_to_it(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "link").symlink_to("run")
    with hold(tmp_path / "run"):
        assert holder(tmp_path / "link") is not None


def test_a_link_where_a_run_is_made_beside_is_unlinked(trained: Path, tmp_path: Path) -> None:
    rope = Run(rope_of(trained / "runs"))
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "precious").write_text("years of work")
    (tmp_path / ".made.new").symlink_to(tmp_path / "outside")
    Run(tmp_path / "made").create(rope.config, rope.manifest)
    assert (tmp_path / "outside" / "precious").exists()
    assert (tmp_path / "made" / "manifest.json").exists()


def test_what_hydra_writes_of_a_sweep_does_not_go_through_a_link(here: Callable, tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("years of work")
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "multirun.yaml").symlink_to(tmp_path / "precious")
    line = the_one_line(here("train", "-m", *RUN, "seed=0,1", "plan=true", folder=tmp_path))
    assert "multirun.yaml is a link" in line
    assert (tmp_path / "precious").read_text() == "years of work"
