"""A search for RoPE's factors that is killed ends, begun again, in what it would have ended in."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

from commands import lab

KEYS = (
    "extension=longrope",
    "extension.factor=8",
    "search.documents=2",
    "search.processes=2",
    "search.evolution.population=16",
    "search.evolution.parents=8",
    "search.evolution.mutants=4",
    "search.evolution.crossovers=4",
    "search.evolution.generations=3",
)
LONGEST_SECONDS = 300


def lines(folder: Path) -> int:
    return sum(len(path.read_text().splitlines()) for path in folder.glob(".*search*/candidates.csv"))


def killed(folder: Path, run: str, after: int) -> None:
    """Begin the search, and kill -9 it once its log has so many lines."""
    command = [sys.executable, "-m", "lab.extend", f"run={run}", *KEYS]
    process = subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    begun = time.monotonic()
    while lines(folder / "runs") < after and process.poll() is None:
        assert time.monotonic() - begun < LONGEST_SECONDS
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL


def test_a_search_that_is_killed_twice_ends_in_the_same_factors_and_table(tmp_path: Path) -> None:
    done = lab("train", "experiment=smoke", "model=rope", "measure=none", "logger=csv", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    (run,) = (tmp_path / "runs").glob("rope-*")
    shutil.copytree(tmp_path / "runs", tmp_path / "whole" / "runs")
    name = f"runs/{run.name}"
    whole = lab("extend", f"run={name}", *KEYS, cwd=tmp_path / "whole")
    assert whole.returncode == 0, whole.stderr
    for after in (5, 25):
        killed(tmp_path, name, after)
    again = lab("extend", f"run={name}", *KEYS, cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    (one,), (other,) = ((each / "runs").glob("*-longrope-*") for each in (tmp_path, tmp_path / "whole"))
    assert one.name == other.name
    assert (one / "search.csv").read_bytes() == (other / "search.csv").read_bytes()
    assert not [*(tmp_path / "runs").glob(".*search*")]
