import itertools
import random

import numpy as np
import pytest

from lab.data.order import BlockStream, Fingerprint, fingerprint, first_blocks, shuffled
from lab.data.packing import Packer
from lab.errors import UserError


@pytest.fixture
def small(corpus):
    """Seven documents of different lengths, each with words of its own."""
    return corpus([{"text": f"word{index} " * (5 + 9 * index)} for index in range(7)])


def lane_documents(corpus, tokenizer, seed, lanes, lane, epochs):
    """The documents of a lane with their ends, from the rule in words and not from the code under test."""
    tokens = []
    for epoch in range(epochs):
        order = shuffled(seed, epoch, len(corpus.names("train")))
        for index in [document for rank, document in enumerate(order) if rank % lanes == lane]:
            tokens += [*tokenizer.encode(corpus.read("train", index)["text"]), tokenizer.end_of_document]
    return tokens


@pytest.mark.parametrize("lanes", [1, 3, 7])
def test_every_token_of_three_epochs_appears_exactly_once_across_the_lanes(small, tokenizer, lanes):
    context = 15
    stream = BlockStream(small, "train", tokenizer, context, seed=5, lanes=lanes)
    for lane in range(lanes):
        expected = lane_documents(small, tokenizer, 5, lanes, lane, epochs=3)
        whole = len(expected) // (context + 1)
        blocks = [stream.block(item * lanes + lane) for item in range(whole)]
        assert np.concatenate(blocks).tolist() == expected[: whole * (context + 1)]


def test_every_document_is_in_one_lane_of_each_epoch():
    for epoch in range(3):
        order = shuffled(1, epoch, 50)
        shares = [order[lane::8] for lane in range(8)]
        assert sorted(itertools.chain(*shares)) == list(range(50))


def test_the_shuffle_is_the_one_that_results_were_made_with():
    assert shuffled(0, 0, 10) == (9, 8, 7, 6, 4, 0, 2, 3, 5, 1)
    assert shuffled(0, 1, 10) != shuffled(0, 0, 10) != shuffled(1, 0, 10)


def test_block_g_is_the_same_read_alone_or_in_sequence(small, tokenizer):
    def fresh():
        return BlockStream(small, "train", tokenizer, 15, seed=0, lanes=3)

    sequence = [block for _, block in itertools.islice(fresh().blocks(), 200)]
    for g in (0, 1, 17, 18, 199):
        np.testing.assert_array_equal(fresh().block(g), sequence[g])
    jumping = fresh()
    places = list(range(200))
    random.Random(0).shuffle(places)
    for g in places:
        np.testing.assert_array_equal(jumping.block(g), sequence[g])
    assert [g for g, _ in itertools.islice(fresh().blocks(40), 3)] == [40, 41, 42]


def test_a_block_that_was_handed_out_can_be_changed_without_harm(small, tokenizer):
    stream = BlockStream(small, "train", tokenizer, 15, seed=0, lanes=3)
    before = stream.block(0).copy()
    stream.block(0)[:] = 0
    np.testing.assert_array_equal(stream.block(0), before)


def test_another_seed_gives_other_blocks(small, tokenizer):
    first, second = (BlockStream(small, "train", tokenizer, 15, seed, lanes=1) for seed in (0, 1))
    assert not np.array_equal(first.block(0), second.block(0))


def test_the_first_256_blocks_of_sotu_are_the_ones_that_results_were_made_with(sotu, tokenizer):
    stream = BlockStream(sotu, "train", tokenizer, context=256, seed=0)
    total = Fingerprint()
    for g, block in itertools.islice(stream.blocks(), 256):
        total.add(g, block)
    assert total.hex == "a850bf2b2147c48c77f4a13527642d16"


def test_skipped_documents_leave_the_others_in_their_order(corpus, tokenizer):
    rows = [{"text": f"word{index} " * 20} for index in range(6)]
    rows[2] = b"broken"
    damaged = corpus(rows, on_error="skip")
    stream = BlockStream(damaged, "train", tokenizer, 15, seed=0, lanes=1)
    packer = Packer(16, tokenizer.end_of_document)
    left = [index for index in shuffled(0, 0, 6) if index != 2]
    expected = [block for index in left for block in packer.add(tokenizer.encode(damaged.read("train", index)["text"]))]
    for g, block in enumerate(expected):
        np.testing.assert_array_equal(stream.block(g), block)
    assert list(damaged.skipped) == ["train.jsonl:3"]


def test_a_lane_whose_documents_are_all_skipped_stops(corpus, tokenizer):
    damaged = corpus([{"text": "word " * 50}, b"broken"], on_error="skip")
    stream = BlockStream(damaged, "train", tokenizer, 15, seed=0, lanes=2)
    broken = shuffled(0, 0, 2).index(1)
    with pytest.raises(UserError, match=rf"split train: all 1 documents of lane {broken} were skipped"):
        stream.block(broken)


def test_first_blocks_are_the_documents_in_corpus_order(small, tokenizer):
    blocks = first_blocks(small, "train", tokenizer, 15, 20)
    tokens = []
    for index in range(7):
        tokens += [*tokenizer.encode(small.read("train", index)["text"]), tokenizer.end_of_document]
    assert np.concatenate(blocks).tolist() == tokens[: 20 * 16]


def test_more_first_blocks_than_the_split_holds_are_refused(small, tokenizer):
    with pytest.raises(UserError, match=r"split validation holds 0 blocks of 101 tokens, 3 are needed"):
        first_blocks(small, "validation", tokenizer, 100, 3)


@pytest.mark.parametrize("lanes", [0, 8])
def test_lanes_without_a_document_are_refused(small, tokenizer, lanes):
    with pytest.raises(UserError, match=rf"data\.lanes is {lanes} but split train has 7 documents"):
        BlockStream(small, "train", tokenizer, 15, seed=0, lanes=lanes)


def test_a_split_shorter_than_one_block_is_refused(small, tokenizer):
    with pytest.raises(UserError, match=r"split train holds 0 blocks of 100001 tokens"):
        BlockStream(small, "train", tokenizer, 100_000, seed=0, lanes=1)


@pytest.mark.parametrize(("context", "seed", "key"), [(0, 0, "context"), (8, -1, "seed"), (8, 2**64, "seed")])
def test_numbers_out_of_range_are_refused(small, tokenizer, context, seed, key):
    with pytest.raises(UserError, match=rf"{key} is {context if key == 'context' else seed}"):
        BlockStream(small, "train", tokenizer, context, seed, lanes=1)


def test_a_fingerprint_tells_place_and_content_apart():
    block = np.arange(5, dtype=np.uint32)
    assert fingerprint(3, block) == fingerprint(3, block.copy())
    assert len({fingerprint(3, block), fingerprint(4, block), fingerprint(3, block[::-1])}) == 3


def test_fingerprints_of_shares_add_up_to_the_fingerprint_of_the_whole():
    blocks = np.random.default_rng(0).integers(0, 1000, (40, 9)).astype(np.uint32)
    whole, shares = Fingerprint(), [Fingerprint(), Fingerprint()]
    for g, block in enumerate(blocks):
        whole.add(g, block)
    for g in reversed(range(40)):
        shares[g % 2].add(g, blocks[g])
    joined = Fingerprint((shares[0].total + shares[1].total) % 2**128)
    assert joined.hex == whole.hex
    assert len(whole.hex) == 32
