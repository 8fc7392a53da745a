"""Keys of a run: all that decides its numbers, and how it is trained. Stored as its config.yaml. No torch here."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from lab.base.parts import one_of, part
from lab.base.settings import Count, Positive, Seed, Settings, Text, key
from lab.data.settings import DataSettings, TokenizerSettings
from lab.model.settings import ModelSettings, ScaleSettings, ShapeSettings


class TrainerSettings(Settings):
    """Hardware, precision, how often a run logs and saves."""

    accelerator: Literal["auto", "cpu", "gpu"] = key("auto, cpu or gpu")
    strategy: Literal["single", "ddp", "fsdp"] = key("single, ddp or fsdp")
    devices: Count | Literal["auto"] = key(
        "processes on each node, one a device; auto: as many as were started, else all GPUs of this machine"
    )
    compute_dtype: Literal["auto", "float32", "bfloat16"] = key(
        "of activations and products; auto = bfloat16 where the hardware is fast at it"
    )
    compile: bool | Literal["auto"] = key("torch.compile of each block; auto = on a GPU; needs a C++ compiler")
    deterministic: bool = key("false: on a GPU, kernels may be faster and their sums in another order from run to run")
    recompute: Literal["none", "selective", "all"] = key(
        "activations formed again in the backward pass, to save memory: none, selective (all but matrix products), all"
    )
    peak_flops: Positive | None = key(
        "bf16 FLOP/s of one device, for the utilisation in timing.csv; null: by the device's name"
    )
    gradient_clip: Positive = key("largest global norm of the gradient")
    log_every: Count = key("optimiser steps between two rows of metrics.csv")
    validate_every: Count = key("optimiser steps between two validation losses")
    checkpoint_every: Count = key("optimiser steps between two checkpoints; the last step always has one")
    keep_last: Count = key("newest checkpoints kept")
    keep_every: Count | None = key("also keep those of every so many optimiser steps")
    keep_weights: list[Literal["doubling", "validation"] | Count] = key(
        "keep the weights alone, to be scored, of optimiser steps 1, 2, 4, 8, ... (doubling), of those with a "
        "validation loss (validation), and of steps that are named by their numbers"
    )


@part("start", "lab.runs.parents:Scratch")
class ScratchSettings(Settings):
    """Initial weights, drawn from the seed."""

    name: Literal["scratch"] = "scratch"


@part("start", "lab.runs.parents:FromRun")
class FromRunSettings(Settings):
    """The weights of a parent: a run, or one derived of it. Optimiser and schedule begin anew."""

    name: Literal["run"] = "run"
    run: Text = key("directory of the parent")
    step: Count | Literal["last"] = key("optimiser step of the parent's checkpoint; last: where it was finished")
    data: Literal["on", "again"] = key(
        "on the parent's data, read on at its next block (on) or from the first again (again); other data begin with "
        "their first"
    )


class RunSettings(Settings):
    """A run, whatever command made it."""

    model: ModelSettings
    scale: ScaleSettings
    tokenizer: TokenizerSettings
    data: DataSettings
    optimizer: one_of("optimizer")  # type: ignore[valid-type]
    schedule: one_of("schedule")  # type: ignore[valid-type]
    trainer: TrainerSettings
    start: one_of("start")  # type: ignore[valid-type]
    adapter: one_of("adapter") | None = key(  # type: ignore[valid-type]
        "numbers that are trained in place of the weights, which stay a parent's; null: the weights", default=None
    )
    objective: one_of("objective") | None = key(  # type: ignore[valid-type]
        "what is learned; null: the next token", default=None
    )
    seed: Seed = key("of the initial weights and of the data order")
    kernel: Annotated[str, Field(min_length=1)] = key(
        "attention kernel: auto, matched (one for every variant), reference, sdpa, banded, varlen, flash, flex"
    )

    @model_validator(mode="after")
    def _told_is_not_seen(self) -> "RunSettings":
        if self.model.attention.causal == (self.objective is not None):
            seen = "nothing" if self.model.attention.causal else "all"
            raise ValueError(
                f"model.attention is {self.model.attention.name}, which shows a place {seen} that comes after it: "
                + ("leave objective out" if self.model.attention.causal else "it is trained with objective=masked")
            )
        return self


class ImportedSettings(Settings):
    """An imported model. Stored as its config.yaml."""

    model: ModelSettings
    scale: ShapeSettings
    tokenizer: TokenizerSettings
    kernel: Annotated[str, Field(min_length=1)] = key("attention kernel, as of a run")
    compute_dtype: Literal["float32", "bfloat16"] = key("of activations and products")
