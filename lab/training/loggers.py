"""What a run is logged to besides metrics.csv; a run that is continued continues its curves.

Their horizontal axis is the number of tokens that the run has trained on.
"""

from pathlib import Path
from typing import Any, Literal

from lightning.pytorch.loggers import Logger, TensorBoardLogger, WandbLogger

from lab.training.planned import check_wandb


def nothing(run: Path, tokens: int) -> Literal[False]:
    """Nothing more."""
    return False


def tensorboard(run: Path, tokens: int) -> Logger:
    """TensorBoard event files in the run directory."""
    # What was logged beyond the checkpoint, before the run was killed, is logged again.
    purge: dict[str, Any] = {"purge_step": tokens + 1} if tokens else {}
    return TensorBoardLogger(save_dir=run, name="", version="tensorboard", **purge)


def wandb(project: str, offline: bool, run: Path, tokens: int) -> Logger:
    """Weights & Biases. Raises UserError if its package is missing."""
    check_wandb()
    return WandbLogger(project=project, offline=offline, name=run.name, id=run.name, save_dir=run, resume="allow")
