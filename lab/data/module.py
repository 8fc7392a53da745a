"""The data of a run, as Lightning asks for it."""

import itertools
from collections.abc import Iterator

import lightning
import numpy as np
import torch
from jaxtyping import Int64, UInt32
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset

from lab.data.documents import Corpus, tokenised_documents
from lab.data.order import BlockStream, first_blocks
from lab.data.tokenizer import Tokenizer
from lab.errors import UserError

Batch = dict[str, Int64[Tensor, "..."]]


class TrainingBatches(IterableDataset[Batch]):
    """Micro-batches of consecutive global blocks, from `first_block` on and without end.

    It has a length all the same, the number of micro-batches of the whole run: Lightning fetches one batch
    ahead of a loader without a length, and loses it when a run is resumed.
    """

    def __init__(self, stream: BlockStream, first_block: int, micro_batch: int, micro_batches: int) -> None:
        self.stream = stream
        self.first_block = first_block
        self.micro_batch = micro_batch
        self.micro_batches = micro_batches

    def __len__(self) -> int:
        return self.micro_batches

    def __iter__(self) -> Iterator[Batch]:
        blocks = self.stream.blocks(self.first_block)
        while True:
            yield batch(list(itertools.islice(blocks, self.micro_batch)))


class ValidationBatches(Dataset[Batch]):
    """A fixed list of blocks in micro-batches, the last of which may be smaller."""

    def __init__(self, blocks: list[UInt32[np.ndarray, "block_length"]], micro_batch: int) -> None:
        numbered = list(enumerate(blocks))
        starts = range(0, len(blocks), micro_batch)
        self.batches = [batch(numbered[start : start + micro_batch]) for start in starts]

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, index: int) -> Batch:
        return self.batches[index]


def batch(numbered: list[tuple[int, UInt32[np.ndarray, "block_length"]]]) -> Batch:
    """`tokens` [micro_batch, C + 1] and `blocks` [micro_batch], the global numbers of the blocks."""
    numbers, blocks = zip(*numbered, strict=True)
    return {"tokens": torch.from_numpy(np.stack(blocks).astype(np.int64)), "blocks": torch.tensor(numbers)}


class DataModule(lightning.LightningDataModule):
    """The training stream, the fixed validation blocks, and the whole documents that are held out.

    `context` C in tokens; `micro_batch` in blocks; `micro_batches` those of the whole run; `seed` and `lanes`
    of the order (see lab/data/order.py); `validation_blocks` how many blocks validation reads. `first_block`
    is the global block at which training starts. Raises UserError if a number is out of range, or a split too
    small.
    """

    def __init__(
        self,
        corpus: Corpus,
        tokenizer: Tokenizer,
        context: int,
        micro_batch: int,
        micro_batches: int,
        validation_blocks: int,
        seed: int = 0,
        lanes: int = 32,
    ) -> None:
        super().__init__()
        counts = {
            "micro_batch": micro_batch,
            "micro_batches": micro_batches,
            "validation_blocks": validation_blocks,
        }
        for key, count in counts.items():
            if count < 1:
                raise UserError(f"scale.{key} is {count}; give at least 1")
        self.corpus = corpus
        self.tokenizer = tokenizer
        self.context = context
        self.micro_batch = micro_batch
        self.micro_batches = micro_batches
        self.validation_blocks = validation_blocks
        self.first_block = 0
        self.stream = BlockStream(corpus, "train", tokenizer, context, seed, lanes)

    def train_dataloader(self) -> DataLoader[Batch]:
        """Batches of `tokens` [micro_batch, C + 1] and `blocks` [micro_batch], from `first_block` on."""
        if self.trainer is not None and self.trainer.world_size > 1:
            raise UserError("trainer.devices asks for several processes, which would read the same; use 1")
        batches = TrainingBatches(self.stream, self.first_block, self.micro_batch, self.micro_batches)
        return DataLoader(batches, batch_size=None, num_workers=0)

    def val_dataloader(self) -> DataLoader[Batch]:
        """Batches of the first blocks of the validation split, always the same; the last may be smaller."""
        blocks = first_blocks(self.corpus, "validation", self.tokenizer, self.context, self.validation_blocks)
        return DataLoader(ValidationBatches(blocks, self.micro_batch), batch_size=None, num_workers=0)

    def held_out(self, split: str = "test") -> Iterator[tuple[str, UInt32[np.ndarray, "tokens"]]]:
        """Whole documents for scoring: (name, token ids without the end token), in corpus order."""
        return tokenised_documents(self.corpus, split, self.tokenizer)
