"""Places at which the kill tests let a process die, or be asked to stop."""

import os
import signal

_passed: dict[str, int] = {}


def point(name: str) -> None:
    """What the variable LAB_KILL_AT says happens here, if it is of this name, when the process comes here for the Nth
    time: NAME or NAME:N, it kills itself; NAME:N=INT+TERM, it gets these signals, one right after the other."""
    place, _, signals = os.environ.get("LAB_KILL_AT", "").partition("=")
    wanted, _, time = place.partition(":")
    if wanted == name:
        _passed[name] = _passed.get(name, 0) + 1
        if _passed[name] == int(time or 1):
            for each in (signals or "KILL").split("+"):
                os.kill(os.getpid(), signal.Signals[f"SIG{each}"])
