"""A small corpus of people and decoders of them that were not trained, for tests within the process."""

import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from lab.base.parts import build
from lab.data.biographies.corpus import Biographies
from lab.data.tokenizer import Tokenizer
from lab.experiment.compose import settings_of
from lab.experiment.settings import TrainSettings
from lab.model.building import build_decoder
from lab.model.decoder import Decoder
from lab.observe.fold import Fold
from lab.observe.measure import Source

SMALL = (
    "scale.layers=2",
    "scale.width=32",
    "scale.hidden=48",
    "scale.heads=2",
    "scale.kv_heads=2",
    "scale.head_dim=16",
)
PEOPLE = ("data.corpus.people=40", "data.corpus.seed=2", "data.corpus.wordings=2", "data.corpus.orders=1")
TRAINED = ("experiment=biographies", "measure=none", *SMALL, *PEOPLE)
TRAINED += ("scale.tokens=20480", "scale.warmup_steps=2", "scale.validation_blocks=4", "trainer.compute_dtype=float32")


@functools.cache
def chosen(*overrides: str) -> Any:
    return settings_of("train", TrainSettings, [*TRAINED, *overrides])


@functools.cache
def corpus(*overrides: str) -> Biographies:
    made: Biographies = build("corpus", chosen(*overrides).data.corpus)
    return made


@functools.cache
def tokenizer() -> Tokenizer:
    made: Tokenizer = build("tokenizer", chosen().tokenizer)
    return made


def decoder(model: str = "rope") -> Decoder:
    """Its weights are large, so that states differ from token to token."""
    config = chosen(f"model={model}")
    made = build_decoder(config.model, config.scale, kernel="reference", compute_dtype="float32", seed=3)
    with torch.no_grad():
        for parameter in made.parameters():
            if parameter.dim() > 1:
                parameter *= 3
    return made.eval()


def source(*overrides: str) -> Source:
    def none() -> Iterator[Any]:
        return iter(())

    people = corpus(*overrides)
    return Source(none, tokenizer(), 128, people.cluster, people.clusters, trained_on=lambda: people)


def fold_of(study: Any, of: Decoder, given: Source) -> Fold:
    """As lab.analyze makes it, in one go."""
    fold = Fold({"made_of": study.made_of(given)})
    for item in study.items(given):
        fold.add(item.name, study.observe(of, item, 128))
    return fold


def groups() -> dict[str, list[Any]]:
    return {group: corpus().members(group) for group in ("training", "held_out")}


def runs_in(folder: Path) -> list[Path]:
    return sorted((folder / "runs").glob("*"))
