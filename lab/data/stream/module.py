"""The data of a run, as Lightning asks for it."""

import logging
import math
import os
import signal
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, cast

import lightning
import numpy as np
import torch
from jaxtyping import Int64
from torch import Tensor, distributed
from torch.utils.data import DataLoader, Dataset, IterableDataset, Subset, get_worker_info

from lab.base.errors import UserError
from lab.base.interruption import end_with_parent
from lab.base.shown import show_warnings
from lab.data.sources.documents import Corpus
from lab.data.stream.blocks import StoredBlocks
from lab.data.stream.order import Block, BlockStream, Cursor, sampled_blocks
from lab.data.stream.packing import Packed, document_numbers, learned
from lab.data.tokenizer import Tokenizer

Batch = dict[str, Any]


class Blocks(IterableDataset[tuple[int, Block] | UserError]):
    """Every `step`-th global block from `first` on, without end; a worker of W reads every W-th of these.

    A lane must be read by one process only, or each would read all its documents: so the number of lanes must
    be a multiple of `step` x W.
    """

    def __init__(self, source: BlockStream | StoredBlocks, first: int, step: int) -> None:
        self.source = source
        self.first = first
        self.step = step

    def __iter__(self) -> Iterator[tuple[int, Block] | UserError]:
        worker = get_worker_info()
        if worker is None:
            yield from self.source.blocks(self.first, self.step)
            return
        try:
            yield from self.source.blocks(self.first + worker.id * self.step, worker.num_workers * self.step)
        except UserError as error:
            # Handed over as it is: torch would hand over a traceback in its place.
            yield error


class MicroBatches:
    """Blocks in micro-batches, without end.

    It has a length all the same, the number of micro-batches of the whole run: Lightning fetches one batch
    ahead of a loader without a length, and loses it when a run is resumed.
    """

    def __init__(
        self, blocks: Iterable[tuple[int, Block] | UserError], micro_batch: int, count: int, documents: bool
    ) -> None:
        self.blocks = blocks
        self.micro_batch = micro_batch
        self.count = count
        self.documents = documents

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[Batch]:
        numbered = []
        for number_and_block in self.blocks:
            if isinstance(number_and_block, UserError):
                raise number_and_block
            numbered.append(number_and_block)
            if len(numbered) == self.micro_batch:
                numbers, blocks = zip(*numbered, strict=True)
                yield batch(numbers, blocks, self.documents) | {"read": numbered}
                numbered = []


class ValidationBatches(Dataset[Batch]):
    """A fixed list of blocks in micro-batches, the last of which may be smaller."""

    def __init__(self, blocks: list[Packed], micro_batch: int, documents: bool) -> None:
        starts = range(0, len(blocks), micro_batch)
        self.batches = [
            batch(range(start, min(start + micro_batch, len(blocks))), blocks[start : start + micro_batch], documents)
            for start in starts
        ]

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, index: int) -> Batch:
        return self.batches[index]


def batch(numbers: Any, blocks: Any, documents: bool) -> dict[str, Int64[Tensor, "..."]]:
    """`tokens` [micro_batch, C + 1], `blocks` [micro_batch], their numbers, and, if `documents`, the document that
    each token belongs to [micro_batch, C + 1]; where there are prompts, which tokens are `learned`
    [micro_batch, C + 1]."""
    tensors = {
        "tokens": torch.from_numpy(np.stack([block.tokens for block in blocks]).astype(np.int64)),
        "blocks": torch.tensor(list(numbers)),
    }
    if documents:
        numbered = [document_numbers(block.starts, len(block.tokens)) for block in blocks]
        tensors["documents"] = torch.from_numpy(np.stack(numbered).astype(np.int64))
    if any(len(block.prompts) for block in blocks):
        tensors["learned"] = torch.from_numpy(np.stack([learned(block.prompts, len(block.tokens)) for block in blocks]))
    return tensors


class DataModule(lightning.LightningDataModule):
    """The training stream, the fixed validation blocks, and the whole documents that are held out.

    `train` the source of training blocks; `context` C in tokens; `micro_batch` in blocks; `micro_batches` those
    of the whole run and process; `validation_blocks` how many blocks validation reads; `weights` of the subsets;
    `workers` that prepare blocks beside the training process; `isolate_documents` whether batches say which
    document a token belongs to. Raises UserError if a number is out of range, or a split too small.

    Its state is that of the blocks *trained on*, whatever has been read ahead: `next_block`, the cursors of the
    lanes, and the documents skipped.
    """

    def __init__(
        self,
        corpus: Corpus,
        tokenizer: Tokenizer,
        train: BlockStream | StoredBlocks,
        context: int,
        micro_batch: int,
        micro_batches: int,
        validation_blocks: int,
        weights: Mapping[str, float] | None = None,
        workers: int = 0,
        isolate_documents: bool = False,
    ) -> None:
        super().__init__()
        self.corpus = corpus
        self.tokenizer = tokenizer
        self.train = train
        self.context = context
        self.micro_batch = micro_batch
        self.micro_batches = micro_batches
        self.validation_blocks = validation_blocks
        self.weights = weights
        self.workers = workers
        self.isolate_documents = isolate_documents
        self.next_block = 0
        self.skipped: dict[str, str] = {}
        self._cursors: dict[int, Cursor] = {}
        self._advanced: set[int] = set()  # lanes that this process has trained on

    def train_dataloader(self) -> MicroBatches:
        """Batches of `tokens` [micro_batch, C + 1] and `blocks` [micro_batch], from `next_block` on.

        Raises UserError if processes x workers do not divide the lanes.
        """
        rank, ranks = self._process()
        readers = ranks * max(1, self.workers)
        if self.train.lanes % readers:
            raise UserError(
                f"lanes is {self.train.lanes}: it must be a multiple of processes x workers ="
                f" {ranks} x {max(1, self.workers)}"
            )
        if isinstance(self.train, BlockStream):
            self.train.restore(self._cursors)
        blocks: Iterable[tuple[int, Block] | UserError] = Blocks(self.train, self.next_block + rank, ranks)
        if self.workers:
            blocks = DataLoader(
                cast(IterableDataset[tuple[int, Block] | UserError], blocks),
                batch_size=None,
                num_workers=self.workers,
                worker_init_fn=_begin_worker,
                # A loader draws a seed whenever it is started, which would move the process's own generator.
                generator=torch.Generator(),
                # Enough for a few micro-batches: blocks are small.
                prefetch_factor=4 * self.micro_batch,
                # As spawn would read the corpus again in every worker.
                multiprocessing_context="fork",
            )
        return MicroBatches(blocks, self.micro_batch, self.micro_batches, self.isolate_documents)

    def val_dataloader(self) -> DataLoader[Batch]:
        """Batches of a sample of the validation split, always the same, dealt out to the processes; the last may be
        smaller."""
        blocks = sampled_blocks(
            self.corpus, "validation", self.tokenizer, self.context, self.validation_blocks, self.weights
        )
        batches = ValidationBatches(blocks, self.micro_batch, self.isolate_documents)
        rank, ranks = self._process()
        # As many for every process, as they may have to meet in each; then some batches are scored twice.
        mine = [(rank + ranks * turn) % len(batches) for turn in range(math.ceil(len(batches) / ranks))]
        return DataLoader(Subset(batches, mine), batch_size=None, num_workers=0, generator=torch.Generator())

    def transfer_batch_to_device(self, batch: Batch, device: torch.device, dataloader_idx: int) -> Batch:
        """Tensors to the device; what was read stays as it is."""
        return {key: value.to(device) if isinstance(value, Tensor) else value for key, value in batch.items()}

    def trained(self, batch: Batch) -> None:
        """Take note that a batch has been trained on."""
        rank, ranks = self._process()
        for number, block in batch["read"]:
            # The other processes are as far: each has trained on its one of these `ranks` blocks.
            self.next_block = max(self.next_block, number - rank + ranks)
            self.skipped |= block.skipped
            if block.cursor is not None:
                self._cursors[number % self.train.lanes] = block.cursor
                self._advanced.add(number % self.train.lanes)

    def _process(self) -> tuple[int, int]:
        """The number of this process among those that train together, and how many these are."""
        return (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)

    def state_dict(self) -> dict[str, Any]:
        """Where the blocks trained on end."""
        cursors = {lane: cursor.record() for lane, cursor in self._cursors.items()}
        skipped = dict(self.skipped)
        if self._process()[1] > 1:  # each has trained on lanes of its own
            told: list[Any] = [None] * self._process()[1]
            distributed.all_gather_object(told, ({lane: cursors[lane] for lane in self._advanced}, skipped))
            for theirs, their_skipped in told:
                cursors |= theirs
                skipped |= their_skipped
        return {"next_block": self.next_block, "cursors": dict(sorted(cursors.items())), "skipped": skipped}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from such a state."""
        self.next_block = state_dict["next_block"]
        self.skipped = dict(state_dict["skipped"])
        self._cursors = {int(lane): Cursor.of(record) for lane, record in state_dict["cursors"].items()}


def _begin_worker(worker: int) -> None:
    end_with_parent(signal.SIGKILL)  # a killed trainer leaves none behind
    # A forked process may not use the tokenizer's threads; saying so beforehand spares the user its warning.
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    torch.set_num_threads(1)
    logging.getLogger("lab.data").setLevel(logging.WARNING)
    show_warnings()
