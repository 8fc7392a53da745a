"""The short table of a run."""

import numpy as np
import pytest

from lab.measure.interval import document_interval
from lab.measure.summary import by_document, summarise

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


def test_intervals_are_those_over_documents():
    values = np.random.default_rng(1).normal(3, 1, 11)
    table = summarise(rows_of({(f"d{i}", 0): value for i, value in enumerate(values)}), CONTEXT, resamples=500)
    expected = document_interval(list(-values), resamples=500)
    assert (table[-1]["low_nats"], table[-1]["high_nats"]) == (expected.low, expected.high)
    widths = [row["high_nats"] - row["low_nats"] for row in table[:4]]
    assert widths == pytest.approx([widths[0]] * 4)
