"""The report of a comparison: all tables and pictures are there, and all tell what was allowed to differ."""

import dataclasses
import io
import re

import pytest

from lab.base.console import Console
from lab.base.tables import read_table
from lab.evidence.claims import Claim, Study
from lab.evidence.quantities import curves
from lab.measure.excess import ALONG
from lab.observe.measure import measures
from lab.report import comparison_page
from lab.report.claims_page import write_claims_page
from lab.report.comparison_page import Compared, headline, write_report
from lab.report.figures import heat_map
from lab.report.pictures import save
from lab.report.terminal import summary_table

CONTEXT = 64
VARIANTS = ["rope", "nope"]
HELD_OUT, MADE_UP = "held_out-1234abcd", "none"


def difference(measure: str, length: int, evaluation: str = HELD_OUT, **changes) -> dict:
    place = {"evaluation": evaluation, "measure": measure, "length_tokens": length, "length_told": f"{length:,}"}
    told = {"variant": "nope", "reference": "rope", "mean": 0.5, "low": 0.25, "high": 0.75, "p_value": 0.01}
    seeds = {"documents": 9, "seeds": 1, "least_of_seeds": None, "most_of_seeds": None, "noise_floor": None}
    seeds |= {"clusters": 6, "clusters_told": "authors", "over_seeds": 0, "widened": 1.1, "coverage": 0.93}
    return place | told | seeds | {"coverage": 0.94, "p_holm": 0.02, "verdict": "nope is worse"} | changes


def lines_of(measure: str, lines: tuple[str, ...]) -> list[dict]:
    """Rows of a measure's curve, of all variants."""
    rows = [
        {
            "measure": line,
            "document": name,
            "cluster": name,
            "segment": 0,
            "tokens": 16,
            "loss_nats": 3.0 + at,
            "correct": 0,
        }
        | {"length_tokens": length, "distance_tokens": length, "start_position": length, "stop_position": length + 16}
        for line in ([ALONG] if measure == "excess" else lines)
        for length in (32, 64, 128)
        for at, name in enumerate("abcde")
    ]
    drawn = [row for row in curves([rows]) if row["measure"] == measure]
    return [{"evaluation": HELD_OUT, "variant": name} | row for name in VARIANTS for row in drawn]


@pytest.fixture
def compared() -> Compared:
    curved = {measure.label(): measure.contrast or (measure.label(),) for measure in measures() if measure.curve}
    drawn = [row for name, lines in curved.items() for row in lines_of(name, lines)]
    found = [
        {"evaluation": MADE_UP, "variant": name, "length_tokens": length, "depth_percent": 50, "found": 0.25}
        for name in VARIANTS
        for length in (64, 128)
    ]
    effective = {"evaluation": HELD_OUT, "measure": "context_gain", "variant": "nope", "seed": 0, "margin_nats": 0.1}
    return Compared(
        factor="model",
        variants=VARIANTS,
        statement=["2 runs, model: rope, nope; seed 0"],
        allowed=[],
        control=[{"key": "model.position.name", "kind": "factor", "run": name, "value": name} for name in VARIANTS]
        + [{"key": "seed", "kind": "equal", "run": "", "value": "0"}],
        reference="rope",
        evaluations=[HELD_OUT, MADE_UP],
        documents=[{"evaluation": HELD_OUT, "variant": "rope", "document": "a", "mean": 1.0}],
        estimates=[{"evaluation": HELD_OUT, "measure": "excess", "length_tokens": 512, "variant": "rope", "mean": 1.0}],
        differences=[
            difference("loss_by_position", 64),
            difference("loss_by_position", 128),
            difference("loss_by_position", 512),
            difference("excess", 512),
            difference("passkey", 128, MADE_UP),
        ],
        seeds=[],
        curves=drawn,
        effective=[effective | {"tokens": 64, "told": "64", "interval_told": "64 to 128 or more"}],
        details={"passkeys": found},
        training=[
            {"variant": name, "seed": 0, "tokens": tokens, "validation_loss_nats": 5.0}
            for name in VARIANTS
            for tokens in (1024, 2048)
        ],
        provenance=[("a-run", "1a2b3c4d", "0" * 10, "f" * 8, "python -m lab.train")],
        command="python -m lab.compare runs=[a,b]",
        context=CONTEXT,
    )


def test_the_headline_has_the_longest_length_of_each_measure_and_the_shortest_of_those_that_ask(compared):
    chosen = [(row["measure"], row["length_tokens"]) for row in headline(compared.differences, HELD_OUT)]
    assert chosen == [("loss_by_position", 64), ("loss_by_position", 512), ("excess", 512)]
    assert [row["measure"] for row in headline(compared.differences, MADE_UP)] == ["passkey"]


def test_the_report_has_every_table_and_a_picture_of_every_measure(compared, tmp_path):
    write_report(tmp_path / "report", compared)
    files = {path.name for path in (tmp_path / "report").iterdir()}
    tables = {"control", "estimates", "differences", "curves", "effective_context", "training", "passkeys"}
    assert {f"{name}.csv" for name in tables} == {name for name in files if name.endswith(".csv")}  # none of no rows
    curved = [measure.label() for measure in measures() if measure.curve]
    pictures = {"training", "held_out_excess_differences", "held_out_copy_map", "none_passkey"}
    pictures |= {f"held_out_{name}" for name in curved} | {f"none_passkey_{name}" for name in VARIANTS}
    assert {name for name in files if name.endswith((".png", ".svg"))} == {f"{name}.png" for name in pictures}
    page, text = ((tmp_path / "report" / name).read_text() for name in ("report.html", "report.md"))
    assert page.count("data:image/png;base64,") == len(pictures)
    assert set(re.findall(r"\]\((\w+)\.png\)", text)) == pictures
    assert "http" not in page
    for content in (page, text):
        for told in ("nope is worse", "64 to 128 or more", "texts made up", "python -m lab.compare runs=[a,b]"):
            assert told in content
    for name in tables:
        assert read_table(tmp_path / "report" / f"{name}.csv")
    assert [row["found"] for row in read_table(tmp_path / "report" / "passkeys.csv")] == [0.25] * 4


def test_what_was_allowed_to_differ_is_told_on_the_page_and_on_every_picture(compared, tmp_path):
    allowed = dataclasses.replace(compared, allowed=["code.sha256 is 1a in a and 2b in b"])
    for name, each in (("plain", compared), ("allowed", allowed)):
        write_report(tmp_path / name, each)
    notice = "Allowed to differ beside model: code.sha256 is 1a in a and 2b in b"
    assert notice in (tmp_path / "allowed" / "report.html").read_text()
    assert notice in (tmp_path / "allowed" / "report.md").read_text()
    for picture in (tmp_path / "plain").glob("*.png"):
        assert picture.read_bytes() != (tmp_path / "allowed" / picture.name).read_bytes()


def test_two_sets_of_documents_of_one_name_have_pictures_of_their_own(compared, tmp_path):
    other = "held_out-ffff0000"
    both = [row | {"evaluation": evaluation} for evaluation in (HELD_OUT, other) for row in compared.curves]
    write_report(tmp_path, dataclasses.replace(compared, evaluations=[HELD_OUT, other], curves=both))
    for evaluation in (HELD_OUT, other):
        assert (tmp_path / f"{evaluation}_context_gain.png").exists()


def test_no_number_is_shown_as_minus_nothing(compared: Compared, tmp_path) -> None:
    """Neither in a table, nor in a picture, nor on the page of claims."""
    nothing = {"mean": -0.0004, "low": -0.0004, "high": 0.0004}
    changed = dataclasses.replace(
        compared,
        differences=[row | nothing for row in compared.differences],
        estimates=[row | {"mean": -0.0004} for row in compared.estimates],
    )
    write_report(tmp_path, changed)
    assert not re.search(r"-0\.0+\b(?![1-9])", re.sub(r"<style>.*?</style>", "", (tmp_path / "report.md").read_text()))
    line = {"measure": "excess", "unit": "nats", "length_told": "512", "documents": 9, "told": "", "interval_told": ""}
    console = Console(width=200, file=io.StringIO())
    console.print(summary_table([("a-run", [line | nothing])]))
    assert "0.000" in console.file.getvalue()
    assert "-0.000" not in console.file.getvalue()
    figure = heat_map([{"a": 1, "b": 2, "v": -0.001}, {"a": 1, "b": 3, "v": 1.0}], "a", "b", "v", ("", "", ""))
    assert {text.get_text() for text in figure.axes[0].texts} == {"0.00", "1.00"}
    claim = {"study": "s", "sentence": "x", "quantity": "q", "source": "n", "evaluation": "e", "verdict": "holds"}
    claim |= {"given": "", "claim": "c"}
    claim |= nothing | {"over_seeds": 1, "seeds": 5, "clusters": 6, "clusters_told": "authors"}
    bound = {"name": "c", "sentence": "x", "source": "n", "variant": "nope", "measure": "excess", "above": 0.0}
    study = Study(study="s", conditions="none", claims=[Claim.check(bound)])
    write_claims_page(tmp_path / "claims.md", [claim], "a command", [study])
    assert "+0.000 (+0.000 to +0.000)" in (tmp_path / "claims.md").read_text()


@pytest.mark.parametrize("differences", [1, 5])
def test_no_picture_of_a_comparison_cuts_off_what_it_says(
    compared: Compared, tmp_path, monkeypatch, differences
) -> None:
    cut = []

    def saved(figure, path, endings) -> None:
        save(figure, path, endings)
        figure.canvas.draw()  # at the size that extents are given for
        said = [
            figure._suptitle,
            *(text for axes in figure.axes for text in (axes.title, axes.xaxis.label, axes.yaxis.label)),
        ]
        for text in said:
            place = text.get_window_extent()
            corners = [(place.x0, place.y0), (place.x1, place.y1)]
            if text.get_text() and not all(figure.bbox.padded(1).contains(*corner) for corner in corners):
                cut.append((path.name, text.get_text()))

    monkeypatch.setattr(comparison_page, "save", saved)
    monkeypatch.setattr(comparison_page, "write_page", lambda *_: None)
    reference = "narrow_window_nope+position_interpolation(s=8)"
    told = {"reference": reference, "over_seeds": 1, "seeds": 5, "least_of_seeds": 0.1, "most_of_seeds": 0.9}
    names = [f"variant_{number}" for number in range(differences)]
    rows = [difference(measure, 512, **told, variant=name) for measure in ("excess", "copy") for name in names]
    write_report(
        tmp_path, dataclasses.replace(compared, reference=reference, differences=rows, allowed=["hardware"] * 12)
    )
    assert cut == []


def test_every_picture_of_a_comparison_says_what_it_shows(compared: Compared, tmp_path, monkeypatch) -> None:
    titles = {}
    monkeypatch.setattr(
        comparison_page, "save", lambda figure, path, endings: titles.update({path.name: figure.axes[0].get_title()})
    )
    monkeypatch.setattr(comparison_page, "write_page", lambda *_: None)
    write_report(tmp_path, compared)
    assert len(titles) >= 6
    assert all(titles.values())
    assert "held_out-1234abcd" in titles["held_out_excess"]
