"""Corpora of files, near and far, as a user points the lab at them."""

import json
import re
from pathlib import Path

import pytest
from commands import lab, the_one_line
from oracles.fault_server import random_faults, serve
from oracles.redpajama_folder import make_redpajama

from lab.base.errors import UserError
from lab.experiment.sweep import Sweep
from lab.runs.finding import runs_of

TRAIN = ("model=nope", "experiment=smoke", "measure=none", "logger=csv", "scale.validation_blocks=4")
FAULTS = ({"reset_after": 20_000}, {"status": 503}, {"status": 500}, {"status": 429}, {"short_by": 1000})
HELD_OUT = ("data.corpus.validation=v.txt", "data.corpus.test=t.txt", "data.lanes=1")


def redpajama(urls: str, manifest: str) -> tuple[str, ...]:
    """A corpus read in chunks, as a large one is."""
    corpus = (f"data.corpus.urls={urls}", f"data.corpus.manifest={manifest}", "data.corpus.small_bytes=0")
    patience = ("data.corpus.timeout_seconds=5", "data.corpus.deadline_seconds=60")
    return ("data=redpajama", "data.lanes=2", "data.tile=8", *corpus, *patience)


def fingerprint(runs: Path) -> str:
    (path,) = runs.glob("*/manifest.json")
    blocks = json.loads(path.read_text())["blocks"]
    assert blocks["count"] == 128
    return str(blocks["fingerprint"])


def test_redpajama_over_a_server_with_faults_trains_to_the_fingerprint_of_the_disk(tmp_path: Path) -> None:
    urls = make_redpajama(tmp_path / "redpajama")
    found = {}
    with serve(urls.parent) as server:
        server.plan = random_faults(0, 0.3, FAULTS)
        for name, place in (("disk", str(urls)), ("server", f"{server.url}/{urls.name}")):
            settings = redpajama(place, f"{name}.json")
            line = the_one_line(lab("train", *TRAIN, *settings, f"runs={name}", cwd=tmp_path))
            assert re.search(rf"{name}\.json: .*; make it with python -m lab\.prepare manifest", line)
            made = lab("prepare", "manifest", *settings, cwd=tmp_path)
            assert made.returncode == 0, made.stderr
            result = lab("train", *TRAIN, *settings, f"runs={name}", cwd=tmp_path)
            assert result.returncode == 0, result.stderr
            found[name] = fingerprint(tmp_path / name)
        faults = [line for line in result.stderr.splitlines() if "; attempt 2 in" in line]
    assert found["disk"] == found["server"]
    assert faults, result.stderr


def test_a_file_that_is_no_longer_as_the_manifest_says_is_an_error(tmp_path: Path) -> None:
    urls = make_redpajama(tmp_path / "redpajama", letters=600_000)
    settings = redpajama(str(urls), "manifest.json")
    assert lab("prepare", "manifest", *settings, cwd=tmp_path).returncode == 0
    with (tmp_path / "redpajama" / "wikipedia" / "wiki.jsonl").open("a") as file:
        file.write("{}\n")
    line = the_one_line(lab("train", *TRAIN, *settings, cwd=tmp_path))
    assert re.search(r"wiki\.jsonl: \d+ bytes long, the manifest says \d+; restore the file or make the manifest", line)
    line = the_one_line(lab("prepare", "manifest", *settings, cwd=tmp_path))
    assert line == "error: manifest.json: exists; give another --output, or --overwrite to replace it"


FOLDER = ("train", *TRAIN, "data=files", "runs='x[1]'")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A folder with a run of a folder of twenty texts, and what it said on stderr."""
    folder = tmp_path_factory.mktemp("texts")
    (folder / "mytexts").mkdir()
    for number in range(20):
        (folder / "mytexts" / f"{number}.txt").write_text(f"text {number} some words to train on " * 100)
    (folder / "mytexts" / "notes.md").write_text("not for training")
    result = lab(*FOLDER, "data.corpus.train=mytexts", cwd=folder)
    assert result.returncode == 0, result.stderr
    return folder, result.stderr


def test_a_folder_of_texts_is_enough_to_train_on(trained: tuple[Path, str]) -> None:
    folder, errors = trained
    for told in (
        "mytexts: 20 files are read, 1 passed over",
        "validation and test are made of training, 0.05 of its documents or chunks each",
        "lanes: 18, as many as training has documents or chunks (32 with more of them)",
    ):
        assert errors.count(told) == 1, errors
    (path,) = folder.glob("*/*/manifest.json")
    assert json.loads(path.read_text())["identity"]["data"]["lanes"] == 18
    again = lab(*FOLDER, "data.corpus.train='mytexts/*.txt'", cwd=folder)
    assert "is finished" in again.stdout, again.stderr


def test_a_run_in_a_folder_with_brackets_is_found_by_its_path_and_by_a_pattern(trained: tuple[Path, str]) -> None:
    (path,) = (each.parent for each in trained[0].glob("*/*/manifest.json"))
    assert path.parent.name == "x[1]"
    for given in (str(path), f"{path.parent}/*", f"{path.parent}/nope*"):
        assert [run.path for run in runs_of(given)] == [path]


def test_equal_failures_of_a_sweep_are_told_once_with_how_many_runs(capsys: pytest.CaptureFixture[str]) -> None:
    failed = [*((f"nope seed {seed}", "no manifest") for seed in range(4)), ("rope seed 0", "another")]
    with pytest.raises(UserError, match="5 of 5 runs failed; the table above says why"):
        Sweep(failed=failed).conclude()
    out = capsys.readouterr().out
    assert (out.count("no manifest"), out.count("another")) == (1, 1)
    assert "4 runs: nope seed 0, nope seed 1, nope seed 2, ..." in out
    assert "rope seed 0" in out


def test_skipped_documents_are_counted_in_the_manifest_and_told_in_the_log(tmp_path: Path) -> None:
    good = "".join(json.dumps({"text": f"word{number} " * 20}) + "\n" for number in range(40))
    (tmp_path / "a.jsonl").write_text(good + '{"text": 3}\n' + good.replace("word", "other") + '{"text": "cut')
    for name in ("v.txt", "t.txt"):
        (tmp_path / name).write_text(f"{name} some words to validate on " * 100)
    command = ("train", *TRAIN, "data=files", "data.corpus.train=a.jsonl", *HELD_OUT)
    line = the_one_line(lab(*command, cwd=tmp_path), last=True)
    assert re.search(r"a\.jsonl:\d+: ", line)
    assert the_one_line(lab(*command, "data.workers=1", "runs=worker", cwd=tmp_path), last=True) == line
    result = lab(*command, "data.corpus.on_error=skip", "runs=skip", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    (path,) = tmp_path.glob("skip/*/manifest.json")
    skipped = json.loads(path.read_text())["skipped_documents"]
    assert set(skipped) <= {"a.jsonl:41", "a.jsonl:82"}
    assert skipped
    for reason in skipped.values():
        assert f"skipped {reason}" in result.stderr
    assert f"skipped {len(skipped)} document" in result.stdout
