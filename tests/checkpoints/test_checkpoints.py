import json
import logging
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lab.base.errors import UserError
from lab.runs.checkpoints import Checkpoints
from lab.runs.states import pack, unpack

FILES = ("checkpoint.json", "training.json", "training.safetensors", "weights.safetensors")


def weights(step: int) -> dict[str, torch.Tensor]:
    return {"a": torch.full((1000,), float(step)), "b": torch.arange(6.0).reshape(2, 3).T}


def filled(folder: Path, *steps: int, **settings: int) -> Checkpoints:
    checkpoints = Checkpoints(folder / "checkpoints", **settings)
    for step in steps:
        checkpoints.save(step, weights(step), {"step": step, "moments": torch.full((10,), float(step))})
    return checkpoints


def steps(checkpoints: Checkpoints) -> list[int]:
    return [each.step for each in checkpoints.listing()]


TENSORS = st.builds(
    lambda shape, dtype, seed: torch.from_numpy(np.random.default_rng(seed).integers(0, 200, shape)).to(dtype),
    st.lists(st.integers(0, 4), max_size=3).map(tuple),
    st.sampled_from([torch.float32, torch.bfloat16, torch.int64, torch.uint8, torch.bool, torch.float64]),
    st.integers(0, 1000),
)
LEAVES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**130), 2**130),
    st.floats(allow_nan=False),
    st.text(),
    st.binary(),
    TENSORS,
)
KEYS = st.one_of(st.text(), st.integers(), st.tuples(st.integers(), st.text()))
TREES = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4), st.dictionaries(KEYS, inner, max_size=4), st.tuples(inner, inner)
    ),
    max_leaves=12,
)


def same(one: object, other: object) -> bool:
    if isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor):
        return one.dtype == other.dtype and one.shape == other.shape and torch.equal(one, other)
    if type(one) is not type(other):
        return False
    if isinstance(one, dict) and isinstance(other, dict):
        return list(one) == list(other) and all(same(one[key], other[key]) for key in one)
    if isinstance(one, (list, tuple)) and isinstance(other, (list, tuple)):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one == other)


@settings(max_examples=150, deadline=None)
@given(TREES)
def test_a_state_comes_back_the_same_by_way_of_json(tree):
    packed, tensors = pack(tree)
    assert same(unpack(json.loads(json.dumps(packed)), tensors), tree)


def test_places_that_are_written_alike_are_kept_apart():
    one, two = torch.tensor([1.0]), torch.tensor([2.0])
    for tree in ({1: one, "1": two}, {"a/b": one, "a": {"b": two, "c": one}}):
        packed, tensors = pack(tree)
        assert same(unpack(json.loads(json.dumps(packed)), tensors), tree)


@pytest.mark.parametrize("value", [float("inf"), float("-inf"), float("nan"), -0.0])
def test_infinity_nan_and_minus_zero_come_back(value):
    packed, tensors = pack(value)
    assert repr(unpack(json.loads(json.dumps(packed)), tensors)) == repr(value)


def test_a_numpy_array_and_an_optimizer_come_back_to_the_bit():
    parameter = torch.nn.Parameter(torch.randn(4, 3).T)
    optimizer = torch.optim.AdamW([parameter], betas=(0.9, 0.95))
    parameter.square().sum().backward()
    optimizer.step()
    state = {"optimizer": optimizer.state_dict(), "random": torch.get_rng_state(), "key": np.arange(5, dtype=np.uint32)}
    packed, tensors = pack(state)
    back = unpack(json.loads(json.dumps(packed)), tensors)
    assert same(back["optimizer"], state["optimizer"])
    assert back["optimizer"]["param_groups"][0]["betas"] == (0.9, 0.95)
    assert same(back["random"], state["random"])
    assert back["key"].dtype == np.uint32
    np.testing.assert_array_equal(back["key"], state["key"])


def test_tensors_that_share_memory_are_saved_apart(tmp_path):
    shared = torch.arange(10.0)
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(1, {"a": shared, "b": shared, "c": shared[2:5]}, {"x": shared, "y": shared[2:5]})
    assert same(checkpoints.newest().weights(), {"a": shared, "b": shared, "c": shared[2:5]})
    state = checkpoints.newest().state()
    assert torch.equal(state["x"], shared)
    assert torch.equal(state["y"], shared[2:5])


def test_a_value_that_would_need_code_is_refused_with_its_place():
    with pytest.raises(TypeError, match=r"state/a/1 is of type Path, which a checkpoint cannot hold|PosixPath"):
        pack({"a": [1, Path("x")], "b": 2})


def test_a_checkpoint_comes_back(tmp_path):
    newest = filled(tmp_path, 3).newest()
    assert newest.step == 3
    assert same(newest.weights(), weights(3))
    assert same(newest.state(), {"step": 3, "moments": torch.full((10,), 3.0)})
    assert sorted(path.name for path in newest.path.iterdir()) == list(FILES)


def test_the_newest_are_kept_and_those_of_every_so_many_steps(tmp_path):
    assert steps(filled(tmp_path, *range(1, 11), keep_last=2, keep_every=4)) == [4, 8, 9, 10]


@pytest.mark.parametrize("keep_last", [1, 2])
@pytest.mark.parametrize("how", ["truncated", "flipped byte"])
def test_what_is_saved_after_going_back_past_broken_checkpoints_is_kept(tmp_path, keep_last, how):
    before = filled(tmp_path, 5, 10, 11, keep_last=9)
    for step in (10, 11):
        damage(before.path(step) / "weights.safetensors", how)
    assert before.newest().step == 5
    assert filled(tmp_path, 6, keep_last=keep_last).newest().step == 6
    assert steps(before) == ([6, 10, 11] if keep_last == 1 else [5, 6, 10, 11])
    assert steps(filled(tmp_path, 12, 13, keep_last=keep_last)) == [12, 13][-keep_last:]


def test_a_broken_checkpoint_does_not_count_among_those_that_are_kept(tmp_path):
    checkpoints = filled(tmp_path, 1, 2)
    damage(checkpoints.path(2) / "training.json", "flipped byte")
    filled(tmp_path, 3)
    assert [each.step for each in checkpoints.listing() if each.flaw is None] == [1, 3]


def damage(path: Path, how: str) -> None:
    if how == "missing":
        path.unlink()
    elif how == "flipped byte":
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
    else:
        path.write_bytes(path.read_bytes()[: 0 if how == "empty" else -2])


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("how", ["missing", "flipped byte", "truncated", "empty"])
def test_a_broken_newest_checkpoint_is_named_and_the_one_before_is_used(tmp_path, name, how, caplog):
    checkpoints = filled(tmp_path, 1, 2)
    damage(checkpoints.path(2) / name, how)
    caplog.set_level(logging.WARNING)
    assert checkpoints.newest().step == 1
    assert str(checkpoints.path(2)) in caplog.text
    assert name in caplog.text


def test_a_broken_checkpoint_is_replaced_when_its_step_is_saved_again(tmp_path):
    checkpoints = filled(tmp_path, 1, 2)
    damage(checkpoints.path(2) / "weights.safetensors", "truncated")
    filled(tmp_path, 2)
    assert checkpoints.newest().step == 2


def test_a_step_that_is_saved_again_with_the_same_content_is_left_as_it_is(tmp_path):
    checkpoints = filled(tmp_path, 1)
    before = checkpoints.path(1).stat().st_ino
    filled(tmp_path, 1)
    assert checkpoints.path(1).stat().st_ino == before
    assert [path.name for path in checkpoints.folder.iterdir()] == ["step=00000001"]


def test_a_step_that_is_saved_again_with_other_content_is_replaced(tmp_path):
    checkpoints = filled(tmp_path, 1)
    checkpoints.save(1, weights(7), {})
    assert same(checkpoints.newest().weights(), weights(7))
    assert [path.name for path in checkpoints.folder.iterdir()] == ["step=00000001"]


def test_an_only_checkpoint_that_was_about_to_be_replaced_is_named_and_never_a_start_from_nothing(tmp_path):
    checkpoints = filled(tmp_path, 1)
    checkpoints.path(1).rename(checkpoints.folder / ".step=00000001.removing")
    with pytest.raises(UserError, match=r"\.step=00000001\.removing is all .* rename it to step=00000001, or start"):
        checkpoints.newest()


def test_a_quick_listing_looks_at_lengths_and_a_verified_one_reads_the_files(tmp_path):
    checkpoints = filled(tmp_path, 1, 2)
    damage(checkpoints.path(1) / "weights.safetensors", "flipped byte")
    damage(checkpoints.path(2) / "weights.safetensors", "truncated")
    assert [each.flaw is None for each in checkpoints.listing(verify=False)] == [True, False]
    assert [each.flaw is None for each in checkpoints.listing()] == [False, False]


def test_a_listing_leaves_out_what_the_run_deletes_meanwhile(tmp_path, monkeypatch):
    checkpoints = filled(tmp_path, 1, 2)
    found = checkpoints.all()
    monkeypatch.setattr(checkpoints, "all", lambda: found)
    shutil.rmtree(checkpoints.path(1))
    assert steps(checkpoints) == [2]


def test_reading_and_saving_leave_alone_what_is_not_a_checkpoint(tmp_path):
    foreign = [".step=mine.writing", "step=notes", "step=00000009", ".hidden", "README"]
    for name in foreign:
        (tmp_path / name).write_text("mine")
    checkpoints = Checkpoints(tmp_path, keep_last=1)
    for step in (1, 2):
        checkpoints.save(step, weights(step), {})
    assert checkpoints.newest().step == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*foreign, "step=00000002"])


def test_a_checkpoint_that_reads_back_otherwise_is_refused_and_removed(tmp_path, monkeypatch):
    checkpoints = filled(tmp_path, 1)
    monkeypatch.setattr(
        "lab.runs.checkpoints.point", lambda name: name == "before-verify" and spoil(checkpoints.folder)
    )
    with pytest.raises(UserError, match=r"weights.safetensors is damaged: its sha256 differs right after it was"):
        checkpoints.save(2, weights(2), {})
    assert [path.name for path in checkpoints.folder.iterdir()] == ["step=00000001"]


def spoil(folder: Path) -> None:
    damage(folder / ".step=00000002.writing" / "weights.safetensors", "flipped byte")


def test_broken_checkpoints_only_are_an_error_and_never_a_start_from_nothing(tmp_path):
    checkpoints = filled(tmp_path, 1, 2)
    for step in (1, 2):
        damage(checkpoints.path(step) / "training.json", "flipped byte")
    with pytest.raises(UserError, match=r"holds broken checkpoints only \(step=00000002: .*; step=00000001: .*\)"):
        checkpoints.newest()


def test_no_checkpoint_at_all_is_none(tmp_path):
    assert Checkpoints(tmp_path / "nowhere").newest() is None


# One process for all places: importing torch takes longer than the rest. Each save has a process of its own.
KILLED = """
import os, sys, torch
from pathlib import Path
from lab.runs.checkpoints import Checkpoints
for place in sys.argv[2:]:
    if os.fork() == 0:
        os.environ["LAB_KILL_AT"] = place
        checkpoints = Checkpoints(Path(sys.argv[1]) / place)
        for step in (1, 2, 3):
            checkpoints.save(step, {"a": torch.full((1000,), float(step))}, {"step": step})
        os._exit(0)
    print(place, os.waitstatus_to_exitcode(os.wait()[1]))
"""
PLACES = {
    "before-write:3": 2,
    "mid-write:3": 2,
    "before-verify:3": 2,
    "before-rename:3": 2,
    "after-rename:3": 3,
    "mid-removal:1": 3,
}


@pytest.fixture(scope="module")
def killed(tmp_path_factory) -> tuple[Path, dict[str, int]]:
    folder = tmp_path_factory.mktemp("killed")
    command = [sys.executable, "-c", KILLED, str(folder), *PLACES]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    return folder, {place: int(code) for place, code in map(str.split, result.stdout.splitlines())}


@pytest.mark.parametrize(("place", "left"), PLACES.items())
def test_a_process_killed_while_saving_leaves_a_whole_checkpoint(killed, place, left):
    folder, codes = killed[0] / place, killed[1]
    assert codes[place] == -signal.SIGKILL
    before = sorted(path.name for path in folder.iterdir())
    checkpoints = Checkpoints(folder)
    newest = checkpoints.newest()
    assert newest.step == left
    assert same(newest.weights(), {"a": torch.full((1000,), float(left))})
    assert newest.state() == {"step": left}
    assert all(each.flaw is None for each in checkpoints.listing())
    assert sorted(path.name for path in folder.iterdir()) == before, "reading removes nothing"
    checkpoints.save(4, weights(4), {})
    assert not [path for path in folder.iterdir() if path.name.startswith(".")]


LIMITED = """
import os, resource, signal, sys, torch
from pathlib import Path
from lab.runs.checkpoints import Checkpoints
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))
Checkpoints(Path(sys.argv[1])).save(1, {"a": torch.zeros(100_000)}, {})
"""


def test_a_file_size_limit_is_an_error_that_names_the_file_and_leaves_the_others(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(0, {"a": torch.zeros(10)}, {})
    command = [sys.executable, "-c", LIMITED, str(tmp_path)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert "UserError" in result.stderr
    assert "weights.safetensors cannot be written: file too large" in result.stderr
    assert checkpoints.newest().step == 0
    assert [path.name for path in tmp_path.iterdir()] == ["step=00000000"]


def test_checkpoints_may_lie_on_another_file_system_than_temporary_files(tmp_path, monkeypatch):
    other = Path("/dev/shm")
    if not other.is_dir() or other.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("no second file system here")
    monkeypatch.setenv("TMPDIR", str(other))
    assert steps(filled(tmp_path, 1, 2, 3)) == [2, 3]


def test_a_small_file_system_that_fills_up_keeps_what_it_had(tmp_path):
    mount = tmp_path / "small"
    mount.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=1m", "none", str(mount)]
    if os.geteuid() != 0 or subprocess.run(command, capture_output=True, check=False).returncode != 0:
        pytest.skip("needs the right to mount")
    try:
        checkpoints = Checkpoints(mount)
        checkpoints.save(1, {"a": torch.zeros(100_000)}, {})
        with pytest.raises(UserError, match=r"cannot be written: no space left on device; free space"):
            checkpoints.save(2, {"a": torch.zeros(200_000)}, {})
        assert steps(checkpoints) == [1]
        subprocess.run(["mount", "-o", "remount,ro", str(mount)], check=True)
        with pytest.raises(UserError, match=r"cannot be written: read-only file system"):
            checkpoints.save(3, {"a": torch.zeros(10)}, {})
        assert checkpoints.newest().step == 1
    finally:
        subprocess.run(["umount", str(mount)], check=True)


def test_a_file_in_place_of_the_folder_is_an_error_that_names_it(tmp_path):
    (tmp_path / "checkpoints").touch()
    with pytest.raises(UserError, match=r"checkpoints cannot be written: (file exists|not a directory)"):
        filled(tmp_path, 1)


@pytest.mark.parametrize("stops", [[10], [1, 2, 3], [5, 7, 9, 11], [6, 8], [11]])
def test_a_run_that_was_stopped_keeps_the_checkpoints_of_one_that_was_not(tmp_path, stops):
    for keep in ({"keep_last": 2}, {"keep_last": 1}, {"keep_last": 2, "keep_every": 6}, {"keep_last": 3}):
        whole = filled(tmp_path / f"whole{keep}", 4, 8, 12, every=4, **keep)
        stopped = filled(tmp_path / f"stopped{keep}", *sorted({4, 8, 12, *stops}), every=4, **keep)
        assert steps(stopped) == steps(whole)


def test_the_checkpoint_of_a_stop_is_there_until_the_next(tmp_path):
    assert steps(filled(tmp_path, 4, 8, 10, every=4)) == [8, 10]
    assert steps(filled(tmp_path, 11, every=4)) == [8, 11]
