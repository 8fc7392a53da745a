"""Train the decoder of a configuration into a run directory."""

import logging
import warnings
from functools import partial

import lightning
import torch

from lab.base.errors import UserError
from lab.base.interruption import Interruption
from lab.base.parts import build
from lab.base.settings import Settings
from lab.cluster.ranks import Ranks
from lab.data.stream.module import DataModule
from lab.model.decoder import Decoder
from lab.model.flops import peak_flops
from lab.model.memory import is_out_of_memory, shape_of, step_memory
from lab.model.precision import exact_products, fix_order_of_sums
from lab.runs.checkpoints import Checkpoint, Checkpoints
from lab.runs.identity import variant
from lab.runs.run import Run
from lab.runs.settings import RunSettings, TrainerSettings
from lab.training import private
from lab.training.callbacks import KeepingWeights, Metrics, Progress, Saving
from lab.training.module import Training
from lab.training.objectives import next_token
from lab.training.planned import flops_of, steps_of
from lab.training.resume import CheckpointFolders
from lab.training.strategies import Started, strategy_of

ALONE = Ranks()


def peak_of(trainer: TrainerSettings, world: int) -> float | None:
    """Peak FLOP/s of all devices of a run, None if it is not known."""
    one = trainer.peak_flops
    if one is None and trainer.accelerator != "cpu" and torch.cuda.is_available():
        one = peak_flops(torch.cuda.get_device_name())
    return None if one is None else float(one) * world


def fit(
    config: RunSettings,
    run: Run,
    decoder: Decoder,
    data: DataModule,
    interruption: Interruption,
    checkpoint: Checkpoint | None = None,
    ranks: Ranks = ALONE,
    logger: Settings | None = None,
) -> Training:
    """Train ``decoder`` in place, from ``checkpoint`` on if there is one; metrics and checkpoints go to ``run``.

    All ``ranks`` call it, connected; the first logs to ``logger`` beside.

    Returns:
        The Lightning module, whose ``fingerprint`` covers every block trained on.

    Raises:
        UserError: a non-finite loss, or out of memory.
        Interrupted: a signal came; a checkpoint has been saved.
    """
    scale, settings = config.scale, config.trainer
    steps, accumulate = steps_of(scale, ranks.world)
    strategy = strategy_of(settings.strategy, ranks)
    factor = build("schedule", config.schedule, steps=steps)
    module = Training(
        decoder,
        partial(make_optimizer, config.optimizer, config.adapter),
        factor,
        settings.gradient_clip,
        settings.compile is True,
        settings.recompute,
        ranks,
        build("objective", config.objective, tokenizer=data.tokenizer, seed=config.seed)
        if config.objective
        else next_token,
    )
    validate_every = min(settings.validate_every, steps)
    checkpoints = Checkpoints(
        run.path / "checkpoints",
        run.digest,
        settings.keep_last,
        settings.keep_every,
        every=settings.checkpoint_every,
    )
    callbacks: list[lightning.Callback] = [
        KeepingWeights(run.kept, settings.keep_weights, validate_every, steps),
        Saving(checkpoints, settings.checkpoint_every, steps, interruption, ranks),  # may stop the run, so it is last
    ]
    if ranks.first:
        callbacks = [
            Metrics(
                run.path,
                settings.log_every,
                validate_every,
                scale.batch_tokens,
                steps,
                flops_of(config),
                peak_of(settings, ranks.world),
            ),
            Progress(steps, scale.batch_tokens, variant(config.model, scale)),
            *callbacks,
        ]
    # Lightning's advice on workers, lengths, precision and loggers is answered in lab/data/stream and lab/model.
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="lightning.*")
    trainer = lightning.Trainer(
        accelerator=settings.accelerator,
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
        logger=build("logger", logger, run=run.path, tokens=checkpoint.step * scale.batch_tokens if checkpoint else 0)
        if logger is not None and ranks.first
        else False,
        callbacks=callbacks,
        plugins=[CheckpointFolders(checkpoints, run.kept), *([Started(ranks)] if ranks.world > 1 else [])],
    )
    private.silence_signals(trainer)
    fix_order_of_sums(settings.deterministic)
    exact_products()
    # Nothing of the lab draws from these generators while training; a library might, and then it draws the same.
    lightning.seed_everything(config.seed % 2**32, verbose=False)
    try:
        trainer.fit(module, datamodule=data, ckpt_path=checkpoint.path if checkpoint else None)
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        raise UserError(
            f"out of memory at optimiser step {trainer.global_step + 1}: a step needs "
            f"{memory_estimate(config, ranks)}; lower micro_batch (now {scale.micro_batch})"
        ) from None
    return module


def make_optimizer(settings: Settings, adapter: Settings | None, decoder: Decoder) -> torch.optim.Optimizer:
    """The optimiser of a decoder, which keeps what its adapter must keep after each step."""
    optimizer: torch.optim.Optimizer = build("optimizer", settings, model=decoder)
    if adapter is not None:
        constrain = build("adapter", adapter).constrain
        optimizer.register_step_post_hook(lambda *_: constrain(decoder))
    return optimizer


def memory_estimate(config: RunSettings, ranks: Ranks) -> str:
    """A sentence about the memory of a step, by the model that ``lab.plan`` prints."""
    memory = step_memory(
        shape_of(config.scale, config.model),
        micro_batch=config.scale.micro_batch,
        compute_dtype=config.trainer.compute_dtype,
        optimizer=config.optimizer.name,
        kernel="banded" if config.kernel in ("auto", "matched") and not torch.cuda.is_available() else config.kernel,
        strategy=config.trainer.strategy,
        ranks=ranks.world,
        recompute=config.trainer.recompute,
    )
    return (
        f"{memory.state / 1e9:.1f} GB for weights, gradients and optimiser, and about "
        f"{(memory.total - memory.state) / 1e9:.1f} GB for the activations and logits of a micro-batch"
    )
