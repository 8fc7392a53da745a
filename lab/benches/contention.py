"""A training step beside other work: what threads that wait for each other do to it.

Threads of one pass wait at its end for the slowest. Where other processes hold a core, the others spin meanwhile, and
take the time that the slowest needs. Each contestant is a process of its own, for the libraries read how to wait when
they are loaded.
"""

import argparse
import os
import statistics
import subprocess
import sys
from contextlib import ExitStack
from typing import Any

from lab.base.console import Console, Table
from lab.base.errors import UserError
from lab.benches.timing import spread
from lab.runs.environment import hardware

# How threads wait, by the variables of the environment; None: as the lab leaves it.
CONTESTANTS: dict[str, dict[str, str]] = {
    "the lab": {},
    "spinning (the library's default)": {"GOMP_SPINCOUNT": "300000"},
    "one thread": {"OMP_NUM_THREADS": "1"},
}
BUSY = "while True: pass"
STEPS = """
import sys
from lab.benches.contention import answer_with_rates
answer_with_rates(float(sys.argv[1]), sys.argv[2:])
"""


def answer_with_rates(limit: float, overrides: list[str]) -> None:
    """Tokens a second of training steps during ``limit`` seconds, in this process: once for each line that it reads."""
    import time

    import torch

    from lab.benches.training import our_step
    from lab.experiment.compose import settings_of
    from lab.experiment.settings import TrainSettings
    from lab.experiment.setup import Setup

    setup = Setup(settings_of("train", TrainSettings, [*overrides, "logger=csv"]))
    scale = setup.config.scale
    tokens = torch.zeros(scale.micro_batch, scale.context + 1, dtype=torch.int64)
    step = our_step(setup, tokens, compiled=False)
    step()
    for _ in sys.stdin:
        done, begun = 0, time.perf_counter()
        while time.perf_counter() - begun < limit:
            step()
            done += 1
        print(done * scale.micro_batch * scale.context / (time.perf_counter() - begun), flush=True)


def bench_contention(arguments: argparse.Namespace, console: Console) -> list[dict[str, Any]]:
    rates: dict[tuple[str, int], list[float]] = {}
    with ExitStack() as contest:
        contestants = {name: contest.enter_context(started(CONTESTANTS[name], arguments)) for name in CONTESTANTS}
        for contestant in contestants.values():
            contest.callback(contestant.kill)
        for done in range(arguments.rounds):
            for busy in arguments.busy:
                with ExitStack() as stack:
                    for _ in range(busy):
                        other = stack.enter_context(subprocess.Popen([sys.executable, "-c", BUSY]))
                        stack.callback(other.kill)
                    for name, contestant in contestants.items():
                        rates.setdefault((name, busy), []).append(measured(contestant))
            console.print(f"round {done + 1} of {arguments.rounds}")
    console.print(f"{' '.join(arguments.overrides) or 'the default run'}; {hardware()}")
    table = Table(title="tokens/s, median (smallest to largest); share of the same when idle", title_justify="left")
    table.add_column("")
    for busy in arguments.busy:
        table.add_column(f"beside {busy} busy" if busy else "idle", justify="right")
    rows = []
    for name in CONTESTANTS:
        idle = statistics.median(rates[name, arguments.busy[0]])
        cells = []
        for busy in arguments.busy:
            found = rates[name, busy]
            cells.append(f"{spread(found, ',.0f')}, {statistics.median(found) / idle:.0%}")
            rows += [
                {"contestant": name, "busy": busy, "round": number, "tokens_per_second": rate}
                for number, rate in enumerate(found)
            ]
        table.add_row(name, *cells)
    console.print(table)
    return rows


def started(variables: dict[str, str], arguments: argparse.Namespace) -> subprocess.Popen[str]:
    """A contestant's process, which waits (asleep) to be asked for its rate."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("OMP_", "GOMP_"))}
    command = [sys.executable, "-c", STEPS, str(arguments.seconds), *arguments.overrides]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, env=environment | variables, stdin=pipe, stdout=pipe, stderr=pipe, text=True)


def measured(contestant: subprocess.Popen[str]) -> float:
    """Tokens a second of a contestant. Raises UserError if its process fails."""
    assert contestant.stdin is not None
    assert contestant.stdout is not None
    assert contestant.stderr is not None
    try:
        contestant.stdin.write("\n")
        contestant.stdin.flush()
        return float(contestant.stdout.readline())
    except (OSError, ValueError):
        contestant.kill()
        last = (contestant.stderr.read().strip().splitlines() or ["its process ended"])[-1]
        raise UserError(f"a step cannot be measured: {last}; try --busy 0") from None
