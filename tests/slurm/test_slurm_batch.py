"""slurm/train.sbatch as it is shipped: trained, stopped, requeued, preempted, failed and cancelled by a real SLURM."""

import contextlib
import re
import shutil
import time
from pathlib import Path

import pytest
from cluster import ROOT, SMOKE, Cluster, until
from outcomes import LONG, kept, last_checkpoint, manifest_of, run_of

from lab.base.tables import read_table
from lab.runs.lock import holder

TRAIN = str(ROOT / "slurm" / "train.sbatch")


def output_of(folder: Path, job: str) -> str:
    return (folder / f"slurm-{job}.out").read_text()


def errors_of(folder: Path, job: str) -> list[str]:
    """The lines of a job's output that tell errors of the lab; fails if there is a traceback."""
    output = output_of(folder, job)
    assert "Traceback" not in output
    return [line for line in output.splitlines() if line.startswith("error: ")]


def copied(folder: Path) -> Path:
    """train.sbatch in a copy of the lab's source tree."""
    for name in ("lab", "conf", "data", "slurm"):
        shutil.copytree(ROOT / name, folder / name)
    shutil.copy(ROOT / "pyproject.toml", folder)
    return folder / "slurm" / "train.sbatch"


def processes_in(folder: Path) -> list[str]:
    """The commands of the lab that run in a folder; what starts them is none."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            words = (process / "cmdline").read_text().split("\0")
            if words[1:3] == ["-m", "lab.train"] and (process / "cwd").resolve() == folder.resolve():
                found.append(process.name)
    return found


@pytest.fixture(scope="module")
def whole(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that was never interrupted."""
    folder = tmp_path_factory.mktemp("whole")
    job = cluster.sbatch(TRAIN, *SMOKE, *LONG, cwd=folder)
    shown = cluster.ended(job)
    assert shown["JobState"] == "COMPLETED", output_of(folder, job)
    assert manifest_of(folder)["state"] == "finished"
    return folder


def test_a_run_that_runs_out_of_time_twice_ends_bit_identical(slurm: Cluster, whole: Path, tmp_path: Path) -> None:
    # What a requeued job has begun is not to be overwritten by itself.
    job = slurm.sbatch(str(copied(tmp_path / "code")), *SMOKE, *LONG, "overwrite=true", cwd=tmp_path)
    stops = []
    for count, step in enumerate((20, 60), start=1):
        slurm.during(job, lambda step=step: last_checkpoint(tmp_path) >= step)
        slurm.ask("scancel", "--batch", "--signal=USR1", job)
        slurm.requeued(job, count)
        stops.append(last_checkpoint(tmp_path))
        shutil.rmtree(tmp_path / "code", ignore_errors=True)  # what was submitted is gone, and the job goes on
    shown = slurm.ended(job)
    output = output_of(tmp_path, job)
    assert (shown["JobState"], shown["Restarts"]) == ("COMPLETED", "2"), output
    assert kept(tmp_path) == kept(whole)
    assert re.findall(r"saved at optimiser step (\d+) of 120", output) == [str(step) for step in stops]
    assert re.findall(r"continuing after optimiser step (\d+) of 120", output) == [str(step) for step in stops]
    assert output.count(f"job {job} goes back to the queue") == 2
    attempts = manifest_of(tmp_path)["attempts"]
    assert [(attempt["job"]["id"], attempt["job"]["restarts"]) for attempt in attempts] == [(job, n) for n in range(3)]
    assert {attempt["code"]["commit"] for attempt in attempts} == {attempts[0]["code"]["commit"]}


def test_slurm_warns_before_the_time_limit_and_a_job_is_requeued_so_often_only(slurm: Cluster, tmp_path: Path) -> None:
    script = copied(tmp_path / "code")
    text = script.read_text()
    script.write_text(text.replace("RESTARTS=100", "RESTARTS=0"))
    assert script.read_text() != text
    job = slurm.sbatch(str(script), *SMOKE, "scale.tokens=40960000", cwd=tmp_path)
    slurm.during(job, lambda: last_checkpoint(tmp_path) >= 20)
    # The warning comes 300 s before the limit: at SLURM's next look at the job, within half a minute.
    slurm.ask("scontrol", "update", f"jobid={job}", "TimeLimit=5")
    shown = slurm.ended(job)
    assert (shown["JobState"], shown["Restarts"], shown["ExitCode"]) == ("FAILED", "0", "1:0")
    line = "error: not requeued, as RESTARTS at the top of the script is 0; the same sbatch continues it"
    assert output_of(tmp_path, job).splitlines()[-1] == line


def test_a_warning_that_comes_while_srun_launches_the_run_is_told_again(slurm: Cluster, tmp_path: Path) -> None:
    slow = tmp_path / "prolog"  # what srun runs before it launches
    slow.write_text("#!/bin/bash\ntouch launching\nsleep 3\n")
    slow.chmod(0o755)
    job = slurm.sbatch(TRAIN, *SMOKE, "scale.tokens=40960000", cwd=tmp_path, SLURM_PROLOG=str(slow))
    slurm.during(job, (tmp_path / "launching").exists)
    slurm.ask("scancel", "--batch", "--signal=USR1", job)
    slurm.requeued(job, 1)
    slurm.ask("scancel", job)
    assert "SIGUSR1 came: saved at optimiser step" in output_of(tmp_path, job)


def test_a_warning_before_the_run_can_listen_is_an_error_and_no_requeue(slurm: Cluster, tmp_path: Path) -> None:
    job = slurm.sbatch(TRAIN, *SMOKE, *LONG, cwd=tmp_path)
    slurm.during(job, lambda: processes_in(tmp_path))
    slurm.ask("scancel", "--batch", "--signal=USR1", job)
    shown = slurm.ended(job)
    assert (shown["JobState"], shown["Restarts"], shown["ExitCode"]) == ("FAILED", "0", "1:0")
    (line,) = errors_of(tmp_path, job)
    assert "came before the run could listen; give more --time" in line


def test_a_preempted_run_saves_and_is_requeued_by_slurm_alone(slurm: Cluster, whole: Path, tmp_path: Path) -> None:
    job = slurm.sbatch("--exclusive", "--nodelist=n1", TRAIN, *SMOKE, *LONG, cwd=tmp_path)
    slurm.during(job, lambda: last_checkpoint(tmp_path) >= 20)
    slurm.sbatch("--partition=urgent", "--exclusive", "--nodelist=n1", "--wrap=sleep 1", cwd=tmp_path)
    shown = slurm.ended(job)
    output = output_of(tmp_path, job)
    assert (shown["JobState"], shown["Restarts"]) == ("COMPLETED", "1"), output
    assert "SIGTERM came: saved at optimiser step" in output
    assert "goes back to the queue" not in output  # SLURM does it
    assert kept(tmp_path) == kept(whole)


def test_a_requeued_job_goes_on_by_itself_where_slurm_waits_in_full(
    slurm_with_accounting: Cluster, whole: Path, tmp_path: Path
) -> None:
    slurm = slurm_with_accounting
    job = slurm.sbatch(TRAIN, *SMOKE, *LONG, cwd=tmp_path)
    slurm.during(job, lambda: last_checkpoint(tmp_path) >= 20)
    slurm.ask("scancel", "--batch", "--signal=USR1", job)
    until(lambda: slurm.show(job)["Restarts"] == "1")
    begun = time.monotonic()
    until(lambda: slurm.show(job)["JobState"] == "RUNNING")
    assert time.monotonic() - begun > 60
    shown = slurm.ended(job)
    assert (shown["JobState"], shown["Restarts"]) == ("COMPLETED", "1"), output_of(tmp_path, job)
    assert kept(tmp_path) == kept(whole)


def test_a_run_whose_node_fails_is_requeued_by_slurm_alone_and_ends_bit_identical(
    slurm: Cluster, whole: Path, tmp_path: Path
) -> None:
    job = slurm.sbatch("--nodelist=n2", TRAIN, *SMOKE, *LONG, cwd=tmp_path)
    slurm.during(job, lambda: last_checkpoint(tmp_path) >= 20)
    # Drained first: its slurmd is alive, and would bring it back at once.
    for state in ("drain", "down"):
        slurm.ask("scontrol", "update", "nodename=n2", f"state={state}", "reason=test")
    try:
        until(lambda: slurm.show(job)["Restarts"] == "1")
        slurm.ask("scontrol", "hold", job)
        until(lambda: holder(run_of(tmp_path)) is None)  # both nodes are one machine: what has failed must end first
    finally:
        slurm.ask("scontrol", "update", "nodename=n2", "state=resume")
    slurm.ask("scontrol", "update", f"jobid={job}", "reqnodelist=n1")
    slurm.ask("scontrol", "release", job)
    shown = slurm.ended(job)
    output = output_of(tmp_path, job)
    assert (shown["JobState"], shown["Restarts"], shown["NodeList"]) == ("COMPLETED", "1", "n1"), output
    assert "goes back to the queue" not in output
    assert kept(tmp_path) == kept(whole)


def test_a_cancelled_run_saves_and_is_not_requeued(slurm: Cluster, tmp_path: Path) -> None:
    job = slurm.sbatch(TRAIN, *SMOKE, "scale.tokens=4096000", cwd=tmp_path)
    slurm.during(job, lambda: last_checkpoint(tmp_path) > 0)
    slurm.ask("scancel", job)
    shown = slurm.ended(job)
    assert (shown["JobState"], shown["Restarts"]) == ("CANCELLED", "0")
    saved = re.search(r"SIGTERM came: saved at optimiser step (\d+) of 4000", output_of(tmp_path, job))
    assert saved is not None
    assert last_checkpoint(tmp_path) == int(saved[1])


def test_a_job_that_fails_says_why_and_is_not_requeued(slurm: Cluster, tmp_path: Path) -> None:
    # Each costs the imports once; they run beside one another.
    wrong = {
        slurm.sbatch(TRAIN, *SMOKE, "scale.heads=0", cwd=tmp_path): "scale.heads is 0",
        slurm.sbatch(TRAIN, *SMOKE, "runs=/proc/runs", cwd=tmp_path): "/proc/runs",
        slurm.sbatch("--ntasks-per-node=2", TRAIN, *SMOKE, cwd=tmp_path): "each would train the whole run",
        slurm.sbatch(
            *("--ntasks-per-node=2", TRAIN, *SMOKE, "trainer.strategy=ddp", "trainer.devices=1"), cwd=tmp_path
        ): "it must be one process a device",
    }
    for job, told in wrong.items():
        shown = slurm.ended(job)
        assert (shown["JobState"], shown["Restarts"], shown["ExitCode"]) == ("FAILED", "0", "1:0")
        lines = errors_of(tmp_path, job)
        assert lines
        assert all(told in line for line in lines), lines
    assert not list(tmp_path.glob("runs/*/manifest.json"))


def test_a_script_that_cannot_do_its_work_says_so(slurm: Cluster, tmp_path: Path) -> None:
    shutil.copytree(ROOT / "slurm", tmp_path / "alone" / "slurm")
    (tmp_path / "runs").write_text("a file")
    script = tmp_path / "alone" / "slurm" / "train.sbatch"
    copies = (tmp_path / "copies").as_posix()
    text = script.read_text().replace("COPIES=runs/.jobs", f"COPIES={copies}")

    def submit(name: str, python: str) -> str:
        script.with_name(name).write_text(text.replace("PYTHON=(python)", f"PYTHON=({python})"))
        return slurm.sbatch(str(script.with_name(name)), cwd=tmp_path)

    jobs = {
        submit("in_place.sbatch", "python"): "the lab is installed in place; submit the scripts that lie in its source",
        submit("none.sbatch", "python -I -S"): "nor is one installed for .*python",
        submit("absent.sbatch", "apptainer-9 exec"): r"there is no apptainer-9 on node n\d: see the top of the script",
        slurm.sbatch(TRAIN, cwd=tmp_path): r"runs/.jobs cannot be written on node n\d: .*; choose",
    }
    for job, told in jobs.items():
        assert slurm.ended(job)["JobState"] == "FAILED"
        (line,) = errors_of(tmp_path, job)
        assert re.search(told, line)
    assert list(Path(copies).iterdir()) == []


def test_scripts_that_a_wheel_has_written_out_train_with_the_lab_that_is_installed(
    slurm: Cluster, whole: Path, tmp_path: Path
) -> None:
    source, site, folder = (tmp_path / name for name in ("source", "site", "folder"))
    for name in ("lab", "conf", "data", "slurm"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    folder.mkdir()
    installed = slurm.run(
        *("python", "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--target", str(site)),
        str(source),
        timeout=900,
    )
    assert installed.returncode == 0, installed.stderr
    shutil.rmtree(source)
    wrote = slurm.run("python", "-m", "lab.prepare", "slurm", cwd=folder, PYTHONPATH=str(site))
    assert wrote.returncode == 0, wrote.stderr
    script = folder / "slurm" / "train.sbatch"
    script.write_text(script.read_text().replace("PYTHON=(python)", "PYTHON=(env LAB_IN_CONTAINER=1 python)"))
    job = slurm.sbatch(str(script), *SMOKE, *LONG, cwd=folder, PYTHONPATH=str(site))
    slurm.during(job, lambda: last_checkpoint(folder) >= 20)
    slurm.ask("scancel", "--batch", "--signal=USR1", job)
    shutil.rmtree(site)  # the job goes on from its copy
    slurm.requeued(job, 1)
    shown = slurm.ended(job)
    assert (shown["JobState"], shown["Restarts"]) == ("COMPLETED", "1"), output_of(folder, job)
    assert kept(folder) == kept(whole)
    attempts = manifest_of(folder)["attempts"]
    assert {attempt["code"]["commit"] for attempt in attempts} == {"unknown"}
    assert {attempt["code"]["sha256"] for attempt in attempts} == {
        attempt["code"]["sha256"] for attempt in manifest_of(whole)["attempts"]
    }


def test_two_nodes_train_as_one_process_does_and_save_together(slurm: Cluster, whole: Path, tmp_path: Path) -> None:
    ddp = ("trainer.strategy=ddp", "trainer.devices=auto")
    job = slurm.sbatch("--nodes=2", TRAIN, *SMOKE, *LONG, *ddp, cwd=tmp_path)
    slurm.during(job, lambda: last_checkpoint(tmp_path) >= 20)
    slurm.ask("scancel", "--batch", "--signal=USR1", job)
    slurm.requeued(job, 1)
    shown = slurm.ended(job)
    output = output_of(tmp_path, job)
    assert (shown["JobState"], shown["Restarts"], shown["NodeList"]) == ("COMPLETED", "1", "n[1-2]"), output
    assert output.count("SIGUSR1: stopping after this step") == 1
    manifest = manifest_of(tmp_path)
    assert [attempt["ranks"] for attempt in manifest["attempts"]] == [2, 2]
    assert manifest["blocks"] == manifest_of(whole)["blocks"]
    ours, theirs = (
        read_table(run_of(folder) / "metrics.csv", ("step", "loss_nats"), "") for folder in (tmp_path, whole)
    )
    assert [row["order_fingerprint"] for row in ours] == [row["order_fingerprint"] for row in theirs]
    # As in tests/processes/test_ranks.py, for six times as many steps.
    assert [row["loss_nats"] for row in ours] == pytest.approx([row["loss_nats"] for row in theirs], rel=2e-5)


def test_plain_python_in_an_interactive_step_of_a_job_of_four_tasks_is_one_process(
    slurm: Cluster, tmp_path: Path
) -> None:
    # What salloc starts a shell with where LaunchParameters has use_interactive_step: SLURM_NTASKS is the job's, 4.
    step = ("salloc", "--ntasks=4", "srun", "--interactive", "--preserve-env", "--ntasks=1")
    asked = slurm.run(*step, "env", cwd=tmp_path)
    assert {"SLURM_NTASKS=4", "SLURM_STEP_NUM_TASKS=1"} <= set(asked.stdout.splitlines()), asked.stdout + asked.stderr
    result = slurm.run(*step, "python", "-m", "lab.train", *SMOKE, cwd=tmp_path, timeout=600)
    assert result.returncode == 0, result.stderr
    assert manifest_of(tmp_path)["attempts"][0]["ranks"] == 1
