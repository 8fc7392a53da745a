"""Kill real runs of the lab with SIGKILL, start them again, and compare with what was never interrupted.

    python tests/kill/kill_test.py --runs 100 --processes 2 --seed 0

Every run is killed at least twice: at random times, and at named places (LAB_KILL_AT, lab/base/failpoints.py) before,
while and after a checkpoint is written, before it is renamed, while the one before is deleted, between the
micro-batches of one optimiser step, and during validation. Some get two signals at once there instead, and must end
with exit code 75. Of ten, one is a sweep of two runs and one is the writing of blocks. Each is then continued by the
same command until it is done. Equal must be, byte for byte: weights, optimiser and all other tensors, the rest of the
state, metrics.csv, the fingerprint of all blocks, and which checkpoints are kept; of blocks every file. Prints a
ledger; exit code 1 if any run differs.

A trainer is a process group of its own, forked from a process that has imported the lab and done nothing else: of the
ten seconds that a command takes to start, most go to imports.
"""

import argparse
import csv
import hashlib
import json
import multiprocessing
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

os.environ["OMP_NUM_THREADS"] = "1"  # before torch is imported: the runs share the cores

import lab.base.commandline
import lab.experiment.hydra_main
import lab.experiment.lifecycle
import lab.experiment.preparation
import lab.prepare
import lab.train

TRAIN = (
    "experiment=smoke",
    "measure=none",
    "logger=csv",
    "scale.tokens=40960",  # 40 optimiser steps of two micro-batches
    "trainer.checkpoint_every=3",
    "trainer.validate_every=4",
)
PLACES = (
    "before-write",
    "mid-write",
    "before-verify",
    "before-rename",
    "after-rename",
    "mid-removal",
    "accumulation",
    "validation",
)
SIGNALS = ("INT+INT", "TERM+INT", "TERM+TERM", "USR1+TERM")
AT_LEAST = 2
STOPPED = 75  # exit code of a run that was asked to stop, and has


@dataclass(frozen=True)
class Kind:
    """What is killed: a command, the places at which, and what of its folder must be equal."""

    name: str
    command: Callable[[], None]
    arguments: Callable[[Path], list[str]]
    outcome: Callable[[Path], dict[str, str]]
    places: tuple[str, ...] = ()
    when: tuple[float, float] = (0.4, 1.0)  # of the time that it takes when it is let alone


@dataclass
class Entry:
    """What happened to one run."""

    number: int
    kind: str
    kills: list[str] = field(default_factory=list)
    attempts: int = 0
    differing: list[str] = field(default_factory=list)


def attempt(
    kind: Kind, folder: Path, settings: Sequence[str], kill_at: str = "", kill_after: float | None = None
) -> int:
    """One process of the run; its exit code, -9 if it was killed."""
    process = os.fork()
    if process == 0:
        act(kind, folder, settings, kill_at)
    deadline = time.monotonic() + (float("inf") if kill_after is None else kill_after)
    while True:
        ended, status = os.waitpid(process, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() > deadline:
            os.killpg(process, signal.SIGKILL)
        time.sleep(0.01)


def act(kind: Kind, folder: Path, settings: Sequence[str], kill_at: str) -> NoReturn:
    """What the command does, in this process."""
    os.setsid()
    os.environ["LAB_KILL_AT"] = kill_at
    output = os.open(folder / "output.txt", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.dup2(output, 1)
    os.dup2(output, 2)
    sys.stdout, sys.stderr = (os.fdopen(number, "w", buffering=1, closefd=False) for number in (1, 2))
    sys.argv = [f"lab.{kind.name}", *kind.arguments(folder), *settings]
    code = 0
    try:
        lab.base.commandline.run_command(kind.command)
    except SystemExit as end:
        code = int(end.code or 0)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def digests(paths: Iterable[Path], folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}


def trained(folder: Path) -> dict[str, str]:
    """What must be equal of each run in a folder, by name."""
    found: dict[str, str] = {}
    for run in sorted(path.parent for path in folder.glob("*/manifest.json")):
        manifest = json.loads((run / "manifest.json").read_text())
        found |= digests([run / "metrics.csv", *sorted(run.glob("checkpoints/step=*/*.*"))], folder)
        found |= {f"{run.name} {key}": json.dumps(manifest.get(key)) for key in ("blocks", "state", "proof")}
    return found


def written(folder: Path) -> dict[str, str]:
    """Every file of written blocks, but for what a killed process had not yet renamed."""
    paths = sorted((folder / "blocks").rglob("*"))
    return digests((path for path in paths if path.is_file() and path.suffix != ".new"), folder)


def run_arguments(folder: Path) -> list[str]:
    return [*TRAIN, f"runs={folder}"]


KINDS = (
    Kind("train", lab.train.main, run_arguments, trained, PLACES),
    Kind("sweep", lab.train.main, lambda folder: ["-m", "seed=0,1", *run_arguments(folder)], trained, PLACES),
    Kind(
        "blocks",
        lab.prepare.main,
        # The longest that the speeches give: the pool has something to be killed in.
        lambda folder: ["blocks", *TRAIN, "scale.tokens=1048576", f"data.blocks={folder / 'blocks'}", "--processes=2"],
        written,
        when=(0.2, 0.7),
    ),
)


def kind_of(number: int) -> Kind:
    return KINDS[{3: 1, 7: 2}.get(number % 10, 0)]


def interrupted_run(
    number: int,
    seed: int,
    parent: Path,
    seconds: dict[str, float],
    expected: dict[str, dict[str, str]],
    settings: tuple[str, ...],
) -> Entry:
    """Kill one run until it has had its share, let it end, compare."""
    generator = random.Random(f"{seed} {number}")
    kind = kind_of(number)
    entry = Entry(number, kind.name)
    folder = parent / f"run{number:03d}"
    folder.mkdir()
    while True:
        entry.attempts += 1
        place, after = "", None
        if len(entry.kills) < AT_LEAST:
            if kind.places and generator.random() < 0.6:
                name = generator.choice(kind.places)
                place = f"{name}:{generator.randrange(1, {'accumulation': 40, 'validation': 5}.get(name, 7))}"
                if generator.random() < 0.3:
                    place += f"={generator.choice(SIGNALS)}"
            else:
                after = generator.uniform(*kind.when) * seconds[kind.name]
        code = attempt(kind, folder, settings, place, after)
        if code == (STOPPED if "=" in place else -signal.SIGKILL):
            entry.kills.append(place or f"after {after:.1f} s")
        elif code != 0:
            entry.differing = [f"ended with code {code}, see {folder}/output.txt"]
            return entry
        elif len(entry.kills) >= AT_LEAST:
            break
        else:  # it was done before its share of kills: once more from the start
            shutil.rmtree(folder)
            folder.mkdir()
            entry.kills = []
    found = kind.outcome(folder)
    names = sorted(found.keys() | expected[kind.name].keys())
    entry.differing = [name for name in names if found.get(name) != expected[kind.name].get(name)]
    if not entry.differing:
        shutil.rmtree(folder)
    return entry


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=100)
    parser.add_argument("--processes", type=int, default=2, help="runs at a time")
    parser.add_argument("--seed", type=int, default=0, help="of places and times")
    parser.add_argument("--csv", type=Path, help="write the ledger to this file")
    parser.add_argument("settings", nargs="*", metavar="key=value", help="further settings of the runs")
    arguments = parser.parse_args()
    parent = Path(tempfile.mkdtemp(prefix="kill-test-"))
    started = time.monotonic()
    seconds: dict[str, float] = {}
    expected: dict[str, dict[str, str]] = {}
    for kind in dict.fromkeys(map(kind_of, range(arguments.runs))):
        whole = parent / f"whole-{kind.name}"
        whole.mkdir()
        begun = time.monotonic()
        if attempt(kind, whole, arguments.settings) != 0:
            print((whole / "output.txt").read_text(), file=sys.stderr)
            return 1
        # Two at a time are slower than one alone.
        seconds[kind.name] = (time.monotonic() - begun) * arguments.processes**0.5
        expected[kind.name] = kind.outcome(whole)
        print(f"never interrupted: {kind.name}, {time.monotonic() - begun:.1f} s", flush=True)
    entries = []
    # Processes, not threads: a process that forks should have no other thread.
    with ProcessPoolExecutor(arguments.processes, multiprocessing.get_context("fork")) as pool:
        args = (arguments.seed, parent, seconds, expected, tuple(arguments.settings))
        for future in as_completed([pool.submit(interrupted_run, number, *args) for number in range(arguments.runs)]):
            entry = future.result()
            entries.append(entry)
            verdict = f"DIFFERS: {', '.join(entry.differing)}" if entry.differing else "identical"
            left = (time.monotonic() - started) / len(entries) * (arguments.runs - len(entries))
            killed = ", ".join(entry.kills) or "never"
            print(
                f"{len(entries):3d}/{arguments.runs} {entry.kind} {entry.number:3d}: killed {killed}; {verdict}; "
                f"{left / 60:.0f} min left",
                flush=True,
            )
    entries.sort(key=lambda entry: entry.number)
    if arguments.csv:
        with open(arguments.csv, "w", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(("run", "kind", "attempts", "kills", "killed_at", "identical"))
            for entry in entries:
                told = "; ".join(entry.kills)
                writer.writerow((entry.number, entry.kind, entry.attempts, len(entry.kills), told, not entry.differing))
    kills = [kill for entry in entries for kill in entry.kills]
    places = ["two signals" if "=" in kill else kill.split(":")[0] if ":" in kill else "random time" for kill in kills]
    for place in sorted(set(places)):
        print(f"{place:15s} {places.count(place):4d} kills")
    good = sum(not entry.differing for entry in entries)
    print(f"{good} of {len(entries)} interrupted runs ({len(places)} kills) end bit-identical; seed {arguments.seed}")
    if good == len(entries):
        shutil.rmtree(parent)
    else:
        print(f"what differs is in {parent}", file=sys.stderr)
    return 0 if good == len(entries) else 1


if __name__ == "__main__":
    sys.exit(main())
