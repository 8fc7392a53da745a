"""Sweeps: slurm/sweep.sbatch as it is shipped, hydra/launcher=slurm, and what lab.status says of their jobs."""

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from cluster import ROOT, SMOKE, Cluster, until
from outcomes import manifest_of

SWEEP = str(ROOT / "slurm" / "sweep.sbatch")
LAUNCHER = ("hydra/launcher=slurm", "hydra.launcher.timeout_min=60")


def train(cluster: Cluster, folder: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return cluster.run(sys.executable, "-m", "lab.train", *arguments, cwd=folder, timeout=900, **environment)


def started(cluster: Cluster, folder: Path, *arguments: str, **environment: str) -> subprocess.Popen[str]:
    """A sweep that waits for its jobs."""
    return subprocess.Popen(
        [sys.executable, "-m", "lab.train", *arguments],
        cwd=folder,
        env=cluster.environment | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def alive(process: subprocess.Popen[str], happened: Callable[[], object]) -> None:
    """Wait for a call to return something true, while a sweep waits for its jobs."""
    until(lambda: happened() or process.poll() is not None)
    assert process.poll() is None, process.communicate()


def the_one_line(result: subprocess.CompletedProcess[str]) -> str:
    assert result.returncode == 1, result.stdout + result.stderr
    (line,) = (result.stdout + result.stderr).splitlines()
    assert line.startswith("error: ")
    return line


def status(cluster: Cluster, folder: Path) -> list[dict[str, dict[str, str]]]:
    """The two tables of lab.status, by job and column."""
    result = cluster.run(sys.executable, "-m", "lab.status", "runs", cwd=folder, timeout=900)
    assert result.returncode == 0, result.stderr
    tables: list[dict[str, dict[str, str]]] = []
    columns: list[str] = []
    for line in result.stdout.splitlines():
        cells = [cell.strip() for cell in re.split("[│┃]", line)[1:-1]]
        if line.startswith("┃"):
            columns = cells
            tables.append({})
        elif cells:
            row = dict(zip(columns, cells, strict=True))
            tables[-1][row["job"]] = row
    return tables


def states(folder: Path) -> dict[str, str]:
    """Of every run, by variant and seed, its state."""
    return {
        "-".join(re.match(r"(\w+)-.*-(seed\d)", path.parent.name).groups()): re.search(  # type: ignore[union-attr]
            r'"state": "(\w+)"', path.read_text()
        )[1]  # type: ignore[index]
        for path in folder.glob("runs/*/manifest.json")
    }


def test_a_plan_becomes_an_array_that_is_submitted_and_done_with(slurm: Cluster, tmp_path: Path) -> None:
    planned = train(slurm, tmp_path, "-m", *SMOKE, "model=nope,rope", "seed=0,1", "plan=sweep.txt")
    assert planned.returncode == 0, planned.stderr
    assert f"sweep.txt: 4 runs; submit them with sbatch --array=1-4 {SWEEP} sweep.txt" in planned.stdout
    lines = (tmp_path / "sweep.txt").read_text().splitlines()
    assert lines[3].endswith("model=rope seed=1")
    lines[0] += " 'scale.tokens=4096000'"  # goes on until it is cancelled
    lines[3] += " scale.heads=0"
    (tmp_path / "sweep.txt").write_text("".join(line + "\n" for line in lines))
    job = slurm.sbatch("--array=1-5%1", SWEEP, "sweep.txt", cwd=tmp_path)
    slurm.during(f"{job}_1", lambda: list(tmp_path.glob("runs/*/checkpoints/step=*")))
    begun, waiting = status(slurm, tmp_path)
    assert begun[f"{job}_1"]["run"].startswith("nope-2x32-C64-sotu-seed0-")
    assert begun[f"{job}_1"]["state"].startswith("running (process ")
    assert begun[f"{job}_1"]["job's state"] == "running"
    assert begun[f"{job}_1"]["time left"].startswith("23:")
    assert waiting[f"{job}_4"]["job's state"] == "queued: JobArrayTaskLimit"
    assert waiting[f"{job}_4"]["overrides"] == "model=rope seed=1 scale.heads=0"
    slurm.ask("scontrol", "update", f"jobid={job}", "ArrayTaskThrottle=4")
    slurm.ask("scancel", f"{job}_1")
    ended = {task: slurm.ended(f"{job}_{task}")["JobState"] for task in range(1, 6)}
    assert ended == {1: "CANCELLED", 2: "COMPLETED", 3: "COMPLETED", 4: "FAILED", 5: "FAILED"}
    assert states(tmp_path) == {"nope-seed0": "training", "nope-seed1": "finished", "rope-seed0": "finished"}
    assert "error: scale.heads is 0" in (tmp_path / f"slurm-{job}_4.out").read_text()
    last = (tmp_path / f"slurm-{job}_5.out").read_text()
    assert "error: sweep.txt has no line 5: sbatch --array=1-4 slurm/sweep.sbatch sweep.txt" in last
    begun, waiting = status(slurm, tmp_path)
    assert (begun[f"{job}_1"]["state"], begun[f"{job}_1"]["job's state"]) == ("interrupted", "cancelled")
    assert (begun[f"{job}_2"]["state"], begun[f"{job}_2"]["job's state"]) == ("finished", "completed")
    assert waiting[f"{job}_4"]["job's state"] == "failed with exit code 1"
    assert len(list((tmp_path / "runs" / ".jobs").iterdir())) == 1  # one copy of the code for all


def test_a_sweep_is_submitted_without_an_array_or_a_plan(slurm: Cluster, tmp_path: Path) -> None:
    (tmp_path / "sweep.txt").write_text("seed=0\nseed=1\n")
    wrong = {
        slurm.sbatch(SWEEP, "sweep.txt", cwd=tmp_path): "sbatch --array=1-2 slurm/sweep.sbatch sweep.txt",
        slurm.sbatch(SWEEP, "other.txt", cwd=tmp_path): "there is no plan 'other.txt'",
    }
    for job, told in wrong.items():
        assert slurm.ended(job)["JobState"] == "FAILED"
        (path,) = tmp_path.glob(f"slurm-{job}_*.out")
        assert told in path.read_text()


def test_a_multirun_through_the_launcher_saves_requeues_and_tells_what_failed(slurm: Cluster, tmp_path: Path) -> None:
    sweep = ("-m", *SMOKE, "model=nope,rope", "scale.kv_heads=1,0", "scale.tokens=122880", *LAUNCHER)
    for name in ("lab", "conf", "data"):
        shutil.copytree(ROOT / name, tmp_path / "code" / name)
    process = started(slurm, tmp_path, *sweep, PYTHONPATH=str(tmp_path / "code"))
    alive(process, lambda: list(tmp_path.glob("runs/nope-*/checkpoints/step=*")))
    (queued,) = {line.partition("_")[0] for line in slurm.ask("squeue", "--noheader", "--format=%i").splitlines()}
    shutil.rmtree(tmp_path / "code")  # what was submitted is gone, and the jobs go on
    slurm.ask("scancel", "--signal=USR2", f"{queued}_0")
    slurm.requeued(f"{queued}_0", 1)
    out, err = process.communicate(timeout=900)
    assert process.returncode == 1, out + err
    assert "Traceback" not in out + err
    assert f"job {queued}: 4 runs are submitted" in out
    assert "SLURM keeps no accounts here" in out
    assert f"job {queued}_0 (model=nope scale.kv_heads=1): done" in out
    assert f"job {queued}_1 (model=nope scale.kv_heads=0): scale.kv_heads is 0: give 1 or more" in out
    assert err.splitlines()[-1] == "error: 2 of 4 runs failed; the table above says why"
    assert states(tmp_path) == {"nope-seed0": "finished", "rope-seed0": "finished"}
    logs = (tmp_path / "runs" / ".submitit" / f"{queued}_0").glob("*_log.*")
    log = "".join(path.read_text() for path in sorted(logs))
    assert re.search(r"SIGUSR2 came: saved at optimiser step \d+ of 120", log), log
    assert log.count("Requeued job") == 1


def test_a_run_of_two_ranks_through_the_launcher_is_requeued_once_and_continued(slurm: Cluster, tmp_path: Path) -> None:
    ranks = ("trainer.strategy=ddp", "trainer.devices=2", "hydra.launcher.tasks_per_node=2")
    process = started(slurm, tmp_path, "-m", *SMOKE, "scale.tokens=122880", "seed=0", *ranks, *LAUNCHER)
    alive(process, lambda: list(tmp_path.glob("runs/*/checkpoints/step=*")))
    (job,) = slurm.ask("squeue", "--noheader", "--format=%i").splitlines()
    slurm.ask("scancel", "--signal=USR2", job)
    slurm.requeued(job, 1)
    out, err = process.communicate(timeout=900)
    assert process.returncode == 0, out + err
    assert states(tmp_path) == {"nope-seed0": "finished"}
    assert [attempt["ranks"] for attempt in manifest_of(tmp_path)["attempts"]] == [2, 2]
    log = "".join(path.read_text() for path in (tmp_path / "runs" / ".submitit" / job).glob("*_log.*"))
    assert re.search(r"SIGUSR2 came: saved at optimiser step \d+ of 120", log), log
    assert log.count("Requeued job") == 1


def test_a_killed_job_ends_the_wait_without_accounts(slurm: Cluster, tmp_path: Path) -> None:
    assert_a_killed_job_ends_the_wait(slurm, tmp_path)


def test_a_killed_job_ends_the_wait_with_accounts(slurm_with_accounting: Cluster, tmp_path: Path) -> None:
    assert_a_killed_job_ends_the_wait(slurm_with_accounting, tmp_path)


def assert_a_killed_job_ends_the_wait(cluster: Cluster, folder: Path) -> None:
    process = started(cluster, folder, "-m", *SMOKE, "scale.tokens=4096000", "seed=0", *LAUNCHER)
    alive(process, lambda: list(folder.glob("runs/*/checkpoints/step=*")))
    (lock,) = folder.glob("runs/.*.lock")
    os.kill(int(re.search(r'"process": (\d+)', lock.read_text())[1]), signal.SIGKILL)  # type: ignore[index]
    out, err = process.communicate(timeout=900)
    assert process.returncode == 1
    assert "Traceback" not in out + err
    assert re.search(r"the job has ended as FAILED and has left no result; .*_log\.err may say why", out), out + err


def test_what_cannot_be_submitted_is_one_line(slurm: Cluster, tmp_path: Path) -> None:
    sweep = ("-m", *SMOKE, "seed=0,1", *LAUNCHER)
    line = the_one_line(train(slurm, tmp_path, *sweep, "hydra.launcher.partition=nosuch"))
    assert "sbatch refuses the jobs: invalid partition specified: nosuch" in line
    only = tmp_path / "bin"
    only.mkdir()
    (only / "git").symlink_to(shutil.which("git") or "/usr/bin/git")
    line = the_one_line(train(slurm, tmp_path, *sweep, PATH=str(only)))
    assert "there is no sbatch here" in line
