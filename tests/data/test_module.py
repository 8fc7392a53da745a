import itertools

import lightning
import numpy as np
import pytest
import torch

from lab.data.documents import tokenised_documents
from lab.data.module import DataModule
from lab.data.order import BlockStream, first_blocks
from lab.errors import UserError

SETTINGS = {"context": 64, "micro_batch": 4, "micro_batches": 6, "validation_blocks": 10, "lanes": 8}


@pytest.fixture
def data(sotu, tokenizer):
    return DataModule(sotu, tokenizer, **SETTINGS)


def test_training_batches_are_consecutive_blocks_of_the_stream(data, sotu, tokenizer):
    stream = BlockStream(sotu, "train", tokenizer, 64, seed=0, lanes=8)
    loader = data.train_dataloader()
    assert len(loader) == 6
    for number, batch in enumerate(itertools.islice(loader, 6)):
        assert batch["tokens"].shape == (4, 65)
        assert batch["tokens"].dtype == batch["blocks"].dtype == torch.int64
        assert batch["blocks"].tolist() == list(range(4 * number, 4 * number + 4))
        for g, tokens in zip(batch["blocks"].tolist(), batch["tokens"].numpy(), strict=True):
            np.testing.assert_array_equal(tokens, stream.block(g))


def test_training_that_starts_later_reads_what_would_have_come(data, sotu, tokenizer):
    whole = list(itertools.islice(data.train_dataloader(), 5))
    later = DataModule(sotu, tokenizer, **SETTINGS)
    later.first_block = 12
    batches = itertools.islice(later.train_dataloader(), 2)
    for batch, expected in zip(batches, whole[3:], strict=True):
        assert torch.equal(batch["blocks"], expected["blocks"])
        assert torch.equal(batch["tokens"], expected["tokens"])


def test_validation_is_a_fixed_list_of_blocks_for_every_seed_and_micro_batch(sotu, tokenizer):
    expected = np.stack(first_blocks(sotu, "validation", tokenizer, 64, 10))
    for seed, micro_batch in ((0, 4), (1, 3)):
        settings = {**SETTINGS, "micro_batch": micro_batch}
        batches = list(DataModule(sotu, tokenizer, seed=seed, **settings).val_dataloader())
        assert len(batches) == -(-10 // micro_batch)
        np.testing.assert_array_equal(torch.cat([batch["tokens"] for batch in batches]), expected)
        assert torch.cat([batch["blocks"] for batch in batches]).tolist() == list(range(10))


def test_held_out_documents_are_those_of_the_test_split(data, sotu, tokenizer):
    expected = tokenised_documents(sotu, "test", tokenizer)
    for (name, tokens), (other, others) in itertools.islice(zip(data.held_out(), expected, strict=True), 2):
        assert name == other
        np.testing.assert_array_equal(tokens, others)


class Recorder(lightning.LightningModule):
    """A model that learns nothing and notes the blocks that it is given."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.seen = []

    def training_step(self, batch, index):
        self.seen += batch["blocks"].tolist()
        return self.weight

    def validation_step(self, batch, index):
        pass

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=1.0)


def trainer(folder, steps):
    return lightning.Trainer(
        default_root_dir=folder,
        accelerator="cpu",
        max_steps=steps,
        max_epochs=-1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )


def test_a_lightning_run_that_stops_and_resumes_reads_every_block_once(data, sotu, tokenizer, tmp_path):
    first = Recorder()
    run = trainer(tmp_path, steps=2)
    run.fit(first, data)
    run.save_checkpoint(tmp_path / "stop.ckpt")
    second = Recorder()
    rest = DataModule(sotu, tokenizer, **SETTINGS)
    rest.first_block = len(first.seen)
    trainer(tmp_path, steps=6).fit(second, rest, ckpt_path=tmp_path / "stop.ckpt")
    assert first.seen + second.seen == list(range(24))


def test_several_processes_that_would_read_the_same_blocks_are_refused(data):
    data.trainer = lightning.Trainer(accelerator="cpu", devices=2, strategy="ddp", logger=False)
    with pytest.raises(UserError, match=r"trainer\.devices asks for several processes"):
        data.train_dataloader()


@pytest.mark.parametrize("key", ["micro_batch", "micro_batches", "validation_blocks"])
def test_a_count_below_one_is_refused(sotu, tokenizer, key):
    with pytest.raises(UserError, match=rf"scale\.{key} is 0; give at least 1"):
        DataModule(sotu, tokenizer, **{**SETTINGS, key: 0})


def test_more_validation_blocks_than_there_are_is_refused(sotu, tokenizer):
    data = DataModule(sotu, tokenizer, **{**SETTINGS, "validation_blocks": 10_000})
    with pytest.raises(UserError, match=r"split validation holds 3810 blocks of 65 tokens, 10000 are needed"):
        data.val_dataloader()


def test_a_training_split_shorter_than_one_block_is_refused(corpus, tokenizer):
    with pytest.raises(UserError, match="split train holds 0 blocks of 65 tokens"):
        DataModule(corpus([{"text": "short"}]), tokenizer, **{**SETTINGS, "lanes": 1})
