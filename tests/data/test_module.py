import itertools
import json
import random

import lightning
import numpy as np
import pytest
import torch
import torch.distributed

from lab.base.errors import UserError
from lab.data.stream.blocks import StoredBlocks
from lab.data.stream.fingerprint import Fingerprint
from lab.data.stream.module import Blocks, DataModule
from lab.data.stream.order import BlockStream, sampled_blocks
from lab.data.stream.tokenised import AHEAD_DOCUMENTS
from lab.data.stream.writing import write_blocks

pytestmark = [
    pytest.mark.filterwarnings("ignore:This DataLoader will create"),
    pytest.mark.filterwarnings("ignore::Warning:lightning"),
]

SETTINGS = {"context": 64, "micro_batch": 4, "micro_batches": 6, "validation_blocks": 10}


def stream(corpus, tokenizer, **keys):
    return BlockStream(corpus, "train", tokenizer, **{"context": 64, "seed": 0, "lanes": 8, **keys})


@pytest.fixture
def data(sotu, tokenizer):
    return DataModule(sotu, tokenizer, stream(sotu, tokenizer), **SETTINGS)


@pytest.fixture(scope="session")
def mixture(texts):
    """Two subsets of documents of a few tokens, every eleventh of which is empty."""
    source = random.Random(2)

    def document():
        return "" if source.random() < 1 / 11 else f"{source.random():.3f} " * source.randrange(1, 5)

    def chunks(count):
        return [[document() for _ in range(12)] for _ in range(count)]

    return texts({"notes": chunks(9), "web": chunks(20)})


MIXED = {"seed": 3, "weights": {"web": 0.7, "notes": 0.3}, "tile": 5}
COUNT = 400  # blocks that the tests below read


@pytest.fixture(scope="session")
def written(mixture, tokenizer, tmp_path_factory):
    folder = tmp_path_factory.mktemp("written")
    write_blocks(stream(mixture, tokenizer, **MIXED), folder, {}, COUNT, 1, lambda tokens: None)
    return folder


@pytest.fixture(params=["stream", "blocks"])
def make(request, mixture, tokenizer, written):
    """Make the data of the mixture, tokenised now or read from blocks written before."""

    def make(**keys):
        source = StoredBlocks(written, {}, COUNT) if request.param == "blocks" else stream(mixture, tokenizer, **MIXED)
        return DataModule(mixture, tokenizer, source, **{**SETTINGS, "weights": MIXED["weights"], **keys})

    return make


@pytest.fixture(scope="session")
def expected(mixture, tokenizer):
    """The blocks of the mixture, one after the other."""
    return [block for _, block in itertools.islice(stream(mixture, tokenizer, **MIXED).blocks(), COUNT)]


def total(expected, numbers):
    """The fingerprint of the blocks of these numbers."""
    whole = Fingerprint()
    for g in numbers:
        whole.add(g, expected[g].tokens)
    return whole.hex


def train(data, micro_batches):
    """Train on that many micro-batches; the numbers and the fingerprint of their blocks."""
    numbers, read = [], Fingerprint()
    for batch in itertools.islice(data.train_dataloader(), micro_batches):
        data.trained(batch)
        for g, tokens in zip(batch["blocks"].tolist(), batch["tokens"].numpy(), strict=True):
            numbers.append(g)
            read.add(g, tokens)
    return numbers, read.hex


def test_training_batches_are_consecutive_blocks_of_the_stream(data, sotu, tokenizer):
    blocks = stream(sotu, tokenizer)
    loader = data.train_dataloader()
    assert len(loader) == 6
    for number, batch in enumerate(itertools.islice(loader, 6)):
        assert batch["tokens"].shape == (4, 65)
        assert batch["tokens"].dtype == batch["blocks"].dtype == torch.int64
        assert batch["blocks"].tolist() == list(range(4 * number, 4 * number + 4))
        for g, tokens in zip(batch["blocks"].tolist(), batch["tokens"].numpy(), strict=True):
            np.testing.assert_array_equal(tokens, blocks.block(g).tokens)


@pytest.mark.parametrize("workers", [0, 1, 2, 4])
def test_every_number_of_workers_reads_the_same_blocks_in_the_same_order(make, expected, workers):
    numbers, read = train(make(workers=workers), 25)
    assert numbers == list(range(100))
    assert read == total(expected, range(100))


@pytest.mark.parametrize("micro_batch", [1, 3, 16])
def test_every_micro_batch_reads_the_same_blocks(make, expected, micro_batch):
    numbers, read = train(make(micro_batch=micro_batch), 48 // micro_batch)
    assert numbers == list(range(48))
    assert read == total(expected, range(48))


@pytest.mark.parametrize("ranks", [1, 2, 4])
def test_every_number_of_processes_reads_the_same_blocks_between_them(make, expected, ranks):
    sums = 0
    for rank in range(ranks):
        for g, block in itertools.islice(Blocks(make().train, rank, ranks), 96 // ranks):
            assert g % ranks == rank
            share = Fingerprint()
            share.add(g, block.tokens)
            sums += share.total
    assert Fingerprint(sums % 2**128).hex == total(expected, range(96))


@pytest.fixture
def forking():
    """Processes that train together are forked, which CUDA forbids once it has been used."""
    if torch.cuda.is_initialized():
        pytest.skip("CUDA has been used in this process")


class Recorder(lightning.LightningModule):
    """A model that learns nothing and notes the blocks that it is given."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.seen = []
        self.read = Fingerprint()

    def training_step(self, batch, index):
        self.trainer.datamodule.trained(batch)
        self.seen += batch["blocks"].tolist()
        for g, tokens in zip(batch["blocks"].tolist(), batch["tokens"].numpy(), strict=True):
            self.read.add(g, tokens)
        return self.weight

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=1.0)


class Gather(lightning.Callback):
    """At the end of training the processes save a checkpoint and add their sums; the first writes these down."""

    def __init__(self, path):
        self.path = path

    def on_train_end(self, trainer, module):
        trainer.save_checkpoint(self.path.with_suffix(".ckpt"))
        limbs = torch.tensor([module.read.total >> shift & 0xFFFFFFFF for shift in (0, 32, 64, 96)])
        torch.distributed.all_reduce(limbs)
        whole = Fingerprint(
            sum(limb << shift for limb, shift in zip(limbs.tolist(), (0, 32, 64, 96), strict=True)) % 2**128
        )
        shares = [None] * trainer.world_size
        torch.distributed.all_gather_object(shares, module.seen)
        if trainer.is_global_zero:
            self.path.write_text(json.dumps({"fingerprint": whole.hex, "shares": shares}))


def trainer(folder, steps, **settings):
    return lightning.Trainer(
        default_root_dir=folder,
        accelerator="cpu",
        max_steps=steps,
        max_epochs=-1,
        logger=False,
        limit_val_batches=0,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        **settings,
    )


@pytest.mark.usefixtures("forking")
@pytest.mark.parametrize("workers", [0, 2])
def test_two_processes_that_train_together_read_the_blocks_of_one(make, expected, tmp_path, workers):
    data = make(workers=workers, micro_batch=2, micro_batches=12)
    gather = Gather(tmp_path / "sum.json")
    trainer(tmp_path, steps=12, devices=2, strategy="ddp_fork", callbacks=[gather]).fit(Recorder(), data)
    result = json.loads(gather.path.read_text())
    assert result["shares"] == [list(range(0, 48, 2)), list(range(1, 48, 2))]
    assert result["fingerprint"] == total(expected, range(48))


@pytest.mark.usefixtures("forking")
@pytest.mark.parametrize("devices", [1, 2, 4])
def test_a_run_of_two_processes_is_resumed_by_any_number_and_every_block_is_read_once(
    make, expected, tmp_path, devices
):
    first = Gather(tmp_path / "first.json")
    data = make(micro_batch=2, micro_batches=12)
    trainer(tmp_path, steps=5, devices=2, strategy="ddp_fork", callbacks=[first]).fit(Recorder(), data)
    assert json.loads(first.path.read_text())["fingerprint"] == total(expected, range(20))
    second = Gather(tmp_path / "second.json")
    data = make(micro_batch=2, micro_batches=12)
    rest = trainer(tmp_path, steps=10, devices=devices, strategy="ddp_fork", callbacks=[second])
    rest.fit(Recorder(), data, ckpt_path=first.path.with_suffix(".ckpt"), weights_only=False)
    result = json.loads(second.path.read_text())
    stop = 20 + 5 * 2 * devices
    assert result["shares"] == [list(range(20 + rank, stop, devices)) for rank in range(devices)]
    assert result["fingerprint"] == total(expected, range(20, stop))


def test_a_lightning_run_that_stops_and_resumes_reads_every_block_once(make, tmp_path):
    first = Recorder()
    run = trainer(tmp_path, steps=2)
    run.fit(first, make())
    run.save_checkpoint(tmp_path / "stop.ckpt")
    second = Recorder()
    trainer(tmp_path, steps=6).fit(second, make(workers=2), ckpt_path=tmp_path / "stop.ckpt", weights_only=False)
    assert first.seen + second.seen == list(range(24))


@pytest.mark.parametrize(("before", "after"), [(0, 0), (2, 0), (0, 4), (4, 1), (1, 2)])
def test_training_resumed_anywhere_with_any_workers_reads_the_rest(make, expected, before, after):
    stop = random.Random(before * 5 + after).randrange(1, 30)
    first, second = make(workers=before), make(workers=after)
    numbers, _ = train(first, stop)
    second.load_state_dict(first.state_dict())
    rest, read = train(second, 50 - stop)
    assert numbers + rest == list(range(200))
    assert read == total(expected, range(4 * stop, 200))
    assert second.skipped == skipped(expected, 200)


def test_training_resumed_late_does_not_read_what_came_before_again(mixture, tokenizer):
    first, second = (
        DataModule(mixture, tokenizer, stream(mixture, tokenizer, **MIXED), **SETTINGS, weights=MIXED["weights"])
        for _ in range(2)
    )
    mixture.reads.clear()
    train(first, 900)
    whole = len(mixture.reads)
    second.load_state_dict(first.state_dict())
    mixture.reads.clear()
    train(second, 2)  # a block of each lane
    # For each lane and subset the tile in hand, and what is tokenised ahead.
    assert len(mixture.reads) <= 8 * 2 * (2 * MIXED["tile"] + AHEAD_DOCUMENTS) < whole / 5


def skipped(expected, count):
    return {name: reason for block in expected[:count] for name, reason in block.skipped.items()}


def test_the_state_is_that_of_the_blocks_trained_on_whatever_was_read_ahead(make, expected):
    data = make(workers=2)
    for number, batch in enumerate(itertools.islice(data.train_dataloader(), 60)):
        if number < 20:
            data.trained(batch)
    assert data.state_dict()["next_block"] == 80
    assert data.state_dict()["skipped"] == data.skipped == skipped(expected, 80)
    assert len(data.skipped) > 0


def test_a_state_that_was_given_out_does_not_change_with_training(make):
    data = make()
    train(data, 3)
    state = data.state_dict()
    before = json.dumps(state, default=np.ndarray.tolist)
    train(data, 40)
    assert json.dumps(state, default=np.ndarray.tolist) == before


def test_batches_say_which_document_a_token_belongs_to_when_documents_are_isolated(make, tokenizer):
    # A document ends with its end token, so the number of the next is one more.
    for batch in itertools.islice(make(isolate_documents=True).train_dataloader(), 20):
        ends = (batch["tokens"] == tokenizer.end_of_document).long()
        expected = torch.cumsum(ends, dim=1) - ends
        assert batch["documents"].dtype == torch.int64
        assert torch.equal(batch["documents"], expected)
        assert expected.max() > 2
    for batch in make(isolate_documents=True, validation_blocks=5).val_dataloader():
        ends = (batch["tokens"] == tokenizer.end_of_document).long()
        assert torch.equal(batch["documents"], torch.cumsum(ends, dim=1) - ends)


def test_batches_do_not_tell_documents_apart_otherwise(make):
    data = make(validation_blocks=5)
    assert set(next(iter(data.train_dataloader()))) == {"tokens", "blocks", "read"}
    assert set(next(iter(data.val_dataloader()))) == {"tokens", "blocks"}


def test_validation_is_a_fixed_list_of_blocks_for_every_seed_and_micro_batch(sotu, tokenizer):
    expected = np.stack([block.tokens for block in sampled_blocks(sotu, "validation", tokenizer, 64, 10)])
    for seed, micro_batch in ((0, 4), (1, 3)):
        settings = {**SETTINGS, "micro_batch": micro_batch}
        batches = list(DataModule(sotu, tokenizer, stream(sotu, tokenizer, seed=seed), **settings).val_dataloader())
        assert len(batches) == -(-10 // micro_batch)
        np.testing.assert_array_equal(torch.cat([batch["tokens"] for batch in batches]), expected)
        assert torch.cat([batch["blocks"] for batch in batches]).tolist() == list(range(10))


@pytest.mark.parametrize(("devices", "workers"), [(1, 3), (3, 0), (2, 8)])
def test_processes_and_workers_that_do_not_divide_the_lanes_are_refused(make, devices, workers):
    data = make(workers=workers)
    data.trainer = lightning.Trainer(
        accelerator="cpu", devices=devices, strategy="ddp" if devices > 1 else "auto", logger=False
    )
    message = (
        r"lanes is 8: it must be a multiple of processes x workers ="
        rf" {devices} x {max(1, workers)}"
    )
    with pytest.raises(UserError, match=message):
        data.train_dataloader()


def test_more_validation_blocks_than_there_are_is_refused(sotu, tokenizer):
    data = DataModule(sotu, tokenizer, stream(sotu, tokenizer), **{**SETTINGS, "validation_blocks": 10_000})
    with pytest.raises(UserError, match=r"split validation holds 4433 blocks of 65 tokens, 10000 are needed"):
        data.val_dataloader()
