"""What an attempt of training, or a scoring, runs on: code, packages, hardware; and what must be equal to continue."""

import hashlib
import os
import platform
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from subprocess import run as run_process
from typing import Any

import torch

from lab.base.errors import UserError

PACKAGES = ("context-window-lab", "torch", "lightning", "tokenizers", "numpy", "safetensors", "hydra-core", "pydantic")
PACKAGE = Path(__file__).parents[1]
# The rooms that are loaded while a run trains; tests/test_rooms.py holds this list against what is loaded.
# What reads trained runs afterwards changes none.
ROOMS = ("base", "model", "data", "cluster", "runs", "observe", "extension", "training", "measure", "experiment")


def environment(kernel: str, world: int = 1, strategy: str = "single") -> dict[str, Any]:
    """Code, packages, kernel, hardware, number of ranks and their strategy that an attempt of training runs on."""
    commit, changed = commit_of(PACKAGE.parent)
    return {
        "code": {"sha256": code_digest(), "commit": commit, "changed": changed},
        "python": platform.python_version(),
        "packages": packages(),
        "hardware": hardware(),
        "kernel": kernel,
        "ranks": world,
        "strategy": strategy if world > 1 else "single",
    }


def packages() -> dict[str, str]:
    """The versions of PACKAGES."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found


def commit_of(root: Path) -> tuple[str, bool]:
    """The commit of the code, and whether it was changed since: what a job's copy was made of, or what git says."""
    noted = root / "commit"
    if noted.is_file():
        name, *changes = noted.read_text(encoding="utf-8").split() or ["unknown"]
        return name, bool(changes)
    if not (root / "pyproject.toml").is_file():  # installed, perhaps into an environment in somebody's repository
        return "unknown", False

    def git(*arguments: str) -> str:
        return run_process(["git", *arguments], cwd=root, capture_output=True, text=True, check=False).stdout.strip()

    return git("rev-parse", "HEAD") or "unknown", bool(git("status", "--porcelain", "--", "*.py", "*.yaml"))


# Instruction sets that a product of matrices may use: which of them decides the order of its sums.
INSTRUCTION_SETS = ("avx2", "avx512_f", "avx512_vnni", "avx512_bf16", "avx512_fp16", "amx_bf16", "amx_fp16", "amx_int8")
# Variables of the environment that libraries read, by their beginnings; those after decide time or output, not bits.
VARIABLES = ("ONEDNN_", "DNNL_", "MKL_", "OMP_", "KMP_", "GOMP_", "OPENBLAS_", "ATEN_", "NVIDIA_TF32_", "TORCH_ALLOW_")
HARMLESS = (
    "_NUM_THREADS",
    "_VERBOSE",
    "_WAIT_POLICY",
    "_SPINCOUNT",
    "_BLOCKTIME",
    "_PROC_BIND",
    "_PLACES",
    "_AFFINITY",
)


def hardware() -> dict[str, Any]:
    """What this process computes on: machine, CPU, instruction sets, threads, and the switches that decide bits."""
    backends = torch.backends
    switches = {
        "mkldnn.enabled": backends.mkldnn.enabled,
        "mkldnn.deterministic": backends.mkldnn.deterministic,
        "cudnn.enabled": backends.cudnn.enabled,
        "cudnn.benchmark": backends.cudnn.benchmark,
    }
    variables = {
        name: value
        for name, value in sorted(os.environ.items())
        if name.startswith(VARIABLES) and not name.endswith(HARMLESS)
    }
    return {
        "machine": platform.machine(),
        "cpu": cpu_name(),
        "cpu_capability": backends.cpu.get_cpu_capability(),
        "instruction_sets": " ".join(instruction_sets()) or "not told",
        "threads": torch.get_num_threads(),
        "accelerator": torch.cuda.get_device_name() if torch.cuda.is_available() else "none",
        "switches": {name: str(value) for name, value in (switches | variables).items()},
    }


def cpu_name() -> str:
    """The CPU's name as Linux tells it, else as Python does."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    named = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return named[0] if named else platform.processor() or "not told"


def instruction_sets() -> list[str]:
    """Those of INSTRUCTION_SETS that the CPU has, as torch tells; none before torch 2.12."""
    told: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    return [name for name in INSTRUCTION_SETS if told.get(name)]


def code_digest() -> str:
    """sha256 of the code that trains: all modules in ROOMS, and lab.train."""
    return digest_of_code(ROOMS, PACKAGE / "__init__.py", PACKAGE / "train.py")


def digest_of_code(rooms: Iterable[str], *files: Path) -> str:
    """sha256 of the names and contents of files of the lab, and of all modules in rooms."""
    total = hashlib.sha256()
    for path in (*files, *(path for room in rooms for path in sorted((PACKAGE / room).rglob("*.py")))):
        total.update(path.relative_to(PACKAGE).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
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
