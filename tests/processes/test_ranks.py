"""Runs on two ranks (gloo, on the CPU): the same numbers, the same blocks, and checkpoints that any number can read."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from commands import lab, the_one_line
from safetensors.torch import load_file

from lab.base.tables import read_table

SMOKE = (
    *("experiment=smoke", "model=rope", "measure=none", "logger=csv", "scale.tokens=20480", "trainer.accelerator=cpu"),
    *("trainer.compute_dtype=float32", "trainer.checkpoint_every=7"),
)
TWO = {name: (f"trainer.strategy={name}", "trainer.devices=2") for name in ("ddp", "fsdp")}
# The ranks add their halves of a gradient in another order than one process does: in float32 a relative 1e-7 a sum,
# which 20 steps of AdamW carry to less than these.
LOSS_BOUND = 2e-6  # relative
WEIGHT_BOUND = 2e-4  # absolute; weights are of the order of 0.1 to 1


def run_of(runs: Path) -> Path:
    (manifest,) = runs.glob("*/manifest.json")
    return manifest.parent


def weights(runs: Path) -> dict[str, torch.Tensor]:
    return load_file(max((run_of(runs) / "checkpoints").glob("step=*")) / "weights.safetensors")


def kept(runs: Path) -> list[bytes]:
    """What must be equal byte for byte."""
    run = run_of(runs)
    newest = max((run / "checkpoints").glob("step=*"))
    files = [newest / name for name in ("weights.safetensors", "training.safetensors", "training.json")]
    return [path.read_bytes() for path in (run / "metrics.csv", *files)]


def assert_equal_within_reduction_error(one: Path, other: Path) -> None:
    rows, others = (read_table(run_of(runs) / "metrics.csv", ("step", "loss_nats"), "") for runs in (one, other))
    assert [row["order_fingerprint"] for row in rows] == [row["order_fingerprint"] for row in others]
    for column in ("loss_nats", "validation_loss_nats"):
        ours, theirs = ([row[column] for row in table if row[column] is not None] for table in (rows, others))
        assert ours == pytest.approx(theirs, rel=LOSS_BOUND)
    expected = weights(other)
    for name, weight in weights(one).items():
        torch.testing.assert_close(weight, expected[name], rtol=0, atol=WEIGHT_BOUND)
    blocks = [json.loads((run_of(runs) / "manifest.json").read_text())["blocks"] for runs in (one, other)]
    assert blocks[0] == blocks[1]


def trained(folder: Path, *settings: str) -> Path:
    result = lab("train", *SMOKE, *settings, cwd=folder)
    assert result.returncode == 0, result.stdout + result.stderr
    assert len(re.findall("84,128 parameters|continuing after", result.stdout)) == 1  # one rank speaks
    return folder / "runs"


def started(folder: Path, *settings: str) -> subprocess.Popen[str]:
    """A long run, once it has its first checkpoint."""
    process = subprocess.Popen(
        [sys.executable, "-m", "lab.train", *SMOKE, *settings],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 900
    while not list(folder.glob("runs/*/checkpoints/step=*")) and time.monotonic() < deadline:
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)
    return process


def stopped(folder: Path, *settings: str) -> Path:
    """A run that is stopped by SIGTERM before its end."""
    process = started(folder, *settings)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=900)
    assert process.returncode == 75, err
    assert "Traceback" not in err
    return folder / "runs"


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Runs that were never interrupted, on one rank and on two."""
    folders = {name: tmp_path_factory.mktemp(name) for name in ("one", *TWO)}
    keep = "trainer.keep_weights=[validation]"
    return {name: trained(folder, *TWO.get(name, ()), keep) for name, folder in folders.items()}


@pytest.mark.parametrize("strategy", TWO)
def test_two_ranks_train_as_one_within_reduction_error(strategy: str, whole: dict[str, Path]) -> None:
    assert_equal_within_reduction_error(whole["one"], whole[strategy])


def test_two_ranks_learn_the_same_answers_as_one(tmp_path: Path) -> None:
    # A block a micro-batch: the mean over a micro-batch's answers is then the same however many ranks share a step.
    asked = ("data=biographies", "tokenizer=biographies_words", "data.corpus.content=questions")
    few = ("data.corpus.people=200", "scale.micro_batch=1", "scale.tokens=8192", "trainer.validate_every=4")
    for name, ranks in {"one": (), "two": TWO["ddp"]}.items():
        result = lab("train", *SMOKE, *asked, *few, *ranks, f"runs={name}", cwd=tmp_path)
        assert result.returncode == 0, result.stdout + result.stderr
    assert_equal_within_reduction_error(tmp_path / "two", tmp_path / "one")


@pytest.mark.parametrize("strategy", ["one", *TWO])
def test_weights_that_are_kept_are_whole_whatever_the_ranks(strategy: str, whole: dict[str, Path]) -> None:
    runs = whole[strategy]
    paths = sorted((run_of(runs) / "weights").glob("step=*"))
    assert [path.name for path in paths] == [f"step={step:08d}" for step in (4, 8, 12, 16, 20)]
    last = run_of(runs) / "checkpoints" / paths[-1].name / "weights.safetensors"
    assert (paths[-1] / "weights.safetensors").read_bytes() == last.read_bytes()
    expected = load_file(run_of(whole["one"]) / "weights" / paths[1].name / "weights.safetensors")
    for name, weight in load_file(paths[1] / "weights.safetensors").items():
        torch.testing.assert_close(weight, expected[name], rtol=0, atol=WEIGHT_BOUND)


@pytest.mark.parametrize("strategy", TWO)
def test_a_stopped_run_of_two_ranks_ends_bit_identical_and_goes_on_with_one(
    strategy: str, whole: dict[str, Path], tmp_path: Path
) -> None:
    stopped(tmp_path, *TWO[strategy])
    shutil.copytree(tmp_path, tmp_path / "one")
    trained(tmp_path, *TWO[strategy])
    assert kept(tmp_path / "runs") == kept(whole[strategy])
    line = the_one_line(lab("train", *SMOKE, cwd=tmp_path / "one"))
    assert "was trained with ranks = 2, now it is 1" in line
    trained(tmp_path / "one", "resume.allow=[ranks]")
    assert_equal_within_reduction_error(whole["one"], tmp_path / "one" / "runs")


def test_a_stopped_run_of_one_rank_goes_on_sharded_over_two(whole: dict[str, Path], tmp_path: Path) -> None:
    stopped(tmp_path)
    trained(tmp_path, *TWO["fsdp"], "resume.allow=[ranks]")
    assert_equal_within_reduction_error(whole["one"], tmp_path / "runs")


def test_if_one_rank_is_killed_the_other_ends_within_a_minute_and_says_so(tmp_path: Path) -> None:
    process = started(tmp_path, *TWO["ddp"], "scale.tokens=4096000")
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    ranks = [child for child in children if b"RANK=1\0" in Path(f"/proc/{child}/environ").read_bytes()] or children
    os.kill(int(ranks[-1]), signal.SIGKILL)
    begun = time.monotonic()
    out, err = process.communicate(timeout=600)
    assert time.monotonic() - begun < 60
    assert process.returncode == 1
    assert "Traceback" not in out + err
    assert re.search(r"error: rank \d of 2 on .*: (another rank|rank 1) is gone", err), err
    assert "by SIGKILL" in err
    assert "the same command continues" in err.lower()


@pytest.mark.parametrize(
    ("strategy", "place"),
    # Of the first checkpoint only rank 0 has anything to write; in a step's midst both die.
    [("ddp", "mid-write:2"), ("fsdp", "accumulation:12")],
)
def test_a_run_of_two_ranks_that_is_killed_and_continued_ends_bit_identical(
    strategy: str, place: str, whole: dict[str, Path], tmp_path: Path
) -> None:
    result = lab("train", *SMOKE, *TWO[strategy], cwd=tmp_path, environment=os.environ | {"LAB_KILL_AT": place})
    assert result.returncode == 1
    assert "rank 0 by SIGKILL" in result.stderr
    trained(tmp_path, *TWO[strategy])
    assert kept(tmp_path / "runs") == kept(whole[strategy])


def test_a_signal_before_the_ranks_can_listen_is_no_failure(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "lab.train", *SMOKE, *TWO["ddp"]]
    process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    while len(Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()) < 3:  # and the tracker
        assert process.poll() is None
        time.sleep(0.02)
    time.sleep(0.3)  # until it listens itself
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=600)
    assert (process.returncode, err.strip()) == (
        75,
        "SIGTERM came before the run had begun; the same command begins it",
    )


def test_if_what_has_started_the_ranks_is_killed_they_save_and_end(tmp_path: Path) -> None:
    process = started(tmp_path, *TWO["ddp"], "scale.tokens=4096000")
    process.kill()
    _, err = process.communicate(timeout=300)  # the ranks hold the pipe for as long as they live
    saved = re.search(r"SIGTERM came: saved at optimiser step (\d+) of 4000", err)
    assert saved is not None, err
    newest = max((run_of(tmp_path / "runs") / "checkpoints").glob("step=*"))
    assert newest.name == f"step={int(saved[1]):08d}"


SLOW_TO_LEAVE = """
import os, sys, time
from lab.base.interruption import Interrupted
from lab.cluster.ranks import HEARTBEAT_SECONDS, detect
ranks = detect(os.environ)
try:
    with ranks.connected("cpu"):
        ranks.gather("stopped")
        if not ranks.first:
            time.sleep(2 * HEARTBEAT_SECONDS)  # it has more to save
        raise Interrupted("stopped")
except Interrupted:
    sys.exit(Interrupted.EXIT_CODE)
"""


def test_ranks_that_stop_leave_together_though_one_needs_longer() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1])}
    numbers = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"} | place
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", SLOW_TO_LEAVE],
            env=os.environ | numbers | {"RANK": rank, "LOCAL_RANK": rank},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in "01"
    ]
    said = [process.communicate(timeout=600)[1] for process in processes]
    assert [process.returncode for process in processes] == [75, 75], said


def test_torchrun_starts_the_same_run(whole: dict[str, Path], tmp_path: Path) -> None:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "lab.train"]
    result = subprocess.run(
        [*command, *SMOKE, "trainer.strategy=ddp", "trainer.devices=auto"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert kept(tmp_path / "runs") == kept(whole["ddp"])


def test_a_sweep_under_torchrun_that_is_stopped_while_it_scores_ends_on_all_ranks_and_goes_on(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "lab.train"]
    scored = ("measure=[excess,loss_by_position,context_gain]", "scoring.longest=4", "scoring.segments=2")
    keys = [each for each in SMOKE if not each.startswith("measure=")]
    sweep = [*command, "-m", *keys, *scored, "trainer.strategy=ddp", "trainer.devices=auto", "seed=0,1"]
    with (tmp_path / "said").open("w+") as said:
        process = subprocess.Popen(sweep, cwd=tmp_path, stdout=said, stderr=said)
        deadline = time.monotonic() + 300
        while process.poll() is None and not list(tmp_path.glob("runs/*/scores.csv")):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=120)
    text = (tmp_path / "said").read_text()
    # Rank 1 did not go ahead to the second run, where it would wait for rank 0 until torchrun kills it.
    assert text.count("was scored; what is scored is kept; the same command continues it") == 2, text
    assert "forcefully" not in text
    assert len(list(tmp_path.glob("runs/*/manifest.json"))) == 1
    result = subprocess.run(sweep, cwd=tmp_path, capture_output=True, text=True, timeout=900, check=False)
    assert result.returncode == 0, result.stderr
    states = [json.loads(path.read_text())["state"] for path in tmp_path.glob("runs/*/manifest.json")]
    assert states == ["finished", "finished"]
    assert len({len(path.read_text().splitlines()) for path in tmp_path.glob("runs/*/scores.csv")}) == 1
