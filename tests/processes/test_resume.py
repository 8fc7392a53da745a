"""Runs that are stopped, killed and continued, as a user meets them."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest
import torch
from commands import lab, the_one_line
from safetensors.torch import load_file

ROOT = Path(__file__).parents[2]
SMOKE = ("experiment=smoke", "measure=none", "logger=csv", "scale.tokens=40960", "trainer.checkpoint_every=4")
KEPT = ("metrics.csv", "weights.safetensors", "training.safetensors", "training.json")


def outcome(runs: Path) -> dict[str, bytes]:
    """The contents that must be equal, of the one run in a folder."""
    (run,) = [path.parent for path in runs.glob("*/manifest.json")]
    checkpoint = max((run / "checkpoints").glob("step=*"))
    manifest = json.loads((run / "manifest.json").read_text())
    files = {name: (run / name if name == "metrics.csv" else checkpoint / name).read_bytes() for name in KEPT}
    return files | {"blocks": json.dumps(manifest["blocks"]).encode(), "state": manifest["state"].encode()}


def manifest_of(runs: Path) -> dict:
    (path,) = runs.glob("*/manifest.json")
    return json.loads(path.read_text())


def stopped(folder: Path, number: int, *settings: str, checkpoints: int = 1) -> subprocess.CompletedProcess[str]:
    """A run that gets a signal when it has this many checkpoints."""
    command = [sys.executable, "-m", "lab.train", *settings, *SMOKE, "scale.tokens=4096000"]
    process = subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 900
    while len(list(folder.glob("runs/*/checkpoints/step=*"))) < checkpoints and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(number)
    out, err = process.communicate(timeout=600)
    return subprocess.CompletedProcess(command, process.returncode, out, err)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that was never interrupted."""
    folder = tmp_path_factory.mktemp("whole")
    result = lab("train", *SMOKE, cwd=folder)
    assert result.returncode == 0, result.stderr
    return folder / "runs"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR2])
def test_a_signal_saves_the_run_and_ends_it_with_code_75(tmp_path: Path, number: signal.Signals) -> None:
    result = stopped(tmp_path, number)
    assert result.returncode == 75, result.stderr
    last = result.stderr.splitlines()[-1]
    step = re.fullmatch(rf"{number.name} came: saved at optimiser step (\d+) of 4000 in .*; the same command .*", last)
    assert step is not None, result.stderr
    assert "Traceback" not in result.stderr
    assert "Error executing" not in result.stderr
    (newest,) = [max(path.glob("step=*")) for path in tmp_path.glob("runs/*/checkpoints")]
    assert newest.name == f"step={int(step.group(1)):08d}"


def test_an_interrupted_sweep_starts_no_further_run(tmp_path: Path) -> None:
    result = stopped(tmp_path, signal.SIGTERM, "-m", "seed=0,1")
    assert result.returncode == 75, result.stderr
    assert "Error executing" not in result.stderr
    assert len(list(tmp_path.glob("runs/*/manifest.json"))) == 1


def test_a_few_runs_killed_at_chosen_and_random_times_end_bit_identical() -> None:
    command = [sys.executable, "tests/kill/kill_test.py", "--runs", "8", "--processes", "2", "--seed", "7"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=900)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "8 of 8 interrupted runs" in result.stdout


def test_a_run_that_is_killed_while_it_keeps_weights_keeps_those_of_a_whole_one(tmp_path: Path) -> None:
    keep = ("trainer.keep_weights=[doubling,validation]", "trainer.validate_every=3", "scale.tokens=9216")

    def kept(folder: str) -> dict[str, bytes]:
        weights = tmp_path.glob(f"{folder}/*/weights/step=*/weights.safetensors")
        return {path.parent.name: path.read_bytes() for path in weights}

    # Written are the weights of steps 1, 2, 3, 4, 6, 8 and 9, and after them checkpoints of 4, 8 and 9. The sixth
    # are the weights of 6; after the checkpoint of 4 the third is that of 8.
    for place, steps in (("mid-write:6", (1, 2, 3, 4)), ("after-rename:3", (1, 2, 3, 4, 6, 8))):
        killed = os.environ | {"LAB_KILL_AT": place}
        result = lab("train", *SMOKE, *keep, "runs=killed", cwd=tmp_path, environment=killed)
        assert result.returncode == -signal.SIGKILL, result.stderr
        assert sorted(kept("killed")) == [f"step={step:08d}" for step in steps]
    for folder in ("killed", "whole"):
        result = lab("train", *SMOKE, *keep, f"runs={folder}", cwd=tmp_path)
        assert result.returncode == 0, result.stderr
    assert sorted(kept("whole")) == [f"step={step:08d}" for step in (1, 2, 3, 4, 6, 8, 9)]
    assert kept("killed") == kept("whole")
    assert manifest_of(tmp_path / "killed")["proof"] == manifest_of(tmp_path / "whole")["proof"]


@pytest.mark.parametrize("adapter", ["head_scaling", "lora"])
def test_a_run_with_an_adapter_that_is_killed_again_and_again_ends_bit_identical(
    tmp_path: Path, whole: Path, adapter: str
) -> None:
    (parent,) = [path.parent for path in whole.glob("*/manifest.json")]
    ranks = ["adapter.embedding_rank=5"] * (adapter == "lora")
    own = ("measure=none", "logger=csv", "scale.tokens=16384", "trainer.checkpoint_every=4", "optimizer.weight_decay=0")
    command = ("train", "start=run", f"start.run={parent}", f"adapter={adapter}", *ranks, *own)
    # While the second checkpoint is written, and after that in the middle of step 8.
    for place in ("mid-write:2", "accumulation:7"):
        killed = os.environ | {"LAB_KILL_AT": place}
        result = lab(*command, "runs=killed", cwd=tmp_path, environment=killed)
        assert result.returncode == -signal.SIGKILL, result.stderr
    for folder in ("killed", "whole"):
        result = lab(*command, f"runs={folder}", cwd=tmp_path)
        assert result.returncode == 0, result.stderr
    assert len(manifest_of(tmp_path / "killed")["attempts"]) == 3
    assert outcome(tmp_path / "killed") == outcome(tmp_path / "whole")
    assert manifest_of(tmp_path / "killed")["proof"] == manifest_of(tmp_path / "whole")["proof"]
    weights = load_file(max(tmp_path.glob("killed/*/checkpoints/step=*")) / "weights.safetensors")
    before = load_file(max(parent.glob("checkpoints/step=*")) / "weights.safetensors")
    trained = {name for name in weights if name not in before}
    assert trained
    assert all(weights[name].any() for name in trained)
    assert all(torch.equal(weights[name], before[name]) for name in before)


@pytest.mark.parametrize("model", [(), ("model=bidirectional_rope", "objective=masked")], ids=["next", "masked"])
def test_a_fine_tuning_on_answers_alone_that_is_killed_again_and_again_ends_bit_identical(
    tmp_path: Path, model: tuple[str, ...]
) -> None:
    small = ("scale.layers=1", "scale.width=32", "scale.hidden=64", "scale.heads=2", "scale.kv_heads=1")
    fixed = ("scale.head_dim=16", "scale.context=32", "data.corpus.people=40", "measure=none")
    often = ("trainer.checkpoint_every=4", "scale.validation_blocks=4", "trainer.validate_every=4")
    read = ("experiment=biographies", *model, *small, *fixed, *often, "scale.tokens=8192", "scale.warmup_steps=1")
    killed_once = os.environ | {"LAB_KILL_AT": "accumulation:5"}
    assert lab("train", *read, "runs=read", cwd=tmp_path, environment=killed_once).returncode == -signal.SIGKILL
    for folder in ("read", "read_whole"):
        result = lab("train", *read, f"runs={folder}", cwd=tmp_path)
        assert result.returncode == 0, result.stderr
    assert outcome(tmp_path / "read") == outcome(tmp_path / "read_whole")
    assert result.returncode == 0, result.stderr
    (parent,) = [path.parent for path in tmp_path.glob("read/*/manifest.json")]
    command = ("train", "experiment=questions", "start=run", f"start.run={parent}", "measure=none", *often)
    command = (*command, "scale.tokens=16384", "scale.micro_batch=16")
    # While the second checkpoint is written, and after that in the middle of step 8.
    for place in ("mid-write:2", "accumulation:7"):
        killed = os.environ | {"LAB_KILL_AT": place}
        result = lab(*command, "runs=killed", cwd=tmp_path, environment=killed)
        assert result.returncode == -signal.SIGKILL, result.stderr
    for folder in ("killed", "whole"):
        result = lab(*command, f"runs={folder}", cwd=tmp_path)
        assert result.returncode == 0, result.stderr
    assert len(manifest_of(tmp_path / "killed")["attempts"]) == 3
    assert outcome(tmp_path / "killed") == outcome(tmp_path / "whole")
    assert manifest_of(tmp_path / "killed")["proof"] == manifest_of(tmp_path / "whole")["proof"]
    # A remainder that is carried over has prompts, or nothing of it was tested.
    state = next(tmp_path.glob("killed/*/checkpoints/step=*")) / "training.json"
    assert '"prompts"' in state.read_text()
    prepared = lab("prepare", "blocks", *command[1:], cwd=tmp_path)
    assert prepared.returncode == 0, prepared.stderr
    result = lab(*command, "data.mode=blocks", "runs=written", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    for name in ("metrics.csv", "weights.safetensors"):
        assert outcome(tmp_path / "written")[name] == outcome(tmp_path / "whole")[name]


def test_workers_and_written_blocks_change_nothing(tmp_path: Path, whole: Path) -> None:
    workers = lab("train", *SMOKE, "data.workers=2", "runs=workers", cwd=tmp_path)
    assert workers.returncode == 0, workers.stderr
    assert outcome(tmp_path / "workers") == outcome(whole)
    prepared = lab("prepare", "blocks", *SMOKE, "--processes", "2", cwd=tmp_path)
    assert prepared.returncode == 0, prepared.stderr
    assert "640 blocks; train on them with data.mode=blocks" in prepared.stdout
    blocks = lab("train", *SMOKE, "data.mode=blocks", "runs=blocks-mode", cwd=tmp_path)
    assert blocks.returncode == 0, blocks.stderr
    found, expected = outcome(tmp_path / "blocks-mode"), outcome(whole)
    # Of the state only the cursors differ: blocks that are read by number need none.
    for name in ("metrics.csv", "weights.safetensors", "blocks"):
        assert found[name] == expected[name]


def test_a_run_goes_on_only_with_the_metrics_and_the_intervals_that_it_was_begun_with(tmp_path: Path) -> None:
    assert stopped(tmp_path, signal.SIGTERM).returncode == 75
    command = ("train", *SMOKE, "scale.tokens=4096000")
    line = the_one_line(lab(*command, "trainer.log_every=3", cwd=tmp_path))
    assert "trainer.log_every is 3, but runs/" in line
    (path,) = tmp_path.glob("runs/*/metrics.csv")
    content = path.read_text()
    header, first, *others = content.splitlines(keepends=True)
    for changed in ("".join([header, *others]), content.replace(first, first.replace(".", ".1", 1)), None):
        path.unlink() if changed is None else path.write_text(changed)
        line = the_one_line(lab(*command, cwd=tmp_path), last=True)
        assert re.search(r"metrics\.csv: its rows up to step \d+ are not those that the run has written", line)
        assert changed is None or path.read_text() == changed


def test_a_finished_run_that_has_lost_its_weights_says_so(tmp_path: Path, whole: Path) -> None:
    shutil.copytree(whole, tmp_path / "runs")
    for folder in tmp_path.glob("runs/*/checkpoints"):
        shutil.rmtree(folder)
    result = lab("train", *SMOKE, cwd=tmp_path)
    assert "is finished, but its weights are gone; overwrite=true trains it again" in result.stdout


def test_blocks_that_are_not_written_yet_are_asked_for(tmp_path: Path) -> None:
    line = the_one_line(lab("train", *SMOKE, "data.mode=blocks", cwd=tmp_path))
    assert re.search(r"no blocks here; make them with python -m lab\.prepare blocks", line)


def test_other_hardware_is_refused_unless_it_is_named_and_then_it_is_written_down(tmp_path: Path) -> None:
    assert stopped(tmp_path, signal.SIGTERM).returncode == 75
    command = ("train", *SMOKE, "scale.tokens=4096000")
    environment = os.environ | {"OMP_NUM_THREADS": "2" if os.environ.get("OMP_NUM_THREADS") == "1" else "1"}
    line = the_one_line(lab(*command, cwd=tmp_path, environment=environment))
    assert "was trained with hardware.threads = 1, now it is 2: restore that, or add resume.allow=[hardware]" in line
    process = subprocess.Popen(
        [sys.executable, "-m", "lab.train", *command[1:], "resume.allow=[hardware]"],
        cwd=tmp_path,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert process.stdout is not None
    assert "continuing after optimiser step" in process.stdout.readline()
    process.kill()
    process.communicate()
    first, second = manifest_of(tmp_path / "runs")["attempts"]
    assert (first["hardware"]["threads"], second["hardware"]["threads"]) == (1, 2)
    assert second["allowed"] == ["hardware"]
    assert second["first_step"] > 1


def test_a_broken_newest_checkpoint_is_named_and_broken_ones_only_are_an_error(tmp_path: Path) -> None:
    # The signal may end the very step of the first checkpoint, which leaves one.
    assert stopped(tmp_path, signal.SIGTERM, checkpoints=2).returncode == 75
    older, newest = sorted(tmp_path.glob("runs/*/checkpoints/step=*"))[-2:]
    (newest / "weights.safetensors").write_bytes(b"")
    command = [sys.executable, "-m", "lab.train", *SMOKE, "scale.tokens=4096000"]
    process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    step = int(older.name.removeprefix("step="))
    assert f"continuing after optimiser step {step} of 4000" in process.stdout.readline()
    process.kill()
    _, err = process.communicate()
    assert f"{newest.name} cannot be used: weights.safetensors has another length" in err
    for path in tmp_path.glob("runs/*/checkpoints/step=*"):
        (path / "training.json").unlink()
    line = the_one_line(lab("train", *SMOKE, "scale.tokens=4096000", cwd=tmp_path), last=True)
    assert "holds broken checkpoints only" in line
    assert "overwrite=true" in line
    subprocess.run(["rm", "-r", *map(str, tmp_path.glob("runs/*/checkpoints"))], check=True)
    line = the_one_line(lab("train", *SMOKE, "scale.tokens=4096000", cwd=tmp_path))
    assert re.search(r"checkpoints is empty, but the run has come to step \d+: restore the checkpoints, or", line)


def test_status_lists_the_runs_and_removes_those_named(whole: Path, tmp_path: Path) -> None:
    (run,) = [path.parent for path in whole.glob("*/manifest.json")]
    copied = tmp_path / "runs"
    subprocess.run(["cp", "-r", str(whole), str(copied)], check=True)
    listed = lab("status", str(copied), "--verify", cwd=tmp_path, environment=os.environ | {"COLUMNS": "200"})
    assert listed.returncode == 0, listed.stderr
    assert re.search(rf"{run.name} +│ finished +│ +40 +│ +100 % │ +\d\.\d{{3}} .*│ +40, verified", listed.stdout)
    assert "is not a run directory" in the_one_line(lab("status", str(copied), "--remove", "other", cwd=tmp_path))
    asked = subprocess.run(
        [sys.executable, "-m", "lab.status", str(copied), "--remove", run.name],
        input="n\n",
        capture_output=True,
        text=True,
        check=True,
    )
    assert "nothing was removed" in asked.stdout
    assert (copied / run.name).exists()
    assert lab("status", str(copied), "--remove", run.name, "--yes", cwd=tmp_path).returncode == 0
    assert not (copied / run.name).exists()


def begun(folder: Path, *settings: str, environment: dict[str, str] | None = None) -> subprocess.Popen[str]:
    """A long run that has its first checkpoint."""
    command = [sys.executable, "-m", "lab.train", *SMOKE, "scale.tokens=4096000", *settings]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    # A shell's background job has Ctrl-C switched off, and the tests may be in one.
    listening = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    process = subprocess.Popen(command, cwd=folder, env=environment, preexec_fn=listening, text=True, **pipes)
    deadline = time.monotonic() + 900
    while not list(folder.glob("runs/*/checkpoints/step=*")) and process.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return process


def test_sigterm_again_and_again_until_the_run_has_ended_ends_it_with_code_75(tmp_path: Path) -> None:
    process = begun(tmp_path)
    while process.poll() is None:
        process.send_signal(signal.SIGTERM)
        time.sleep(0.005)
    out, err = process.communicate()
    assert process.returncode == 75, out + err
    assert "SIGTERM came: saved at optimiser step" in err.splitlines()[-1]
    step = int(re.findall(r"saved at optimiser step (\d+) of", err)[0])
    assert list(tmp_path.glob(f"runs/*/checkpoints/step={step:08d}/checkpoint.json"))


@pytest.mark.parametrize("signals", ["INT+INT", "TERM+INT", "TERM+TERM"])
@pytest.mark.parametrize("place", ["mid-write:2", "after-rename:2"])
def test_two_signals_at_once_while_a_checkpoint_is_written_save_it(tmp_path: Path, place: str, signals: str) -> None:
    process = begun(tmp_path, environment=os.environ | {"LAB_KILL_AT": f"{place}={signals}"})
    out, err = process.communicate(timeout=900)
    assert process.returncode == 75, out + err
    first = signals.partition("+")[0]
    assert f"SIG{first}: stopping after this step" in err
    assert f"SIG{first} came: saved at optimiser step 8 of 4000" in err.splitlines()[-1]
    assert list(tmp_path.glob("runs/*/checkpoints/step=00000008/checkpoint.json"))


def test_a_run_that_was_stopped_late_keeps_the_checkpoints_of_a_whole_one(tmp_path: Path, whole: Path) -> None:
    environment = os.environ | {"LAB_KILL_AT": "accumulation:76=TERM"}
    stopped = lab("train", *SMOKE, cwd=tmp_path, environment=environment)
    assert stopped.returncode == 75, stopped.stderr
    assert "saved at optimiser step 38 of 40" in stopped.stderr
    assert lab("train", *SMOKE, cwd=tmp_path).returncode == 0
    kept = [sorted(path.name for path in runs.glob("*/checkpoints/*")) for runs in (tmp_path / "runs", whole)]
    assert kept[0] == kept[1]
    assert outcome(tmp_path / "runs") == outcome(whole)
    assert manifest_of(tmp_path / "runs")["proof"] == manifest_of(whole)["proof"]


def test_a_signal_in_the_last_step_of_a_run_stops_the_sweep(tmp_path: Path) -> None:
    environment = os.environ | {"LAB_KILL_AT": "accumulation:80=TERM"}
    result = lab("train", "-m", *SMOKE, "seed=0,1", cwd=tmp_path, environment=environment)
    assert result.returncode == 75, result.stderr
    assert manifest_of(tmp_path / "runs")["state"] == "finished"


@pytest.mark.skipif(sys.platform != "linux", reason="asks Linux to end them")
def test_workers_end_with_a_trainer_that_is_killed(tmp_path: Path) -> None:
    process = begun(tmp_path, "data.workers=2")
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    assert len(children) >= 2
    process.kill()
    process.communicate()
    deadline = time.monotonic() + 30
    while any(alive(child) for child in children) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert [child for child in children if alive(child)] == []


def alive(child: str) -> bool:
    """Whether a process is there, and no zombie."""
    try:
        return Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def test_a_writer_of_blocks_that_is_killed_is_told_and_the_same_command_goes_on(tmp_path: Path) -> None:
    command = ("prepare", "blocks", *SMOKE, "--processes", "2")
    line = the_one_line(lab(*command, cwd=tmp_path, environment=os.environ | {"LAB_KILL_AT": "shard:3"}), last=True)
    assert "a process that writes blocks was killed, as happens when memory ends: the same command goes on" in line
    assert lab(*command, cwd=tmp_path).returncode == 0
    assert lab(*command, "data.blocks=whole", cwd=tmp_path).returncode == 0
    found, whole = (
        {path.name: path.read_bytes() for path in (tmp_path / name).rglob("item=*")} for name in ("blocks", "whole")
    )
    assert found == whole
