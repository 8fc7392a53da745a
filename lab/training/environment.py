"""What an attempt of training runs on: code, packages, hardware; and what of it must be equal to continue."""

import hashlib
import platform
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from subprocess import run as run_process
from typing import Any

import torch

from lab.base.errors import UserError

PACKAGES = ("context-window-lab", "torch", "lightning", "tokenizers", "numpy", "safetensors", "hydra-core", "pydantic")
# The rooms that are loaded while a run trains; tests/test_rooms.py holds this list against what is loaded.
# What reads trained runs afterwards changes none.
ROOMS = ("base", "model", "data", "cluster", "runs", "observe", "extension", "training", "measure", "experiment")


def environment(kernel: str, world: int = 1, strategy: str = "single") -> dict[str, Any]:
    """Code, packages, kernel, hardware, number of ranks and their strategy that an attempt of training runs on."""
    packages = {}
    for name in PACKAGES:
        try:
            packages[name] = version(name)
        except PackageNotFoundError:
            packages[name] = "not installed"
    commit, changed = commit_of(Path(__file__).parents[2])
    return {
        "code": {"sha256": code_digest(), "commit": commit, "changed": changed},
        "python": platform.python_version(),
        "packages": packages,
        "hardware": hardware(),
        "kernel": kernel,
        "ranks": world,
        "strategy": strategy if world > 1 else "single",
    }


def commit_of(root: Path) -> tuple[str, bool]:
    """The commit of the code, and whether it was changed since: what a job's copy was made of, or what git says."""
    noted = root / "commit"
    if noted.is_file():
        name, *changes = noted.read_text(encoding="utf-8").split() or ["unknown"]
        return name, bool(changes)

    def git(*arguments: str) -> str:
        return run_process(["git", *arguments], cwd=root, capture_output=True, text=True, check=False).stdout.strip()

    return git("rev-parse", "HEAD") or "unknown", bool(git("status", "--porcelain", "--", "*.py", "*.yaml"))


def hardware() -> dict[str, Any]:
    """What this process computes on."""
    return {
        "machine": platform.machine(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "accelerator": torch.cuda.get_device_name() if torch.cuda.is_available() else "none",
    }


def code_digest() -> str:
    """sha256 of the names and contents of all modules in ROOMS, and of lab.train."""
    package = Path(__file__).parents[1]
    files = [package / "__init__.py", package / "train.py"]
    for room in ROOMS:
        files += sorted((package / room).rglob("*.py"))
    total = hashlib.sha256()
    for path in files:
        total.update(path.relative_to(package).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return total.hexdigest()


# What each word of resume.allow lets differ between two attempts of a run.
ALLOWED = {
    "code": ("code",),
    "packages": ("python", "packages"),
    "hardware": ("hardware", "kernel"),
    "ranks": ("ranks", "strategy"),
}


def check_environment(before: dict[str, Any], now: dict[str, Any], allow: Iterable[str], run: Path) -> None:
    """Refuse to continue a run under other code, packages, hardware or ranks, unless `allow` names them.

    Raises UserError for a difference that is not allowed; names its key and both values.
    """
    for word, keys in ALLOWED.items():
        if word in allow:
            continue
        for key in keys:
            for name, old, new in _differences(key, before.get(key), now.get(key)):
                raise UserError(
                    f"{run} was trained with {name} = {_short(old)}, now it is {_short(new)}: restore that, or add"
                    f" resume.allow=[{word}] to continue all the same, which is written down in its manifest"
                )


def _short(value: Any) -> str:
    return str(value)[:12]


def _differences(name: str, old: Any, new: Any) -> Iterable[tuple[str, Any, Any]]:
    if isinstance(old, dict) and isinstance(new, dict):
        for key in sorted(old.keys() | new.keys()):
            # The commit is for the reader; what the code is, its sha256 says.
            if (name, key) not in (("code", "commit"), ("code", "changed")):
                yield from _differences(f"{name}.{key}", old.get(key), new.get(key))
    elif old != new:
        yield name, old, new
