"""From a composed configuration to everything a run needs, checked before anything is written."""

import importlib.util
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import UInt32
from omegaconf import DictConfig, OmegaConf

from lab.components import find, make
from lab.data.blocks import StoredBlocks
from lab.data.documents import Corpus
from lab.data.module import DataModule
from lab.data.order import BlockStream
from lab.data.tokenised import held_out
from lab.errors import UserError
from lab.measure.measure import Row, Source
from lab.measure.scores import Scores
from lab.measure.scoring import make_measures, setting_of
from lab.model.decoder import Decoder
from lab.model.flops import FlopsPerToken
from lab.model.kernels import choose
from lab.model.kernels.case import Case
from lab.model.precision import DTYPES, compute_dtype
from lab.ranks import detect
from lab.runs import Config, Run, build_decoder, digest, identity, order_identity
from lab.schema import check_values, flatten
from lab.training.fit import LOGGERS, flops_of, steps_of
from lab.training.strategies import check_optimizer, processes


class Job:
    """One composed configuration, checked, with everything that its run needs; nothing is written yet."""

    def __init__(self, composed: DictConfig) -> None:
        config: Config = to_plain(composed)
        check_values(config)
        self.config = config
        self.device = device_of(config["trainer"]["accelerator"])
        config["trainer"]["compute_dtype"] = compute_dtype(config["trainer"]["compute_dtype"], self.device)
        if config["trainer"]["compile"] == "auto":
            config["trainer"]["compile"] = self.device == "cuda"
        if config["logger"]["name"] not in LOGGERS:
            raise UserError(f"logger.name is {config['logger']['name']!r}: choose one of {', '.join(LOGGERS)}")
        if config["logger"]["name"] == "wandb" and importlib.util.find_spec("wandb") is None:
            raise UserError("logger=wandb needs the package wandb: pip install wandb")
        trainer = config["trainer"]
        self.ranks = detect(os.environ)
        self.processes = processes(self.ranks, trainer["devices"], trainer["strategy"], self.device)
        world = max(self.ranks.world, self.processes)
        self.steps, self.accumulate = steps_of(config, world)
        if world > 1:
            check_optimizer(trainer["strategy"], config["optimizer"]["_target_"])
        if config.get("table") and not config.get("measure"):
            raise UserError(f"table={config['table']} is a table of scores, and measure=none scores nothing: leave one")
        make(config["schedule"], steps=self.steps)
        find(config["optimizer"], "model")
        tokenizer = make(config["tokenizer"])
        if config["scale"]["vocabulary"] != tokenizer.vocabulary:
            raise UserError(
                f"scale.vocabulary is {config['scale']['vocabulary']} but the tokenizer {tokenizer.path} has "
                f"{tokenizer.vocabulary} token ids; leave scale.vocabulary to follow the tokenizer"
            )
        corpus = make(config["data"]["corpus"])
        self.corpus_manifest = corpus.manifest()
        self.tokenizer_digest = tokenizer.digest
        scale = config["scale"]
        if scale["context"] < 2:
            raise UserError(f"scale.context is {scale['context']}: give 2 or more")
        self.measures = make_measures(config.get("measure", {}), scale["context"])
        with torch.device("meta"):
            self.shape = build_decoder(config)
        self.kernel = self.choose_kernel()
        data = config["data"]
        self.order = order_identity(config, self.corpus_manifest["digest"], tokenizer.digest)
        self.stream = BlockStream(
            corpus,
            "train",
            tokenizer,
            context=scale["context"],
            seed=data["seed"],
            lanes=data["lanes"],
            weights=data["weights"],
            tile=data["tile"],
        )
        self.data = DataModule(
            corpus,
            tokenizer,
            self.training_blocks(),
            context=scale["context"],
            micro_batch=scale["micro_batch"],
            micro_batches=self.steps * self.accumulate,
            validation_blocks=scale["validation_blocks"],
            weights=data["weights"],
            # A written block is read faster than it is handed from one process to another.
            workers=data["workers"] if data["mode"] == "stream" else 0,
            isolate_documents=data["isolate_documents"],
        )
        node = config["evaluation"]["corpus"]
        self.evaluation: Corpus = make(node) if node else corpus
        self.source = Source(self.held_out, tokenizer, scale["context"])
        self.identity = identity(config, self.corpus_manifest["digest"], tokenizer.digest)
        self.digest = digest(self.identity)
        self.run = Run(Path(config["runs"]) / Run.name(config, self.digest))

    def training_blocks(self) -> BlockStream | StoredBlocks:
        """Where the blocks of training come from, by ``data.mode``."""
        mode = self.config["data"]["mode"]
        if mode == "stream":
            return self.stream
        if mode == "blocks":
            return StoredBlocks(self.blocks_folder, self.order, self.block_count)
        raise UserError(f"data.mode is {mode!r}: choose stream or blocks")

    def held_out(self) -> Iterator[tuple[str, UInt32[np.ndarray, "tokens"]]]:
        """The documents that are scored: (name, token ids without the end token)."""
        return held_out(self.evaluation, "test", self.data.tokenizer)

    @property
    def evaluation_label(self) -> str:
        """What the held-out documents are called in scores.csv: name and digest."""
        return f"{self.config['evaluation']['name']}-{self.evaluation.manifest()['digest'][:8]}"

    def scored_rows(self) -> list[Row]:
        """What the job's own measures have observed of loss by position and excess."""
        nodes = self.config.get("measure", {})
        settings = {setting_of(nodes[name]) for name in ("loss_by_position", "excess") if name in nodes}
        scores = Scores(self.run.path / "scores.csv").select(evaluation=self.evaluation_label, step=self.steps)
        return [row for row in scores if row["setting"] in settings]

    @property
    def blocks_folder(self) -> Path:
        """Where ``data.mode=blocks`` reads, named by what decides the blocks."""
        return Path(self.config["data"]["blocks"]) / f"{self.config['data']['name']}-{digest(self.order)[:8]}"

    @property
    def block_count(self) -> int:
        """The blocks that the whole run trains on."""
        return self.trained_tokens // int(self.config["scale"]["context"])

    def choose_kernel(self) -> str:
        """The attention kernel that will serve this run. Raises UserError if the one asked for cannot."""
        dtype = DTYPES[self.config["trainer"]["compute_dtype"]]
        isolated = self.config["data"]["isolate_documents"]
        case = Case(self.device, dtype, self.window, self.shape.position.slopes is not None, isolated)
        return choose(self.config["kernel"], case)

    def decoder(self) -> Decoder:
        """The decoder with its initial weights."""
        return build_decoder(self.config)

    @property
    def window(self) -> int | None:
        window: int | None = self.config["model"]["attention"]["window"]
        return window

    @property
    def flops(self) -> FlopsPerToken:
        return flops_of(self.config)

    @property
    def trained_tokens(self) -> int:
        tokens: int = self.steps * self.config["scale"]["batch_tokens"]
        return tokens


def missing_keys(composed: DictConfig) -> list[str]:
    """The keys that have no value yet (``???`` in conf/)."""
    raw: Any = OmegaConf.to_container(composed, resolve=False)
    return [key for key, value in flatten(raw).items() if value == "???"]


def to_plain(composed: DictConfig) -> Config:
    """The configuration with every reference resolved. Raises UserError for a key still to be given."""
    missing = missing_keys(composed)
    if missing:
        raise UserError(f"{missing[0]} must be given: add {missing[0]}=... to the command")
    plain: Any = OmegaConf.to_container(composed, resolve=True)
    config: Config = plain
    return config


def device_of(accelerator: str) -> str:
    """``cpu`` or ``cuda``."""
    if accelerator not in ("auto", "cpu", "gpu"):
        raise UserError(f"trainer.accelerator is {accelerator!r}: choose auto, cpu or gpu")
    if accelerator == "gpu" and not torch.cuda.is_available():
        raise UserError("trainer.accelerator is gpu, but torch finds no GPU here; use trainer=cpu")
    return "cuda" if accelerator != "cpu" and torch.cuda.is_available() else "cpu"
