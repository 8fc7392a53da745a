"""Train the decoder of a configuration into a run directory."""

import hashlib
import logging
import platform
import warnings
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from subprocess import run as run_process
from typing import Any

import lightning
import torch
from lightning.pytorch.loggers import Logger, TensorBoardLogger, WandbLogger

from lab.checkpoints import Checkpoint, Checkpoints
from lab.components import make
from lab.data.module import DataModule
from lab.errors import UserError
from lab.model.decoder import Decoder
from lab.model.flops import FlopsPerToken, peak_flops, training_flops
from lab.model.memory import shape_of, step_memory
from lab.model.precision import fix_order_of_sums
from lab.ranks import Ranks
from lab.runs import Config, Run
from lab.training.callbacks import Metrics, Progress, Saving
from lab.training.interruption import Interruption
from lab.training.module import Training
from lab.training.resume import CheckpointFolders
from lab.training.strategies import Started, strategy_of

PACKAGES = ("context-window-lab", "torch", "lightning", "tokenizers", "numpy", "safetensors", "hydra-core")
LOGGERS = ("csv", "tensorboard", "wandb")
ALONE = Ranks()


def steps_of(config: Config, world: int = 1) -> tuple[int, int]:
    """(optimiser steps, micro-batches of each on each of ``world`` ranks) of a run.

    Raises:
        UserError: the batch is not a whole number of micro-batches of all ranks, or the budget less than one batch.
    """
    scale = config["scale"]
    for key in ("tokens", "batch_tokens", "micro_batch"):
        if scale[key] < 1:
            raise UserError(f"scale.{key} is {scale[key]}: give 1 or more")
    micro_tokens = scale["micro_batch"] * scale["context"] * world
    if scale["batch_tokens"] % micro_tokens:
        ranks = f" x {world} ranks" if world > 1 else ""
        raise UserError(
            f"scale.batch_tokens is {scale['batch_tokens']}, not a multiple of scale.micro_batch x scale.context"
            f"{ranks} = {micro_tokens}; change one of them"
        )
    steps = scale["tokens"] // scale["batch_tokens"]
    if steps < 1:
        raise UserError(
            f"scale.tokens is {scale['tokens']}, less than one batch of scale.batch_tokens = {scale['batch_tokens']}"
        )
    return steps, scale["batch_tokens"] // micro_tokens


def surroundings(kernel: str, world: int = 1, strategy: str = "single") -> dict[str, Any]:
    """Code, packages, kernel, hardware, number of ranks and their strategy that a stretch of training runs on."""
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


def flops_of(config: Config) -> FlopsPerToken:
    """Operations of a training token of a configuration."""
    keys = ("vocabulary", "layers", "width", "hidden", "heads", "kv_heads", "head_dim", "context")
    shape = {key: config["scale"][key] for key in keys}
    return training_flops(**shape, window=config["model"]["attention"]["window"])


def peak_of(settings: Config, world: int) -> float | None:
    """Peak FLOP/s of all devices of a run, None if it is not known."""
    one = settings["peak_flops"]
    if one is None and settings["accelerator"] != "cpu" and torch.cuda.is_available():
        one = peak_flops(torch.cuda.get_device_name())
    return None if one is None else float(one) * world


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


# What refuses values, reads trained runs, or prints: it changes no run.
AFTERWARDS = {
    "bench.py",
    "benches",
    "commands.py",
    "compare.py",
    "control.py",
    "extrapolate.py",
    "measure",
    "plan.py",
    "planning.py",
    "report",
    "schema.py",
    "slurm.py",
    "slurm_launcher.py",
    "status.py",
    "sweep.py",
    "tables.py",
}


def code_digest() -> str:
    """sha256 of the names and contents of the modules that can have a part in training."""
    package = Path(__file__).parents[1]
    total = hashlib.sha256()
    for path in sorted(package.rglob("*.py")):
        if path.relative_to(package).parts[0] in AFTERWARDS:
            continue
        total.update(path.relative_to(package).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return total.hexdigest()


def make_logger(config: Config, run: Run, first_step: int) -> Logger | bool:
    """The logger beside metrics.csv, or False for none; a run that is continued continues its curves."""
    name = config["logger"]["name"]
    if name == "csv":
        return False
    if name == "tensorboard":
        # What was logged beyond the checkpoint, before the run was killed, is logged again.
        purge: dict[str, Any] = {"purge_step": first_step} if first_step > 1 else {}
        return TensorBoardLogger(save_dir=run.path, name="", version="tensorboard", **purge)
    return WandbLogger(
        project=config["logger"]["project"],
        offline=config["logger"]["offline"],
        name=run.path.name,
        id=run.path.name,
        save_dir=run.path,
        resume="allow",
    )


def fit(
    config: Config,
    run: Run,
    decoder: Decoder,
    data: DataModule,
    interruption: Interruption,
    checkpoint: Checkpoint | None = None,
    ranks: Ranks = ALONE,
) -> Training:
    """Train ``decoder`` in place, from ``checkpoint`` on if there is one; metrics and checkpoints go to ``run``.

    All ``ranks`` call it, connected.

    Returns:
        The Lightning module, whose ``fingerprint`` covers every block trained on.

    Raises:
        UserError: a non-finite loss, or out of memory.
        Interrupted: a signal came; a checkpoint has been saved.
    """
    scale, settings = config["scale"], config["trainer"]
    steps, accumulate = steps_of(config, ranks.world)
    strategy = strategy_of(settings["strategy"], ranks)
    factor = make(config["schedule"], steps=steps)
    module = Training(
        decoder,
        partial(_make_optimizer, config["optimizer"]),
        factor,
        settings["gradient_clip"],
        settings["compile"],
        settings["recompute"],
        ranks,
    )
    validate_every = min(settings["validate_every"], steps)
    checkpoints = Checkpoints(run.path / "checkpoints", settings["keep_last"], settings["keep_every"])
    callbacks: list[lightning.Callback] = [
        Saving(checkpoints, settings["checkpoint_every"], steps, interruption, ranks),
    ]
    if ranks.first:
        callbacks = [
            Metrics(
                run.path,
                settings["log_every"],
                validate_every,
                scale["batch_tokens"],
                steps,
                flops_of(config),
                peak_of(settings, ranks.world),
            ),
            Progress(steps, scale["batch_tokens"], config["model"]["name"]),
            *callbacks,
        ]
    # Lightning's advice on workers, lengths, precision and loggers is answered in lab/data/module.py and lab/model.
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="lightning.*")
    trainer = lightning.Trainer(
        accelerator=settings["accelerator"],
        devices=ranks.local_world,
        num_nodes=ranks.nodes,
        strategy=strategy,
        precision="32-true",  # the decoder casts by itself
        max_steps=steps,
        max_epochs=-1,
        accumulate_grad_batches=accumulate,
        check_val_every_n_epoch=None,
        val_check_interval=validate_every * accumulate,
        num_sanity_val_steps=0,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        logger=make_logger(config, run, checkpoint.step + 1 if checkpoint else 1) if ranks.first else False,
        callbacks=callbacks,
        plugins=[CheckpointFolders(checkpoints), *([Started(ranks)] if ranks.world > 1 else [])],
    )
    # It sends a word between the ranks, and waits for the GPU, at every micro-batch; Saving does it once a step.
    trainer.fit_loop.epoch_loop._broadcast_sigterm_tensor = lambda: None  # type: ignore[method-assign]
    fix_order_of_sums(settings["deterministic"])
    # Products of float32 tensors are of float32, not of TF32: what is to be 16 bits is cast to it.
    torch.set_float32_matmul_precision("highest")
    # Nothing of the lab draws from these generators while training; a library might, and then it draws the same.
    lightning.seed_everything(config["seed"], verbose=False)
    try:
        trainer.fit(module, datamodule=data, ckpt_path=checkpoint.path if checkpoint else None)
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        raise UserError(
            f"out of memory at optimiser step {trainer.global_step + 1}: a step needs "
            f"{memory_estimate(config, ranks)}; lower scale.micro_batch (now {scale['micro_batch']})"
        ) from None
    return module


def _make_optimizer(node: Config, decoder: Decoder) -> torch.optim.Optimizer:
    optimizer: torch.optim.Optimizer = make(node, model=decoder)
    return optimizer


def is_out_of_memory(error: RuntimeError) -> bool:
    """torch raises a class of its own on a GPU and a plain RuntimeError from the CPU allocator."""
    return isinstance(error, torch.OutOfMemoryError) or "DefaultCPUAllocator" in str(error)


def memory_estimate(config: Config, ranks: Ranks) -> str:
    """A sentence about the memory of a step, by the model that ``lab.plan`` prints."""
    memory = step_memory(
        shape_of(config["scale"], config["model"]),
        micro_batch=config["scale"]["micro_batch"],
        compute_dtype=config["trainer"]["compute_dtype"],
        optimizer=config["optimizer"]["_target_"],
        kernel=config["kernel"],
        strategy=config["trainer"]["strategy"],
        ranks=ranks.world,
        recompute=config["trainer"]["recompute"],
    )
    return (
        f"{memory.state / 1e9:.1f} GB for weights, gradients and optimiser, and about "
        f"{(memory.total - memory.state) / 1e9:.1f} GB for the activations and logits of a micro-batch"
    )
