"""The main job as a user runs it: train, score, find again, sweep, plan."""

import csv
import json
import os
import re
import resource
import subprocess
import sys
from pathlib import Path

import pytest
from commands import lab, the_one_line
from known import VARIANTS
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from lab.data.sources.documents import Sotu
from lab.runs.run import Run

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The seven variants, small, a few steps each, by the pilot table's own experiment file."""
    folder = tmp_path_factory.mktemp("sweep")
    small = [
        "scale.layers=2",
        "scale.width=32",
        "scale.hidden=64",
        "scale.heads=2",
        "scale.kv_heads=1",
        "scale.head_dim=16",
        "scale.tokens=16384",
        "scale.warmup_steps=1",
        "scale.batch_tokens=4096",
        "trainer.log_every=2",
    ]
    small += ["scoring.segments=1", "scale.validation_blocks=8"]
    result = lab("train", "experiment=pilot_table", *small, cwd=folder)
    assert result.returncode == 0, result.stderr
    return folder / "runs"


def manifests(runs: Path) -> dict[str, dict]:
    return {path.parent.name.partition("-")[0]: json.loads(path.read_text()) for path in runs.glob("*/manifest.json")}


def test_seven_variants_give_seven_runs_with_equal_blocks_and_equal_initial_weights(sweep: Path) -> None:
    found = manifests(sweep)
    assert sorted(found) == sorted(VARIANTS)
    assert len({json.dumps(manifest["blocks"]) for manifest in found.values()}) == 1
    assert len({json.dumps(manifest["initial_weights"], sort_keys=True) for manifest in found.values()}) == 1
    assert {manifest["attempts"][0]["kernel"] for manifest in found.values()} == {"banded"}
    assert {manifest["state"] for manifest in found.values()} == {"finished"}
    (blocks,) = {manifest["blocks"]["count"] for manifest in found.values()}
    assert blocks == 16384 // 256


def test_the_variants_do_differ_in_what_they_learn(sweep: Path) -> None:
    curves = {path.read_text() for path in sweep.glob("*/metrics.csv")}
    assert len(curves) == len(VARIANTS)


def test_a_sweep_ends_with_a_comparison_of_all_its_runs(sweep: Path) -> None:
    folder = sweep / "pilot_table"
    with open(folder / "estimates.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert sorted({row["variant"] for row in rows if row["measure"] == "excess"}) == sorted(VARIANTS)
    assert (folder / "report.html").stat().st_size > 10_000
    assert (folder / "held_out_loss_by_position.png").stat().st_size > 10_000


def test_a_run_directory_says_what_it_is(sweep: Path) -> None:
    (folder,) = sweep.glob("window_alibi-*")
    names = {path.name for path in folder.iterdir()}
    tables = {"metrics.csv", "timing.csv", "scores.csv", "summary.csv"}
    assert names >= tables | {"config.yaml", "manifest.json", "checkpoints", "loss_by_position.png"}
    manifest = json.loads((folder / "manifest.json").read_text())
    assert folder.name.endswith(manifest["digest"][:8])
    assert manifest["attempts"][0]["packages"]["torch"]
    assert manifest["corpus"]["digest"]
    with open(folder / "scores.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    last = max(int(row["stop_position"]) for row in rows)
    assert last == 8 * 256
    assert {row["measure"] for row in rows} == {
        *("loss_by_position", "whole_prefix", "restarted", "excess", "inside_gain", "excess_by_position")
    }
    (evaluation,) = {row["evaluation"] for row in rows}
    assert evaluation == f"held_out-{manifest['corpus']['digest'][:8]}"
    documents = {row["document"] for row in rows}
    assert len({Sotu().cluster(name) for name in documents}) == 12


def test_a_finished_run_asked_for_again_prints_its_table_and_an_unfinished_one_is_continued(tmp_path: Path) -> None:
    first = lab("train", "experiment=smoke", "model=alibi", cwd=tmp_path)
    assert first.returncode == 0, first.stderr
    assert "excess" in first.stdout
    (folder,) = (tmp_path / "runs").glob("*-sotu-*/")
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    again = lab("train", "experiment=smoke", "model=alibi", cwd=tmp_path)
    assert again.returncode == 0
    assert "is finished" in again.stdout
    table = first.stdout[first.stdout.index("excess (nats)") :]
    assert table in again.stdout
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before

    Run(folder).update_manifest(state="training")
    continued = lab("train", "experiment=smoke", "model=alibi", cwd=tmp_path)
    assert continued.returncode == 0, continued.stderr
    assert "continuing after optimiser step 8 of 8" in continued.stdout
    assert table in continued.stdout
    anew = lab("train", "experiment=smoke", "model=alibi", "overwrite=true", cwd=tmp_path)
    assert anew.returncode == 0
    assert table in anew.stdout


def test_a_run_trained_without_measure_is_scored_when_asked_again(tmp_path: Path) -> None:
    assert lab("train", "experiment=smoke", "measure=none", cwd=tmp_path).returncode == 0
    (folder,) = (tmp_path / "runs").glob("*-sotu-*/")
    weights = next(folder.rglob("weights.safetensors")).stat().st_mtime_ns
    assert not (folder / "scores.csv").exists()
    for segments in (1, 2):
        result = lab("train", "experiment=smoke", f"scoring.segments={segments}", cwd=tmp_path)
        assert result.returncode == 0, result.stderr
        assert "excess" in result.stdout
        with open(folder / "scores.csv", newline="") as file:
            assert {row["segment"] for row in csv.DictReader(file)} == set(map(str, range(segments)))
    assert next(folder.rglob("weights.safetensors")).stat().st_mtime_ns == weights


def test_a_second_process_on_one_run_is_refused_and_a_killed_holder_leaves_no_lock(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "lab.train", "experiment=smoke", "scale.tokens=1024000"]
    first = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    assert first.stdout is not None
    assert "parameters" in first.stdout.readline()
    second = lab("train", *command[3:], cwd=tmp_path)
    assert f"is being trained or scored by process {first.pid} on " in the_one_line(second)
    first.kill()
    first.communicate()
    third = lab("train", *command[3:], "resume.allow=[all]", cwd=tmp_path)
    assert "resume.allow is 'all': give code, packages, hardware or ranks" in the_one_line(third)
    fourth = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    assert fourth.stdout is not None
    assert "continuing after optimiser step" in fourth.stdout.readline()
    fourth.kill()
    fourth.communicate()


def test_documents_too_short_to_score_are_refused_before_training(tmp_path: Path) -> None:
    for split in ("train", "validation", "test"):
        repeats = 10 if split == "test" else 100
        (tmp_path / f"{split}.txt").write_text(f"the {split} of the people of the United States " * repeats)
    paths = [f"data.corpus.{split}={tmp_path / split}.txt" for split in ("train", "validation", "test")]
    result = lab("train", "experiment=smoke", "data=files", "data.lanes=1", *paths, cwd=tmp_path)
    assert "the longest, test.txt, has" in the_one_line(result)
    assert not (tmp_path / "runs").exists()


def test_threads_are_the_number_that_is_asked_for_whatever_the_environment_says(tmp_path: Path) -> None:
    smoke = ("train", "experiment=smoke", "logger=csv", "measure=none")
    asked = lab(*smoke, "threads=1", "runs=asked", cwd=tmp_path, environment=os.environ | {"OMP_NUM_THREADS": "2"})
    assert asked.returncode == 0, asked.stderr
    told = lab(*smoke, "runs=told", cwd=tmp_path, environment=os.environ | {"OMP_NUM_THREADS": "1"})
    assert told.returncode == 0, told.stderr
    runs = [next(tmp_path.glob(f"{name}/*/manifest.json")).parent for name in ("asked", "told")]
    assert [Run(run).manifest["attempts"][0]["hardware"]["threads"] for run in runs] == [1, 1]
    ours, theirs = ((run / "metrics.csv").read_bytes() for run in runs)
    assert ours == theirs
    scored = lab("extrapolate", f"runs={runs[0]}", "measure=excess", "scoring.longest=2", "threads=2", cwd=tmp_path)
    assert scored.returncode == 0, scored.stderr
    assert '"threads": 2' in json.dumps(Run(runs[0]).manifest["measured"])


def test_a_failing_job_does_not_stop_a_sweep_and_a_table_of_failures_ends_it(tmp_path: Path) -> None:
    result = lab("train", "-m", "experiment=smoke", "measure=none", "scale.kv_heads=3,1", "seed=0", cwd=tmp_path)
    assert result.returncode == 1
    assert "Traceback" not in result.stdout + result.stderr
    assert "scale: heads is 2 and kv_heads is 3" in re.sub(r"[\s│]+", " ", result.stdout)
    assert "1 of 2 runs failed" in result.stderr
    assert "Error executing" not in result.stderr
    (finished,) = (tmp_path / "runs").glob("*/manifest.json")
    assert json.loads(finished.read_text())["state"] == "finished"


def test_a_plan_trains_nothing_and_prints_what_differs(tmp_path: Path) -> None:
    result = lab("train", "-m", "model=nope,rope", "seed=0,1", "plan=true", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    text = re.sub(r"[\s│]+", " ", result.stdout)
    assert text.count("4,718,592") == 4
    assert "model.position.name" in text
    assert "seed" in text
    assert "scale.width" not in text
    assert not list(tmp_path.rglob("*manifest.json"))
    single = lab("train", "scale=tinyllama_1b", "model=rope", "plan=true", cwd=tmp_path)
    assert single.returncode == 0, single.stderr
    assert "1,100,048,384" in single.stdout


def test_help_names_the_choices(tmp_path: Path) -> None:
    result = lab("train", "--help", cwd=tmp_path)
    assert result.returncode == 0
    for word in (*VARIANTS, "tinyllama_1b", "muon", "wsd", "plan", "overwrite"):
        assert word in result.stdout


def test_out_of_memory_is_one_line_with_an_estimate_and_the_key_to_lower(tmp_path: Path) -> None:
    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_AS, (6 * 2**30, 6 * 2**30))

    huge = ["scale.micro_batch=8192", "scale.batch_tokens=524288", "scale.tokens=2097152", "scale.hidden=8192"]
    result = lab("train", "experiment=smoke", *huge, cwd=tmp_path, before=limit)
    assert result.returncode == 1
    (line,) = [line for line in result.stderr.splitlines() if line.strip()]
    assert re.search(r"out of memory at optimiser step 1: .* GB.*; lower micro_batch \(now 8192\)", line)


def test_a_disk_that_fills_up_ends_the_run_in_one_line_that_names_the_file(tmp_path: Path) -> None:
    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))

    result = lab("train", "experiment=smoke", "measure=none", "logger=csv", cwd=tmp_path, before=limit)
    assert result.returncode == 1
    line = result.stderr.splitlines()[-1]
    assert "Traceback" not in result.stderr
    assert re.match(r"error: .*weights\.safetensors cannot be written: file too large", line)
    assert not list(tmp_path.rglob("weights.safetensors"))


def test_tensorboard_has_the_curves_of_training_by_tokens_and_those_of_scoring_by_position(tmp_path: Path) -> None:
    command = ("train", "experiment=smoke", "logger=tensorboard", "measure=[excess,loss_by_position]")
    steps = ("scale.tokens=40960", "trainer.checkpoint_every=3", "trainer.log_every=1")
    killed = lab(*command, *steps, cwd=tmp_path, environment=os.environ | {"LAB_KILL_AT": "before-rename:4"})
    assert killed.returncode == -9, killed.stderr
    continued = lab(*command, *steps, cwd=tmp_path)
    assert continued.returncode == 0, continued.stderr
    (run,) = (path.parent for path in tmp_path.glob("runs/*/manifest.json"))
    rows = list(csv.DictReader((run / "metrics.csv").open(newline="")))
    training = EventAccumulator(str(run / "tensorboard")).Reload()
    logged = [(event.step, event.value) for event in training.Scalars("loss_nats")]
    assert [step for step, _ in logged] == [int(row["tokens"]) for row in rows]
    assert [value for _, value in logged] == pytest.approx([float(row["loss_nats"]) for row in rows])
    (folder,) = (run / "tensorboard").glob("scores-held_out-*")
    scored = EventAccumulator(str(folder)).Reload()
    excess = scored.Scalars("scores/excess")  # by eighths of C, which are alike in tokens
    with (run / "summary.csv").open(newline="") as file:
        (told,) = [row for row in csv.DictReader(file) if row["measure"] == "excess"]
    assert sum(event.value for event in excess) / len(excess) == pytest.approx(float(told["mean"]), rel=1e-4)
    assert [event.step for event in excess] == sorted(event.step for event in excess)
    assert len(scored.Scalars("scores/loss_by_position")) > 4
    again = lab("extrapolate", f"runs={run}", "measure=excess", cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    assert len(list(folder.iterdir())) == 1
