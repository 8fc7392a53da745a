"""Pictures: drawn from tables alone, the same every time. What they look like is for a reader's eyes."""

import os
import resource
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from matplotlib.collections import FillBetweenPolyCollection
from matplotlib.figure import Figure

from lab.base.errors import UserError
from lab.evidence.quantities import curves
from lab.measure.excess import ALONG
from lab.observe.measure import Measure, measures
from lab.report import terminal
from lab.report.figures import contrast_figure, curve_figure, detail_figure, difference_figure, grouped
from lab.report.pictures import save, style_of
from lab.report.terminal import draw

CONTEXT = 64
MEASURES: dict[str, type[Measure]] = {measure.label(): measure for measure in measures()}
NAMED = {"evaluation": "held_out-1234abcd", "step": 8}


def scores(measure: str, seed: int = 0, documents: int = 5, loss: float = 4.0, **columns) -> list[dict]:
    """Rows of a measure at lengths, distances and positions that double."""
    draw = np.random.default_rng(seed)
    return [
        NAMED
        | {
            "measure": measure,
            "document": f"d{number}",
            "cluster": f"d{number}",
            "segment": segment,
            "length_tokens": length,
            "distance_tokens": length,
            "start_position": length,
            "stop_position": length + 16,
            "tokens": 16,
            "loss_nats": loss + number + draw.normal(),
            "correct": segment,
        }
        | columns
        for number in range(documents)
        for segment in range(2)
        for length in (32, 64, 128, 256, 512)
    ]


def keys(found: int = 1) -> list[dict]:
    return [
        {"measure": "passkey", "evaluation": "none", "step": 8, "document": f"length={length} distance={distance}"}
        | {"cluster": f"length={length} distance={distance}"}
        | {"segment": trial, "length_tokens": length, "correct": found}
        for length in (64, 128)
        for distance in (length // 2, length)
        for trial in range(2)
    ]


def of_variants(runs: dict[str, list[list[dict]]]) -> list[dict]:
    """Rows of curves: of each variant the rows of its seeds."""
    return [{"variant": name} | row for name, seeds in runs.items() for row in curves(seeds)]


def bands(figure: Figure) -> int:
    return sum(isinstance(each, FillBetweenPolyCollection) for each in figure.axes[0].collections)


def legend(figure: Figure) -> str:
    return figure.axes[0].get_legend().get_title().get_text()


# Curves.

WITH_CURVE = [name for name, measure in MEASURES.items() if measure.curve is not None]
DRAWN = {"excess": ALONG}  # whose curve is of other rows than its quantity


@pytest.mark.parametrize("name", WITH_CURVE)
def test_every_curve_is_drawn_one_line_a_variant_with_its_axes(name):
    rows = of_variants({"rope": [scores(DRAWN.get(name, name))], "nope": [scores(DRAWN.get(name, name), 1)]})
    figure = curve_figure(rows, MEASURES[name], ["rope", "nope"], CONTEXT)
    axes, curve = figure.axes[0], MEASURES[name].curve
    assert [line.get_label() for line in axes.get_lines()][:2] == ["rope", "nope"]
    assert (axes.get_xlabel(), axes.get_ylabel()) == (curve.along, curve.upward)
    (edge,) = [line for line in axes.get_lines() if len(set(line.get_xdata())) == 1]
    assert edge.get_xdata()[0] == CONTEXT
    assert axes.get_yscale() == ("log" if curve.perplexity else "linear")
    mean = next(row["mean"] for row in rows if row["variant"] == "rope" and row["line"] == name)
    drawn = axes.get_lines()[0].get_ydata()[0]
    assert drawn == pytest.approx(np.exp(mean) if curve.perplexity else mean)


def test_the_legend_says_which_band_it_is():
    name, measure = "context_gain", MEASURES["context_gain"]
    one = curve_figure(of_variants({"rope": [scores(name, documents=7)]}), measure, ["rope"], CONTEXT)
    several = curve_figure(
        of_variants({"rope": [scores(name, seed, documents=7) for seed in range(5)]}), measure, ["rope"], CONTEXT
    )
    few = curve_figure(of_variants({"rope": [scores(name, documents=3)]}), measure, ["rope"], CONTEXT)
    assert [bands(figure) for figure in (one, several, few)] == [1, 1, 0]
    told = [legend(figure) for figure in (one, several, few)]
    assert told == [
        "band: 95 % interval over documents' clusters, these seeds",
        "band: 95 % interval over seeds and documents' clusters",
        "",
    ]


def test_a_variant_without_rows_is_left_out_and_keeps_the_colours_of_the_others():
    rows = of_variants({"longer": [scores("context_gain")]})
    alone, second = (
        curve_figure(rows, MEASURES["context_gain"], names, CONTEXT) for names in (["longer"], ["short", "longer"])
    )
    assert second.axes[0].get_lines()[0].get_label() == "longer"
    assert second.axes[0].get_lines()[0].get_color() != alone.axes[0].get_lines()[0].get_color()


def test_colour_says_the_position_encoding_and_dashes_the_attention_whatever_the_order():
    labels = ["nope", "rope", "alibi", "window_nope", "window_rope", "window_alibi", "narrow_window_nope"]
    styles = {label: style_of(label, labels) for label in labels}
    assert styles == {label: style_of(label, labels[::-1]) for label in labels}
    assert styles == {label: style_of(label, [label]) for label in labels}
    assert len({colour for colour, _ in styles.values()}) == 3
    for position in ("nope", "rope", "alibi"):
        assert len({styles[label][0] for label in labels if label.endswith(position)}) == 1
    for attention in ("", "window_"):
        assert len({styles[attention + position][1] for position in ("nope", "rope", "alibi")}) == 1
    assert len({styles[label][1] for label in ("nope", "window_nope", "narrow_window_nope")}) == 3


def test_several_variants_of_one_position_encoding_and_attention_are_told_apart():
    labels = ["rope", "rope+temperature=1.2", "rope+temperature=1.4"]
    assert len({style_of(label, labels) for label in labels}) == 3


def test_a_perplexity_beyond_all_bounds_is_drawn_at_the_highest():
    rows = of_variants(
        {"rope": [scores("truncated_perplexity", loss=1e4) + scores("truncated_perplexity", length_tokens=1024)]}
    )
    figure = curve_figure(rows, MEASURES["truncated_perplexity"], ["rope"], CONTEXT)
    assert figure.axes[0].get_lines()[0].get_ydata()[:5] == pytest.approx(1e5)


def test_a_measure_without_a_curve_is_not_drawn_as_one():
    with pytest.raises(ValueError, match="passkey has no curve"):
        curve_figure([], MEASURES["passkey"], ["rope"], CONTEXT)


def test_neighbours_far_along_the_axis_are_shown_as_one():
    rows = [{"tokens": tokens} for tokens in range(1, 101)]
    groups = grouped(rows)
    assert [row for group in groups for row in group] == rows
    assert all(group[-1]["tokens"] <= 1.125 * group[0]["tokens"] for group in groups)
    assert [len(group) for group in groups[:8]] == [1] * 7 + [2]  # 8 and 9


# Maps and differences.


def test_the_contrast_of_two_lines_is_a_map_of_variants_and_lengths():
    measure = MEASURES["copy"]
    both = [scores("copy", loss=1.0, documents=1), scores("copy_first", loss=6.0, documents=1)]
    rows = of_variants({"rope": [both[0] + both[1]], "nope": [both[1]]})
    figure = contrast_figure(rows, measure)
    axes = figure.axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["rope"]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["32", "64", "128", "256", "512"]
    mean = {(row["line"], row["tokens"]): row["mean"] for row in rows if row["variant"] == "rope"}
    assert axes.get_images()[0].get_array()[0].tolist() == [
        pytest.approx(mean["copy_first", tokens] - mean["copy", tokens]) for tokens in (32, 64, 128, 256, 512)
    ]
    assert contrast_figure(of_variants({"nope": [both[1]]}), measure) is None
    assert contrast_figure(rows, MEASURES["context_gain"]) is None


def test_the_details_of_a_measure_are_a_map():
    measure = MEASURES["passkey"]
    figure = detail_figure(measure.details(keys()), measure, "rope")
    axes = figure.axes[0]
    assert axes.get_title() == "rope"
    assert [label.get_text() for label in axes.get_xticklabels()] == ["64", "128"]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["0", "50"]
    assert axes.get_images()[0].get_array().tolist() == [[1.0, 1.0], [1.0, 1.0]]
    rows = [{"length_tokens": 128, "depth_percent": depth, "found": 0.5} for depth in (10, 5)]
    uneven = detail_figure([{"length_tokens": 64, "depth_percent": 50, "found": 0.5}, *rows], measure, "rope")
    assert [label.get_text() for label in uneven.axes[0].get_yticklabels()] == ["5", "10", "50"]
    assert detail_figure([], measure, "rope") is None
    assert detail_figure([], MEASURES["excess"], "rope") is None


def test_differences_are_drawn_with_their_intervals():
    row = {"variant": "nope", "reference": "rope", "mean": 0.5, "low": 0.2, "high": 0.9, "seeds": 1, "over_seeds": 0}
    figure = difference_figure([row | {"least_of_seeds": None, "most_of_seeds": None}], ["rope", "nope"], "nats")
    assert "minus rope (nats)" in figure.axes[0].get_xlabel()
    assert figure.axes[0].get_lines()[0].get_xdata().tolist() == [0.2, 0.9]


# The pictures of one run.


def drawn(folder, rows: list[dict]) -> dict[str, bytes]:
    folder.mkdir()
    draw(SimpleNamespace(path=folder, label="rope", context=CONTEXT), rows)
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_run_has_a_picture_of_each_curve_and_of_each_map_the_same_every_time(tmp_path):
    rows = [row for name in WITH_CURVE for row in scores(DRAWN.get(name, name))] + scores("excess") + keys()
    first = drawn(tmp_path / "run", rows)
    assert sorted(first) == sorted([f"{name}.png" for name in WITH_CURVE] + ["passkeys.png"])
    for content in first.values():
        assert content.startswith(b"\x89PNG")
        assert len(content) > 5000
    (tmp_path / "other").mkdir()
    assert drawn(tmp_path / "other" / "run", rows) == first


def test_a_run_without_curves_has_no_picture(tmp_path):
    assert drawn(tmp_path / "run", scores("excess")) == {}


# Files.


def picture() -> Figure:
    rows = of_variants({"rope": [scores("loss_by_position")]})
    return curve_figure(rows, MEASURES["loss_by_position"], ["rope"], CONTEXT)


def test_pictures_are_png_or_svg_and_the_same_every_time(tmp_path):
    for folder in ("first", "second"):
        (tmp_path / folder).mkdir()
        save(picture(), tmp_path / folder / "v1.2", ("png", "svg"))
    for name, start in (("v1.2.png", b"\x89PNG"), ("v1.2.svg", b"<?xml")):
        first, second = ((tmp_path / folder / name).read_bytes() for folder in ("first", "second"))
        assert first == second
        assert first.startswith(start)
    save(picture(), tmp_path / "one")
    assert sorted(os.listdir(tmp_path)) == ["first", "one.png", "second"]


def test_a_picture_that_cannot_be_written_is_named(tmp_path):
    with pytest.raises(UserError, match=r"missing/one\.png cannot be written"):
        save(picture(), tmp_path / "missing" / "one")
    assert os.listdir(tmp_path) == []


def test_a_disk_that_fills_up_is_told_with_the_path(tmp_path):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))
    try:
        with pytest.raises(UserError, match=r"one\.png cannot be written: file too large; free space"):
            save(picture(), tmp_path / "one")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert os.listdir(tmp_path) == []


def test_the_report_room_needs_neither_torch_nor_the_model():
    code = (
        "import sys, lab.report.pictures, lab.report.terminal, lab.report.comparison_page, lab.observe.measure as m; "
        "m.measures(); print({'torch', 'lab.model'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_the_picture_of_a_run_says_which_run_step_and_documents_and_where_its_window_ends(tmp_path, monkeypatch):
    seen = {}
    monkeypatch.setattr(terminal, "save", lambda figure, path: seen.update({path.name: figure}))
    (tmp_path / "a-run-seed0").mkdir()
    draw(SimpleNamespace(path=tmp_path / "a-run-seed0", label="rope", context=CONTEXT), scores("loss_by_position"))
    axes = seen["loss_by_position"].axes[0]
    assert axes.get_title() == "a-run-seed0, step 8: held_out-1234abcd"
    (line,) = [line for line in axes.lines if line.get_label() == f"C = {CONTEXT:,}"]
    assert set(line.get_xdata()) == {CONTEXT}
    assert line.get_label() in [text.get_text() for text in axes.get_legend().get_texts()]
    assert not axes.texts  # which would stand on curves
