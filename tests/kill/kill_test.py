"""Kill real training runs with SIGKILL, continue them, and compare with a run that was never interrupted.

    python tests/kill/kill_test.py --runs 100 --processes 2 --seed 0

Every run is killed at least twice: at random times, and at named places (LAB_KILL_AT, lab/base/failpoints.py) before,
while and after a checkpoint is written, before it is renamed, while the one before is deleted, between the
micro-batches of one optimiser step, and during validation. It is then continued by the same command until it is done.
Equal must be, byte for byte: weights, optimiser and all other tensors, the rest of the state, metrics.csv, and the
fingerprint of all blocks. Prints a ledger; exit code 1 if any run differs.

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
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

os.environ["OMP_NUM_THREADS"] = "1"  # before torch is imported: the runs share the cores

import lab.base.commandline
import lab.experiment.hydra_main
import lab.experiment.lifecycle
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
AT_LEAST = 2


@dataclass
class Entry:
    """What happened to one run."""

    number: int
    kills: list[str] = field(default_factory=list)
    attempts: int = 0
    differing: list[str] = field(default_factory=list)


def attempt(folder: Path, settings: tuple[str, ...], kill_at: str = "", kill_after: float | None = None) -> int:
    """One process of the run; its exit code, -9 if it was killed."""
    trainer = os.fork()
    if trainer == 0:
        train(folder, settings, kill_at)
    deadline = time.monotonic() + (float("inf") if kill_after is None else kill_after)
    while True:
        ended, status = os.waitpid(trainer, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() > deadline:
            os.killpg(trainer, signal.SIGKILL)
        time.sleep(0.01)


def train(folder: Path, settings: tuple[str, ...], kill_at: str) -> NoReturn:
    """What the command `python -m lab.train` does, in this process."""
    os.setsid()
    os.environ["LAB_KILL_AT"] = kill_at
    output = os.open(folder / "output.txt", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.dup2(output, 1)
    os.dup2(output, 2)
    sys.stdout, sys.stderr = (os.fdopen(number, "w", buffering=1, closefd=False) for number in (1, 2))
    sys.argv = ["lab.train", *TRAIN, *settings, f"runs={folder}"]
    code = 0
    try:
        lab.base.commandline.run_command(lab.train.main)
    except SystemExit as end:
        code = int(end.code or 0)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def outcome(folder: Path) -> dict[str, str]:
    """What must be equal, by name."""
    (run,) = [path.parent for path in folder.glob("*/manifest.json")]
    checkpoint = max((run / "checkpoints").glob("step=*"))
    manifest = json.loads((run / "manifest.json").read_text())
    files = [run / "metrics.csv", *(checkpoint / name for name in ("weights.safetensors", "training.safetensors"))]
    files.append(checkpoint / "training.json")
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files} | {
        "checkpoint": checkpoint.name,
        "blocks": json.dumps(manifest["blocks"]),
        "state": manifest["state"],
    }


def interrupted_run(
    number: int, seed: int, parent: Path, seconds: float, expected: dict[str, str], settings: tuple[str, ...]
) -> Entry:
    """Kill one run until it has had its share, let it end, compare."""
    generator = random.Random(f"{seed} {number}")
    entry = Entry(number)
    folder = parent / f"run{number:03d}"
    folder.mkdir()
    while True:
        entry.attempts += 1
        place, after = "", None
        if len(entry.kills) < AT_LEAST:
            if generator.random() < 0.6:
                name = generator.choice(PLACES)
                place = f"{name}:{generator.randrange(1, {'accumulation': 40, 'validation': 5}.get(name, 7))}"
            else:
                after = generator.uniform(0.4, 1.0) * seconds
        code = attempt(folder, settings, place, after)
        if code == -signal.SIGKILL:
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
    found = outcome(folder)
    entry.differing = [name for name in expected if found[name] != expected[name]]
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
    whole = parent / "whole"
    whole.mkdir()
    started = time.monotonic()
    if attempt(whole, tuple(arguments.settings)) != 0:
        print((whole / "output.txt").read_text(), file=sys.stderr)
        return 1
    seconds = time.monotonic() - started
    expected = outcome(whole)
    print(f"the run that is never interrupted took {seconds:.1f} s; {arguments.runs} others follow", flush=True)
    entries = []
    # Processes, not threads: a process that forks should have no other thread.
    with ProcessPoolExecutor(arguments.processes, multiprocessing.get_context("fork")) as pool:
        # Two at a time are slower than one alone.
        args = (arguments.seed, parent, seconds * arguments.processes**0.5, expected, tuple(arguments.settings))
        for future in as_completed([pool.submit(interrupted_run, number, *args) for number in range(arguments.runs)]):
            entry = future.result()
            entries.append(entry)
            verdict = f"DIFFERS: {', '.join(entry.differing)}" if entry.differing else "identical"
            left = (time.monotonic() - started) / len(entries) * (arguments.runs - len(entries))
            print(
                f"{len(entries):3d}/{arguments.runs} run {entry.number:3d}: killed {', '.join(entry.kills) or 'never'};"
                f" {verdict}; {left / 60:.0f} min left",
                flush=True,
            )
    entries.sort(key=lambda entry: entry.number)
    if arguments.csv:
        with open(arguments.csv, "w", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(("run", "attempts", "kills", "killed_at", "identical"))
            for entry in entries:
                row = (entry.number, entry.attempts, len(entry.kills), "; ".join(entry.kills), not entry.differing)
                writer.writerow(row)
    places = [kill.split(":")[0] if ":" in kill else "random time" for entry in entries for kill in entry.kills]
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
