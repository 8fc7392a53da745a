"""What a run will take: time from a rate, memory from the shape, bytes of checkpoints and data.

A rate is measured, by ``lab.bench train``, or assumed, as a share of a device's peak. Nothing here needs torch, a
corpus or a tokenizer's file.
"""

import math
import re
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

from lab.base.errors import UserError
from lab.base.tables import Row, read_table
from lab.model.flops import PEAKS, FlopsPerToken, training_flops
from lab.model.memory import FLOAT32, SHARDABLE, Memory, Shape, moments, shape_of, step_memory
from lab.planning.settings import PlanSettings
from lab.runs.identity import shape_label, variant

STRATEGIES = ("single", "ddp", "fsdp")
FACTORS = {"": 1, "k": 10**3, "m": 10**6, "b": 10**9, "t": 10**12}


@dataclass(frozen=True)
class Device:
    """One accelerator: dense bfloat16 FLOP/s and bytes of memory."""

    peak: float
    memory: float


# Memory by NVIDIA's data sheets of the SXM modules: A100 80GB, H100, H200.
DEVICES = {
    name.lower(): Device(PEAKS[name], memory) for name, memory in {"A100": 80e9, "H100": 80e9, "H200": 141e9}.items()
}


def amount(key: str, value: Any) -> int:
    """A count written as 50B, 950k, 4.7M, 1.5T, 2e9 or a plain number.

    Raises:
        UserError: it is none of these, below 1, or not whole.
    """
    text = str(value).strip().replace("_", "")
    found = re.fullmatch(r"(\d+(?:\.\d*)?(?:e\+?\d{1,2})?) ?([kmbt]?)", text, re.IGNORECASE)
    if found is not None:
        count = Decimal(found[1]) * FACTORS[found[2].lower()]
        if count >= 1 and count == count.to_integral_value():
            return int(count)
    raise UserError(f"{key} is {value!r}: give a whole number from 1 on, such as 50B, 950k, 4.7M, 1.5T, 2e9 or 4718592")


@dataclass(frozen=True)
class Rate:
    """Tokens a second of each device, and where that is from."""

    tokens_per_second: float
    measured: bool
    source: str


@dataclass(frozen=True)
class Measured:
    """What ``lab.bench train`` has measured of one decoder on one device."""

    contestant: str
    variant: str
    scale: str
    device: str
    flops_per_token: float  # by visible keys
    tokens_per_second: float  # median of the rounds
    rounds: int

    def __str__(self) -> str:
        rounds = "1 round" if self.rounds == 1 else f"median of {self.rounds} rounds"
        return f"{self.contestant}, {self.variant} at {self.scale} on {self.device}, {rounds}"


def read_bench(paths: Sequence[str], compiled: bool) -> list[Measured]:
    """The lab's own steps in files of ``lab.bench train --csv``: compiled or eager as asked, where there are both.

    Raises:
        UserError: a file cannot be read, or does not hold such steps.
    """
    remedy = "make it with python -m lab.bench train --csv FILE"
    columns = ("contestant", "variant", "scale", "device", "seconds", "tokens", "flops_per_token")
    found: list[Measured] = []
    for path in paths:
        groups: dict[tuple[str, str, str, str, float], list[float]] = {}
        for row in read_table(Path(path), columns, remedy):
            if row["contestant"] not in ("lab eager", "lab compiled"):
                continue
            if any(not row[key] or row[key] <= 0 for key in ("seconds", "tokens", "flops_per_token")):
                raise UserError(f"{path} holds a step without seconds, tokens or flops_per_token; {remedy}")
            group = (row["contestant"], row["variant"], row["scale"], row["device"], row["flops_per_token"])
            groups.setdefault(group, []).append(row["tokens"] / row["seconds"])
        if not groups:
            raise UserError(f"{path} holds no step of 'lab eager' or 'lab compiled'; {remedy}")
        found += [Measured(*group, statistics.median(rates), len(rates)) for group, rates in groups.items()]
    wanted = "lab compiled" if compiled else "lab eager"
    return [each for each in found if each.contestant == wanted] or found


def device_of(config: PlanSettings) -> Device:
    """The device that is planned for. Raises UserError for one whose figures are not known."""
    known = DEVICES.get(config.device.lower())
    peak, memory = config.peak_tflops, config.memory_gb
    if known is None and (peak is None or memory is None):
        raise UserError(
            f"device is {config.device}: choose {', '.join(DEVICES)}, or give peak_tflops and memory_gb too"
        )
    return Device(
        peak * 1e12 if peak is not None else known.peak,  # type: ignore[union-attr]
        memory * 1e9 if memory is not None else known.memory,  # type: ignore[union-attr]
    )


def compute_dtype(config: PlanSettings) -> str:
    """The type of activations; ``auto`` is bfloat16, as on every device that has a peak rate in it.

    Raises:
        UserError: no such type, or one that an assumed rate is not of.
    """
    setting = config.trainer.compute_dtype
    if setting == "float32" and config.bench is None and config.peak_tflops is None:
        raise UserError(
            "trainer.compute_dtype is float32, but the data sheets' rates are of bfloat16: give peak_tflops, or bench"
        )
    return "float32" if setting == "float32" else "bfloat16"


def rate_of(name: str, flops: FlopsPerToken, config: PlanSettings, device: Device, bench: Sequence[Measured]) -> Rate:
    """Tokens a second of each of ``gpus`` devices: as measured, else by FLOPs from what was, else assumed."""
    if not bench:
        achieved = config.utilisation * device.peak
        return Rate(achieved / flops.full, False, f"assumed: {config.utilisation:.0%} of peak")
    kept = config.scaling if config.gpus > 1 else 1.0
    for each in bench:
        if each.variant == name and abs(each.flops_per_token / flops.exact - 1) < 1e-9:
            return Rate(each.tokens_per_second * kept, True, f"measured: {each}")
    near = min(bench, key=lambda each: (each.variant != name, abs(each.flops_per_token / flops.exact - 1)))
    rate = near.tokens_per_second * near.flops_per_token / flops.exact
    return Rate(rate * kept, False, f"assumed: FLOP/s as {near}")


@dataclass(frozen=True)
class Batch:
    """How the global batch is divided over ranks."""

    tokens: int
    micro_tokens: int  # of one micro-batch on all ranks

    @property
    def divides(self) -> bool:
        return self.tokens % self.micro_tokens == 0

    @property
    def micro_batches(self) -> int:
        """Of each rank in a step, if the batch divides."""
        return self.tokens // self.micro_tokens

    @property
    def nearest(self) -> list[int]:
        """The batches of about this size that divide, in tokens."""
        below = self.micro_batches * self.micro_tokens
        return [tokens for tokens in (below, below + self.micro_tokens) if tokens]


@dataclass(frozen=True)
class Plan:
    """What a run of one variant will take.

    Attributes:
        memory: of each device by strategy; a strategy that cannot train this run is absent. Under ``single`` it is one
            device alone, which the time is not of if there are several.
        share_exact, share_full: of the device's peak, by the two conventions of :class:`FlopsPerToken`.
    """

    variant: str
    shape: Shape
    flops: FlopsPerToken
    rate: Rate
    steps: int
    batch: Batch
    gpus: int
    memory: dict[str, Memory]
    share_exact: float
    share_full: float
    checkpoint_bytes: int
    checkpoints_kept: int
    block_bytes: int
    text_bytes: float

    @property
    def tokens(self) -> int:
        return self.steps * self.batch.tokens

    @property
    def seconds(self) -> float:
        """Of training alone: no validation, checkpoints or scoring."""
        return self.tokens / (self.gpus * self.rate.tokens_per_second)

    @property
    def gpu_hours(self) -> float:
        return self.gpus * self.seconds / 3600

    @property
    def kept_bytes(self) -> int:
        """Checkpoints on the disk when the run ends; while one is written, it stands beside them."""
        return self.checkpoints_kept * self.checkpoint_bytes


def plan(config: PlanSettings, bench: Sequence[Measured]) -> Plan:
    """What a run of this configuration will take; ``config`` is conf/plan.yaml as composed for one variant.

    Raises:
        UserError: a value that no run can have.
    """
    scale, trainer = config.scale, config.trainer
    shape = shape_of(scale, config.model)
    flops = training_flops(
        vocabulary=shape.vocabulary,
        layers=shape.layers,
        width=shape.width,
        hidden=shape.hidden,
        heads=shape.heads,
        kv_heads=shape.kv_heads,
        head_dim=shape.head_dim,
        context=shape.context,
        window=shape.window,
    )
    device = device_of(config)
    rate = rate_of(variant(config.model, scale), flops, config, device, bench)
    tokens = scale.tokens if config.tokens is None else amount("tokens", config.tokens)
    batch = Batch(scale.batch_tokens, scale.micro_batch * shape.context * config.gpus)
    steps = tokens // batch.tokens
    if steps < 1:
        raise UserError(f"tokens is {tokens}, less than one batch of scale.batch_tokens = {batch.tokens}: change one")
    optimizer, dtype = config.optimizer.name, compute_dtype(config)
    memory = {
        strategy: step_memory(
            shape,
            micro_batch=scale.micro_batch,
            compute_dtype=dtype,
            optimizer=optimizer,
            strategy=strategy,
            ranks=config.gpus,
            recompute=trainer.recompute,
        )
        for strategy in (STRATEGIES if config.gpus > 1 else STRATEGIES[:1])
        if strategy != "fsdp" or optimizer in SHARDABLE
    }
    # A token of a block is uint16 where the vocabulary allows (lab/data/stream/shards.py); a block is C + 1 of them.
    written = steps * batch.tokens // shape.context * (shape.context + 1) * (2 if shape.vocabulary <= 2**16 else 4)
    every = trainer.keep_every
    saved = -(-steps // trainer.checkpoint_every)  # the last step always is
    long_kept = steps // math.lcm(every, trainer.checkpoint_every) if every else 0
    return Plan(
        variant=variant(config.model, scale),
        shape=shape,
        flops=flops,
        rate=rate,
        steps=steps,
        batch=batch,
        gpus=config.gpus,
        memory=memory,
        share_exact=rate.tokens_per_second * flops.exact / device.peak,
        share_full=rate.tokens_per_second * flops.full / device.peak,
        checkpoint_bytes=FLOAT32 * (shape.parameters + moments(shape, optimizer)),
        checkpoints_kept=min(saved, trainer.keep_last + long_kept),
        block_bytes=written,
        text_bytes=steps * batch.tokens * config.bytes_per_token,
    )


def rows(plans: Sequence[Plan], config: PlanSettings) -> list[Row]:
    """The plans as a table: a row a variant and strategy that can train it."""
    table = []
    for each in plans:
        for strategy, memory in each.memory.items():
            timed = strategy != "single" or each.gpus == 1
            table.append(
                {
                    "variant": each.variant,
                    "scale": shape_label(config.scale),
                    "strategy": strategy,
                    "gpus": 1 if strategy == "single" else each.gpus,
                    "parameters": each.shape.parameters,
                    "tokens": each.tokens,
                    "steps": each.steps,
                    "batch_tokens": each.batch.tokens,
                    "micro_batches": each.batch.micro_batches if timed and each.batch.divides else None,
                    "flops_per_token_exact": each.flops.exact,
                    "flops_per_token_6n_12lhqt": each.flops.full,
                    "tokens_per_second_per_gpu": each.rate.tokens_per_second if timed else None,
                    "rate_source": each.rate.source,
                    "hours": each.seconds / 3600 if timed else None,
                    "gpu_hours": each.gpu_hours if timed else None,
                    "parameters_bytes": memory.parameters,
                    "gradients_bytes": memory.gradients,
                    "optimizer_bytes": memory.optimizer,
                    "copies_bytes_estimated": memory.copies,
                    "activations_bytes_estimated": memory.activations,
                    "logits_bytes_estimated": memory.logits,
                    "total_bytes_estimated": memory.total,
                    "checkpoint_bytes": each.checkpoint_bytes,
                    "kept_checkpoints_bytes": each.kept_bytes,
                    "written_blocks_bytes": each.block_bytes,
                    "text_bytes_assumed": each.text_bytes,
                }
            )
    return table
