"""Prompts, tokens that are read and not learned, on their way from documents to batches: against marks in the text."""

import itertools
import json
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import tokenizers
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from made_biographies import WORDS, answers_only, biographies
from oracles.block_order import lane_blocks

from lab.base.errors import UserError
from lab.data.biographies.corpus import Biographies
from lab.data.stream import writing
from lab.data.stream.blocks import StoredBlocks
from lab.data.stream.module import DataModule
from lab.data.stream.order import BlockStream, Cursor, sampled_blocks
from lab.data.stream.packing import learned
from lab.data.stream.shards import read_shard, shard_path
from lab.data.stream.writing import write_blocks
from lab.data.tokenizer import Tokenizer

COUNT = 60  # blocks that the tests below read


QUESTIONS = biographies(content="questions")


def stream(corpus: Biographies = QUESTIONS, **keys: Any) -> BlockStream:
    return BlockStream(corpus, "train", WORDS, **{"context": 31, "seed": 3, "lanes": 4, **keys})


def mask(block: Any) -> list[bool]:
    return learned(block.prompts, len(block.tokens)).tolist()


@settings(max_examples=15, deadline=None)
@given(
    context=st.integers(1, 90),
    seed=st.integers(0, 2**32),
    lanes=st.integers(1, 7),
    tile=st.integers(1, 9),
    lane=st.integers(0, 6),
)
def test_in_the_blocks_of_a_lane_the_answers_are_learned_and_nothing_else(
    context: int, seed: int, lanes: int, tile: int, lane: int
) -> None:
    lane %= lanes
    made = stream(context=context, seed=seed, lanes=lanes, tile=tile)
    blocks = [made.block(item * lanes + lane) for item in range(400 // context + 3)]
    told = {"context": context, "seed": seed, "lanes": lanes, "weights": {"": 1.0}, "tile": tile}
    expected = lane_blocks(QUESTIONS, WORDS, len(blocks), lane, **told)
    assert [block.tokens.tolist() for block in blocks] == [tokens for tokens, _, _ in expected]
    whole = [token for block in blocks for token in block.tokens.tolist()]
    assert [each for block in blocks for each in mask(block)] == answers_only(whole)


def test_of_mixed_and_of_entries_every_token_is_learned() -> None:
    mixed = stream(biographies(content="both"), weights={"entries": 1, "questions": 1})
    entries = stream(biographies())
    assert all(len(made.block(g).prompts) == 0 for made in (mixed, entries) for g in range(COUNT))


def test_validation_blocks_have_the_prompts_of_their_split() -> None:
    blocks = sampled_blocks(QUESTIONS, "validation", WORDS, 31, 10)
    assert [mask(block) for block in blocks] == [answers_only(block.tokens.tolist()) for block in blocks]
    assert all(0 < sum(mask(block)) < 32 for block in blocks)


# Written blocks.


@pytest.fixture
def folder(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """COUNT blocks of questions, in shards of five."""
    monkeypatch.setattr(writing, "SHARD_TOKENS", 5 * 32)
    write_blocks(stream(), tmp_path / "blocks", {}, COUNT, 1, lambda tokens: None)
    return tmp_path / "blocks"


def test_written_blocks_have_the_prompts_of_the_stream_whoever_wrote_them(folder: Any, tmp_path: Any) -> None:
    write_blocks(stream(), tmp_path / "two", {}, COUNT, 2, lambda tokens: None)
    names = sorted(path.relative_to(folder) for path in folder.rglob("item=*"))
    assert len(names) == 12
    assert all((folder / name).read_bytes() == (tmp_path / "two" / name).read_bytes() for name in names)
    fresh, stored = stream(), StoredBlocks(folder, {}, COUNT)
    for g in range(COUNT):
        np.testing.assert_array_equal(stored.block(g).tokens, fresh.block(g).tokens)
        np.testing.assert_array_equal(stored.block(g).prompts, fresh.block(g).prompts, strict=True)
    assert any(len(fresh.block(g).prompts) for g in range(COUNT - 4, COUNT))


def test_a_shard_whose_prompts_were_changed_is_told(folder: Any) -> None:
    path = shard_path(folder, 1, 5)
    content = path.read_bytes()
    place = content.index(b"prompts", content.index(b"prompts") + 7)  # the first is the cursor's
    place = next(at for at in range(place, len(content)) if content[at : at + 1].isdigit())
    path.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
    with pytest.raises(UserError, match=r"lane=0001/item=00000005\.safetensors: damaged"):
        read_shard(path, 1, 5, 4)


# Cursors.


def test_a_cursor_that_was_written_down_gives_the_same_masks_again_and_on() -> None:
    first = stream()
    blocks = [first.block(g) for g in range(COUNT)]
    with_prompts = 0
    for g in range(0, COUNT - 8):
        record = blocks[g].cursor.record()  # type: ignore[union-attr]
        with_prompts += "prompts" in record
        written = json.loads(
            json.dumps({key: each.tolist() if isinstance(each, np.ndarray) else each for key, each in record.items()})
        )
        for name, kind in (("remainder", np.uint32), ("starts", np.int32)):
            written[name] = np.array(written[name], dtype=kind)
        again = stream()
        again.restore({g % 4: Cursor.of(written)})
        for later in (g, g + 4, g + 8):
            if later < COUNT:
                np.testing.assert_array_equal(again.block(later).tokens, blocks[later].tokens)
                np.testing.assert_array_equal(again.block(later).prompts, blocks[later].prompts, strict=True)
    assert with_prompts > 10


# Batches.


def data(workers: int = 0, source: Any = None) -> DataModule:
    made = source if source is not None else stream()
    return DataModule(QUESTIONS, WORDS, made, 31, 4, COUNT // 4, 5, workers=workers)


def masks(module: DataModule, count: int) -> Iterator[tuple[int, list[bool]]]:
    for batch in itertools.islice(module.train_dataloader(), count):
        assert batch["learned"].dtype == torch.bool
        assert batch["learned"].shape == batch["tokens"].shape
        yield from zip(batch["blocks"].tolist(), batch["learned"].tolist(), strict=True)
        module.trained(batch)


@pytest.fixture(scope="module")
def expected() -> dict[int, list[bool]]:
    made = stream()
    return {g: mask(made.block(g)) for g in range(COUNT)}


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_have_the_masks_of_the_stream_with_any_number_of_workers(
    workers: int, expected: dict[int, list[bool]]
) -> None:
    assert dict(masks(data(workers), COUNT // 4)) == expected


def test_batches_of_written_blocks_have_the_same_masks(folder: Any, expected: dict[int, list[bool]]) -> None:
    assert dict(masks(data(source=StoredBlocks(folder, {}, COUNT)), COUNT // 4)) == expected


def test_two_ranks_together_have_the_masks_of_one(expected: dict[int, list[bool]]) -> None:
    found: dict[int, list[bool]] = {}
    for rank in range(2):
        module = data()
        module._process = lambda rank=rank: (rank, 2)  # type: ignore[method-assign, misc]
        found |= dict(masks(module, COUNT // 8))
    assert found == {g: expected[g] for g in range(8 * (COUNT // 8))}


def test_batches_go_on_with_the_masks_of_a_run_that_was_never_stopped(expected: dict[int, list[bool]]) -> None:
    first = data()
    before = dict(masks(first, 5))
    second = data()
    second.load_state_dict(first.state_dict())
    assert before | dict(masks(second, COUNT // 4 - 5)) == expected


def test_a_batch_without_prompts_has_no_mask() -> None:
    entries = biographies()
    module = DataModule(entries, WORDS, stream(entries), 31, 4, 3, 2)
    assert all("learned" not in batch for batch in itertools.islice(module.train_dataloader(), 3))
    assert all("learned" not in batch for batch in module.val_dataloader())


def test_a_token_over_the_end_of_a_question_is_refused(tmp_path: Any) -> None:
    library = tokenizers.Tokenizer(tokenizers.models.BPE())
    library.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    library.decoder = tokenizers.decoders.ByteLevel()
    trainer: Callable[..., Any] = tokenizers.trainers.BpeTrainer
    texts = [entry.text or "" for entry in QUESTIONS.documents("train", "")]
    alphabet = tokenizers.pre_tokenizers.ByteLevel.alphabet()
    library.train_from_iterator(
        texts * 3,
        trainer(vocab_size=2000, special_tokens=["<|endoftext|>"], initial_alphabet=alphabet, show_progress=False),
    )
    library.save(str(tmp_path / "tokenizer.json"))
    tokenizer = Tokenizer(str(tmp_path / "tokenizer.json"))
    with pytest.raises(UserError, match=r"tokenizer\.json: one of its tokens spells the end of a question") as refused:
        BlockStream(QUESTIONS, "train", tokenizer, context=31, seed=3, lanes=4)
    assert "\n" not in str(refused.value)
