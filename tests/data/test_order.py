import collections
import itertools
import json
import random
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles.block_order import lane_blocks, lane_documents

from lab.base.errors import UserError
from lab.data.stream.fingerprint import Fingerprint, fingerprint
from lab.data.stream.order import BlockStream, Cursor, sampled_blocks, shuffled, shuffled_tile
from lab.data.stream.packing import document_numbers


def random_texts(source, chunks, documents, words=12):
    """Chunks of documents of random lengths; about one document in ten is empty."""
    return [
        [
            "" if source.random() < 0.1 else f"{source.random():.3f} " * source.randrange(1, words)
            for _ in range(documents)
        ]
        for _ in range(chunks)
    ]


def plain(cursor):
    """A cursor as JSON text."""
    return json.dumps(cursor.record(), default=np.ndarray.tolist)


def read_back(text):
    record = json.loads(text)
    arrays = {
        "remainder": np.array(record["remainder"], np.uint32),
        "starts": np.array(record["starts"], np.int32),
    }
    return Cursor.of(record | arrays)


@pytest.fixture
def small(texts):
    """Seven documents of different lengths, each with words of its own."""
    return texts({"": [[f"word{index} " * (5 + 9 * index)] for index in range(7)]})


@pytest.fixture(scope="session")
def mixture(texts):
    """Three subsets: documents that are chunks, chunks of several documents, chunks of several tiles."""
    source = random.Random(0)
    return texts(
        {
            "essays": random_texts(source, chunks=11, documents=1),
            "notes": random_texts(source, chunks=5, documents=4, words=3),
            "web": random_texts(source, chunks=4, documents=30),
        }
    )


MIXED = {"context": 31, "seed": 7, "lanes": 3, "weights": {"web": 0.6, "essays": 0.3, "notes": 0.1}, "tile": 4}


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**64 - 1),
    context=st.integers(1, 90),
    lanes=st.integers(1, 4),
    tile=st.integers(1, 40),
    shares=st.tuples(*[st.sampled_from([0.01, 0.1, 0.2, 1, 3, 50])] * 3),
)
def test_the_blocks_are_those_of_the_rule_in_words(mixture, tokenizer, seed, context, lanes, tile, shares):
    weights = dict(zip(mixture.texts, shares, strict=True))
    keys = {"context": context, "seed": seed, "lanes": lanes, "weights": weights, "tile": tile}
    stream = BlockStream(mixture, "train", tokenizer, **keys)
    for lane in range(lanes):
        expected = lane_blocks(mixture, tokenizer, 20, lane, **keys)
        for item, (tokens, owners, skipped) in enumerate(expected):
            block = stream.block(item * lanes + lane)
            assert block.tokens.tolist() == tokens
            numbers = document_numbers(block.starts, context + 1)
            assert (np.diff(numbers) == 1).tolist() == [one != other for one, other in itertools.pairwise(owners)]
            assert list(block.skipped) == list(dict.fromkeys(skipped))


@pytest.mark.parametrize("lanes", [1, 3, 7])
def test_every_token_of_three_epochs_appears_exactly_once_across_the_lanes(small, tokenizer, lanes):
    context = 15
    stream = BlockStream(small, "train", tokenizer, context, seed=5, lanes=lanes)
    read = collections.Counter()
    for lane in range(lanes):
        share = len(range(lane, 7, lanes))
        documents = list(itertools.islice(lane_documents(small, "", 5, lanes, lane, 128), 3 * share))
        read.update(name for name, _ in documents)
        expected = [token for _, text in documents for token in [*tokenizer.encode(text), tokenizer.end_of_document]]
        whole = len(expected) // (context + 1)
        blocks = [stream.block(item * lanes + lane).tokens for item in range(whole)]
        assert np.concatenate(blocks).tolist() == expected[: whole * (context + 1)]
    assert read == {entry.name: 3 for entry in small.documents("train", "")}


def test_every_chunk_is_in_one_lane_of_each_epoch():
    for epoch in range(3):
        order = shuffled(1, epoch, 50)
        shares = [order[lane::8] for lane in range(8)]
        assert sorted(itertools.chain(*shares)) == list(range(50))


def test_the_shuffle_is_the_one_that_results_were_made_with():
    assert shuffled(0, 0, 10) == (9, 8, 7, 6, 4, 0, 2, 3, 5, 1)
    assert shuffled(0, 1, 10) != shuffled(0, 0, 10) != shuffled(1, 0, 10)


def test_the_shuffle_of_a_subset_is_its_own():
    orders = {shuffled(0, 0, 50), shuffled(0, 0, 50, "web"), shuffled(0, 0, 50, "books")}
    assert len(orders) == 3
    assert all(sorted(order) == list(range(50)) for order in orders)


def test_a_tile_is_permuted_by_seed_epoch_chunk_number_and_subset():
    tiles = [
        shuffled_tile(*numbers, 20, subset)
        for *numbers, subset in (
            (0, 0, 0, 0, ""),
            (1, 0, 0, 0, ""),
            (0, 1, 0, 0, ""),
            (0, 0, 1, 0, ""),
            (0, 0, 0, 1, ""),
            (0, 0, 0, 0, "web"),
        )
    ]
    assert len(set(tiles)) == 6
    assert all(sorted(tile) == list(range(20)) != list(tile) for tile in tiles)


@pytest.mark.parametrize("tile", [1, 7, 100])
def test_documents_are_shuffled_inside_their_tile_and_stay_in_it(texts, tokenizer, tile):
    corpus = texts({"": [[f"{index:02d}" for index in range(50)]]})
    stream = BlockStream(corpus, "train", tokenizer, 1, seed=3, lanes=1, tile=tile)
    seen = tokenizer.decode(np.concatenate([stream.block(g).tokens for g in range(100)])).split("<|endoftext|>")
    first_epoch = [int(text) for text in seen[:50]]
    for start in range(0, 50, tile):
        together = first_epoch[start : start + tile]
        assert sorted(together) == list(range(start, min(start + tile, 50)))
        assert together != sorted(together) or len(together) == 1


def test_block_g_is_the_same_read_alone_or_in_sequence(mixture, tokenizer):
    def fresh():
        return BlockStream(mixture, "train", tokenizer, **MIXED)

    sequence = [block for _, block in itertools.islice(fresh().blocks(), 200)]
    for g in (0, 1, 17, 18, 199):
        np.testing.assert_array_equal(fresh().block(g).tokens, sequence[g].tokens)
    jumping = fresh()
    places = list(range(200))
    random.Random(0).shuffle(places)
    for g in places:
        block = jumping.block(g)
        np.testing.assert_array_equal(block.tokens, sequence[g].tokens)
        np.testing.assert_array_equal(block.starts, sequence[g].starts)
        assert plain(block.cursor) == plain(sequence[g].cursor)
    assert [g for g, _ in itertools.islice(fresh().blocks(40), 3)] == [40, 41, 42]
    assert [g for g, _ in itertools.islice(fresh().blocks(5, 4), 3)] == [5, 9, 13]


def test_every_block_can_be_had_again_from_its_cursor_and_all_after_it(mixture, tokenizer):
    stream = BlockStream(mixture, "train", tokenizer, **MIXED)
    sequence = [block for _, block in itertools.islice(stream.blocks(), 312)]
    assert sequence[299].cursor.places[2].epoch >= 1
    last = {}
    for g in range(300):
        last[g % 3] = read_back(plain(sequence[g].cursor))
        stream.restore(last)
        for later in range(g, g + 12):
            block = stream.block(later)
            np.testing.assert_array_equal(block.tokens, sequence[later].tokens, strict=True)
            np.testing.assert_array_equal(block.starts, sequence[later].starts, strict=True)
            assert plain(block.cursor) == plain(sequence[later].cursor)
            # What was skipped on the way to block g was told with it, before its cursor.
            assert block.skipped == ({} if later == g else sequence[later].skipped)


def test_a_block_that_was_handed_out_can_be_changed_without_harm(mixture, tokenizer):
    stream = BlockStream(mixture, "train", tokenizer, **MIXED)
    before = stream.block(0).tokens.copy()
    stream.block(0).tokens[:] = 0
    np.testing.assert_array_equal(stream.block(0).tokens, before)


def test_a_cursor_that_was_handed_out_does_not_move(mixture, tokenizer):
    stream = BlockStream(mixture, "train", tokenizer, **MIXED)
    cursors = [stream.block(g).cursor for g in range(60)]
    before = [plain(cursor) for cursor in cursors]
    stream.block(200)
    assert [plain(cursor) for cursor in cursors] == before


def test_a_cursor_that_lies_ahead_of_a_block_is_no_use_for_it(mixture, tokenizer):
    stream = BlockStream(mixture, "train", tokenizer, **MIXED)
    early, late = stream.block(9), stream.block(99)
    stream.restore({0: late.cursor})
    np.testing.assert_array_equal(stream.block(9).tokens, early.tokens)


def test_a_resumed_lane_reads_at_most_one_tile_of_each_subset_again_however_far_the_run(texts, tokenizer):
    source = random.Random(1)
    corpus = texts({name: random_texts(source, chunks=4, documents=200) for name in ("notes", "web")})
    weights = {"notes": 1, "web": 5}
    keys = {"context": 63, "seed": 0, "lanes": 2, "weights": weights, "tile": 16}
    stream = BlockStream(corpus, "train", tokenizer, **keys)
    cursors = {g: stream.block(g).cursor for g in range(0, 440, 2)}
    order = {
        name: list(itertools.islice(lane_documents(corpus, name, 0, 2, 0, 16), 400)) for name in corpus.subsets("train")
    }
    assert all(place.epoch == 0 for place in cursors[438].places)
    assert cursors[438].places[1].position == 1
    for g in range(0, 420, 14):
        consumed = []
        for subset, name in enumerate(order):
            total = 0
            for document, text in order[name]:
                if total == cursors[g].tokens[subset]:
                    break
                total += 0 if text is None else len(tokenizer.encode(text)) + 1
                consumed.append(document)
            assert total == cursors[g].tokens[subset]
        stream.restore({0: cursors[g]})
        corpus.reads.clear()
        stream.block(g)
        assert len(corpus.reads) <= 16
        for later in range(g, g + 20, 2):
            stream.block(later)
        for name in order:
            again = set(consumed) & {read for read in corpus.reads if read.startswith(name)}
            assert len(again) <= 16


def test_another_seed_gives_other_blocks(small, tokenizer):
    first, second = (BlockStream(small, "train", tokenizer, 15, seed, lanes=1) for seed in (0, 1))
    assert not np.array_equal(first.block(0).tokens, second.block(0).tokens)


def test_the_blocks_of_sotu_are_the_ones_that_results_were_made_with(sotu, tokenizer):
    stream = BlockStream(sotu, "train", tokenizer, context=256, seed=0)
    total = Fingerprint()
    for g, block in itertools.islice(stream.blocks(), 20_000):
        if g == 256:
            assert total.hex == "a107878ef432b3e1133d78f624ee12f7"
        total.add(g, block.tokens)
    assert total.hex == "6f0257c1285adb3d09835b8fe10c2e5e"


def test_a_lane_whose_documents_are_all_skipped_stops(texts, tokenizer):
    stream = BlockStream(texts({"": [["word " * 50], [""]]}), "train", tokenizer, 15, seed=0, lanes=2)
    broken = shuffled(0, 0, 2).index(1)
    message = (
        rf"split train: all documents of lane {broken} were skipped \(1 documents\); mend them or take fewer lanes"
    )
    with pytest.raises(UserError, match=message):
        stream.block(broken)


def test_a_lane_of_chunks_in_which_no_document_begins_stops_and_says_so(texts, tokenizer):
    stream = BlockStream(texts({"": [["word " * 200], []]}), "train", tokenizer, context=8, seed=0, lanes=2)
    with pytest.raises(
        UserError, match=r"split train: no document begins in lane \d \(1 documents\); mend them or take"
    ):
        stream.block(0), stream.block(1)


def test_a_lane_of_which_one_subset_is_all_skipped_stops_and_names_it(texts, tokenizer):
    corpus = texts({"good": [["word " * 50]] * 4, "bad": [["word"], ["", ""], ["", ""]]})
    weights = {"good": 10, "bad": 1}
    stream = BlockStream(corpus, "train", tokenizer, 15, seed=0, lanes=3, weights=weights)
    with pytest.raises(UserError, match=r"split train, subset bad: all documents of lane \d were skipped"):
        list(itertools.islice(stream.blocks(), 30))


def test_a_lane_resumed_before_documents_that_are_all_skipped_goes_on_to_the_next_epoch(texts, tokenizer):
    corpus = texts({"": [["word " * 30, *[""] * 5]]})
    stream = BlockStream(corpus, "train", tokenizer, 15, seed=0, lanes=1, tile=1)
    sequence = [stream.block(g) for g in range(8)]
    assert {g for g in range(8) if sequence[g].skipped} == {g for g in range(8) if sequence[g].cursor.item == g} - {0}
    for g in range(8):
        stream.restore({0: sequence[g].cursor})
        np.testing.assert_array_equal(stream.block(7).tokens, sequence[7].tokens)


def joined(corpus, split, tokenizer, weights=None):
    """The tokens of a split, its chunks shuffled, subsets taken by weight: written down anew, without the packer."""
    weights = weights or dict.fromkeys(corpus.subsets(split), 1)
    sources = {
        name: iter(
            [
                entry
                for chunk in shuffled(0, 0, corpus.chunks(split, name), name)
                for entry in corpus.read(split, name, chunk)
            ]
        )
        for name in corpus.subsets(split)
    }
    taken = dict.fromkeys(sources, 0)
    tokens = []
    while True:
        subset = min(taken, key=lambda name: Fraction(taken[name]) / Fraction(str(weights[name])))
        entry = next(sources[subset], None)
        if entry is None:
            return tokens
        if entry.text is not None:
            tokens += [*tokenizer.encode(entry.text), tokenizer.end_of_document]
            taken[subset] += len(tokenizer.encode(entry.text)) + 1


def test_sampled_blocks_are_spread_evenly_over_a_split_that_is_short(small, tokenizer):
    tokens = joined(small, "train", tokenizer)
    blocks = [tokens[start : start + 16] for start in range(0, len(tokens) - 15, 16)]
    assert 20 < len(blocks) < 20 * 16
    sampled = sampled_blocks(small, "train", tokenizer, 15, 20)
    assert [block.tokens.tolist() for block in sampled] == [blocks[i * len(blocks) // 20] for i in range(20)]


def test_sampled_blocks_of_a_long_split_are_every_sixteenth_and_read_no_further(sotu, tokenizer):
    tokens = joined(sotu, "validation", tokenizer)
    sampled = sampled_blocks(sotu, "validation", tokenizer, 15, 40)
    assert len(tokens) > 40 * 16 * 16
    assert [block.tokens.tolist() for block in sampled] == [tokens[i * 256 : i * 256 + 16] for i in range(40)]


def test_sampled_blocks_of_several_subsets_are_mixed_by_weight(mixture, tokenizer):
    weights = MIXED["weights"]
    tokens = joined(mixture, "validation", tokenizer, weights)
    blocks = [tokens[start : start + 32] for start in range(0, len(tokens) - 31, 32)][: 30 * 16]
    sampled = sampled_blocks(mixture, "validation", tokenizer, 31, 30, weights)
    assert [block.tokens.tolist() for block in sampled] == [blocks[i * len(blocks) // 30] for i in range(30)]


def test_validation_at_pilot_scale_has_blocks_of_every_held_out_author(sotu, tokenizer):
    sampled = {block.tokens.tobytes() for block in sampled_blocks(sotu, "validation", tokenizer, 64, 256)}
    authors = set()
    for chunk in shuffled(0, 0, sotu.chunks("validation", "")):
        for entry in sotu.read("validation", "", chunk):
            text = tokenizer.encode(entry.text)
            inside = any(text[start : start + 65].tobytes() in sampled for start in range(len(text) - 64))
            authors |= {sotu.cluster(entry.name)} if inside else set()
    assert len(authors) == 4


def test_more_sampled_blocks_than_the_split_holds_are_refused(sotu, tokenizer):
    with pytest.raises(UserError, match=r"split validation holds 28 blocks of 10001 tokens, 30 are needed"):
        sampled_blocks(sotu, "validation", tokenizer, 10_000, 30)


@pytest.mark.parametrize("lanes", [0, 8])
def test_lanes_without_a_document_are_refused(small, tokenizer, lanes):
    with pytest.raises(UserError, match=rf"lanes is {lanes} but split train has 7 documents; give at least 1"):
        BlockStream(small, "train", tokenizer, 15, seed=0, lanes=lanes)


def test_the_subset_that_has_fewer_chunks_than_lanes_is_named(mixture, tokenizer):
    with pytest.raises(UserError, match=r"lanes is 5 but split train, subset web has 4 documents"):
        BlockStream(mixture, "train", tokenizer, **{**MIXED, "lanes": 5})


def test_a_split_shorter_than_one_block_is_refused(small, tokenizer):
    with pytest.raises(UserError, match=r"split train holds 0 blocks of 100001 tokens"):
        BlockStream(small, "train", tokenizer, 100_000, seed=0, lanes=1)


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
