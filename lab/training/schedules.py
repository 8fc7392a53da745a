"""Learning-rate schedules: the factor on the peak at each optimiser step, all with linear warm-up.

Each is a function (steps) -> factor(step), for step = 0 .. steps - 1.
"""

import math
from collections.abc import Callable

from lab.base.errors import UserError

Factor = Callable[[int], float]


def warm_up(step: int, warmup_steps: int) -> float:
    """Linear from 1 / warmup_steps at step 0 to 1."""
    return min(1.0, (step + 1) / max(1, warmup_steps))


def check(warmup_steps: int, steps: int) -> None:
    if not 0 <= warmup_steps < steps:
        raise UserError(
            f"warmup_steps is {warmup_steps} and the run has {steps} optimiser steps: give fewer warm-up steps"
        )


def constant(steps: int, warmup_steps: int) -> Factor:
    """Warm-up, then 1."""
    check(warmup_steps, steps)
    return lambda step: warm_up(step, warmup_steps)


def cosine(steps: int, warmup_steps: int, final_fraction: float) -> Factor:
    """Warm-up, then half a cosine that reaches ``final_fraction`` at the last step (TinyLlama: 0.1)."""
    check(warmup_steps, steps)

    def factor(step: int) -> float:
        progress = max(0, step - warmup_steps) / max(1, steps - 1 - warmup_steps)
        decay = final_fraction + (1 - final_fraction) * (1 + math.cos(math.pi * min(1.0, progress))) / 2
        return warm_up(step, warmup_steps) * decay

    return factor


def wsd(steps: int, warmup_steps: int, decay_fraction: float, final_fraction: float) -> Factor:
    """Warm-up, stable, decay (Hu et al. 2024): 1 until the last ``decay_fraction`` of the steps, then linear."""
    check(warmup_steps, steps)
    decay_steps = max(1, round(steps * decay_fraction))

    def factor(step: int) -> float:
        progress = max(0, step + 1 - (steps - decay_steps)) / decay_steps
        return warm_up(step, warmup_steps) * (1 + (final_fraction - 1) * progress)

    return factor
