"""What a long job prints: a bar on a terminal, plain lines in a log."""

import os
import subprocess
import sys
import time
from pathlib import Path

from terminals import read_all, terminal

JOB = """
import time
from lab.base import progress
progress.LINE_SECONDS = {seconds}
for _ in progress.progress("a label", "items", range({items})):
    time.sleep({pause})
"""


def logged(items: int, seconds: float, pause: float = 0.0) -> bytes:
    script = JOB.format(items=items, seconds=seconds, pause=pause)
    return subprocess.run([sys.executable, "-c", script], capture_output=True, check=True).stderr


def test_a_log_has_lines_and_none_twice() -> None:
    said = logged(items=40, seconds=0.1, pause=0.02)
    assert b"\r" not in said
    assert said.endswith(b"\n")
    lines = said.decode("ascii").splitlines()
    assert 4 <= len(lines) <= 14
    assert len(set(lines)) == len(lines)
    assert all(line.startswith("a label:") and " items/s" in line for line in lines), lines
    assert "100%" in lines[-1]
    assert [line for line in lines if "100%" in line] == lines[-1:]


def test_a_job_that_is_done_at_once_says_its_end_once() -> None:
    (line,) = logged(items=3, seconds=30).decode().splitlines()
    assert "100%" in line


def test_on_a_terminal_a_command_says_at_once_that_it_starts(tmp_path: Path) -> None:
    ours, its = terminal()
    begun = time.monotonic()
    command = [sys.executable, "-m", "lab.extrapolate", "runs=nothing"]
    with subprocess.Popen(command, cwd=tmp_path, stderr=its, stdout=subprocess.DEVNULL) as process:
        os.close(its)
        first = os.read(ours, 100)
        waited = time.monotonic() - begun
        rest = read_all(ours)
    took = time.monotonic() - begun
    assert first.splitlines()[0] == b"starting"
    assert b"error: nothing: no such run" in rest
    assert process.returncode == 1
    assert waited < took / 2, (waited, took)


def test_on_a_terminal_a_bar_is_drawn_over_itself() -> None:
    ours, its = terminal()
    script = JOB.format(items=40, seconds=30, pause=0.02)
    with subprocess.Popen([sys.executable, "-c", script], stderr=its):
        os.close(its)
        told = read_all(ours)
    assert told.count(b"\r") > 3
    assert told.count(b"\n") == 1  # at its end
