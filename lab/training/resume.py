"""What a run is saved with and continued from."""

import random
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch.plugins import CheckpointIO

from lab.checkpoints import Checkpoint, Checkpoints
from lab.errors import UserError

DECODER = "decoder."


class CheckpointFolders(CheckpointIO):
    """Lightning's interface to the lab's checkpoints: a path is that of `step=NNNNNNNN`."""

    def __init__(self, checkpoints: Checkpoints) -> None:
        self.checkpoints = checkpoints

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        state = dict(checkpoint)
        weights = {name.removeprefix(DECODER): value for name, value in state.pop("state_dict").items()}
        self.checkpoints.save(int(state["global_step"]), weights, state)

    def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: Any = None) -> dict[str, Any]:
        folder = Path(path)
        checkpoint = Checkpoint(folder, int(folder.name.removeprefix("step=")))
        weights = {DECODER + name: value for name, value in checkpoint.weights().items()}
        return checkpoint.state() | {"state_dict": weights}

    def remove_checkpoint(self, path: Any) -> None:
        raise NotImplementedError("checkpoints are removed by Checkpoints.retain")


def random_states() -> dict[str, Any]:
    """The states of all random generators of this process."""
    name, keys, position, has_gauss, cached = np.random.get_state()
    return {
        "python": random.getstate(),
        "numpy": [name, keys, position, has_gauss, cached],
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def set_random_states(states: dict[str, Any]) -> None:
    """Set the generators of this process to such states."""
    random.setstate(states["python"])
    np.random.set_state(tuple(states["numpy"]))
    torch.set_rng_state(states["torch"])
    if states["cuda"]:
        torch.cuda.set_rng_state_all(states["cuda"])


# What each word of resume.allow lets differ between two stretches of a run.
SURROUNDINGS = {
    "code": ("code",),
    "packages": ("python", "packages"),
    "hardware": ("hardware", "kernel"),
    "ranks": ("ranks", "strategy"),
}


def check_surroundings(before: dict[str, Any], now: dict[str, Any], allow: Iterable[str], run: Path) -> None:
    """Refuse to continue a run under other code, packages, hardware or ranks, unless `allow` names them.

    Raises UserError for a difference that is not allowed; names its key and both values.
    """
    for word, keys in SURROUNDINGS.items():
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
