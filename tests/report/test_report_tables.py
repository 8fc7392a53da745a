"""The short table of runs, on the terminal and as summary.csv."""

import math
from types import SimpleNamespace

import pytest
from rich.console import Console

from lab.base.tables import read_table
from lab.report.terminal import show_run, show_runs, summary_table


def line(**changes) -> dict:
    told = {"measure": "excess", "unit": "nats", "length_tokens": 2048, "length_told": "2,048"}
    numbers = {"mean": 0.25, "low": 0.125, "high": 0.5, "documents": 11, "told": "", "interval_told": ""}
    return told | numbers | changes


def shown(*tables: tuple[str, list[dict]]) -> str:
    console = Console(width=160)
    with console.capture() as capture:
        console.print(summary_table(tables))
    return capture.get()


def test_the_table_shows_measure_unit_length_mean_interval_and_documents():
    text = shown(("rope-run", [line()]))
    assert text.splitlines()[0].strip() == "rope-run"
    for part in ("excess (nats)", "2,048", "0.250", "0.125 to 0.500", "11"):
        assert part in text


def test_an_interval_that_is_not_known_is_not_shown_as_a_number():
    text = shown(("rope", [line(low=math.nan, high=math.nan, documents=1)]))
    assert "not known" in text
    assert "nan" not in text


def test_documents_that_are_all_equal_are_told_so():
    assert "all equal" in shown(("rope", [line(low=0.25, high=0.25)]))


def test_perplexities_have_one_digit():
    text = shown(("rope", [line(unit="perplexity", mean=12.34, low=11.0, high=13.25)]))
    assert "(perplexity)" in text
    assert "12.3" in text
    assert "11.0 to 13.2" in text


def test_what_is_no_mean_is_shown_as_it_is_told():
    none = dict.fromkeys(("length_tokens", "mean", "low", "high"))
    told = {"measure": "effective context by context_gain", "unit": "tokens", "length_told": "", "told": "16 or more"}
    text = shown(("rope", [line(**none, **told, interval_told="8 to 16 or more", documents=7)]))
    for part in ("effective context by context_gain (tokens)", "16 or more", "8 to 16 or more", "7"):
        assert part in text
    assert "None" not in shown(("rope", [line(**none, **told, documents=None)]))


def test_of_several_runs_each_line_names_its_own():
    text = shown(("one-run", [line()]), ("other-run", [line(mean=0.75)]))
    assert "one-run" in text
    assert "other-run" in text
    assert "0.750" in text


# The tables of runs that were scored.


def rows(loss: float) -> list[dict]:
    named = {"measure": "excess", "evaluation": "held_out-1234abcd", "step": 8, "segment": 0, "length_tokens": 128}
    return [
        named | {"document": name, "cluster": name, "tokens": 64, "loss_nats": loss + at}
        for at, name in enumerate("abcdef")
    ]


@pytest.fixture
def run(tmp_path) -> SimpleNamespace:
    (tmp_path / "a-run").mkdir()
    return SimpleNamespace(path=tmp_path / "a-run", label="rope", context=64)


def test_the_short_table_of_a_run_goes_to_its_directory_and_is_kept_until_it_is_scored_anew(run, capsys):
    show_run(run, rows(1.0), fresh=True)
    (stored,) = read_table(run.path / "summary.csv")
    assert (stored["measure"], stored["mean"], stored["documents"]) == ("excess", 3.5, 6)
    told = capsys.readouterr().out
    assert "3.500" in told
    assert "a-run" in told
    before = (run.path / "summary.csv").read_bytes()
    show_run(run, rows(1.0), fresh=False)
    assert (run.path / "summary.csv").read_bytes() == before
    show_run(run, rows(3.0), fresh=True)
    assert read_table(run.path / "summary.csv")[0]["mean"] == 5.5
    (run.path / "summary.csv").unlink()
    show_run(run, rows(3.0), fresh=False)
    assert read_table(run.path / "summary.csv")[0]["mean"] == 5.5


def test_runs_are_shown_in_one_table(run, tmp_path, capsys):
    (tmp_path / "b-run").mkdir()
    other = SimpleNamespace(path=tmp_path / "b-run", label="nope", context=64)
    show_runs([(run, rows(1.0)), (other, rows(2.0))])
    told = capsys.readouterr().out
    assert told.count("excess (nats)") == 2
    assert all(part in told for part in ("a-run", "b-run", "3.500", "4.500"))
