"""Tables: what is written is what is read, and a damaged file is named."""

import math
import os

import numpy as np
import pytest

from lab.base.errors import UserError
from lab.base.tables import FORMAT, read_table, write_table

COLUMNS = ("measure", "document", "segment", "start_position", "stop_position", "tokens", "loss_nats")
ROWS = [
    {
        "measure": "excess",
        "document": name,
        "segment": number,
        "start_position": 0,
        "stop_position": 32,
        "tokens": 32,
        "loss_nats": loss,
    }
    for number, (name, loss) in enumerate(
        [
            ("sotu/taft_1909", 0.1 + 0.2),
            ('a "quoted", name', 5.0),
            ("1984", -1e-17),
            ("nan", 1 / 3),
            ("ümlaut\nline", 0.0),
            ("carriage\rreturn\r\n", 1e300),
            ("", 2.0),
        ]
    )
]


def test_what_is_written_is_read_again(tmp_path):
    write_table(tmp_path / "scores.csv", ROWS)
    read = read_table(tmp_path / "scores.csv", COLUMNS)
    assert read == ROWS
    assert [list(row) for row in read] == [list(COLUMNS)] * len(ROWS)
    assert [type(value) for value in read[1].values()] == [str, str, int, int, int, int, float]
    assert os.listdir(tmp_path) == ["scores.csv"]


def test_none_is_an_empty_cell_and_an_empty_cell_of_a_number_is_none(tmp_path):
    rows = [{"document": "a", "loss_nats": None, "correct": 1}, {"document": "b", "loss_nats": 1.5, "correct": None}]
    write_table(tmp_path / "t.csv", rows)
    assert (tmp_path / "t.csv").read_text() == f"document,loss_nats,correct,format\na,,1,{FORMAT}\nb,1.5,,{FORMAT}\n"
    assert read_table(tmp_path / "t.csv") == rows


def test_a_row_of_nothing_but_empty_numbers_is_a_row(tmp_path):
    rows = [{"loss_nats": None, "correct": None}, {"loss_nats": 1, "correct": 0}]
    write_table(tmp_path / "t.csv", rows)
    assert read_table(tmp_path / "t.csv") == rows


def test_numpy_numbers_nan_and_infinity_are_numbers_in_the_file(tmp_path):
    row = {"loss_nats": np.float64(0.1), "low_nats": float("nan"), "high_nats": -math.inf, "tokens": np.int64(3)}
    write_table(tmp_path / "t.csv", [row])
    (row,) = read_table(tmp_path / "t.csv")
    assert (row["loss_nats"], row["high_nats"], row["tokens"]) == (0.1, -math.inf, 3)
    assert math.isnan(row["low_nats"])


def test_the_same_rows_give_the_same_bytes(tmp_path):
    for name in ("a.csv", "b.csv"):
        write_table(tmp_path / name, ROWS)
    assert (tmp_path / "a.csv").read_bytes() == (tmp_path / "b.csv").read_bytes()


def test_a_written_table_takes_the_place_of_an_old_one(tmp_path):
    for rows in (ROWS, ROWS[:1]):
        write_table(tmp_path / "scores.csv", rows)
    assert read_table(tmp_path / "scores.csv") == ROWS[:1]


def test_columns_that_are_not_asked_for_are_read_as_well(tmp_path):
    write_table(tmp_path / "scores.csv", ROWS)
    assert read_table(tmp_path / "scores.csv", ("tokens",)) == ROWS


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "lacks the column"),
        (b"measure,document,format\nexcess,a,3\n", "lacks the column loss_nats"),
        (b"document,loss_nats,format\n", "empty"),
        (b"document,loss_nats,format\na,1.5,3\nb,1.", "middle of a line"),
        (b"document,loss_nats,format\na,1.5,3\nb,1.5,3", "middle of a line"),
        (b"document,loss_nats,format\na,1.5,3\nb\n", "line 3"),
        (b"document,loss_nats,format\na,1.5,3,3\n", "line 2"),
        (b"document,loss_nats,format\na,1.5,3\nb,1.x,3\n", "loss_nats holds '1.x'"),
        (b"document,loss_nats,format\na,None,3\n", "loss_nats holds 'None'"),
        (b"document,loss_nats\n\xff\xfe,1.5\n", "cannot be read"),
        (b'document,loss_nats\n"a"b,1.5\n', "cannot be read"),
    ],
)
def test_a_damaged_table_is_named_with_the_reason_and_the_remedy(tmp_path, content, reason):
    path = tmp_path / "scores.csv"
    path.write_bytes(content)
    with pytest.raises(UserError, match=reason) as caught:
        read_table(path, ("document", "loss_nats"), remedy="make it again")
    assert str(path) in str(caught.value)
    assert str(caught.value).endswith("; make it again")


def test_a_table_that_is_not_there_is_named(tmp_path):
    with pytest.raises(UserError, match=r"nowhere\.csv cannot be read"):
        read_table(tmp_path / "nowhere.csv")


@pytest.mark.parametrize("place", ["no_such_folder/t.csv", "a_file/t.csv", "a_folder"])
def test_a_table_that_cannot_be_written_is_named_and_leaves_nothing(tmp_path, place):
    (tmp_path / "a_file").write_text("not a folder")
    (tmp_path / "a_folder").mkdir()
    with pytest.raises(UserError, match=f"{place} cannot be written"):
        write_table(tmp_path / place, ROWS)
    assert sorted(os.listdir(tmp_path)) == ["a_file", "a_folder"]


# The format.


def test_the_last_column_is_the_format_and_is_not_read_as_one(tmp_path):
    write_table(tmp_path / "scores.csv", ROWS[:2])
    header, *lines = (tmp_path / "scores.csv").read_text().splitlines()
    assert header.split(",") == [*COLUMNS, "format"]
    assert {line.rpartition(",")[2] for line in lines} == {str(FORMAT)}
    assert all("format" not in row for row in read_table(tmp_path / "scores.csv"))


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("document,loss_nats\na,1.5\n", r"was written by an earlier version of the lab \(it has no column format\)"),
        ("measure,document\nexcess,a\n", "earlier version"),  # whatever else it lacks
        (f"document,loss_nats,format\na,1.5,{FORMAT + 1}\n", f"has format {FORMAT + 1}, and this .* reads {FORMAT}"),
        ("document,loss_nats,format\na,1.5,1\n", f"has format 1, and this version reads {FORMAT}"),
        (f"document,loss_nats,format\na,1.5,{FORMAT}\nb,1.5,9\n", f"has format 9, and this version reads {FORMAT}"),
        (f"document,loss_nats,format\na,1.5,1\nb,1.5,{FORMAT}\n", f"has format 1, and this version reads {FORMAT}"),
        ("document,loss_nats,format\na,1.5,two\n", f"has format two, and this version reads {FORMAT}"),
        ("document,loss_nats,format\na,1.5,\n", f"has an empty format, and this version reads {FORMAT}"),
    ],
)
def test_a_table_of_another_format_or_of_none_is_refused_with_the_remedy(tmp_path, content, reason):
    path = tmp_path / "scores.csv"
    path.write_text(content)
    with pytest.raises(UserError, match=reason) as caught:
        read_table(path, ("document", "loss_nats"), remedy="make it again")
    assert str(path) in str(caught.value)
    assert str(caught.value).endswith("; make it again")
    assert path.read_text() == content


# The one column of numbers in which a text may stand.


def test_the_seeds_of_a_chain_stay_text_and_seeds_stay_numbers(tmp_path):
    seeds = [0, "1 of 0", 2**64 - 1, "12 of 0 of 3", None]
    rows = [{"variant": "rope", "seed": seed, "mean": 0.5} for seed in seeds]
    write_table(tmp_path / "seeds.csv", rows)
    read = read_table(tmp_path / "seeds.csv")
    assert read == rows
    assert [type(row["seed"]) for row in read] == [int, str, int, str, type(None)]
    write_table(tmp_path / "again.csv", read)
    assert (tmp_path / "again.csv").read_bytes() == (tmp_path / "seeds.csv").read_bytes()


def test_in_another_column_such_a_text_is_no_number(tmp_path):
    write_table(tmp_path / "seeds.csv", [{"variant": "rope", "seeds": "1 of 0"}])
    with pytest.raises(UserError, match="column seeds holds '1 of 0', which is no number"):
        read_table(tmp_path / "seeds.csv")
