"""Start the processes of a run on this machine, when neither srun nor torchrun has."""

import multiprocessing
import os
import signal
import socket
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from multiprocessing.process import BaseProcess
from typing import Any

from lab.base.errors import UserError
from lab.base.interruption import SIGNALS, Interrupted, end_with_parent, give_back

PATIENCE_SECONDS = 60.0  # for the others once one process has failed: they notice by themselves, and say so


def launch(act: Callable[[Any], None], given: Any, count: int) -> None:
    """Call ``act(given)`` in ``count`` processes, each told its rank by the environment, and wait for all.

    Signals that ask a run to stop are handed on. Processes end with the exit codes of :mod:`lab.base.commandline`.

    Raises:
        UserError: a process has failed; what it had to say stands on stderr.
        Interrupted: the processes were asked to stop, and have.
    """
    context = multiprocessing.get_context("spawn")
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    processes = [
        context.Process(
            target=_as_rank,
            args=(
                act,
                given,
                {
                    "RANK": str(rank),
                    "LOCAL_RANK": str(rank),
                    "WORLD_SIZE": str(count),
                    "LOCAL_WORLD_SIZE": str(count),
                    "MASTER_ADDR": "127.0.0.1",
                    "MASTER_PORT": str(port),
                },
            ),
        )
        for rank in range(count)
    ]
    before = {number: signal.getsignal(number) for number in SIGNALS}
    # Started before the signals are taken: a child would inherit what ignores them.
    for process in processes:
        process.start()

    received: list[str] = []

    def hand_on(number: int, frame: Any) -> None:
        received.append(signal.Signals(number).name)
        for process in processes:
            if process.is_alive() and process.pid is not None:
                os.kill(process.pid, number)

    try:
        for number in SIGNALS:
            # The terminal sends Ctrl-C to the children itself.
            signal.signal(number, signal.SIG_IGN if number == signal.SIGINT else hand_on)
        _wait(processes)
    finally:
        codes = [process.exitcode for process in processes]
        give_back(before, ending=bool(received) or Interrupted.EXIT_CODE in codes)
    if Interrupted.EXIT_CODE in codes and set(codes) <= {0, Interrupted.EXIT_CODE}:
        raise Interrupted("all processes have stopped; the same command continues the run", next(iter(received), None))
    if received and set(codes) <= {0, Interrupted.EXIT_CODE, *(-signal.Signals[name] for name in received)}:
        raise Interrupted(f"{received[0]} came before the run had begun; the same command begins it", received[0])
    if any(codes):
        told = ", ".join(f"rank {rank} by {_ending(code)}" for rank, code in enumerate(codes) if code)
        raise UserError(f"{count} processes were started and these failed: {told}; what they said stands above")


def _as_rank(act: Callable[[Any], None], given: Any, environment: dict[str, str]) -> None:
    from lab.base.commandline import run_command

    os.environ.update(environment)
    end_with_parent(signal.SIGTERM)  # if what has started this is killed, stop as if asked to
    run_command(lambda: act(given))


def _wait(processes: Sequence[BaseProcess]) -> None:
    """Until all have ended; those that outlive a failed one for too long are killed."""
    deadline: float | None = None
    while alive := [process for process in processes if process.is_alive()]:
        alive[0].join(0.2)
        if deadline is None and any(process.exitcode not in (None, 0, Interrupted.EXIT_CODE) for process in processes):
            deadline = time.monotonic() + PATIENCE_SECONDS
        if deadline is not None and time.monotonic() > deadline:
            for process in alive:
                process.kill()


def _ending(code: int | None) -> str:
    if code is not None and code < 0:
        return signal.Signals(-code).name
    return f"exit code {code}"
