"""lab.status chooses runs by name and by where they were trained, and removes those and no others."""

import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from commands import the_one_line

from lab.runs.manifest import write_manifest
from lab.runs.run import Run


@pytest.fixture
def runs(here: Callable, tmp_path: Path) -> Path:
    """A run of this machine, one of another, and one of this with another number of threads."""
    command = ("experiment=smoke", "logger=csv", "measure=none", "model=rope", "scale.tokens=4096", "runs=made")
    assert here("train", *command, folder=tmp_path).returncode == 0
    (made,) = [path.parent for path in tmp_path.glob("made/*/manifest.json")]
    for name, changes in (("rope-here", {}), ("rope-there", {"cpu": "Other"}), ("nope-threads", {"threads": 99})):
        run = Run(tmp_path / "runs" / name)
        shutil.copytree(made, run.path)
        attempts = run.manifest["attempts"]
        attempts[0]["hardware"] |= changes
        write_manifest(run.path, run.manifest | {"attempts": attempts})
    return tmp_path / "runs"


def left(runs: Path) -> list[str]:
    return sorted(path.parent.name for path in runs.glob("*/manifest.json"))


def test_only_runs_whose_name_fits_are_listed_and_removed(runs: Path, here: Callable, tmp_path: Path) -> None:
    listed = here("status", str(runs), "--match", "rope-*", folder=tmp_path)
    assert listed.returncode == 0, listed.stderr
    assert "rope-here" in listed.stdout
    assert "nope-threads" not in listed.stdout
    assert here("status", str(runs), "--match", "nope-*", "--remove", "--yes", folder=tmp_path).returncode == 0
    assert left(runs) == ["rope-here", "rope-there"]


def test_only_runs_of_another_kind_of_machine_are_removed_whatever_the_number_of_threads(
    runs: Path, here: Callable, tmp_path: Path
) -> None:
    result = here("status", str(runs), "--elsewhere", "--remove", "--yes", folder=tmp_path)
    assert result.returncode == 0, result.stderr
    assert left(runs) == ["nope-threads", "rope-here"]
    result = here("status", str(runs), "--elsewhere", "--remove", "--yes", folder=tmp_path)
    assert result.returncode == 0
    assert "nothing was removed" in result.stdout
    assert left(runs) == ["nope-threads", "rope-here"]


def test_the_list_is_printed_again_and_again_until_it_is_stopped(runs: Path, here: Callable, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "lab.status", str(runs), "--watch", "0.2"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    begun, seen = time.monotonic(), 0
    while seen < 2 and time.monotonic() - begun < 120:
        seen += "rope-here" in process.stdout.readline()
    process.terminate()
    process.communicate(timeout=300)
    assert seen == 2
    assert "--watch is 0" in the_one_line(here("status", str(runs), "--watch", "0", folder=tmp_path))
    assert "--watch is 1e+300: give" in the_one_line(here("status", str(runs), "--watch", "1e300", folder=tmp_path))
    assert "'1e400' is no finite number" in the_one_line(here("status", str(runs), "--watch", "1e400", folder=tmp_path))
