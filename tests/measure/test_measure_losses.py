"""The loss measures, against their definitions: one target at a time and a whole pass for each."""

import itertools

import numpy as np
import pytest
import torch
from oracles import slow_scores
from tiny_decoders import (
    CONTEXT,
    VARIANTS,
    VOCABULARY,
    Telling,
    TellingTargets,
    document,
    places,
    rows_of,
    source_of,
    tiny,
)
from torch import Tensor

from lab.base.errors import UserError
from lab.measure.context_gain import ContextGain
from lab.measure.copying import Copy
from lab.measure.excess import Excess
from lab.measure.loss_by_position import LossByPosition
from lab.measure.sliding_perplexity import SlidingPerplexity
from lab.measure.truncated_perplexity import TruncatedPerplexity
from lab.model.decoder import Decoder
from lab.model.position import NoPE, RoPE
from lab.observe.measure import Item, Measure, doublings, segment_starts

LONGEST = 8
LENGTH = LONGEST * CONTEXT + 1
PLACE = ("segment", "length_tokens", "start_position", "stop_position", "tokens")
every_variant = pytest.mark.parametrize(("position", "window"), VARIANTS)


def by_position(segments: int = 1, bin_tokens: int = 1, longest: int = LONGEST) -> LossByPosition:
    return LossByPosition(longest=longest, segments=segments, bin_tokens=bin_tokens, documents=None)


def excess(segments: int = 1, batch_tokens: int = 1000, longest: int = LONGEST) -> Excess:
    return Excess(longest=longest, segments=segments, documents=None, batch_tokens=batch_tokens)


def truncated(lengths: list[int] | None = None, longest: int = LONGEST) -> TruncatedPerplexity:
    return TruncatedPerplexity(lengths=lengths, longest=longest, documents=None)


def sliding(
    lengths: list[int] | None, stride: int | None, span: int | None = None, batch_tokens: int = 1000
) -> SlidingPerplexity:
    return SlidingPerplexity(
        lengths=lengths, longest=LONGEST, stride=stride, span=span, documents=None, batch_tokens=batch_tokens
    )


def gain(targets: int, segments: int = 1, batch_tokens: int = 1000, longest: int = LONGEST) -> ContextGain:
    return ContextGain(longest=longest, targets=targets, segments=segments, documents=None, batch_tokens=batch_tokens)


def copy(distances: list[int] | None = None, string: int = 4, segments: int = 1, seed: int = 0) -> Copy:
    return Copy(distances=distances, longest=LONGEST, string=string, segments=segments, documents=None, seed=seed)


def losses(rows: list[dict]) -> list[float]:
    return [row["loss_nats"] for row in rows]


def equal(found: list[float], expected: list[float], tolerance: float = 1e-10) -> None:
    np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance)


# Loss by position.


@every_variant
def test_the_loss_at_every_position_is_that_of_one_target_at_a_time(position, window):
    decoder, ids = tiny(position, window), document(LENGTH)
    rows = rows_of(by_position(), decoder, ids)
    expected = slow_scores.given_all(decoder, ids)
    assert places(rows, *PLACE) == [(0, 64, p, p + 1, 1) for p in range(64)]
    equal(losses(rows), expected)
    assert np.std(expected) > 0.5


def test_bins_are_means_of_the_positions_in_them():
    fine, coarse = (rows_of(by_position(bin_tokens=size), tiny(), document(LENGTH)) for size in (1, 4))
    equal(losses(coarse), np.array(losses(fine)).reshape(-1, 4).mean(axis=1), 1e-12)
    assert places(coarse, *PLACE) == [(0, 64, p, p + 4, 4) for p in range(0, 64, 4)]


# Excess.


@every_variant
@pytest.mark.parametrize("longest", [2, 6])
def test_the_excess_is_that_of_one_target_at_a_time(position, window, longest):
    length = longest * CONTEXT
    decoder, ids = tiny(position, window), document(length + 1)
    whole = slow_scores.given_all(decoder, ids)[length // 2 :]
    restarted = slow_scores.restarted(decoder, ids, CONTEXT)
    less = slow_scores.restarted(decoder, ids, CONTEXT, less=CONTEXT // 8)[: -CONTEXT // 8]
    rows = rows_of(excess(longest=longest), decoder, ids)
    along = [row for row in rows if row["measure"] == "excess_by_position"]
    rows = [row for row in rows if row not in along]
    assert places(rows, "measure", *PLACE) == [
        ("whole_prefix", 0, length, length // 2, length, length // 2),
        ("restarted", 0, CONTEXT, length // 2, length, length // 2),
        ("excess", 0, length, length // 2, length, length // 2),
        ("inside_gain", 0, length, length // 2, length, length // 2 - CONTEXT // 8),
    ]
    gain_inside = np.subtract(less, restarted[: len(less)])
    equal(losses(rows), [*map(np.mean, (whole, restarted, np.subtract(whole, restarted), gain_inside))])
    assert len(whole) == len(restarted) == length // 2
    assert abs(losses(rows)[2]) > 1e-6
    eighth = CONTEXT // 8
    starts = range(length // 2, length, eighth)
    assert places(along, *PLACE) == [(0, length, start, start + eighth, eighth) for start in starts]
    by_target = np.subtract(whole, restarted).reshape(-1, eighth)
    equal(losses(along), by_target.mean(axis=1))


@pytest.mark.parametrize("context", [8, 32])
def test_a_restarted_target_counts_once_is_given_more_than_seven_eighths_and_at_most_a_context(context):
    length = 8 * context
    ids = np.arange(length + 1, dtype=np.uint32)
    (_, row, *_) = excess().score(tiny(kind=TellingTargets), Item("text", ids), context)
    assert row["loss_nats"] == np.mean(range(length // 2 + 1, length + 1))
    decoder = tiny(kind=Telling)
    rows = excess().score(decoder, Item("text", ids), context)
    eighth = context // 8
    given = range(7 * eighth + 1, context + 1)
    assert losses(rows)[1] == np.mean(given)
    assert losses(rows)[3] == -eighth  # of a decoder whose loss is the number of tokens it is given
    assert {read for _, read in decoder.asked[length:]} == set(range(6 * eighth + 1, context + 1))


def test_a_decoder_that_reaches_less_than_seven_eighths_of_a_context_back_has_no_excess():
    window = 3  # reach: 2 layers x 2 + 1 = 5 tokens <= 7C/8 = 7
    rows = rows_of(excess(segments=3), tiny(NoPE, window), document(3 * LENGTH))
    for name in ("excess", "inside_gain"):
        found = [row["loss_nats"] for row in rows if row["measure"] == name]
        assert len(found) == 3
        equal(found, [0.0] * 3, 1e-12)


# Truncated perplexity.


@every_variant
@pytest.mark.parametrize("lengths", [None, [5, 64, 23, 1, 23]])
def test_truncated_perplexity_is_the_mean_of_one_target_at_a_time(position, window, lengths):
    decoder, ids = tiny(position, window), document(LENGTH + 10)
    rows = rows_of(truncated(lengths), decoder, ids)
    expected = slow_scores.given_all(decoder, ids, 64)
    wanted = [4, 8, 16, 32, 64] if lengths is None else [1, 5, 23, 64]
    assert places(rows, *PLACE) == [(0, length, 0, length, length) for length in wanted]
    equal(losses(rows), [np.mean(expected[:length]) for length in wanted])


@pytest.mark.parametrize(
    ("context", "longest", "lengths"),
    [(8, 1, [4, 8]), (8, 2, [4, 8, 16]), (8, 3, [4, 8, 16, 24]), (6, 8, [3, 6, 12, 24, 48]), (7, 4, [3, 7, 14, 28])],
)
def test_lengths_are_half_the_context_the_context_and_its_doublings_up_to_the_longest(context, longest, lengths):
    assert doublings(context, longest) == lengths


# Sliding perplexity.


@every_variant
@pytest.mark.parametrize(("stride", "span"), [(4, 64), (3, 64), (8, 64), (1, 40), (5, 41), (8, 33)])
def test_sliding_perplexity_is_the_mean_of_one_target_at_a_time(position, window, stride, span):
    decoder, ids = tiny(position, window), document(LENGTH + 10)
    rows = rows_of(sliding([8, 13, 32], stride, span), decoder, ids)
    assert places(rows, *PLACE) == [(0, length, 0, span, span) for length in (8, 13, 32)]
    expected = [np.mean(slow_scores.sliding(decoder, ids[: span + 1], length, stride)) for length in (8, 13, 32)]
    equal(losses(rows), expected)


@pytest.mark.parametrize("stride", [1, 3, 4, 8])
@pytest.mark.parametrize("span", [8, 9, 11, 12, 40, 64])
def test_every_token_of_the_span_counts_once_and_is_given_what_its_window_holds(stride, span):
    ids = np.arange(span + 1, dtype=np.uint32)
    (row,) = rows_of(sliding([8], stride, span), tiny(kind=TellingTargets), ids)
    assert (row["tokens"], row["loss_nats"]) == (span, np.mean(range(1, span + 1)))
    decoder = tiny(kind=Telling)
    rows_of(sliding([8], stride, span), decoder, ids)
    assert decoder.asked == [(t, read) for t, (_, read) in enumerate(slow_scores.sliding_reads(span, 8, stride), 1)]
    assert all(read >= min(target, 8 - stride + 1) for target, read in decoder.asked)
    assert all(read <= 8 for _, read in decoder.asked)


def test_windows_that_do_not_overlap_are_stretches_read_by_themselves():
    decoder, ids = tiny(RoPE), document(LENGTH)
    (row,) = rows_of(sliding([8], 8), decoder, ids)
    stretches = [slow_scores.given_all(decoder, ids[start : start + 9]) for start in range(0, 64, 8)]
    equal([row["loss_nats"]], [np.mean(stretches)])


def test_a_text_of_as_many_tokens_as_the_window_is_read_in_one_as_published_protocols_do():
    decoder, ids = tiny(RoPE), document(LENGTH)[:64]
    measure = sliding([64], 8, 63)
    measure.fits(8)
    (slid,) = rows_of(measure, decoder, ids)
    (whole,) = rows_of(truncated([63]), decoder, ids)
    assert slid["tokens"] == 63
    equal([slid["loss_nats"]], [whole["loss_nats"]], 1e-12)


@pytest.mark.parametrize(("lengths", "stride"), [([8, 64], 8), ([2048, 4096], 256)])
def test_a_stride_that_is_not_given_is_256_or_the_shortest_window(lengths, stride):
    assert sliding(lengths, None).stride_of(8) == stride


def test_a_window_as_long_as_the_span_is_one_pass():
    decoder, ids = tiny(RoPE), document(LENGTH)
    slid, whole = (rows_of(measure, decoder, ids) for measure in (sliding([64], 8), truncated([64])))
    equal(losses(slid), losses(whole), 1e-12)


def test_without_a_span_all_of_each_document_is_scored_and_one_shorter_than_a_window_in_one():
    measure, source = sliding([8, 32], 3), source_of(20, LENGTH, 2, 1, 32, 33)
    items = list(measure.items(source))
    assert [item.name for item in items] == ["a", "b", "c", "e", "f"]  # d has nothing to predict
    decoder = tiny(RoPE)
    for item in items:
        rows = rows_of(measure, decoder, item.ids)
        predicted = len(item.ids) - 1
        assert places(rows, *PLACE) == [(0, length, 0, predicted, predicted) for length in (8, 32)]
        equal(losses(rows), [np.mean(slow_scores.sliding(decoder, item.ids, length, 3)) for length in (8, 32)])


# Context gain.


@every_variant
@pytest.mark.parametrize("targets", [1, 7, 8, 11])
def test_context_gain_is_the_mean_of_one_target_at_a_time_for_every_left_context(position, window, targets):
    measure = gain(targets)
    decoder, ids = tiny(position, window), document(measure.first(CONTEXT) + targets)
    rows = rows_of(measure, decoder, ids)
    lefts = [1, 2, 4, 8, 16, 32, 64]
    first = len(ids) - targets
    assert places(rows, *PLACE) == [(0, left, first - 1, first - 1 + targets, targets) for left in lefts]
    equal(losses(rows), [np.mean(slow_scores.context_gain(decoder, ids, targets, left)) for left in lefts])


@pytest.mark.parametrize("targets", [1, 5, 8, 24, 30])
def test_a_target_is_given_more_than_seven_eighths_of_its_left_context_and_at_most_all_and_counts_once(targets):
    measure = gain(targets, longest=32)
    ids = np.arange(measure.first(CONTEXT) + targets, dtype=np.uint32)
    last = list(range(len(ids) - targets, len(ids)))
    assert set(losses(rows_of(measure, tiny(kind=TellingTargets), ids))) == {np.mean(last)}
    for left in [2**power for power in range(9)]:
        decoder = tiny(kind=Telling)
        row = next(row for row in rows_of(measure, decoder, ids) if row["length_tokens"] == left)
        assert row["loss_nats"] == pytest.approx(np.mean(slow_scores.left_context(targets, left)), abs=1e-12)
    assert {target for target, _ in decoder.asked} == set(last)
    for left in [2**power for power in range(9)]:
        within = [read for _, read in decoder.asked if 7 * left / 8 < read <= left]
        assert len(within) >= targets
    assert all(any(7 * 2**power / 8 < read <= 2**power for power in range(9)) for _, read in decoder.asked)


@pytest.mark.parametrize("targets", [1, 8, 30])
def test_up_to_the_context_nothing_is_predicted_from_beyond_its_last_position(targets):
    measure = gain(targets, longest=4)
    decoder = tiny(kind=Telling)
    lengths = []
    hidden = decoder.hidden
    decoder.hidden = lambda tokens, *rest: lengths.append(tokens.shape[1]) or hidden(tokens, *rest)
    rows_of(measure, decoder, np.arange(measure.first(CONTEXT) + targets, dtype=np.uint32))
    assert sorted(set(lengths)) == [1, 2, 4, 8, 16, 32]  # a window of c tokens ends at position c - 1


@pytest.mark.parametrize("targets", [1, 5, 8, 30])
def test_the_shortest_document_that_is_scored_gives_the_first_target_all_its_left_context(targets):
    measure = gain(targets)
    needed = measure.first(CONTEXT) + targets
    assert [item.name for item in measure.items(source_of(needed - 1, needed))] == ["b"]
    given = slow_scores.left_context(targets, 64)
    assert min(needed - targets + number - count for number, count in enumerate(given)) == 0


# Copy.


@every_variant
def test_the_losses_of_both_copies_are_those_of_one_target_at_a_time(position, window):
    measure = copy(segments=2)
    (item,) = measure.items(source_of(150))
    decoder = tiny(position, window)
    rows = rows_of(measure, decoder, item.ids, **item.details)
    distances = [4, 8, 16, 32, 64]
    columns = ("segment", "measure", "distance_tokens", "length_tokens", "start_position", "stop_position", "tokens")
    assert places(rows, *columns) == [
        place
        for segment in (0, 1)
        for d in distances
        for place in ((segment, "copy", d, d + 4, d, d + 3, 3), (segment, "copy_first", d, d + 4, 0, 3, 3))
    ]
    expected = []
    for string, begin in zip(item.details["strings"], (0, 150 - 64), strict=True):
        for distance in distances:
            between = item.ids[begin : begin + distance - 4]
            expected += [np.mean(each) for each in slow_scores.copies(decoder, string, between)]
    equal(losses(rows), expected)


def test_given_distances_are_scored_in_order_and_the_nearest_copy_follows_at_once():
    measure = copy(distances=[21, 4, 21])
    (item,) = measure.items(source_of(100))
    decoder = tiny(RoPE)
    rows = rows_of(measure, decoder, item.ids, **item.details)
    assert places(rows, "measure", "distance_tokens") == [
        (name, distance) for distance in (4, 21) for name in ("copy", "copy_first")
    ]
    string = item.details["strings"][0]
    equal(losses(rows)[:2], [np.mean(each) for each in slow_scores.copies(decoder, string, string[:0])])


def test_strings_are_the_same_every_time_differ_between_documents_and_hold_no_end_of_document():
    many = [copy(segments=50, string=16, seed=seed) for seed in (0, 0, 1)]
    drawn = [[item.details["strings"] for item in measure.items(source_of(100, 100))] for measure in many]
    assert np.array_equal(drawn[0], drawn[1])
    assert not np.array_equal(drawn[0], drawn[2])
    assert not np.array_equal(drawn[0][0], drawn[0][1])
    assert set(np.unique(drawn[0])) == set(range(1, VOCABULARY))  # 0 is the end of document here


class Copier(Decoder):
    """Expects what followed the longest earlier stretch that ends as the text does now."""

    def hidden(self, tokens: Tensor, documents: Tensor | None = None, cache: object = None) -> Tensor:
        (ids,) = tokens.tolist()
        expected = []
        for position in range(len(ids)):
            lengths = {0: 0}
            for other in range(position):
                same = 0
                while same <= other and ids[other - same] == ids[position - same]:
                    same += 1
                lengths[other + 1] = same
            expected.append(ids[max(lengths, key=lambda place: lengths[place])])
        return 12 * torch.nn.functional.one_hot(torch.tensor([expected]), self.embedding.shape[0]).double()

    def unembed(self, hidden: Tensor) -> Tensor:
        return hidden


def test_a_decoder_that_copies_has_a_low_loss_on_the_second_copy_at_any_distance_and_none_on_the_first():
    measure = copy(string=8)
    (item,) = measure.items(source_of(100, vocabulary=1000))
    rows = rows_of(measure, tiny(kind=Copier, vocabulary=1000), item.ids, **item.details)
    assert max(row["loss_nats"] for row in rows if row["measure"] == "copy") < 0.01
    assert min(row["loss_nats"] for row in rows if row["measure"] == "copy_first") > 5


# What all have in common.


def documents_of(measure: Measure) -> list:
    return list(measure.items(source_of(10, 200, 64, 65, 300)))


@pytest.mark.parametrize(
    ("few", "many"),
    [
        (excess(batch_tokens=1), excess(batch_tokens=10_000)),
        (excess(batch_tokens=1), excess(batch_tokens=3 * CONTEXT)),
        (sliding([8, 13], 3, 64, batch_tokens=1), sliding([8, 13], 3, 64, batch_tokens=10_000)),
        (sliding([8, 13], 3, 64, batch_tokens=1), sliding([8, 13], 3, 64, batch_tokens=40)),
        (gain(11, batch_tokens=1), gain(11, batch_tokens=10_000)),
    ],
)
def test_one_window_at_a_time_and_many_give_the_same(few, many):
    alone, together = (rows_of(measure, tiny(RoPE), document(200)) for measure in (few, many))
    equal(losses(alone), losses(together), 1e-12)
    assert [row | {"loss_nats": 0} for row in alone] == [row | {"loss_nats": 0} for row in together]


@pytest.mark.parametrize("measure", [by_position(4, 4), excess(4), gain(11, 4), copy(segments=4)])
def test_rows_are_the_same_every_time(measure):
    (item, *_) = measure.items(source_of(300))
    first, second = (rows_of(measure, tiny(), item.ids, **item.details) for _ in range(2))
    assert first == second
    assert {row["segment"] for row in first} == set(range(len({row["segment"] for row in first})))


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


@pytest.mark.parametrize("build", [lambda n: by_position(n, 4), excess, lambda n: gain(11, n)])
def test_a_segment_is_scored_as_if_it_were_the_whole_document(build):
    decoder, ids = tiny(), document(300)
    (shortest, *_) = (tokens for tokens in range(300) if list(fits(build(1), tokens)))
    starts = segment_starts(300, shortest, 4)
    assert len(starts) > 2
    rows = rows_of(build(4), decoder, ids)
    for number, start in enumerate(starts):
        alone = rows_of(build(1), decoder, ids[start : start + shortest])
        of_segment = [row for row in rows if row["segment"] == number]
        equal(losses(of_segment), losses(alone), 1e-12)
        assert [row | {"loss_nats": 0} for row in of_segment] == [
            row | {"segment": number, "loss_nats": 0} for row in alone
        ]


def fits(measure: Measure, tokens: int) -> list:
    try:
        return list(measure.items(source_of(tokens)))
    except UserError:
        return []


def test_low_precision_is_scored_as_well():
    exact, rough = (rows_of(by_position(), tiny(compute_dtype=dtype), document(LENGTH)) for dtype in PRECISIONS)
    assert 0 < abs(np.mean(losses(exact)) - np.mean(losses(rough))) < 0.2
    assert all(row["loss_nats"] == np.float32(row["loss_nats"]) for row in rough)


PRECISIONS = (torch.float64, torch.bfloat16)


@pytest.mark.parametrize(
    ("measure", "needed"),
    [
        (by_position(), 65),
        (excess(), 65),
        (truncated(), 65),
        (truncated([5, 30]), 31),
        (sliding([8], 4, 64), 65),
        (gain(11), 64 - 7 + 11),
        (copy(), 64),
        (copy([40]), 40),
    ],
)
def test_only_documents_that_are_long_enough_are_scored_and_without_one_the_longest_is_named(measure, needed):
    assert [item.name for item in measure.items(source_of(needed - 1, needed, 3, needed + 1))] == ["b", "d"]
    with pytest.raises(UserError, match=rf"has the {needed} tokens that are scored.*the longest, b, has {needed - 1}"):
        list(measure.items(source_of(10, needed - 1, 20)))


@pytest.mark.parametrize(
    "measure",
    [by_position(), excess(), truncated(), sliding(None, 4), gain(5), copy()],
    ids=lambda measure: measure.name,
)
def test_the_first_long_enough_documents_are_scored_as_many_as_asked_for(measure):
    def build(count: object) -> Measure:
        return type(measure).check(measure.plain() | {"documents": count}, f"measure.{measure.name}")

    source = source_of(200, 200, 200)
    assert ["".join(item.name for item in build(count).items(source)) for count in (1, 2, 3, 4, None)] == [
        *("a", "ab", "abc", "abc", "abc")
    ]
    for count in (0, -1, 1.5, True, "all"):
        with pytest.raises(UserError, match=rf"measure\.{measure.name}\.documents is"):
            build(count)


def settings(kind: type[Measure], **changes) -> dict:
    names = {
        LossByPosition: dict(longest=8, segments=1, bin_tokens=1),
        Excess: dict(longest=8, segments=1, batch_tokens=1000),
        TruncatedPerplexity: dict(lengths=None, longest=8),
        SlidingPerplexity: dict(lengths=None, longest=8, stride=4, span=None, batch_tokens=1000),
        ContextGain: dict(longest=8, targets=5, segments=1, batch_tokens=1000),
        Copy: dict(distances=None, longest=8, string=4, segments=1, seed=0),
    }
    return names[kind] | {"documents": None} | changes


def checked(kind: type[Measure], **changes) -> Measure:
    return kind.check(settings(kind, **changes), f"measure.{kind.label()}")


WHOLE_NUMBERS = [
    (kind, key)
    for kind in (LossByPosition, Excess, TruncatedPerplexity, SlidingPerplexity, ContextGain, Copy)
    for key, value in settings(kind).items()
    if value is not None and key != "seed"
]


@pytest.mark.parametrize(("kind", "key"), WHOLE_NUMBERS)
def test_a_setting_that_is_no_whole_number_above_0_is_refused_with_its_key(kind, key):
    for value in (0, -1, 1.5, True, "4", *([] if key == "stride" else [None])):
        with pytest.raises(UserError, match=rf"measure\.{kind.label()}\.{key} is "):
            checked(kind, **{key: value})


@pytest.mark.parametrize(
    ("kind", "key"),
    [(TruncatedPerplexity, "lengths"), (SlidingPerplexity, "lengths"), (Copy, "distances")],
)
@pytest.mark.parametrize("value", [[], [0], [8, -8], ["a"], [16.0], 64, "64", {}, [None], [True]])
def test_lengths_and_distances_that_are_no_list_of_whole_numbers_are_refused_with_their_key(kind, key, value):
    with pytest.raises(UserError, match=rf"measure\.{kind.label()}\.{key}\b"):
        checked(kind, **{key: value})


@pytest.mark.parametrize("seed", [-1, 1.5, "a", None, True])
def test_a_seed_that_is_none_is_refused_with_its_key(seed):
    with pytest.raises(UserError, match=r"measure\.copy\.seed is"):
        checked(Copy, seed=seed)


@pytest.mark.parametrize("span", [0, -3, "all", 1.5, True])
def test_a_span_that_is_no_whole_number_is_refused(span):
    with pytest.raises(UserError, match=r"measure\.sliding_perplexity\.span is"):
        checked(SlidingPerplexity, span=span)


@pytest.mark.parametrize(
    ("kind", "changes", "context", "reason"),
    [
        (LossByPosition, {"bin_tokens": 3}, 8, r"measure\.loss_by_position\.bin_tokens is 3.*C = 8"),
        (LossByPosition, {"bin_tokens": 16}, 8, r"bin_tokens is 16"),
        (Excess, {}, 12, r"C is 12.*excess.*multiple of 8"),
        (TruncatedPerplexity, {}, 7, r"C is 7.*measure\.truncated_perplexity\.lengths"),
        (SlidingPerplexity, {"stride": 3}, 7, r"C is 7.*measure\.sliding_perplexity\.lengths"),
        (SlidingPerplexity, {"stride": 5}, 8, r"stride is 5, more than the shortest window of 4"),
        (SlidingPerplexity, {"span": 62}, 8, r"span is 62, less than the longest window of 64"),
        (ContextGain, {"longest": 3}, 8, r"measure\.context_gain\.longest is 3.*power of two"),
        (ContextGain, {}, 12, r"C 12.*power of two"),
        (Copy, {"string": 65}, 8, r"measure\.copy\.string is 65.*64"),
    ],
)
def test_settings_that_do_not_fit_the_context_are_refused_with_their_key(kind, changes, context, reason):
    with pytest.raises(UserError, match=reason):
        checked(kind, **changes).fits(context)


@pytest.mark.parametrize(
    ("kind", "changes", "context"),
    [
        (LossByPosition, {"bin_tokens": 8}, 8),
        (Excess, {"longest": 2}, 8),
        (TruncatedPerplexity, {"lengths": [3]}, 7),
        (SlidingPerplexity, {"lengths": [3], "stride": 3, "span": 3}, 7),
        (ContextGain, {"longest": 1}, 1024),
        (Copy, {"string": 64}, 8),
        (Copy, {"distances": [5]}, 1),
    ],
)
def test_settings_that_just_fit_are_taken(kind, changes, context):
    checked(kind, **changes).fits(context)


def test_settings_that_contradict_themselves_are_refused():
    with pytest.raises(UserError, match=r"measure\.excess\.longest is 3: give an even"):
        checked(Excess, longest=3)
    with pytest.raises(UserError, match=r"measure\.copy\.string is 1.*2 or more"):
        checked(Copy, string=1)
    with pytest.raises(UserError, match=r"measure\.copy: distances holds 3, less than the string of 4"):
        checked(Copy, distances=[8, 3])
