"""Clocks, limits and how measurements are shown."""

import resource
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from lab.model.precision import fix_order_of_sums

Step = Callable[[], object]


def seconds(run: Step) -> float:
    """Wall-clock seconds of one call, accelerator included."""
    start = time.perf_counter()
    run()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - start


def under(fixed: bool, step: Step) -> Step:
    """A step whose sums have a fixed order, as with ``trainer.deterministic``, or any; on a CPU there is one."""

    def run() -> None:
        fix_order_of_sums(fixed)
        try:
            step()
        finally:
            fix_order_of_sums(False)

    return run


def matrix_size(device: str) -> int:
    """Of the product that shows what a device can do: large enough to fill it."""
    return 2048 if device == "cpu" else 8192


def matrix_rate(dtype: torch.dtype, device: str, repeats: int = 9) -> float:
    """FLOP/s of a square matrix product: the limit that a training step is held against (median of repeats)."""
    size = matrix_size(device)
    left, right = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    times = [seconds(lambda: torch.mm(left, right)) for _ in range(repeats + 3)][3:]
    return float(2 * size**3 / statistics.median(times))


def peak_memory(device: str) -> float:
    """Bytes: of the GPU's allocator, or the largest resident size of this process."""
    if device == "cuda":
        return float(torch.cuda.max_memory_allocated())
    status = Path("/proc/self/status")
    if status.exists():  # on Linux getrusage starts with the size of the process that started this one
        (line,) = (line for line in status.read_text().splitlines() if line.startswith("VmHWM:"))
        return float(line.split()[1]) * 1024
    return float(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)


def spread(values: Sequence[float], form: str = ",.0f") -> str:
    """Median (smallest to largest)."""
    return f"{statistics.median(values):{form}} ({min(values):{form}} to {max(values):{form}})"
