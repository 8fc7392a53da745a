"""Scores beyond the window, against loops that predict one token at a time."""

import itertools
from functools import partial

import numpy as np
import pytest
import torch

from lab.errors import UserError
from lab.measure.extrapolation import losses_in_one_pass, losses_restarted, score, segment_starts
from lab.model.attention import Attention
from lab.model.decoder import Decoder
from lab.model.position import ALiBi, NoPE, RoPE

VOCABULARY = 17
CONTEXT = 8
LENGTH = 8 * CONTEXT + 1
COLUMNS = ["measure", "document", "segment", "start_position", "stop_position", "tokens", "loss_nats"]


def tiny(position=NoPE, window: int | None = None, compute_dtype: torch.dtype = torch.float64) -> Decoder:
    decoder = Decoder(
        vocabulary=VOCABULARY,
        layers=2,
        width=16,
        hidden=24,
        position=position(2, 8),
        attention=partial(Attention, 16, 2, 1, 8, window=window, kernel="reference"),
        seed=0,
        compute_dtype=compute_dtype,
    )
    # As initialised, all losses are close to log(vocabulary) and a wrong context would hardly show.
    with torch.no_grad():
        for parameter in decoder.parameters():
            parameter.mul_(8 if parameter.dim() > 1 else 1)
    return decoder


def document(tokens: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, VOCABULARY, tokens).astype(np.uint32)


@torch.no_grad()
def loss_of_next(decoder: Decoder, read: np.ndarray, target: int) -> float:
    """The definition: read some tokens from position 0 on, ask for the next one."""
    logits = decoder(torch.from_numpy(read.astype(np.int64))[None])[0, -1]
    return -torch.log_softmax(logits, dim=0)[int(target)].item()


def of(rows: list[dict], measure: str) -> list[dict]:
    return [row for row in rows if row["measure"] == measure]


@pytest.mark.parametrize("position", [NoPE, RoPE, ALiBi])
def test_the_loss_at_every_position_is_that_of_one_token_at_a_time(position):
    decoder, ids = tiny(position), document(LENGTH)
    rows = of(score(decoder, [("a", ids)], CONTEXT, segments=1, bin_tokens=1), "loss_by_position")
    expected = [loss_of_next(decoder, ids[: p + 1], ids[p + 1]) for p in range(8 * CONTEXT)]
    assert [(row["start_position"], row["stop_position"], row["tokens"]) for row in rows] == [
        (p, p + 1, 1) for p in range(8 * CONTEXT)
    ]
    np.testing.assert_allclose([row["loss_nats"] for row in rows], expected, rtol=0, atol=1e-10)
    assert np.std(expected) > 0.5


def test_bins_are_means_of_the_positions_in_them():
    decoder, ids = tiny(), document(LENGTH)
    fine, coarse = (
        of(score(decoder, [("a", ids)], CONTEXT, segments=1, bin_tokens=size), "loss_by_position") for size in (1, 4)
    )
    losses = np.array([row["loss_nats"] for row in fine]).reshape(-1, 4).mean(axis=1)
    np.testing.assert_allclose([row["loss_nats"] for row in coarse], losses, rtol=0, atol=1e-12)
    assert [(row["start_position"], row["stop_position"], row["tokens"]) for row in coarse] == [
        (p, p + 4, 4) for p in range(0, 8 * CONTEXT, 4)
    ]


@pytest.mark.parametrize("position", [NoPE, RoPE, ALiBi])
def test_the_excess_is_that_of_one_token_at_a_time(position):
    decoder, ids = tiny(position), document(LENGTH)
    half = CONTEXT // 2
    whole, restarted = [], []
    for p in range(4 * CONTEXT, 8 * CONTEXT):
        # A restart at every multiple of C/2; the last one that leaves C/2 tokens before this one.
        start = p // half * half - half
        assert half + 1 <= p + 1 - start <= CONTEXT
        whole.append(loss_of_next(decoder, ids[: p + 1], ids[p + 1]))
        restarted.append(loss_of_next(decoder, ids[start : p + 1], ids[p + 1]))
    # In order and one by one: so every target from 4 C to 8 C is scored, and scored once.
    assert len(set(restarted)) == 4 * CONTEXT
    one_by_one = losses_restarted(decoder, torch.from_numpy(ids.astype(np.int64)), CONTEXT).detach().numpy()
    np.testing.assert_allclose(one_by_one, restarted, rtol=0, atol=1e-10)
    rows = score(decoder, [("a", ids)], CONTEXT, segments=1, bin_tokens=CONTEXT)
    expected = {"whole_prefix": whole, "restarted": restarted, "excess": np.subtract(whole, restarted)}
    for measure, losses in expected.items():
        (row,) = of(rows, measure)
        assert row["loss_nats"] == pytest.approx(np.mean(losses), abs=1e-10)
        assert (row["start_position"], row["stop_position"], row["tokens"]) == (32, 64, 32)
    assert abs(np.mean(expected["excess"])) > 1e-3


def test_a_decoder_that_reaches_less_than_half_a_context_back_has_no_excess():
    window = 2  # reach: 2 layers x 1 + 1 = 3 <= C/2 = 4
    rows = score(tiny(NoPE, window), [("a", document(3 * LENGTH))], CONTEXT, segments=3, bin_tokens=CONTEXT)
    excess = [row["loss_nats"] for row in of(rows, "excess")]
    assert len(excess) == 3
    np.testing.assert_allclose(excess, 0, rtol=0, atol=1e-12)


def test_low_precision_is_scored_as_well():
    decoder = tiny(compute_dtype=torch.bfloat16)
    ids = document(LENGTH)
    rows = score(decoder, [("a", ids)], CONTEXT, segments=1, bin_tokens=8)
    expected = losses_in_one_pass(decoder, torch.from_numpy(ids.astype(np.int64)))
    mean = np.mean([row["loss_nats"] for row in of(rows, "loss_by_position")])
    assert mean == pytest.approx(expected.mean().item(), rel=1e-5)


# Segments.


@pytest.mark.parametrize("tokens", [64, 65, 100, 129, 130, 131, 195, 259, 260, 261, 1000, 99_991])
@pytest.mark.parametrize("segments", [1, 2, 4, 7])
def test_segments_are_disjoint_inside_the_document_and_as_many_as_fit(tokens, segments):
    starts = segment_starts(tokens, LENGTH, segments)
    assert len(starts) == min(segments, tokens // LENGTH)
    assert all(later - earlier >= LENGTH for earlier, later in itertools.pairwise(starts))
    assert all(0 <= start <= tokens - LENGTH for start in starts)
    if len(starts) > 1:
        assert (starts[0], starts[-1]) == (0, tokens - LENGTH)
        gaps = np.diff(starts)
        assert gaps.max() - gaps.min() <= 1


def test_a_segment_is_scored_as_if_it_were_the_whole_document():
    decoder, ids = tiny(), document(200)
    rows = score(decoder, [("long", ids)], CONTEXT, segments=4, bin_tokens=4)
    for number, start in enumerate(segment_starts(200, LENGTH, 4)):
        alone = score(decoder, [("long", ids[start : start + LENGTH])], CONTEXT, segments=1, bin_tokens=4)
        assert [row for row in rows if row["segment"] == number] == [row | {"segment": number} for row in alone]


def test_rows_are_the_same_every_time_and_tell_progress():
    documents = [("short", document(LENGTH - 1)), ("a", document(LENGTH, 1)), ("b", document(2 * LENGTH, 2))]
    told: list[str] = []
    first = score(tiny(), iter(documents), CONTEXT, segments=4, bin_tokens=8, progress=told.append)
    assert first == score(tiny(), documents, CONTEXT, segments=4, bin_tokens=8)
    assert told == ["a", "b"]
    assert {(row["document"], row["segment"]) for row in first} == {("a", 0), ("b", 0), ("b", 1)}
    assert all(list(row) == COLUMNS for row in first)


# Input that cannot be scored.


def test_without_a_long_enough_document_the_longest_is_named():
    documents = [("brief", document(10)), ("longest of all", document(LENGTH - 1)), ("other", document(20))]
    with pytest.raises(UserError, match=r"65 tokens.*longest of all, has 64"):
        score(tiny(), documents, CONTEXT, segments=4, bin_tokens=8)


@pytest.mark.parametrize(
    ("context", "segments", "bin_tokens", "key"),
    [(7, 4, 1, "context"), (0, 4, 1, "context"), (8, 0, 8, "segments"), (8, 4, 3, "bin_tokens"), (8, 4, 0, "bin_")],
)
def test_settings_that_cannot_be_honoured_are_refused(context, segments, bin_tokens, key):
    with pytest.raises(UserError, match=key):
        score(tiny(), [("a", document(LENGTH))], context, segments, bin_tokens)
