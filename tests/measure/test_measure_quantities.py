"""Quantities, curves, effective context and the short table, from rows made by hand."""

import math

import numpy as np
import pytest

from lab.base.tables import read_table, write_table
from lab.evidence.interval import mean_interval
from lab.evidence.quantities import (
    Along,
    Quantity,
    Sample,
    curves,
    effective_contexts,
    overview,
    per_document,
    points,
    quantities,
    samples,
    weighed,
)
from lab.observe.measure import range_end

CONTEXT = 8


def row(measure: str, document: str = "a", cluster: str | None = None, **columns) -> dict:
    cluster = document if cluster is None else cluster
    empty = dict.fromkeys(("segment", "length_tokens", "distance_tokens", "start_position", "stop_position"))
    return (
        empty
        | {
            "measure": measure,
            "document": document,
            "cluster": cluster,
            "tokens": 1,
            "loss_nats": None,
            "correct": None,
        }
        | columns
    )


def alone(values: dict[str, float]) -> Sample:
    """Documents that are clusters of their own."""
    return Sample(values, dict.fromkeys(values, 1))


def gains(curve: dict[int, float], documents: int = 8, jitter: float = 0.0) -> list[dict]:
    return [
        row("context_gain", f"d{number}", length_tokens=length, loss_nats=loss + number + jitter * number * length)
        for length, loss in curve.items()
        for number in range(documents)
    ]


def by_position(losses: dict[tuple[str, int], float], longest: int = 8 * CONTEXT, size: int = 2) -> list[dict]:
    """Loss at position p of a segment is its number given here, plus p."""
    return [
        row(
            "loss_by_position",
            document,
            segment=segment,
            length_tokens=longest,
            start_position=start,
            stop_position=start + size,
            tokens=size,
            loss_nats=loss + start + (size - 1) / 2,
        )
        for (document, segment), loss in losses.items()
        for start in range(0, longest, size)
    ]


# Quantities.


def test_losses_are_weighted_by_tokens_inside_a_document():
    rows = [row("excess", length_tokens=64, tokens=10, loss_nats=1.0, segment=0)]
    rows += [row("excess", length_tokens=64, tokens=30, loss_nats=2.0, segment=1)]
    assert quantities(rows, CONTEXT) == {Quantity("excess", 64): alone({"a": 1.75})}


def test_a_document_counts_once_however_many_segments_it_has():
    losses = {("a", 0): 1.0, ("a", 1): 2.0, ("a", 2): 3.0, ("b", 0): 6.0}
    rows = [row("excess", name, segment=at, length_tokens=64, loss_nats=loss) for (name, at), loss in losses.items()]
    assert quantities(rows, CONTEXT) == {Quantity("excess", 64): alone({"a": 2.0, "b": 6.0})}
    (line,) = overview(rows, CONTEXT)
    assert (line["mean"], line["documents"]) == (4.0, 2)


def test_an_author_counts_once_however_many_documents_and_its_number_is_their_mean():
    given = {("a", "x"): 1.0, ("b", "x"): 2.0, ("c", "x"): 6.0, ("d", "y"): 5.0}
    rows = [row("excess", name, author, length_tokens=64, loss_nats=loss) for (name, author), loss in given.items()]
    assert quantities(rows, CONTEXT) == {Quantity("excess", 64): Sample({"x": 3.0, "y": 5.0}, {"x": 3, "y": 1})}
    (line,) = overview(rows, CONTEXT)
    assert (line["mean"], line["documents"]) == (4.0, 4)
    (point,) = points([each | {"measure": "context_gain"} for each in rows]).values()
    assert point == Sample({"x": 3.0, "y": 5.0}, {"x": 3, "y": 1})


def test_quantities_are_made_from_the_numbers_of_documents_alone():
    rows = by_position({("a", 0): 1.0, ("a", 1): 3.0, ("b", 0): 8.0})
    documents = per_document(rows, CONTEXT)
    assert len(documents) == 2 * 4
    assert set(documents[0]) == {"measure", "length_tokens", "cluster", "document", "mean", "weight"}
    assert samples(documents) == quantities(rows, CONTEXT)


def test_positions_fall_into_ranges_that_double_from_the_context():
    assert [range_end(stop, 8, 64) for stop in (4, 8, 9, 16, 17, 32, 33, 64)] == [8, 8, 16, 16, 32, 32, 64, 64]
    assert range_end(40, 8, 48) == 48
    assert range_end(65, 8, 64) == 64  # of a row that is wrong
    found = quantities(by_position({("a", 0): 1.0, ("b", 0): 2.0}), CONTEXT)
    assert {key.length_tokens: each.values["a"] for key, each in found.items()} == {
        8: 4.5,
        16: 12.5,
        32: 24.5,
        64: 48.5,
    }
    assert {key.length_tokens: each.values["b"] for key, each in found.items()} == {
        8: 5.5,
        16: 13.5,
        32: 25.5,
        64: 49.5,
    }


def test_copies_count_by_distance_and_first_copies_not_at_all():
    rows = [row("copy", distance_tokens=16, length_tokens=20, loss_nats=3.0)]
    rows += [row("copy_first", distance_tokens=16, length_tokens=20, loss_nats=9.0)]
    assert quantities(rows, CONTEXT) == {Quantity("copy", 16): alone({"a": 3.0})}


def test_rows_that_stand_beside_count_for_nothing():
    rows = [row("excess", length_tokens=64, loss_nats=1.0)]
    others = [row("whole_prefix", length_tokens=64, loss_nats=5.0), row("restarted", length_tokens=8, loss_nats=5.0)]
    assert quantities(rows + others, CONTEXT) == quantities(rows, CONTEXT)
    assert len(overview(rows + others, CONTEXT)) == 1
    assert points(rows + others) == points(rows) == {}


def test_of_passkeys_the_share_not_found_counts():
    rows = [
        row("passkey", f"p{place}", length_tokens=64, correct=int(trial < 3)) for place in "xy" for trial in range(4)
    ]
    assert quantities(rows, CONTEXT) == {Quantity("passkey", 64): alone({"px": 0.25, "py": 0.25})}


def test_quantities_are_in_the_order_of_measures_and_lengths_whatever_that_of_the_rows():
    rows = gains({16: 1.0, 8: 2.0}, documents=1) + [row("excess", length_tokens=64, loss_nats=1.0)]
    assert list(quantities(rows, CONTEXT)) == list(quantities(rows[::-1], CONTEXT))
    assert [key.length_tokens for key in quantities(rows, CONTEXT) if key.measure == "context_gain"] == [8, 16]


def test_sliding_windows_weigh_every_token_alike():
    given = {"a": (2.0, 100), "b": (4.0, 300), "c": (3.0, 600)}
    rows = [
        row("sliding_perplexity", document=name, length_tokens=64, tokens=tokens, loss_nats=loss)
        for name, (loss, tokens) in given.items()
    ]
    (found,) = quantities(rows, CONTEXT).values()
    mean = (2 * 100 + 4 * 300 + 3 * 600) / 1000
    assert np.mean(list(found.values.values())) == pytest.approx(mean)
    (drawn,) = curves([rows])
    assert drawn["mean"] == pytest.approx(mean)
    # The spread of a ratio's mean, by leaving out a document at a time (jackknife), for many documents.
    draw = np.random.default_rng(0)
    losses, tokens = draw.normal(3, 1, 2000), draw.integers(10, 1000, 2000)
    names = [str(number) for number in range(2000)]
    found = weighed(dict(zip(names, losses, strict=True)), dict(zip(names, tokens, strict=True)))
    left_out = ((losses * tokens).sum() - losses * tokens) / (tokens.sum() - tokens)
    jackknife = np.sqrt(1999 / 2000 * ((left_out - left_out.mean()) ** 2).sum())
    assert np.std(list(found.values()), ddof=1) / np.sqrt(2000) == pytest.approx(jackknife, rel=0.01)


# Curves.


def test_a_point_is_the_mean_over_documents_of_the_mean_over_segments():
    rows = by_position({("a", 0): 1.0, ("a", 1): 3.0, ("b", 0): 8.0})
    found = points(rows)
    assert len(found) == 32
    bin_at_32 = found[Along("loss_by_position", "loss_by_position", 33.5)]  # positions 32 and 33: 33 and 34 tokens read
    assert bin_at_32 == alone({"a": 34.5, "b": 40.5})
    assert [each["mean"] for each in curves([rows]) if each["tokens"] == 33.5] == [37.5]


def test_both_copies_are_lines_of_one_curve():
    rows = [row(name, distance_tokens=16, length_tokens=20, loss_nats=3.0) for name in ("copy", "copy_first")]
    assert {(each["measure"], each["line"]) for each in curves([rows])} == {("copy", "copy"), ("copy", "copy_first")}


@pytest.mark.parametrize("seeds", [1, 3, 5])
def test_the_band_is_the_interval_that_verdicts_rest_on(seeds):
    draw = np.random.default_rng(0)
    runs = [
        [row("context_gain", f"d{n}", length_tokens=16, loss_nats=draw.normal()) for n in range(9)]
        for _ in range(seeds)
    ]
    (point,) = curves(runs)
    expected = mean_interval(np.array([[each["loss_nats"] for each in rows] for rows in runs]), [1] * 9)
    assert (point["seeds"], point["over_seeds"]) == (seeds, int(seeds == 5))
    assert (point["mean"], point["low"], point["high"]) == pytest.approx((expected.mean, expected.low, expected.high))


def test_few_documents_have_a_curve_without_a_band():
    (point,) = curves([gains({8: 2.0}, documents=3)])
    assert point["mean"] == 3.0
    assert math.isnan(point["low"])
    assert math.isnan(point["high"])


# Effective context.


def effective(rows: list[dict], **settings):
    (found,) = effective_contexts(quantities(rows, CONTEXT), CONTEXT, **settings).values()
    return found


def test_the_effective_context_ends_before_the_first_context_that_is_worse():
    found = effective(gains({4: 3.0, 8: 2.0, 16: 1.9, 32: 2.05, 64: 2.5, 128: 1.0}))
    assert (found.tokens, found.low, found.high, found.longest) == (32, 32, 32, 128)
    whole = effective(gains({8: 2.0, 16: 2.0, 32: 2.0}))
    assert (whole.tokens, whole.longest) == (32, 32)
    assert effective(gains({8: 2.0, 16: 3.0})).tokens == 8


def test_the_margin_decides_and_the_interval_brackets_the_effective_context():
    curve = {8: 2.0, 16: 2.05, 32: 2.3}
    assert effective(gains(curve), margin=0.01).tokens == 8
    assert effective(gains(curve), margin=0.5).tokens == 32
    noisy = effective(gains(curve, jitter=0.002), margin=0.1)
    assert noisy.low <= noisy.tokens <= noisy.high


def test_without_a_curve_of_the_same_targets_from_the_context_on_there_is_no_effective_context():
    for rows in ([row("excess", length_tokens=64, loss_nats=1.0)], gains({4: 2.0, 16: 1.0})):
        assert effective_contexts(quantities(rows, CONTEXT), CONTEXT) == {}


# The short table.


def test_the_overview_names_every_quantity_and_the_effective_context():
    lines = overview(gains({8: 2.0, 16: 2.0}), CONTEXT)
    assert [(line["measure"], line["unit"], line["length_told"]) for line in lines] == [
        ("context_gain", "nats", "8"),
        ("context_gain", "nats", "16"),
        ("effective context by context_gain", "tokens", ""),
    ]
    assert (lines[-1]["told"], lines[-1]["interval_told"], lines[-1]["documents"]) == ("16 or more", "16 or more", 8)
    assert lines[0]["mean"] == pytest.approx(5.5)


def test_ranges_of_positions_are_told_by_both_ends():
    told = [Quantity("loss_by_position", end).length_text(8) for end in (8, 16, 32, 48)]
    assert told == ["0 to 8", "8 to 16", "16 to 32", "32 to 48"]
    assert Quantity("copy", 1024).length_text(8) == "1,024"


def test_perplexities_are_shown_as_such():
    rows = [row("truncated_perplexity", name, length_tokens=16, loss_nats=2.0) for name in "abcdef"]
    (line,) = overview(rows, CONTEXT)
    assert (line["unit"], line["documents"]) == ("perplexity", 6)
    assert [line[key] for key in ("mean", "low", "high")] == [math.exp(2.0)] * 3


@pytest.mark.parametrize("longest", [CONTEXT, 4 * CONTEXT, 8 * CONTEXT])
def test_lines_of_a_measure_are_the_same_whatever_else_was_scored_and_at_which_length(longest):
    own = [row("excess", name, length_tokens=2 * CONTEXT, loss_nats=loss) for loss, name in enumerate("abcdef")]
    others = by_position({(name, 0): loss for loss, name in enumerate("abwxyz")}, longest)
    lines = overview(own + others, CONTEXT)
    assert [line for line in lines if line["measure"] == "excess"] == overview(own, CONTEXT)
    assert [line for line in lines if line["measure"] != "excess"] == overview(others, CONTEXT)
    assert lines[-1]["length_told"].endswith(f" to {longest}")


def test_intervals_of_a_run_are_those_over_its_clusters():
    values = np.random.default_rng(1).normal(3, 1, 11)
    table = overview(by_position({(f"d{i}", 0): value for i, value in enumerate(values)}), CONTEXT)
    for line, middle in zip(table, (3.5, 11.5, 23.5, 47.5), strict=True):
        expected = mean_interval((values + middle)[None], [1] * 11)
        assert (line["low"], line["high"]) == pytest.approx((expected.low, expected.high))
    widths = [line["high"] - line["low"] for line in table]
    assert widths == pytest.approx([widths[0]] * 4)


def test_criteria_of_passkeys_are_told_beside():
    rows = [
        row("passkey", f"length=64 distance={distance}", segment=trial, length_tokens=64, correct=correct)
        for distance, correct in ((32, 1), (64, 0))
        for trial in range(4)
    ]
    lines = {(line["measure"], line["length_told"]): line["told"] for line in overview(rows, CONTEXT)}
    assert lines == {
        ("passkey", "64"): "",
        ("passkey k_max (PI: 20 %)", "64"): "32",
        ("passkey context (YaRN: 80 %)", ""): "0",
    }


def test_the_short_table_is_a_table_like_any_other(tmp_path):
    lines = overview(gains({8: 2.0, 16: 2.0}), CONTEXT)
    write_table(tmp_path / "summary.csv", lines)
    read = read_table(tmp_path / "summary.csv")
    assert [list(each) for each in read] == [list(each) for each in lines]
    for given, found in zip(lines, read, strict=True):
        assert {key: value for key, value in given.items() if value == value} == {
            key: value for key, value in found.items() if value == value
        }


def test_what_of_the_excess_may_come_from_inside_the_window_is_told_beside_it():
    row = {"evaluation": "e", "document": "a", "cluster": "a", "segment": 0, "tokens": 8, "length_tokens": 16}
    rows = [row | {"measure": "excess", "loss_nats": 0.5}, row | {"measure": "inside_gain", "loss_nats": 0.03125}]
    lines = overview([*rows, row | {"measure": "inside_gain", "loss_nats": 0.0, "document": "b", "cluster": "b"}], 8)
    (told,) = [line for line in lines if line["measure"] == "excess: gain from inside C, at most"]
    assert told["told"] == "0.0156"
