"""What a run is saved with and continued from."""

import random
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch.plugins import CheckpointIO

from lab.runs.checkpoints import Checkpoints

DECODER = "decoder."


class CheckpointFolders(CheckpointIO):
    """Lightning's interface to the lab's checkpoints: a path is that of `step=NNNNNNNN`, in one of the two folders."""

    def __init__(self, checkpoints: Checkpoints, kept: Checkpoints) -> None:
        self.checkpoints = checkpoints
        self.kept = kept

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        state = dict(checkpoint)
        weights = {name.removeprefix(DECODER): value for name, value in state.pop("state_dict").items()}
        into = self.kept if Path(path).parent == self.kept.folder else self.checkpoints
        into.save(int(state["global_step"]), weights, state)

    def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: Any = None) -> dict[str, Any]:
        folder = Path(path)
        checkpoint = self.checkpoints.checkpoint(int(folder.name.removeprefix("step=")))
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
