"""Run the lab's commands as a user does."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path


def lab(
    command: str,
    *arguments: str,
    cwd: Path,
    before: Callable[[], None] | None = None,
    environment: dict[str, str] | None = None,
) -> subprocess.CompletedProcess[str]:
    """``python -m lab.<command> <arguments>`` in ``cwd``; ``before`` runs in the new process, to set its limits."""
    return subprocess.run(
        [sys.executable, "-m", f"lab.{command}", *arguments],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        preexec_fn=before,
        env=environment,
    )


def the_one_line(result: subprocess.CompletedProcess[str], last: bool = False) -> str:
    """The single line of a refused command; fails if there is a traceback, another exit code, or, unless only the
    `last` line is asked for, more."""
    assert result.returncode == 1, result.stdout + result.stderr
    assert "Traceback" not in result.stdout + result.stderr
    lines = [line for line in (result.stdout + result.stderr).splitlines() if line.strip()]
    assert last or len(lines) == 1, lines
    assert lines[-1].startswith("error: ")
    return lines[-1]
