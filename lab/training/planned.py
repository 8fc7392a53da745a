"""What of a training run is known, or refused, before Lightning is loaded, which takes seconds."""

import importlib.util

import torch

from lab.base.errors import UserError
from lab.cluster.ranks import Ranks
from lab.model.flops import FlopsPerToken, training_flops
from lab.model.memory import SHARDABLE
from lab.model.settings import ScaleSettings
from lab.runs.settings import RunSettings


def steps_of(scale: ScaleSettings, world: int = 1) -> tuple[int, int]:
    """(optimiser steps, micro-batches of each on each of ``world`` ranks) of a run.

    Raises:
        UserError: the batch is not a whole number of micro-batches of all ranks, or the budget less than one batch.
    """
    micro_tokens = scale.micro_batch * scale.context * world
    if scale.batch_tokens % micro_tokens:
        ranks = f" x {world} ranks" if world > 1 else ""
        raise UserError(
            f"batch_tokens is {scale.batch_tokens}, not a multiple of micro_batch x context{ranks} = {micro_tokens}; "
            "change one of them"
        )
    steps = scale.tokens // scale.batch_tokens
    if steps < 1:
        raise UserError(f"tokens is {scale.tokens}, less than one batch of batch_tokens = {scale.batch_tokens}")
    return steps, scale.batch_tokens // micro_tokens


def flops_of(config: RunSettings) -> FlopsPerToken:
    """Operations of a training token of a configuration."""
    keys = ("vocabulary", "layers", "width", "hidden", "heads", "kv_heads", "head_dim", "context")
    shape = {key: getattr(config.scale, key) for key in keys}
    attention = config.model.attention
    return training_flops(**shape, window=attention.window, causal=attention.causal)


def check_optimizer(strategy: str, optimizer: str) -> None:
    """Raises UserError if the optimiser needs whole matrices and the strategy shards them."""
    if strategy == "fsdp" and optimizer not in SHARDABLE:
        raise UserError(f"trainer=fsdp shards matrices, which {optimizer} needs whole: use trainer=ddp")


def processes(ranks: Ranks, devices: int | str, strategy: str, device: str) -> int:
    """How many processes this one is to start for the run; 1 if they are started, or one is enough.

    Args:
        devices: of each node, or ``auto``: as many as processes were started, or else all GPUs of this machine.
        strategy: ``single``, ``ddp`` or ``fsdp``.
        device: ``cpu`` or ``cuda``.

    Raises:
        UserError: the processes that were started are not one for each device; says how to start.
    """
    begun = ranks.started_by
    if ranks.world > 1 and strategy == "single":
        raise UserError(
            f"{begun} started {ranks.world} processes, and each would train the whole run: choose trainer=ddp or "
            "trainer=fsdp, or start one process"
        )
    if begun == "python":
        count = torch.cuda.device_count() if device == "cuda" else 1
        count = count if devices == "auto" else int(devices)
        if count > 1 and strategy == "single":
            raise UserError(
                f"trainer.devices is {count} and trainer.strategy single: choose trainer=ddp or trainer=fsdp"
            )
        if device == "cuda" and count > torch.cuda.device_count():
            raise UserError(f"trainer.devices is {count}, but torch finds {torch.cuda.device_count()} GPUs here")
        return count
    if devices not in ("auto", ranks.local_world):
        option = "torchrun --nproc-per-node" if begun == "torchrun" else "srun --ntasks-per-node"
        raise UserError(
            f"{begun} started {ranks.local_world} processes on a node and trainer.devices is {devices}: it must be one "
            f"process a device ({option}={devices}, or trainer.devices={ranks.local_world})"
        )
    return 1


def check_wandb() -> None:
    """Raises UserError if the package wandb is missing."""
    if importlib.util.find_spec("wandb") is None:
        raise UserError("the logger wandb needs the package wandb: pip install wandb")
