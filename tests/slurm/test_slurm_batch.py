"""slurm/train.sbatch as it is shipped: trained, stopped, requeued, preempted, failed and cancelled by a real SLURM."""

import os
import re
import shutil
from pathlib import Path

import pytest
from conftest import ROOT, SMOKE, Cluster, until
from outcomes import LONG, kept, last_checkpoint, manifest_of, run_of

TRAIN = str(ROOT / "slurm" / "train.sbatch")


def output_of(folder: Path, job: str) -> str:
    return (folder / f"slurm-{job}.out").read_text()


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
    # The code is a copy, so that it can be changed while the job is in the queue.
    for name in ("lab", "conf", "data", "slurm", "pyproject.toml"):
        source = ROOT / name
        (shutil.copytree if source.is_dir() else shutil.copy)(source, tmp_path / "code" / name)  # type: ignore[operator]
    job = slurm.sbatch(str(tmp_path / "code" / "slurm" / "train.sbatch"), *SMOKE, *LONG, cwd=tmp_path)
    stops = []
    for count, step in enumerate((20, 60), start=1):
        until(lambda step=step: last_checkpoint(tmp_path) >= step)
        slurm.ask("scancel", "--batch", "--signal=USR1", job)
        slurm.requeued(job, count)
        stops.append(last_checkpoint(tmp_path))
        shutil.rmtree(tmp_path / "code", ignore_errors=True)
    shown = slurm.ended(job)
    output = output_of(tmp_path, job)
    assert (shown["JobState"], shown["Restarts"]) == ("COMPLETED", "2"), output
    assert kept(tmp_path) == kept(whole)
    assert re.findall(r"saved at optimiser step (\d+) of 120", output) == [str(step) for step in stops]
    assert re.findall(r"continuing after optimiser step (\d+) of 120", output) == [str(step) for step in stops]
    assert output.count(f"job {job} goes back to the queue") == 2
    assert [stretch["job"]["restarts"] for stretch in manifest_of(tmp_path)["stretches"]] == [0, 1, 2]
    assert {stretch["job"]["id"] for stretch in manifest_of(tmp_path)["stretches"]} == {job}
