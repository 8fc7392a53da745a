"""scores.csv: one row an observation, whatever is scored again, and no damaged one is taken."""

import pytest

from lab.base.errors import UserError
from lab.base.tables import read_table
from lab.observe.measure import OBSERVED
from lab.observe.scores import COLUMNS, NAMED, Scores, key, proof


def row(document: str = "a", start: int = 0, loss: float = 1.5, **changes) -> dict:
    named = {
        "measure": "loss_by_position",
        "setting": "0a1b2c3d",
        "evaluation": "held_out-1234abcd",
        "step": 8,
        "precision": "float32",
        "document": document,
        "cluster": "author",
    }
    observed = {
        "segment": 0,
        "length_tokens": 64,
        "start_position": start,
        "stop_position": start + 8,
        "tokens": 8,
        "loss_nats": loss,
    }
    return named | observed | changes


def full(given: dict) -> dict:
    return {column: given.get(column) for column in COLUMNS}


def test_a_run_without_scores_has_none_and_writes_no_file(tmp_path):
    scores = Scores(tmp_path / "scores.csv")
    assert scores.rows == []
    scores.write()
    assert list(tmp_path.iterdir()) == []


def test_what_is_written_is_what_is_read_with_empty_cells_for_what_is_not_observed(tmp_path):
    scores = Scores(tmp_path / "scores.csv")
    passkey = row("length=64 distance=8", measure="passkey", evaluation="none") | {
        "start_position": None,
        "stop_position": None,
        "tokens": None,
        "loss_nats": None,
        "distance_tokens": 9,
        "correct": 1,
    }
    scores.add([row(), row(start=8, loss=0.1 + 0.2), passkey, row("1984"), row("nan", loss=1e300)])
    scores.write()
    again = Scores(tmp_path / "scores.csv")
    assert again.rows == scores.rows == [full(each) for each in scores.rows]
    assert [list(each) for each in again.rows] == [[*NAMED, "cluster", *OBSERVED]] * 5
    assert again.rows[0]["correct"] is None
    assert again.rows[2]["loss_nats"] is None
    assert again.rows[3]["document"] == "1984"
    again.write()
    assert Scores(tmp_path / "scores.csv").rows == scores.rows


def test_rows_of_the_same_key_are_replaced_in_their_place_and_never_double(tmp_path):
    scores = Scores(tmp_path / "scores.csv")
    scores.add([row("a"), row("b"), row("c")])
    scores.add([row("b", loss=9.0), row("d")])
    assert [(each["document"], each["loss_nats"]) for each in scores.rows] == [
        *(("a", 1.5), ("b", 9.0), ("c", 1.5), ("d", 1.5))
    ]
    scores.write()
    scores = Scores(tmp_path / "scores.csv")
    scores.add([row("c", loss=7.0)])
    assert [each["loss_nats"] for each in scores.rows] == [1.5, 9.0, 7.0, 1.5]


OTHERS = {
    "measure": "excess",
    "setting": "ffffffff",
    "evaluation": "kjv-1234abcd",
    "step": 16,
    "precision": "bfloat16",
    "document": "b",
    "segment": 1,
    "length_tokens": 128,
    "distance_tokens": 32,
    "start_position": 8,
}


@pytest.mark.parametrize("column", OTHERS)
def test_rows_that_differ_in_what_names_them_stand_side_by_side(tmp_path, column):
    scores = Scores(tmp_path / "scores.csv")
    scores.add([row(), row(**{column: OTHERS[column]})])
    assert len(scores.rows) == 2
    scores.write()
    assert len(Scores(tmp_path / "scores.csv").rows) == 2


@pytest.mark.parametrize("column", ["stop_position", "tokens", "loss_nats", "correct"])
def test_what_is_observed_names_no_row(column):
    assert key(full(row())) == key(full(row(**{column: 1})))


def test_rows_are_selected_by_any_columns(tmp_path):
    scores = Scores(tmp_path / "scores.csv")
    scores.add([row("a"), row("a", 8), row("b"), row("b", step=9)])
    assert len(scores.select(document="a")) == 2
    assert len(scores.select(document="b", step=8)) == 1
    assert scores.select(correct=None) == scores.select() == scores.rows
    assert scores.select(document="c") == []


def test_dropped_rows_are_gone_from_the_file_too_also_when_they_were_all(tmp_path):
    scores = Scores(tmp_path / "scores.csv")
    scores.add([row("a"), row("b")])
    scores.write()
    for document, left in (("a", ["b"]), ("b", [])):
        scores = Scores(tmp_path / "scores.csv")
        scores.drop(scores.select(document=document))
        scores.write()
        assert [each["document"] for each in Scores(tmp_path / "scores.csv").rows] == left


# Damaged files.


def written(path, rows: list[dict]) -> str:
    scores = Scores(path)
    scores.add(rows)
    scores.write()
    return path.read_text()


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda text: text[:-5], "middle of a line"),
        (lambda text: "", "lacks the column"),
        (lambda text: text.splitlines()[0] + "\n", "empty"),
        (lambda text: text.replace("loss_nats", "loss"), "lacks the column loss_nats"),
        (lambda text: text.replace("1.5", "1.5.5"), "column loss_nats holds '1.5.5'"),
        (lambda text: text.replace(",1.5", ""), "line 2 does not fit"),
        (lambda text: text.replace("author,0", "author,0,0"), "line 2 does not fit"),
    ],
)
def test_a_damaged_file_is_refused_by_name_and_left_alone(tmp_path, damage, reason):
    path = tmp_path / "scores.csv"
    damaged = damage(written(path, [row("a"), row("b")]))
    path.write_text(damaged)
    with pytest.raises(UserError, match=reason) as caught:
        Scores(path)
    assert str(caught.value).startswith(f"{path}")
    assert "delete it and score the run again" in str(caught.value)
    assert path.read_text() == damaged


@pytest.mark.parametrize("second", ["1.5", "9.0"])
def test_a_file_that_holds_an_observation_twice_is_refused_by_name(tmp_path, second):
    path = tmp_path / "scores.csv"
    line = written(path, [row("a")]).splitlines()[1]
    path.write_text(path.read_text() + line.replace("1.5", second) + "\n")
    with pytest.raises(UserError, match="holds an observation twice; delete it and score the run again") as caught:
        Scores(path)
    assert str(path) in str(caught.value)


def test_a_file_with_more_columns_is_read_without_them(tmp_path):
    path = tmp_path / "scores.csv"
    lines = written(path, [row("a")]).splitlines()
    path.write_text(f"{lines[0]},extra\n{lines[1]},5\n")
    assert Scores(path).rows == [full(row("a"))]
    Scores(path).write()
    assert list(read_table(path)[0]) == list(COLUMNS)


def test_a_value_a_layer_and_a_head_are_columns_only_where_a_row_has_them(tmp_path):
    path = tmp_path / "scores.csv"
    scores = Scores(path)
    scores.add([row(), row(document="b") | {"layer": 0, "head": 3, "value": 0.25}])
    before = proof(scores.rows)
    scores.add([row(document="b") | {"layer": 1, "head": 3, "value": 0.5}])
    assert len(scores.rows) == 3
    scores.write()
    again = Scores(path)
    assert again.rows == scores.rows
    assert "value" not in again.rows[0]
    assert list(read_table(path)[0])[-3:] == ["layer", "head", "value"]
    again.drop(again.select(document="b")[1:])
    assert proof(again.rows) == before
    again.drop(again.select(document="b"))
    again.write()
    assert list(read_table(path)[0]) == list(COLUMNS)
