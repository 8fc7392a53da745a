"""Signals that ask a run to stop: it saves a checkpoint after the optimiser step in hand and ends with code 75."""

import contextlib
import ctypes
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Iterator, Mapping
from types import FrameType
from typing import Any

# What a person (INT), an operating system (TERM) and clusters (USR1, USR2) send before they kill.
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2)
AT_ONCE_SECONDS = 1.0  # two SIGINT within this time are one: a terminal and a launcher both send it
PR_SET_PDEATHSIG = 1  # of Linux's prctl


class Interrupted(Exception):
    """The run was asked to stop and has; the message is one line. The same command continues it.

    Args:
        received: the name of the signal that asked.
    """

    EXIT_CODE = 75  # EX_TEMPFAIL of sysexits.h: try again

    def __init__(self, message: str, received: str | None = None) -> None:
        super().__init__(message)
        self.received = received


class AtOnce(BaseException):
    """A second SIGINT: the run ends unsaved. No KeyboardInterrupt, which Lightning turns into exit code 1."""

    EXIT_CODE = 130  # as a shell says it of SIGINT


class Process:
    """What this process knows of itself."""

    command = False  # it is one of the lab's commands, and ends when its run has been asked to stop
    unbroken = 0  # parts that a second SIGINT does not break off, entered now


@contextlib.contextmanager
def unbroken() -> Iterator[None]:
    """While it is entered, a second SIGINT waits for the end, as the first does."""
    Process.unbroken += 1
    try:
        yield
    finally:
        Process.unbroken -= 1


class Interruption:
    """While it is entered, the signals above set `received` to the name of the first and do nothing else.

    A second SIGINT is not waited for: it raises AtOnce, except while something is saved and once the run
    is ending. Without ``tells`` nothing is printed, as another process prints it.
    """

    def __init__(self, tells: bool = True) -> None:
        self.tells = tells
        self.received: str | None = None
        self._when = 0.0
        self._ending = False
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> "Interruption":
        self._before = {number: signal.getsignal(number) for number in SIGNALS}
        self.install()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        give_back(self._before, ending=kind is not None and issubclass(kind, Interrupted))

    def install(self) -> None:
        """Take the signals, again if another has taken them meanwhile."""
        for number in SIGNALS:
            signal.signal(number, self._note)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.received is None:
            self.received, self._when = signal.Signals(number).name, time.monotonic()
            self._tell(f"\n{self.received}: stopping after this step")
        elif number != signal.SIGINT or self._ending or time.monotonic() - self._when < AT_ONCE_SECONDS:
            return
        elif Process.unbroken:
            self._tell("SIGINT: a checkpoint is being written; the run ends after it")
        else:
            raise AtOnce("SIGINT again: stopped at once; the same command continues from the last checkpoint")

    def _tell(self, line: str) -> None:
        if self.tells:
            # Not by print: the signal may have come amid another.
            with contextlib.suppress(OSError):
                os.write(2, f"{line}\n".encode())

    def check(self, what: str) -> None:
        """Raises Interrupted, saying `what` has been reached, if a signal has come."""
        if self.received is not None:
            self._ending = True
            raise Interrupted(f"{self.received} {what}; the same command continues it", self.received)


def give_back(before: Mapping[signal.Signals, Any], ending: bool) -> None:
    """Set handlers as they were before. A command that is ``ending`` because it was asked to keeps without effect what
    would kill it at once: its exit code is still to be told."""
    for number, handler in before.items():
        kills = handler in (signal.SIG_DFL, signal.default_int_handler)
        signal.signal(number, _nothing if ending and Process.command and kills else handler)


def _nothing(number: int, frame: FrameType | None) -> None:
    """A handler and not SIG_IGN, which programs that are started would inherit."""


def ignore_signals() -> None:
    """For the very end of a process, whose exit code is settled."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def end_with_parent(number: signal.Signals) -> None:
    """Let this process get a signal when the one that has started it ends, however that ends."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, number)
        parent = multiprocessing.parent_process()
        if parent is not None and os.getppid() != parent.pid:  # it has ended before
            os.kill(os.getpid(), number)
