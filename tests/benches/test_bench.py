"""The benches run, print their ratios, and write what they measured."""

import csv
import re
import sys
from pathlib import Path

import pytest
from commands import lab

from lab import bench
from lab.base.errors import UserError
from lab.base.tables import read_table


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    monkeypatch.setattr(sys, "argv", ["lab.bench", *arguments])
    bench.main()


def test_the_training_bench_holds_the_lab_against_transformers_and_the_matrix_rate(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    path = tmp_path / "bench.csv"
    run(monkeypatch, "train", "experiment=smoke", "model=rope", "--rounds", "2", "--no-compile", "--csv", str(path))
    shown = capsys.readouterr().out
    assert "matrix product 2048^3 in bfloat16" in shown
    assert "peak memory" in shown
    with open(path, newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["contestant"].split()[0] for row in rows] == ["lab", "lab", "transformers", "transformers"]
    assert all(float(row["seconds"]) > 0 and int(row["tokens"]) == 512 for row in rows)


def test_the_attention_bench_compares_every_kernel_that_can_serve_a_case(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    path = tmp_path / "bench.csv"
    lengths = ["--lengths", "64", "128", "--windows", "16", "--rounds", "2"]
    run(monkeypatch, "attention", *lengths, "--csv", str(path))
    assert re.search(r"window 16, slopes: milliseconds", capsys.readouterr().out)
    with open(path, newline="") as file:
        rows = list(csv.DictReader(file))
    measured = {(row["kernel"], row["window"], row["slopes"]) for row in rows}
    assert {("banded", window, slopes) for window in ("", "16") for slopes in ("True", "False")} <= measured
    assert {row["kernel"] for row in rows} == {"reference", "sdpa", "banded"}


def test_the_bench_of_positional_vectors_holds_the_fold_the_replacement_and_the_sweep_against_plain_passes(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    path = tmp_path / "bench.csv"
    few = ("--windows", "2", "--contexts", "2", "--rounds", "2")
    run(monkeypatch, "positions", "experiment=smoke", *few, "--csv", str(path))
    shown = capsys.readouterr().out
    assert re.search(r"fold of additive fit .* plain passes", shown)
    assert re.search(r"sweep, whole passes .* sweep, shared lower layers", shown)
    rows = read_table(path)
    assert len(rows) == 6 * 2
    assert all(row["seconds"] > 0 for row in rows)


def test_the_bench_of_extensions_holds_each_rule_against_the_plain_decoder(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    path = tmp_path / "bench.csv"
    run(monkeypatch, "extend", "experiment=smoke", "--rounds", "2", "--csv", str(path))
    shown = capsys.readouterr().out
    assert "one pass" in shown
    assert "steps of decoding behind 240 tokens" in shown
    rows = read_table(path)
    assert len(rows) == 2 * 7 * 2
    assert {row["contestant"] for row in rows} >= {"plain", "yarn", "dynamic ntk per position"}
    assert all(row["seconds"] > 0 for row in rows)


def test_the_bench_of_taps_holds_a_pass_that_is_read_against_one_that_is_not(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    path = tmp_path / "bench.csv"
    run(monkeypatch, "taps", "experiment=smoke", "model=rope", "--rounds", "2", "--csv", str(path))
    assert "this / no tap" in capsys.readouterr().out
    with open(path, newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["contestant"] for row in rows] == [
        name for name in ("no tap", "one layer read", "every layer read") for _ in range(2)
    ]
    assert all(float(row["seconds"]) > 0 for row in rows)


def test_the_bench_of_knowledge_holds_biographies_against_training_and_answers_together_against_one_by_one(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    path = tmp_path / "bench.csv"
    few = ("data.corpus.people=40", "scale.layers=1", "scale.tokens=4096", "scale.warmup_steps=1")
    run(monkeypatch, "knowledge", *few, "--questions", "30", "--rounds", "2", "--csv", str(path))
    shown = capsys.readouterr().out
    assert "this / training, a process" in shown
    assert "this / one by one, whole passes" in shown
    assert shown.count("30 of 30 answers equal") == 2
    rows = read_table(path)
    assert [row["contestant"] for row in rows[::2]] == [
        *("training, a process", "biographies, a process"),
        *("one by one, whole passes", "one by one, cached", "together, cached"),
    ]
    assert all(row["seconds"] > 0 and row["count"] > 0 for row in rows)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [(["--questions", "0"], "--questions is 0"), (["data=sotu", "tokenizer=sotu_1k"], "data=sotu")],
)
def test_a_bench_of_knowledge_without_people_or_questions_is_refused(
    monkeypatch: pytest.MonkeyPatch, arguments: list[str], told: str
) -> None:
    with pytest.raises(UserError, match=told):
        run(monkeypatch, "knowledge", *arguments)


def test_the_bench_of_the_lens_holds_prompts_together_against_one_by_one_and_a_plain_pass(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    path = tmp_path / "bench.csv"
    few = ("--prompts", "6", "--tokens", "4", "--batch-tokens", "12", "--rounds", "2")
    run(monkeypatch, "lens", "experiment=smoke", "model=rope", *few, "--csv", str(path))
    shown = capsys.readouterr().out
    assert "6 prompts of 4 tokens in 2 batches, float64" in shown
    (apart,) = re.findall(r"together and one by one: (\S+)", shown)
    assert float(apart) < 1e-12
    rows = read_table(path)
    assert [row["contestant"] for row in rows[::2]] == [
        *("plain forward and backward", "factors, together"),
        *("factors and ranks, together", "factors, one by one"),
    ]
    assert all(row["seconds"] > 0 and row["count"] == 6 for row in rows)


@pytest.mark.parametrize("option", ["--prompts", "--tokens", "--batch-tokens"])
def test_a_bench_of_the_lens_of_nothing_is_refused(monkeypatch: pytest.MonkeyPatch, option: str) -> None:
    with pytest.raises(UserError, match=f"^{option} is 0: give 1 or more$"):
        run(monkeypatch, "lens", "experiment=smoke", option, "0")


def test_no_rounds_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="--rounds is 0"):
        run(monkeypatch, "attention", "--rounds", "0")


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--windows", "0"], "--windows is 0"),
        (["--lengths", "64", "-5"], "--lengths is -5"),
        (["--heads", "3", "--kv-heads", "2"], "--heads is 3 and --kv-heads 2"),
        (["--csv", "/proc/at/all.csv"], "/proc/at/all.csv cannot be written"),
        (["--colour"], "unrecognized arguments: --colour; python -m lab.bench --help tells more"),
    ],
)
def test_an_option_that_makes_no_sense_is_refused_before_anything_is_measured(
    monkeypatch: pytest.MonkeyPatch, arguments: list[str], told: str
) -> None:
    with pytest.raises(UserError, match=re.escape(told)):
        run(monkeypatch, "attention", *arguments)


def test_contention_tells_the_time_of_a_step_beside_busy_processes(tmp_path: Path) -> None:
    table = tmp_path / "contention.csv"
    command = ("contention", "experiment=smoke", "--busy", "0", "1", "--seconds", "0.2", "--rounds", "1")
    result = lab("bench", *command, "--csv", str(table), cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert len(read_table(table)) >= 2
