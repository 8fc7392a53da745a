"""A table opened in a spreadsheet computes nothing that came from a document's name."""

import csv
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lab.base.errors import UserError
from lab.base.tables import guarded, read_table, unguarded, write_table

FORMULAS = ["=1+1", "@SUM(A1)", "+cmd|' /C calc'!A0", "-2+3+cmd|' /C calc'!A0", "\t=1", "\r=1", "-x", "'=1", "''@"]


@pytest.mark.parametrize("text", FORMULAS)
def test_a_formula_gets_an_apostrophe_and_reading_gives_the_same_text_back(text: str, tmp_path: Path) -> None:
    write_table(tmp_path / "t.csv", [{"document": text, "loss_nats": -1.5}])
    with open(tmp_path / "t.csv", newline="") as file:
        (cell,) = csv.DictReader(file)
    assert cell["document"] == f"'{text}"
    assert cell["loss_nats"] == "-1.5"
    assert read_table(tmp_path / "t.csv") == [{"document": text, "loss_nats": -1.5}]


@given(st.text(alphabet="'=+-@\t\rx1 ", max_size=8))
def test_reading_takes_off_what_writing_has_put_before(text: str) -> None:
    assert unguarded(str(guarded(text))) == text


@pytest.mark.parametrize("value", [-1.5, 3, None, "-0.003 to +0.012", "+0.5", "1e-05", "-12", "sotu/1790"])
def test_numbers_and_ranges_of_them_stay_as_they_are(value: object) -> None:
    assert guarded(value) == value


@pytest.mark.parametrize("value", ["nan", "inf", "-inf", "1e999", "9" * 5000])
def test_an_observation_that_is_not_finite_is_refused(value: str, tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text(f"document,loss_nats,low,format\na,{value},nan,3\n")
    with pytest.raises(UserError, match=r"column loss_nats holds .*, which is no finite number; delete it"):
        read_table(tmp_path / "t.csv", ("document", "loss_nats"))


def test_a_column_that_stands_twice_is_refused(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("loss_nats,loss_nats,format\n1,2,3\n")
    with pytest.raises(UserError, match="has a column twice"):
        read_table(tmp_path / "t.csv")
