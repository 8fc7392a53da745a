"""Signals that ask a run to stop: it saves a checkpoint after the optimiser step in hand and ends with code 75."""

import signal
import sys
from types import FrameType
from typing import Any

# What a person (INT), an operating system (TERM) and clusters (USR1, USR2) send before they kill.
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2)


class Interrupted(Exception):
    """The run was asked to stop and has; the message is one line. The same command continues it.

    Args:
        received: the name of the signal that asked.
    """

    EXIT_CODE = 75  # EX_TEMPFAIL of sysexits.h: try again

    def __init__(self, message: str, received: str | None = None) -> None:
        super().__init__(message)
        self.received = received


class Interruption:
    """While it is entered, the signals above set `received` to the name of the first and do nothing else.

    A second SIGINT is not waited for: it raises KeyboardInterrupt. Without ``tells`` nothing is
    printed, as another process prints it.
    """

    def __init__(self, tells: bool = True) -> None:
        self.tells = tells
        self.received: str | None = None
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> "Interruption":
        self._before = {number: signal.getsignal(number) for number in SIGNALS}
        self.install()
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def install(self) -> None:
        """Take the signals, again if another has taken them meanwhile."""
        for number in SIGNALS:
            signal.signal(number, self._note)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.received is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        if self.received is None:
            self.received = signal.Signals(number).name
            if self.tells:
                print(f"\n{self.received}: stopping after this step", file=sys.stderr)

    def check(self, what: str) -> None:
        """Raises Interrupted, saying `what` has been reached, if a signal has come."""
        if self.received is not None:
            raise Interrupted(f"{self.received} {what}; the same command continues it", self.received)
