"""Keys of training: optimisers, schedules, loggers. No torch here."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from lab.base.parts import part
from lab.base.settings import Count, Fraction, Positive, Settings, Share, Text, key

Betas = Annotated[list[Annotated[float, Field(ge=0, lt=1)]], Field(min_length=2, max_length=2)]


class AdamSettings(Settings):
    """What both optimisers have."""

    learning_rate: Positive = key("peak; the schedule multiplies it")
    betas: Betas = key("of AdamW: pair of fractions")
    eps: Positive = key("of AdamW")
    weight_decay: float = key("on every parameter, as TinyLlama", ge=0)


@part("optimizer", "lab.training.optimizers:adamw")
class AdamWSettings(AdamSettings):
    """AdamW as TinyLlama uses it."""

    name: Literal["adamw"] = "adamw"


@part("optimizer", "lab.training.optimizers:Muon")
class MuonSettings(AdamSettings):
    """Muon for the matrices inside the blocks, AdamW for embedding, head and vectors."""

    name: Literal["muon"] = "muon"
    momentum: Annotated[float, Field(ge=0, lt=1)] = key("of Muon (Nesterov)")


class ScheduleSettings(Settings):
    """What every schedule has."""

    warmup_steps: int = key("optimiser steps of linear warm-up", ge=0)


@part("schedule", "lab.training.schedules:cosine")
class CosineSettings(ScheduleSettings):
    """Linear warm-up, then half a cosine."""

    name: Literal["cosine"] = "cosine"
    final_fraction: Fraction = key("of the peak, at the last step (TinyLlama: 0.1)")


@part("schedule", "lab.training.schedules:wsd")
class WSDSettings(ScheduleSettings):
    """Warm-up, stable, decay."""

    name: Literal["wsd"] = "wsd"
    decay_fraction: Fraction = key("of all steps, at the end: the decay")
    final_fraction: Fraction = key("of the peak, at the last step")


@part("schedule", "lab.training.schedules:constant")
class ConstantSettings(ScheduleSettings):
    """Linear warm-up, then the peak."""

    name: Literal["constant"] = "constant"


@part("logger", "lab.training.loggers:nothing")
class CSVSettings(Settings):
    """metrics.csv and timing.csv in the run directory, which every run writes, and nothing more."""

    name: Literal["csv"] = "csv"


@part("logger", "lab.training.loggers:tensorboard")
class TensorBoardSettings(Settings):
    """TensorBoard event files in the run directory."""

    name: Literal["tensorboard"] = "tensorboard"


@part("logger", "lab.training.loggers:wandb")
class WandbSettings(Settings):
    """Weights & Biases."""

    name: Literal["wandb"] = "wandb"
    project: Text = key("where the run goes")
    offline: bool = key("true: nothing is sent")


@part("adapter", "lab.training.adapters:HeadScaling")
class HeadScalingSettings(Settings):
    """One factor on the attention logits of each head, at least 1, trained with all else frozen (arXiv 2404.12224)."""

    name: Literal["head_scaling"] = "head_scaling"
    initial: float = key("value of all factors, at best the best single one, 1 + k ln s", ge=1)


@part("objective", "lab.training.objectives:Masked")
class MaskedSettings(Settings):
    """Words that are hidden are told, by a decoder that sees what comes after (arXiv 1810.04805)."""

    name: Literal["masked"] = "masked"
    share: Share = key("of the words of a block that are to be told")
    random: Fraction = key("of these, for which a token drawn from all is shown")
    kept: Fraction = key("of these, which are shown; all others are a gap, the tokenizer's unknown token")


Matrix = Literal["query", "key", "value", "output", "gate", "up", "down"]


@part("adapter", "lab.training.lora:LoRA")
class LoRASettings(Settings):
    """Low-rank updates of matrices of every block, and of the embedding, trained with all else frozen (arXiv
    2106.09685)."""

    name: Literal["lora"] = "lora"
    rank: Count = key("of the update of each matrix")
    matrices: list[Matrix] = key("of each block, that are updated: query, key, value, output, gate, up, down")
    embedding_rank: int = key(
        "of the update of the token embedding, 0: none; a tied head is updated with it, another stays as it is", ge=0
    )
    alpha: Positive = key("updates are multiplied by alpha / rank, that of the embedding by alpha / embedding_rank")

    @model_validator(mode="after")
    def _updates(self) -> "LoRASettings":
        if not self.matrices and not self.embedding_rank:
            raise ValueError("matrices is [] and embedding_rank 0, so nothing would be trained: name matrices")
        if len(set(self.matrices)) < len(self.matrices):
            raise ValueError(f"matrices is [{', '.join(self.matrices)}]: name each once")
        return self
