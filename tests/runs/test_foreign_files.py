"""Every file of a run is foreign input: whatever it holds, a command tells it in a line, and the list is whole."""

import gzip
import io
import json
import os
import pickle
import pty
import shutil
import subprocess
import sys
from collections.abc import Callable
from itertools import cycle
from pathlib import Path
from typing import Any

import pytest
from commands import lab, the_one_line

from lab.base.errors import UserError
from lab.base.files import sha256_of
from lab.base.tables import read_table
from lab.runs.checkpoints import Checkpoint, _digest_of
from lab.runs.identity import digest
from lab.runs.manifest import write_manifest

Corrupt = Callable[[Path], object]
STEP = "checkpoints/step=00000004"
TABLES = ("metrics.csv", "timing.csv", "scores.csv")
FILES = ("manifest.json", "config.yaml", *TABLES, f"{STEP}/checkpoint.json", f"{STEP}/weights.safetensors")
CONTINUED = (
    *("experiment=smoke", "logger=csv", "measure=none", "trainer.accelerator=cpu", "trainer.log_every=1"),
    *("scale.tokens=4096", "trainer.checkpoint_every=2", "model=rope"),
)
SCORE = ("measure=truncated_perplexity", "scoring.documents=1", "scoring.longest=2", "accelerator=cpu")


def instead(make: Corrupt) -> Corrupt:
    """Something else at the place of a file."""

    def corrupt(path: Path) -> None:
        path.unlink(missing_ok=True)
        make(path)

    return corrupt


def holding(content: bytes) -> Corrupt:
    return instead(lambda path: path.write_bytes(content))


def huge(path: Path) -> None:
    with open(path, "ab") as file:
        file.truncate(3 * 2**30)  # sparse: it takes no place


ANYTHING: dict[str, Corrupt] = {
    "empty": holding(b""),
    "not UTF-8": holding(b"\xff\xfe\x00\x80\n"),
    "nested deep": holding(b"[" * 200_000),
    "deep mappings": holding(b'{"a":' * 200_000),
    "a number": holding(b"7"),
    "null": holding(b"null"),
    "a text": holding(b'"text"'),
    "a list": holding(b"[[1, 2]]"),
    "zeros": holding(b"\0" * 100),
    "a long line": holding(b"a," * 200_000),
    "escape sequences": holding(b"\x1b[2J\x1b[31m: red\n\x1b]0;title\x07\n"),
    "half": lambda path: os.truncate(path, path.stat().st_size // 2 if path.exists() else 0) if path.exists() else None,
    "huge": huge,
    "missing": instead(lambda path: None),
    "a folder": instead(Path.mkdir),
    "a FIFO": instead(os.mkfifo),
    "a link to nothing": instead(lambda path: path.symlink_to("nowhere")),
    "a link to itself": instead(lambda path: path.symlink_to(path.name)),
    "a device": instead(lambda path: path.symlink_to("/dev/zero")),
    "a pickle": holding(pickle.dumps({"weights": print})),
    "aliases of aliases": holding(
        b"seed: &a [x, x, x, x, x, x, x, x, x]\n"
        + b"".join(b"k%d: &%c [%s]\n" % (n, 98 + n, b", ".join([b"*%c" % (97 + n)] * 9)) for n in range(12))
    ),
}


def with_field(*place: str | int, value: Any) -> Corrupt:
    """A manifest with another value at a place, sealed again as who changes it on purpose would."""

    def corrupt(run: Path) -> None:
        manifest = json.loads((run / "manifest.json").read_text())
        node = manifest
        for each in place[:-1]:
            node = node[each]
        node[place[-1]] = value
        if place[0] == "identity":
            manifest["digest"] = digest(manifest["identity"])
        write_manifest(run, manifest)

    return corrupt


def with_row(name: str, **values: str) -> Corrupt:
    """A table whose last row has other values."""

    def corrupt(run: Path) -> None:
        lines = (run / name).read_text().splitlines()
        last = dict(zip(lines[0].split(","), lines[-1].split(","), strict=True)) | values
        (run / name).write_text("\n".join([lines[0], *lines[1:-1], ",".join(last.values())]) + "\n")

    return corrupt


def resealed(step: Path) -> None:
    """checkpoint.json says again what the files are."""
    listed = json.loads((step / "checkpoint.json").read_text())
    del listed["sha256"]
    for name in listed["files"]:
        listed["files"][name] = {"bytes": (step / name).stat().st_size, "sha256": sha256_of(step / name)}
    (step / "checkpoint.json").write_text(json.dumps(listed | {"sha256": _digest_of(listed)}))


def disguised(run: Path) -> None:
    """A pickle that calls something, named as weights, with all digests made anew."""
    (run / STEP / "weights.safetensors").write_bytes(pickle.dumps(Calls(run / "called")))
    resealed(run / STEP)
    weights = sha256_of(run / STEP / "weights.safetensors")
    proof = json.loads((run / "manifest.json").read_text())["proof"]
    with_field("proof", value=proof | {"weights": proof["weights"] | {"4": weights}})(run)


class Calls:
    """What pickle would call os.mkdir for."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., object], tuple[str]]:
        return os.mkdir, (str(self.path),)


def orphan(name: str) -> dict[str, Any]:
    return {"name": name, "digest": "0" * 64, "step": 4, "weights_sha256": "0" * 64}


DERIVED = {"kind": "derived", "extensions": [{"name": "temperature", "temperature": 2.0}]}
CHANGED: dict[str, Corrupt] = {
    **{f"tokens {value!r}": with_field("tokens", value=value) for value in (0, -1, "many", None, 1.5, 10**400, [])},
    **{
        f"attempts {value!r}": with_field("attempts", value=value)
        for value in ("text", [], [1], [{"job": "x"}], [{"job": {"id": 3}}], [{"hardware": []}], [{"code": "x"}], {})
    },
    **{f"identity.data {value!r}": with_field("identity", "data", value=value) for value in ("x", [], None, {})},
    **{f"identity.start {value!r}": with_field("identity", "start", value=value) for value in ("x", [1], {"step": 1})},
    **{f"context {value!r}": with_field("identity", "scale", "context", value=value) for value in ("x", None, 0)},
    **{f"measured {value!r}": with_field("measured", value=value) for value in ([], {"a": {}}, {"a": 1}, "x")},
    **{f"scored {value!r}": with_field("scored", value=value) for value in ([], {"a": 1}, {"a/b": "c"})},
    **{f"documents {value!r}": with_field("documents", value=value) for value in ([], {"a": []}, {"a": {"b": 1}})},
    **{f"proof {value!r}": with_field("proof", value=value) for value in ({}, [], {"weights": 1, "metrics": ""})},
    **{f"extensions {value!r}": with_field("extensions", value=value) for value in ("x", [1], [{"name": "../x"}])},
    **{f"format {value!r}": with_field("format", value=value) for value in (None, [], "3", 10**400)},
    **{f"state {value!r}": with_field("state", value=value) for value in (3, None, "\x1b[2J[red]done\nrun")},
    **{f"kind {value!r}": with_field("kind", value=value) for value in ("derived", 1, "other")},
    **{
        f"a parent {name[:20]!r}": lambda run, name=name: [
            with_field(key, value=value)(run) for key, value in (DERIVED | {"parent": orphan(name)}).items()
        ]
        for name in ("../../etc", "/etc", "..", ".", "", "a\0b", "x" * 300, "\x1b[31mred", "\ud800")
    },
    **{
        f"{name} {value!r}": with_row(name, **{column: value})
        for name, column in (("metrics.csv", "loss_nats"), ("metrics.csv", "tokens"), ("timing.csv", "seconds"))
        for value in ("word", "", "nan", "inf", "-1e999", "=cmd|' /C calc'!A0", "9" * 5000)
    },
    "metrics.csv of other columns": lambda run: (run / "metrics.csv").write_text("a,b\n1,2\n"),
    "a row too long": lambda run: (run / "metrics.csv").write_text("step,tokens\n1,2,3\n"),
    "rate a word": with_row("timing.csv", tokens_per_second="fast"),
    "scores nan": with_row("scores.csv", loss_nats="nan"),
    "scores infinity": with_row("scores.csv", loss_nats="-inf"),
    "scores overflow": with_row("scores.csv", loss_nats="1e999"),
    "scores formula": with_row("scores.csv", loss_nats="=1+1"),
    "a pickle as weights": disguised,
    "a step folder that is a link": lambda run: [
        shutil.move(run / STEP, run.parent.parent / "away"),
        (run / STEP).symlink_to(run.parent.parent / "away"),
    ],
    "step folders of odd names": lambda run: [
        (run / "checkpoints" / name).mkdir()
        for name in ("step=" + "9" * 200, "step=٠٠٠٠٠٠٠٤", "step=../../x".replace("/", "."))
    ],
    "a lock nested deep": lambda run: (run.parent / f".{run.name}.lock").write_bytes(b"[" * 200_000),
    "a lock with escapes": lambda run: (run.parent / f".{run.name}.lock").write_text(
        json.dumps({"process": "\x1b[2J", "host": "[red]\nx", "job": {}})
    ),
    "a lock that is a FIFO": lambda run: instead(os.mkfifo)(run.parent / f".{run.name}.lock"),
}
CASES: dict[str, Corrupt] = {
    **{
        f"{file}: {what}": lambda run, file=file, act=act: act(run / file)
        for file in FILES
        for what, act in ANYTHING.items()
    },
    **CHANGED,
}


@pytest.fixture(scope="session")
def scored(trained: Path, here, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scored")
    shutil.copytree(trained / "runs", folder / "runs")
    assert here("extrapolate", "runs=runs/*", *SCORE, folder=folder).returncode == 0
    return folder


def runs_of(folder: Path) -> tuple[Path, Path]:
    nope, rope = sorted((folder / "runs").glob("[nr]ope-*"))
    return nope, rope


COMMANDS = cycle(["extrapolate", "generate", "extend", "compare"])
WITH_COMMAND = {name: next(COMMANDS) for name in CASES}


@pytest.mark.parametrize("name", CASES)
def test_a_corrupted_file_is_told_in_a_line_and_hides_no_other_run(
    name: str, scored: Path, here, tmp_path: Path
) -> None:
    shutil.copytree(scored / "runs", tmp_path / "runs")
    healthy, other = runs_of(tmp_path)
    CASES[name](other)
    result = here("status", folder=tmp_path)
    assert result.returncode == 0
    assert "Traceback" not in result.stdout + result.stderr
    assert "\x1b" not in result.stdout + result.stderr
    assert sum(healthy.name in line and "100 %" in line for line in result.stdout.splitlines()) == 1
    if (other / "manifest.json").exists():
        assert other.name in result.stdout + result.stderr
        assert "cannot be listed" not in result.stderr  # by the last resort
    arguments = {
        "extrapolate": [f"runs=runs/{other.name}", *SCORE],
        "generate": [f"run=runs/{other.name}", "prompt=The", "tokens=1", "accelerator=cpu"],
        "extend": [f"run=runs/{other.name}", "extension=temperature", "extension.temperature=2"],
        "compare": [f"runs=[runs/{healthy.name},runs/{other.name}]", *SCORE],
    }[WITH_COMMAND[name]]
    result = here(WITH_COMMAND[name], *arguments, folder=tmp_path)
    assert "Traceback" not in result.stdout + result.stderr
    assert result.returncode in (0, 1)
    if result.returncode:
        assert result.stderr.splitlines()[-1].startswith("error: ")
    assert not (other / "called").exists()


@pytest.mark.parametrize("value", ["nan", "inf", "-inf", "1e999"])
def test_a_loss_that_is_not_finite_is_refused_when_scores_are_read(
    value: str, scored: Path, here, tmp_path: Path
) -> None:
    shutil.copytree(scored / "runs", tmp_path / "runs")
    _, rope = runs_of(tmp_path)
    with_row("scores.csv", loss_nats=value)(rope)
    result = here("extrapolate", f"runs=runs/{rope.name}", *SCORE, folder=tmp_path)
    assert result.returncode == 1
    assert f"column loss_nats holds {value}, which is no finite number" in result.stderr


def test_a_table_that_unpacks_to_more_than_memory_is_refused(tmp_path: Path) -> None:
    packed = io.BytesIO()
    with gzip.GzipFile(fileobj=packed, mode="wb", compresslevel=1) as file:
        for _ in range(1025):
            file.write(b"\0" * 2**20)
    (tmp_path / "t.csv.gz").write_bytes(packed.getvalue())
    with pytest.raises(UserError, match=r"t\.csv\.gz cannot be read \(it unpacks to more than"):
        read_table(tmp_path / "t.csv.gz")


def test_a_pickle_named_as_weights_is_refused_and_not_run(scored: Path, tmp_path: Path) -> None:
    shutil.copytree(scored / "runs", tmp_path / "runs")
    _, rope = runs_of(tmp_path)
    disguised(rope)
    with pytest.raises(UserError, match=r"weights\.safetensors is damaged"):
        Checkpoint(rope / STEP, 4).weights()
    assert not (rope / "called").exists()


UNFINISHED: dict[str, tuple[Corrupt, str]] = {
    "metrics.csv is not UTF-8": (lambda run: ANYTHING["not UTF-8"](run / "metrics.csv"), "metrics.csv cannot be read"),
    "metrics.csv is a FIFO": (lambda run: ANYTHING["a FIFO"](run / "metrics.csv"), "it is no file"),
    "timing.csv has a word": (with_row("timing.csv", seconds="word", step="2"), "timing.csv has 'word' as seconds"),
    "training.json is nested deep": (
        lambda run: [ANYTHING["nested deep"](run / FIRST / "training.json"), resealed(run / FIRST)],
        "training.json is damaged (it is nested too deep)",
    ),
    "the state is a pickle": (
        lambda run: [ANYTHING["a pickle"](run / FIRST / "training.safetensors"), resealed(run / FIRST)],
        "training.safetensors is damaged",
    ),
}
FIRST = "checkpoints/step=00000002"


@pytest.mark.parametrize("name", UNFINISHED)
def test_a_run_is_not_continued_from_files_that_are_not_its_own(name: str, trained: Path, here, tmp_path: Path) -> None:
    shutil.copytree(trained / "runs", tmp_path / "runs")
    _, rope = runs_of(tmp_path)
    with_field("state", value="training")(rope)
    shutil.rmtree(rope / STEP)
    corrupt, told = UNFINISHED[name]
    corrupt(rope)
    result = here("train", *CONTINUED, folder=tmp_path)
    assert result.returncode == 1
    assert "Traceback" not in result.stderr
    assert told in result.stderr.splitlines()[-1]


def test_a_damaged_checkpoint_that_is_asked_for_is_not_listed_as_there(trained: Path, here, tmp_path: Path) -> None:
    shutil.copytree(trained / "runs", tmp_path / "runs")
    _, rope = runs_of(tmp_path)
    with open(rope / FIRST / "weights.safetensors", "r+b") as file:
        file.seek(-4, os.SEEK_END)
        file.write(b"\1\2\3\4")  # of the same length
    given = (f"run=runs/{rope.name}", "prompt=The", "tokens=1", "checkpoint=2")
    result = here("generate", *given, folder=tmp_path)
    assert "weights.safetensors is damaged: its sha256 differs; checkpoints are there of steps 4" in result.stderr


def test_a_name_with_escapes_is_shown_as_it_is_written_and_scored_under_another_only(
    trained: Path, here, tmp_path: Path
) -> None:
    shutil.copytree(trained / "runs", tmp_path / "runs")
    _, rope = runs_of(tmp_path)
    hostile = rope.with_name("rope-\x1b[31m[red]\nerror: x")
    rope.rename(hostile)
    listed = here("status", folder=tmp_path)
    assert r"rope-\x1b[31m[red]\nerror: x" in listed.stdout
    assert "\x1b" not in listed.stdout + listed.stderr
    for command in (["extrapolate", "runs=runs/rope*", *SCORE], ["extrapolate", "runs=runs/*", *SCORE]):
        line = the_one_line(here(*command, folder=tmp_path))
        assert r"runs/rope-\x1b[31m[red]\nerror: x: its name holds signs that a terminal obeys; rename it" in line


def test_what_a_decoder_says_does_not_steer_the_terminal(trained: Path) -> None:
    _, rope = runs_of(trained)
    outside, inside = pty.openpty()
    command = [sys.executable, "-m", "lab.generate", f"run={rope}", "prompt=\x1b[2Jthe", "tokens=1", "accelerator=cpu"]
    on_terminal = subprocess.run(command, stdout=inside, stderr=subprocess.PIPE, check=False)
    os.close(inside)
    assert on_terminal.returncode == 0, on_terminal.stderr
    assert os.read(outside, 1000).startswith(rb"\x1b[2Jthe")
    through_a_pipe = subprocess.run(command, capture_output=True, check=True)
    assert through_a_pipe.stdout.startswith(b"\x1b[2Jthe")


def test_no_name_in_a_warning_steers_the_terminal(tmp_path: Path) -> None:
    (tmp_path / "train").mkdir()
    (tmp_path / "train" / "a\x1b[2J.jsonl").write_text('{"text": "the state of the union"}\nnot a row\n' * 300)
    for name in ("validation", "test"):
        (tmp_path / f"{name}.txt").write_text(f"the state of the {name} is strong " * 200)
    files = ["train=train", "validation=validation.txt", "test=test.txt", "on_error=skip"]
    command = ["experiment=smoke", "measure=none", "logger=csv", "data=files", "data.lanes=1", "scale.tokens=4096"]
    result = lab("train", *command, *(f"data.corpus.{each}" for each in files), cwd=tmp_path)
    assert "skipped " in result.stderr, result.stdout + result.stderr
    assert r"a\x1b[2J.jsonl" in result.stderr
    assert "\x1b" not in result.stderr
