"""Corpora of files, near and far, as a user points the lab at them."""

import json
import re
from pathlib import Path

from commands import lab, the_one_line
from oracles.fault_server import random_faults, serve
from oracles.redpajama_folder import make_redpajama

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
