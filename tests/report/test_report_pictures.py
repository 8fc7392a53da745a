"""Pictures: drawn from tables alone, the same every time. What they look like is for a reader's eyes."""

import os
import subprocess
import sys

import numpy as np
import pytest

from lab.base.errors import UserError
from lab.report.pictures import comparison_picture, curve, loss_by_position_picture

CONTEXT = 64


def scores(seed: int, documents: int = 5) -> list[dict]:
    draw = np.random.default_rng(seed)
    return [
        {
            "measure": "loss_by_position",
            "document": f"d{number}",
            "segment": segment,
            "start_position": start,
            "stop_position": start + 16,
            "tokens": 16,
            "loss_nats": 4 + number + draw.normal(),
        }
        for number in range(documents)
        for segment in range(2)
        for start in range(0, 8 * CONTEXT, 16)
    ]


def excess(mean: float, low: float, high: float) -> dict:
    return {"quantity": "excess", "mean_nats": mean, "low_nats": low, "high_nats": high, "documents": 5}


def draw_both(folder) -> dict[str, bytes]:
    folder.mkdir()
    curves = {"rope": scores(0), "nope": scores(1)}
    loss_by_position_picture({"rope": scores(0)}, CONTEXT, folder / "one")
    excesses = {"rope": excess(0.5, 0.2, 0.9), "nope": excess(0.1, float("nan"), float("nan"))}
    comparison_picture(curves, excesses, CONTEXT, folder / "v1.2")
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_pictures_are_png_and_svg_and_the_same_every_time(tmp_path):
    first = draw_both(tmp_path / "first")
    assert sorted(first) == ["one.png", "one.svg", "v1.2.png", "v1.2.svg"]
    for name, content in first.items():
        assert content.startswith(b"\x89PNG" if name.endswith("png") else b"<?xml")
        assert len(content) > 5000
    assert draw_both(tmp_path / "second") == first


def test_one_document_is_drawn_without_a_band(tmp_path):
    loss_by_position_picture({"rope": scores(0, documents=1)}, CONTEXT, tmp_path / "one")
    loss_by_position_picture({"rope": scores(0, documents=5)}, CONTEXT, tmp_path / "five")
    assert b"FillBetween" not in (tmp_path / "one.svg").read_bytes()
    assert b"FillBetween" in (tmp_path / "five.svg").read_bytes()


def test_a_curve_has_one_row_a_document_and_the_mean_of_its_segments():
    rows = scores(2)
    positions, losses = curve(rows)
    assert positions.tolist() == [start + 7.5 for start in range(0, 8 * CONTEXT, 16)]
    assert losses.shape == (5, 32)
    of_bin = [row["loss_nats"] for row in rows if row["document"] == "d3" and row["start_position"] == 32]
    assert losses[3, 2] == pytest.approx(np.mean(of_bin))


@pytest.mark.parametrize("rows", [[], scores(0)[:-33]])
def test_rows_that_make_no_curve_are_refused(tmp_path, rows):
    with pytest.raises(UserError, match="score"):
        loss_by_position_picture({"rope": rows}, CONTEXT, tmp_path / "one")


def test_a_picture_that_cannot_be_written_is_named(tmp_path):
    with pytest.raises(UserError, match=r"missing/one\.svg cannot be written"):
        loss_by_position_picture({"rope": scores(0)}, CONTEXT, tmp_path / "missing" / "one")
    assert os.listdir(tmp_path) == []


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs a device that is always full")
def test_a_full_disk_is_told_with_the_path(tmp_path):
    (tmp_path / "one.svg.new").symlink_to("/dev/full")
    with pytest.raises(UserError, match=r"one\.svg cannot be written: no space left"):
        loss_by_position_picture({"rope": scores(0)}, CONTEXT, tmp_path / "one")
    assert not (tmp_path / "one.svg").exists()


def test_the_report_room_needs_neither_torch_nor_the_model():
    code = "import sys, lab.report.pictures, lab.report.terminal; print({'torch', 'lab.model'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
