"""Folds in processes that are killed: `python killed_fold.py FOLDER SEED` prints what the files of all are.

Each fold is begun in a process that is killed and begun again until one comes to its end. A process dies at a random
time, or where a write could leave something broken: with half a file written, before the file is renamed, and after.
"""

import json
import os
import random
import signal
import sys
import time
from hashlib import sha256
from pathlib import Path
from types import SimpleNamespace

import torch

from lab.observe.fold import Fold, Observed, run_fold

IDENTITY = {"decoder": "abc", "length": 64}
ITEMS = [SimpleNamespace(name=f"document {number}", number=number) for number in range(40)]


def observe(item: SimpleNamespace) -> Observed:
    draw = torch.Generator().manual_seed(item.number)
    states = torch.randn(64, 50, dtype=torch.float64, generator=draw).exp()
    time.sleep(0.001)
    return {"state": (states, 1), "each": (states[:, 0], torch.randint(0, 9, (64,), generator=draw))}


def go_on(path: Path, write_seconds: float) -> None:
    fold = Fold.load(path, IDENTITY) if path.exists() else Fold(IDENTITY)
    run_fold(fold, ITEMS, observe, path, write_seconds=write_seconds)


def die(*_: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def prepare(how: str, nth: int) -> None:
    """Let this process die at its nth write."""
    calls = iter(range(1, 10**6))
    write, replace = Path.write_bytes, os.replace

    def dying_write(path: Path, content: bytes) -> int:
        if how == "half written" and next(calls) == nth:
            write(path, content[: len(content) // 2])
            die()
        return write(path, content)

    def dying_replace(beside: Path, path: Path) -> None:
        if how == "before the rename" and next(calls) == nth:
            die()
        replace(beside, path)
        if how == "after the rename" and next(calls) == nth:
            die()

    Path.write_bytes, os.replace = dying_write, dying_replace  # type: ignore[method-assign, assignment]


def attempt(path: Path, how: str, draw: random.Random) -> bool:
    """Whether a process came to the fold's end, or else was killed."""
    nth, moment = draw.randint(1, 4), draw.uniform(0.0, 0.06)
    child = os.fork()
    if child == 0:
        prepare(how, nth)
        go_on(path, write_seconds=0.0)
        os._exit(0)
    if how == "random":
        time.sleep(moment)
        os.kill(child, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def main() -> None:
    """Prints for each fold how many processes of it were killed, and the sha256 of its file."""
    folder, draw = Path(sys.argv[1]), random.Random(int(sys.argv[2]))
    torch.set_num_threads(1)
    go_on(folder / "whole", write_seconds=1e9)
    outcomes = {"whole": [0, sha256((folder / "whole").read_bytes()).hexdigest()]}
    for number, how in enumerate(["random"] * 6 + ["half written", "before the rename", "after the rename"]):
        path, killed = folder / str(number), 0
        while not attempt(path, how if killed < 30 else "not", draw):
            killed += 1
        outcomes[f"{number}: {how}"] = [killed, sha256(path.read_bytes()).hexdigest()]
    print(json.dumps(outcomes))


if __name__ == "__main__":
    main()
