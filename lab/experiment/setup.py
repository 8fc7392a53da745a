"""From a checked configuration to everything a run needs, checked before anything is written."""

import os
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import UInt32

from lab.base.errors import UserError
from lab.base.parts import build, parts_of
from lab.base.settings import flatten
from lab.cluster.ranks import detect
from lab.data.sources.documents import Corpus
from lab.data.stream.blocks import StoredBlocks
from lab.data.stream.order import BlockStream, fitting_lanes
from lab.data.stream.tokenised import examined, held_out
from lab.data.tokenizer import Tokenizer
from lab.experiment.settings import TrainSettings
from lab.model.building import build_decoder, load_weights
from lab.model.decoder import Decoder
from lab.model.flops import FlopsPerToken
from lab.model.kernels import choose
from lab.model.kernels.case import Case
from lab.model.precision import DTYPES, compute_dtype, device_of
from lab.observe.measure import Measure, Source
from lab.observe.scoring import kernel_of
from lab.runs.extensions import extended, read_extensions
from lab.runs.identity import digest, identity, order_identity
from lab.runs.parents import FromRun, Remembered, Start, begun_from
from lab.runs.run import Run
from lab.runs.settings import FromRunSettings, RunSettings
from lab.training.planned import check_optimizer, check_wandb, flops_of, processes, steps_of

if TYPE_CHECKING:
    from lab.data.stream.module import DataModule


class Setup:
    """One configuration, checked, with everything that its run needs; nothing is written yet.

    Args:
        given: as composed.

    Raises:
        UserError: something in it cannot be, or does not fit together.
    """

    def __init__(self, given: TrainSettings) -> None:
        trainer = given.trainer
        self.device = device_of(trainer.accelerator, given.threads)
        compiled = self.device == "cuda" if trainer.compile == "auto" else trainer.compile
        dtype = compute_dtype(trainer.compute_dtype, self.device)
        self.given = given.with_values(trainer=trainer.plain() | {"compute_dtype": dtype, "compile": compiled})
        self.config: RunSettings = self.given.of_run()
        config, trainer, scale = self.config, self.config.trainer, self.config.scale
        if given.logger.name == "wandb":
            check_wandb()
        self.ranks = detect(os.environ)
        self.processes = processes(self.ranks, trainer.devices, trainer.strategy, self.device)
        world = max(self.ranks.world, self.processes)
        self.steps, self.accumulate = steps_of(scale, world)
        if world > 1:
            check_optimizer(trainer.strategy, config.optimizer.name)
        build("schedule", config.schedule, steps=self.steps)
        self.tokenizer: Tokenizer = build("tokenizer", config.tokenizer)
        # A pretrained embedding may have rows beyond its tokens.
        rows = scale.vocabulary - self.tokenizer.vocabulary
        if rows < 0 or (rows > 0 and config.start.name == "scratch"):
            raise UserError(
                f"scale.vocabulary is {scale.vocabulary} but the tokenizer {self.tokenizer.path} has "
                f"{self.tokenizer.vocabulary} token ids; leave scale.vocabulary to follow the tokenizer"
            )
        corpus: Corpus = build("corpus", config.data.corpus)
        self.corpus_manifest = corpus.manifest()
        lanes = fitting_lanes(corpus) if isinstance(config.data.lanes, str) else config.data.lanes
        self.given = self.given.with_values(data=config.data.plain() | {"lanes": lanes})
        self.config = config = self.given.of_run()
        data = config.data
        self.measures: dict[str, Measure] = given.measure.chosen
        for measure in self.measures.values():
            measure.fits(scale.context)
            if measure.foretells and not config.model.attention.causal:
                others = [
                    name for name, kind in parts_of("measure").items() if not getattr(kind.settings, "foretells", True)
                ]
                raise UserError(
                    f"measure={measure.label()} is of decoders that foretell the next token, and model.attention is "
                    f"{config.model.attention.name}: give measure=none, or one of {', '.join(others)}"
                )
        self.order = order_identity(config, self.corpus_manifest["digest"], self.tokenizer.digest)
        self.start: Start = self._started()
        with torch.device("meta"):
            self.shape = self._built(seed=config.seed)
            if config.adapter is not None:
                build("adapter", config.adapter)(self._built(seed=None), config.seed)  # or its shapes do not fit
        if config.objective is not None:
            build("objective", config.objective, tokenizer=self.tokenizer, seed=config.seed)  # or it does not fit
        self.kernel = self.choose_kernel()
        if self.measures:
            kernel_of(self.shape, self.device, given.scoring.dtype)  # or it could not be scored in the end
        self.first_block = self.start.first_block(self.order)
        self.stream = BlockStream(
            corpus,
            "train",
            self.tokenizer,
            context=scale.context,
            seed=data.seed,
            lanes=lanes,
            weights=data.weights,
            tile=data.tile,
        )
        self.training_blocks = self._training_blocks()
        # A child that reads on where its parent ended begins there.
        self.cursors = (self.start.cursors(self.order) or {}) if self.first_block else {}
        self.evaluation: Corpus = build("evaluation", given.evaluation.corpus) if given.evaluation.corpus else corpus
        self.source = Source(
            self.held_out,
            self.tokenizer,
            scale.context,
            self.evaluation.cluster,
            self.evaluation.clusters,
            trained_on=lambda: corpus,
        )
        self.identity = self._identity(self.start)
        self.digest = digest(self.identity)
        self.run = Run(Path(given.runs) / Run.name(config, self.digest))

    def _identity(self, start: Start) -> dict[str, Any]:
        digests = self.corpus_manifest["digest"], self.tokenizer.digest
        return identity(self.config, *digests, start.ancestry(self.order), start.extensions)

    def _started(self) -> Start:
        """Where the weights come from; if the parent is gone and this run was begun before, the run itself says."""
        start = self.config.start
        if isinstance(start, FromRunSettings) and not self.given.overwrite:
            for child in begun_from(start, Path(self.given.runs)):
                remembered = Remembered(child)
                if digest(self._identity(remembered)) == child.digest:
                    return remembered
        made: Start = build("start", start)
        if self.config.adapter is not None and start.name == "scratch":
            raise UserError(
                f"adapter={self.config.adapter.name} trains numbers beside the weights of a parent, which stay as they "
                "are: give start=run start.run=..."
            )
        return made

    def _built(self, seed: int | None) -> Decoder:
        config = self.config
        decoder = build_decoder(
            config.model, config.scale, kernel=config.kernel, compute_dtype=config.trainer.compute_dtype, seed=seed
        )
        return extended(decoder, read_extensions(self.start.extensions, "start"), self.start.table_folders)

    def fresh_decoder(self) -> Decoder:
        """A decoder as the run starts with it, made anew: its weights drawn, or a parent's."""
        weights = self.start.weights()
        if weights is None:
            return self._built(self.config.seed)
        decoder = self._built(None)
        own = isinstance(self.start, Remembered)  # what an adapter has learnt is among them
        if own:
            self._adapt(decoder)
        load_weights(decoder, *weights)
        if not own:
            self._adapt(decoder)
        return decoder

    @cached_property
    def adapter(self) -> Any:
        """What adds numbers to the decoder that are trained in place of its weights; None: nothing does."""
        return None if self.config.adapter is None else build("adapter", self.config.adapter)

    def _adapt(self, decoder: Decoder) -> None:
        if self.adapter is not None:
            self.adapter(decoder, self.config.seed)

    @cached_property
    def decoder(self) -> Decoder:
        """The one that is trained: made, and its weights drawn or loaded, once."""
        return self.fresh_decoder()

    @cached_property
    def data(self) -> "DataModule":
        """The blocks to be trained on and those of validation. Lightning is loaded with it, which takes seconds."""
        from lab.data.stream.module import DataModule

        config = self.config
        data = DataModule(
            self.stream.corpus,
            self.tokenizer,
            self.training_blocks,
            context=config.scale.context,
            micro_batch=config.scale.micro_batch,
            micro_batches=self.steps * self.accumulate,
            validation_blocks=config.scale.validation_blocks,
            weights=config.data.weights,
            # A written block is read faster than it is handed from one process to another.
            workers=config.data.workers if config.data.mode == "stream" else 0,
            isolate_documents=config.data.isolate_documents,
        )
        if self.first_block:
            data.load_state_dict({"next_block": self.first_block, "cursors": self.cursors, "skipped": {}})
        return data

    @property
    def differences(self) -> list[str]:
        """Of a child, what is not as its parent's: ``key: theirs -> its own``; [] of a run from scratch."""
        if not isinstance(self.start, FromRun):
            return []
        theirs, ours = flatten(self.start.parent.identity), flatten(self.identity)
        # Of an imported parent nobody knows how it was trained.
        told = (
            theirs.keys() | ours.keys()
            if isinstance(self.start.parent.config, RunSettings)
            else theirs.keys() & ours.keys()
        )
        keys = [key for key in sorted(told) if not key.startswith(("start.", "extension"))]
        differing = [key for key in keys if theirs.get(key) != ours.get(key)]
        again = ["its data are read again from their first block"] if self.start.reads_again(self.order) else []
        return [*(f"{key}: {theirs.get(key, 'absent')} -> {ours.get(key, 'absent')}" for key in differing), *again]

    @cached_property
    def spelling(self) -> dict[str, float]:
        """What the tokenizer keeps of the training text. Raises UserError if that is less than half."""
        return examined(self.stream.corpus, self.tokenizer)

    def _training_blocks(self) -> BlockStream | StoredBlocks:
        """Where the blocks of training come from, by ``data.mode``."""
        if self.config.data.mode == "stream":
            return self.stream
        return StoredBlocks(self.blocks_folder, self.order, self.first_block + self.block_count)

    def held_out(self) -> Iterator[tuple[str, UInt32[np.ndarray, "tokens"]]]:
        """The documents that are scored: (name, token ids without the end token)."""
        return held_out(self.evaluation, "test", self.tokenizer)

    @property
    def evaluation_label(self) -> str:
        """What the held-out documents are called in scores.csv: name and digest."""
        return f"{self.given.evaluation.label}-{self.evaluation.held_out_digest[:8]}"

    @property
    def blocks_folder(self) -> Path:
        """Where ``data.mode=blocks`` reads, named by what decides the blocks."""
        return Path(self.config.data.blocks) / f"{self.config.data.corpus.label}-{digest(self.order)[:8]}"

    @property
    def block_count(self) -> int:
        """The blocks that the whole run trains on."""
        return self.trained_tokens // self.config.scale.context

    def choose_kernel(self) -> str:
        """The attention kernel that will serve this run. Raises UserError if the one asked for cannot."""
        dtype = DTYPES[self.config.trainer.compute_dtype]
        isolated = self.config.data.isolate_documents
        slopes = self.shape.position.slopes is not None
        case = Case(self.device, dtype, self.window, slopes, isolated, self.config.model.attention.causal)
        return choose(self.config.kernel, case)

    @property
    def window(self) -> int | None:
        window: int | None = self.config.model.attention.window
        return window

    @property
    def flops(self) -> FlopsPerToken:
        return flops_of(self.config)

    @property
    def trained_tokens(self) -> int:
        return self.steps * self.config.scale.batch_tokens
