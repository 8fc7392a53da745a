"""Places at which the kill tests let a process die."""

import os
import signal

_passed: dict[str, int] = {}


def point(name: str) -> None:
    """The process kills itself here if the variable LAB_KILL_AT is this NAME or, for the Nth time, NAME:N."""
    wanted, _, time = os.environ.get("LAB_KILL_AT", "").partition(":")
    if wanted == name:
        _passed[name] = _passed.get(name, 0) + 1
        if _passed[name] == int(time or 1):
            os.kill(os.getpid(), signal.SIGKILL)
