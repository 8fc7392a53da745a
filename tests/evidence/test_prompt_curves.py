"""Curves over prompts: each prompt counts once, and of too few nobody can tell."""

import numpy as np
import pytest
from scipy import stats

from lab.evidence.interval import widening
from lab.evidence.prompts import over_prompts, prompt_curves
from lab.report.lens_figures import lengths_figure, places_figure

VOCABULARY = 101


def tables(prompts: int) -> dict[str, list[dict]]:
    """A target that stands at rank 10 times the prompt's number in layer 1 and at the bottom in layer 2."""
    targets, norms, ranks = [], [], []
    for number in range(1, prompts + 1):
        for layer in (1, 2):
            at = {"number": number, "layer": layer, "matrix": "down"}
            rank = 10.0 * number if layer == 1 else 100.0
            for part, vector in (("last token", "delta"), ("all tokens", "principal"), ("first", "delta")):
                row = at | {"vector": vector, "part": part, "of_token": "target", "rank": rank, "ties": 0}
                targets += [row, row | {"of_token": "answer", "rank": 0.0}] if part != "first" else [row]
            for part in ("first", "last token"):
                norms.append(at | {"part": part, "delta_norm": float(number), "input_norm": 2.0})
            ranks.append(at | {"rank": 4, "bound": 4 + number % 2})
    return {"target_ranks": targets, "norms": norms, "ranks": ranks}


def test_a_curve_is_the_mean_over_prompts_with_students_interval_widened():
    rows = prompt_curves(tables(7), VOCABULARY)
    found = {(row["quantity"], row["vector"], row["part"], row["layer"]): row for row in rows}
    place = found["place of target", "delta", "last token", 1]
    values = np.arange(1, 8) / 10
    half = stats.t.ppf(0.975, 6) * values.std(ddof=1) / 7**0.5 * widening(1, (1,) * 7).factor
    assert place["mean"] == pytest.approx(0.4)
    assert place["low"] == pytest.approx(0.4 - half)
    assert place["high"] == pytest.approx(0.4 + half)
    assert place["prompts"] == 7
    assert place["told"] == f"0.4 ({0.4 - half:.3g} to {0.4 + half:.3g})"
    assert found["place of target", "principal", "all tokens", 1]["mean"] == pytest.approx(0.4)
    assert found["at the very bottom", "delta", "last token", 1]["mean"] == 0
    assert found["at the very bottom", "delta", "last token", 2]["mean"] == 1
    assert found["delta_norm", "delta", "first", 2]["mean"] == pytest.approx(4)
    assert found["rank", "", "all tokens", 1]["mean"] == pytest.approx(3 / 7)
    assert ("place of target", "delta", "first", 1) not in found


def test_of_fewer_than_six_prompts_nobody_can_tell():
    for row in prompt_curves(tables(5), VOCABULARY):
        assert (row["low"], row["high"], row["prompts"]) == (None, None, 5)
        assert row["told"].endswith("(cannot tell: 5 prompts; 6 are needed)")
    assert over_prompts([1.0])["told"] == "1 (cannot tell: 1 prompt; 6 are needed)"
    assert over_prompts([1.0] * 6 + [float("inf")])["told"] == "inf (cannot tell: not finite)"


def test_pictures_have_a_line_for_each_token_and_bands_where_there_are_intervals():
    for prompts, bands in ((7, 2), (3, 0)):
        curves = prompt_curves(tables(prompts), VOCABULARY)
        figure = places_figure(curves)
        first, second = (axes for axes in figure.axes if axes.get_title())
        assert [axes.get_title() for axes in (first, second)] == ["delta of down", "down: whole gradient"]
        drawn = {line.get_label(): line.get_ydata().tolist() for line in first.get_lines() if len(line.get_ydata())}
        assert drawn == {"target": pytest.approx([(prompts + 1) / 20, 1.0]), "answer": [0.0, 0.0]}
        assert len(first.collections) == bands
        image = lengths_figure(curves).axes[0].get_images()[0].get_array()
        assert image.tolist() == [[(prompts + 1) / 2] * 2] * 2
    assert places_figure([]) is None
    assert lengths_figure([]) is None
