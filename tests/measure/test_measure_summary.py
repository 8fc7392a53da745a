"""The short table of a run."""

import numpy as np
import pytest

from lab.evidence.interval import document_interval
from lab.evidence.summary import by_document, summarise

CONTEXT = 4


def rows_of(losses: dict[tuple[str, int], float]) -> list[dict]:
    """Loss at position p of a segment is its number given here, plus p."""
    rows = []
    for (document, segment), loss in losses.items():
        place = {"document": document, "segment": segment}
        for start in range(0, 8 * CONTEXT, 2):
            span = {"start_position": start, "stop_position": start + 2, "tokens": 2}
            rows.append({"measure": "loss_by_position", **place, **span, "loss_nats": loss + start + 0.5})
        span = {"start_position": 16, "stop_position": 32, "tokens": 16}
        rows.append({"measure": "excess", **place, **span, "loss_nats": -loss})
    return rows


def test_quantities_positions_and_means():
    table = summarise(rows_of({("a", 0): 1.0, ("b", 0): 2.0}), CONTEXT)
    assert [(row["quantity"], row["start_position"], row["stop_position"]) for row in table] == [
        ("loss [0, C)", 0, 4),
        ("loss [C, 2C)", 4, 8),
        ("loss [2C, 4C)", 8, 16),
        ("loss [4C, 8C)", 16, 32),
        ("excess", 16, 32),
    ]
    assert [row["mean_nats"] for row in table] == [1.5 + 1.5, 1.5 + 5.5, 1.5 + 11.5, 1.5 + 23.5, -1.5]
    assert {row["documents"] for row in table} == {2}


def test_a_document_counts_once_however_many_segments_it_has():
    losses = {("a", 0): 1.0, ("a", 1): 2.0, ("a", 2): 3.0, ("b", 0): 6.0}
    assert by_document(rows_of(losses), "excess", 16, 32) == {"a": -2.0, "b": -6.0}
    assert summarise(rows_of(losses), CONTEXT)[-1]["mean_nats"] == -4.0


@pytest.mark.parametrize(
    ("longest", "quantities"), [(4, ["loss [0, C)", "loss [C, 2C)", "loss [2C, 4C)"]), (1, ["loss [0, C)"])]
)
def test_the_excess_is_shown_whatever_the_length_of_the_other_measure(longest, quantities):
    rows = [
        row
        for row in rows_of({("a", 0): 1.0})
        if row["measure"] == "excess" or row["stop_position"] <= longest * CONTEXT
    ]
    table = summarise(rows, CONTEXT)
    assert [row["quantity"] for row in table] == [*quantities, "excess"]
    rows = [row for row in rows_of({("a", 0): 1.0}) if row["measure"] != "excess"]
    rows += [{**rows[0], "measure": "excess", "start_position": 4, "stop_position": 8, "loss_nats": 0.25}]
    (*losses, excess) = summarise(rows, CONTEXT)
    assert len(losses) == 4
    assert (excess["quantity"], excess["start_position"], excess["stop_position"]) == ("excess", 4, 8)
    assert excess["mean_nats"] == 0.25


@pytest.mark.parametrize("measure", ["loss_by_position", "excess"])
def test_one_of_the_two_measures_is_enough(measure):
    rows = [row for row in rows_of({("a", 0): 1.0}) if row["measure"] == measure]
    assert {"loss_by_position": 4, "excess": 1}[measure] == len(summarise(rows, CONTEXT))


def test_rows_of_other_measures_are_left_out():
    rows = rows_of({(name, 0): loss for loss, name in enumerate("abcd")})
    others = [
        {
            "measure": "whole_prefix",
            "document": "a",
            "start_position": 16,
            "stop_position": 32,
            "loss_nats": 5,
            "tokens": 9,
        },
        {
            "measure": "context_gain",
            "document": "z",
            "start_position": 900,
            "stop_position": 999,
            "loss_nats": 5,
            "tokens": 9,
        },
        {
            "measure": "passkey",
            "document": "z",
            "start_position": None,
            "stop_position": None,
            "loss_nats": None,
            "tokens": None,
        },
    ]
    assert summarise(rows + others, CONTEXT) == summarise(rows, CONTEXT)


def test_stretches_count_with_their_tokens():
    place = {"measure": "excess", "document": "a", "start_position": 0, "stop_position": 4}
    rows = [
        place | {"segment": 0, "tokens": 3, "loss_nats": 1.0},
        place | {"segment": 1, "tokens": 1, "loss_nats": 5.0},
    ]
    assert by_document(rows, "excess", 0, 4) == {"a": 2.0}


def test_intervals_are_those_over_documents():
    values = np.random.default_rng(1).normal(3, 1, 11)
    table = summarise(rows_of({(f"d{i}", 0): value for i, value in enumerate(values)}), CONTEXT, resamples=500)
    expected = document_interval(list(-values), resamples=500)
    assert (table[-1]["low_nats"], table[-1]["high_nats"]) == (expected.low, expected.high)
    widths = [row["high_nats"] - row["low_nats"] for row in table[:4]]
    assert widths == pytest.approx([widths[0]] * 4)
