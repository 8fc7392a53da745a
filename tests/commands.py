"""Run the lab's commands as a user does."""

import atexit
import functools
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

LONGEST_SECONDS = 600
FORKED = Path(__file__).with_name("forked")


def lab(
    command: str,
    *arguments: str,
    cwd: Path,
    before: Callable[[], None] | None = None,
    environment: dict[str, str] | None = None,
) -> subprocess.CompletedProcess[str]:
    """``python -m lab.<command> <arguments>`` in ``cwd``; ``before`` runs in the new process, to set its limits.

    Without either of the two last it is a fork of a process that has loaded the libraries.
    """
    python = [sys.executable]
    if before is None and environment is None:
        python, environment = [sys.executable, "-S", "-E", str(FORKED / "python")], os.environ | forked()
    return subprocess.run(
        [*python, "-m", f"lab.{command}", *arguments],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=LONGEST_SECONDS,
        check=False,
        preexec_fn=before,
        env=environment,
    )


@functools.cache
def forked() -> dict[str, str]:
    """What the environment of FORKED / "python" needs: a process is loaded now, of which ``python -m lab.<command>`` is
    a fork then (fork_server.py), and which ends with this one."""
    socket = Path(tempfile.mkdtemp(prefix="commands-"), "socket")
    server = subprocess.Popen(
        [sys.executable, FORKED.with_name("fork_server.py"), socket],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,  # as those of most forks: Python asks a file for its place
        start_new_session=True,
    )
    atexit.register(os.killpg, server.pid, signal.SIGKILL)
    while not socket.exists():
        assert server.poll() is None, "the server of forks has ended"
        time.sleep(0.05)
    return {"FORKED_SERVER": str(socket)}


def the_one_line(result: subprocess.CompletedProcess[str], last: bool = False) -> str:
    """The single line of a refused command; fails if there is a traceback, another exit code, or, unless only the
    `last` line is asked for, more."""
    assert result.returncode == 1, result.stdout + result.stderr
    assert "Traceback" not in result.stdout + result.stderr
    lines = [line for line in (result.stdout + result.stderr).splitlines() if line.strip()]
    assert last or len(lines) == 1, lines
    assert lines[-1].startswith("error: ")
    return lines[-1]
