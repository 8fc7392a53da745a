"""Run the lab's commands as a user does."""

import atexit
import functools
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

LONGEST_SECONDS = 600


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
    if before is None and environment is None:
        return _fork_server().run(command, arguments, cwd)
    return subprocess.run(
        [sys.executable, "-m", f"lab.{command}", *arguments],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=LONGEST_SECONDS,
        check=False,
        preexec_fn=before,
        env=environment,
    )


@functools.cache
def _fork_server() -> "ForkServer":
    return ForkServer()


class ForkServer:
    """See fork_server.py; it is started anew if it had to be killed."""

    def __init__(self) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="commands-"))
        self._server: subprocess.Popen[str] | None = None
        atexit.register(self.close)

    def run(self, command: str, arguments: tuple[str, ...], cwd: Path) -> subprocess.CompletedProcess[str]:
        """Raises subprocess.TimeoutExpired as :func:`subprocess.run` does."""
        if self._server is None:
            server = Path(__file__).with_name("fork_server.py")
            self._server = subprocess.Popen(
                [sys.executable, server],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                start_new_session=True,
            )
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        outputs = {name: self._folder / name for name in ("stdout", "stderr")}
        for path in outputs.values():
            path.write_bytes(b"")
        asked = {"command": command, "arguments": arguments, "folder": str(cwd), "environment": dict(os.environ)}
        asked |= {name: str(path) for name, path in outputs.items()}
        self._server.stdin.write(json.dumps(asked) + "\n")
        self._server.stdin.flush()
        if not select.select([self._server.stdout], [], [], LONGEST_SECONDS)[0]:
            self.close()
            raise subprocess.TimeoutExpired([command, *arguments], LONGEST_SECONDS)
        code = int(self._server.stdout.readline())
        told = {name: path.read_text(encoding="utf-8") for name, path in outputs.items()}
        return subprocess.CompletedProcess([command, *arguments], code, **told)

    def close(self) -> None:
        if self._server is not None:
            os.killpg(self._server.pid, signal.SIGKILL)
            self._server.wait()
            self._server = None


def the_one_line(result: subprocess.CompletedProcess[str], last: bool = False) -> str:
    """The single line of a refused command; fails if there is a traceback, another exit code, or, unless only the
    `last` line is asked for, more."""
    assert result.returncode == 1, result.stdout + result.stderr
    assert "Traceback" not in result.stdout + result.stderr
    lines = [line for line in (result.stdout + result.stderr).splitlines() if line.strip()]
    assert last or len(lines) == 1, lines
    assert lines[-1].startswith("error: ")
    return lines[-1]
