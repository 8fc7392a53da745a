"""Bad input: one line that names the key or file and what to do, and nothing written."""

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from io import StringIO
from pathlib import Path

import pytest
from commands import lab, the_one_line

from lab.base.commandline import lines_of
from lab.base.errors import UserError
from lab.experiment.completion import settings_class
from lab.experiment.compose import print_help, settings_of
from lab.experiment.hydra_main import train_by_hydra
from lab.experiment.settings import CompareSettings, TrainSettings
from lab.experiment.setup import Setup
from lab.runs.run import Run


def job(*overrides: str) -> Setup:
    return Setup(settings_of("train", TrainSettings, ["experiment=smoke", *overrides]))


REFUSED = {
    "scale.heads=3 scale.kv_heads=2": "scale: heads is 3 and kv_heads is 2",
    "model=rope scale.head_dim=15": "head_dim is 15: RoPE turns pairs",
    "model=window_nope scale.window=0": "scale.window is 0: give 1 or more",
    "scale.context=1 scale.batch_tokens=8": "scale.context is 1: give 2 or more",
    "scale.layers=0": "scale.layers is 0",
    "scale.width=0": "scale.width is 0",
    "scale.heads=0": "scale.heads is 0",
    "scale.tokens=100": "tokens is 100, less than one batch",
    "scale.batch_tokens=1000": "batch_tokens is 1000, not a multiple",
    "scale.micro_batch=0": "scale.micro_batch is 0",
    "scale.warmup_steps=100": "warmup_steps is 100 and the run has 8",
    "tokenizer.path=nowhere.json": "nowhere.json: no such tokenizer file",
    "scale.vocabulary=512": "scale.vocabulary is 512 but the tokenizer",
    "tokenizer.vocabulary=512": "vocabulary is 512 but",
    "kernel=flash9": "kernel flash9 does not exist; choose one of auto, matched, reference",
    "model=alibi kernel=sdpa trainer.compute_dtype=bfloat16": "kernel sdpa cannot serve this model in torch.bfloat16",
    "trainer.compute_dtype=float8": "trainer.compute_dtype is 'float8'",
    "trainer.accelerator=tpu": "trainer.accelerator is 'tpu'",
    "data=files": "data.corpus.train lacks a path; give the path or URL of at least one file",
    "tokenizer=file tokenizer.path=x": "tokenizer.vocabulary must be given",
    "data.lanes=1000": "lanes is 1000",
    "start=run": "start.run must be given: add start.run=... to the command",
    "data.corpus.on_error=ignore": "on_error is 'ignore'",
    "+scale.depth=3": "scale.depth is a key that nothing reads; scale has scale.vocabulary",
    "+colour=red": "colour is a key that nothing reads",
    "+optimizer.nesterov=true": "optimizer.nesterov is a key that nothing reads; optimizer has",
    "runs=''": "runs is ''",
    "seed=-1": "seed is -1",
    "seed=one": "seed is 'one': give a whole number",
    "scale.layers=2.5": "scale.layers is 2.5: give a whole number",
    "scale.learning_rate=0": "scale.learning_rate is 0: give a number above 0",
    "scale.learning_rate=nan": "scale.learning_rate is nan",
    "trainer.log_every=0": "trainer.log_every is 0",
    "optimizer.betas=0.9": "optimizer.betas is 0.9: give a list",
    "schedule.final_fraction=2": "schedule.final_fraction is 2",
    "measure.loss_by_position.bin_tokens=48": "bin_tokens is 48: it must divide C = 64",
    "scale.context=63 scale.batch_tokens=504 measure=excess": "C is 63: the measure excess scores eighths of C",
    "+model.attention.colour=red": "model.attention.colour is a key that nothing reads",
    "+model.position._target_=os.system": "model.position._target_ is a key that nothing reads",
    "model.position.name=os.system": "model.position.name is 'os.system': choose one of nope, rope, alibi",
    "logger.name=papyrus": "logger.name is 'papyrus'",
    "scoring.segments=0": "scoring.segments is 0",
    "scoring.longest=3": "measure.excess.longest is 3: give an even number of contexts",
    "+measure.name=papyrus": "measure.name is a key that nothing reads; measure has measure.",
    "+model.name=rope": "model.name is a key that nothing reads",
    "compare=a/b": "compare is 'a/b': give a name of letters, digits and . _ -",
    "plan=runs.csv": "plan is 'runs.csv': give true or false or the name of a .txt file",
    "resume.allow=code": "resume.allow is 'code': give a list, such as [a,b]",
    "overwrite=yes_please": "overwrite is 'yes_please': give true or false",
    "optimizer.weight_decay=-1": "optimizer.weight_decay is -1",
    "~optimizer": "optimizer must be given: choose one of adamw, muon",
    "data.weights={web:3}": "weights is given, but the corpus has no subsets",
    "measure.loss_by_position.bin_tokens=0": "measure.loss_by_position.bin_tokens is 0",
}


@pytest.mark.parametrize("overrides", REFUSED)
def test_a_bad_value_is_refused_before_anything_is_written(
    overrides: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError) as refusal:
        job(*overrides.split())
    assert REFUSED[overrides] in str(refusal.value)
    assert "\n" not in str(refusal.value)
    assert list(tmp_path.iterdir()) == []


def test_a_logger_whose_package_is_missing_is_refused_before_anything_is_written(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match="the logger wandb needs the package wandb: pip install wandb"):
        job("logger=wandb")


@pytest.mark.parametrize(
    ("content", "reason"),
    [(b"", "empty"), (b"{}", "not a tokenizer"), (b"\xff\xfe\x00", "not a tokenizer")],
)
def test_a_tokenizer_file_that_is_not_one_is_named(content: bytes, reason: str, tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_bytes(content)
    with pytest.raises(UserError, match=reason) as refusal:
        job("tokenizer=file", f"tokenizer.path={path}", "tokenizer.vocabulary=32")
    assert str(path) in str(refusal.value)


@pytest.mark.parametrize(
    ("overrides", "names"),
    [
        (["model=transformer_xl"], ["transformer_xl", "narrow_window_nope", "window_alibi", "rope"]),
        (["scale=galactic"], ["galactic", "tinyllama_1b", "pilot"]),
        (["scale.contxt=12"], ["contxt", "scale.context", "scale.layers"]),
        (["sead=1"], ["sead", "seed", "kernel"]),
        (["optimizer"], ["optimizer"]),
        (["model=null"], ["model=null", "leave model out", "conf/model"]),
        (["=1"], ["group=choice"]),
    ],
)
def test_an_unknown_choice_or_key_is_one_line_that_names_the_choices(
    overrides: list[str], names: list[str], tmp_path: Path
) -> None:
    line = the_one_line(lab("train", *overrides, cwd=tmp_path))
    for name in names:
        assert name in line
    assert list(tmp_path.iterdir()) == []


# Of each command overrides that are wrong, and the beginning of the line that tells each.
ALL_WRONG: dict[str, list[tuple[list[str], list[str]]]] = {
    "train": [
        (
            ["modle=nope", "sead=1", "scale.contxt=3", "+optimizer.nesterov=true", "seed=-1", "model/positon=rope"],
            [
                "modle is a key that nothing reads; did you mean model?",
                "sead is a key that nothing reads; did you mean seed?",
                "scale.contxt is a key that nothing reads; did you mean context?",
                "optimizer.nesterov is a key that nothing reads; optimizer has",
                "seed is -1: give 0 or more",
                "model.positon is a key that nothing reads; did you mean position?",
            ],
        ),
        (
            ["tokenizer=file", "sead=1", "scale.layers=0"],
            [
                "tokenizer.path must be given: add tokenizer.path=... to the command",
                "tokenizer.vocabulary must be given",
                "sead is a key that nothing reads; did you mean seed?",
                "scale.layers is 0: give 1 or more",
            ],
        ),
    ],
    "extrapolate": [
        (
            ["rusn=a", "evalution=kjv", "scoring.longst=3", "checkpoint=first"],
            [
                "rusn is a key that nothing reads; did you mean runs?",
                "evalution is a key that nothing reads; did you mean evaluation?",
                "scoring.longst is a key that nothing reads; did you mean longest?",
                "checkpoint is 'first': give a whole number or last",
            ],
        )
    ],
    "compare": [
        (
            ["factr=model", "measure.copy.strng=3", "margin_nats=0", "mesure=copy"],
            [
                "factr is a key that nothing reads; did you mean factor?",
                "measure.copy.strng is a key that nothing reads; did you mean string?",
                "margin_nats is 0: give a number above 0",
                "mesure is a key that nothing reads; did you mean measure?",
            ],
        )
    ],
    "extend": [
        (
            ["rnu=a", "extention=temperature"],
            [
                "run must be given: add run=... to the command",
                "rnu is a key that nothing reads; did you mean run?",
                "extension must be given: choose one",
                "extention is a key that nothing reads; did you mean extension?",
            ],
        ),
        (
            ["run=a", "extension=temperature", "extension.temprature=2"],
            [
                "extension.temperature must be given: add extension.temperature=... to the command",
                "extension.temprature is a key that nothing reads; did you mean temperature?",
            ],
        ),
        ([], ["run must be given", "extension must be given: choose one"]),
    ],
    "generate": [
        (
            ["rnu=a", "tokns=3", "greedi=true", "top_p=2"],
            [
                "run must be given: add run=... to the command",
                "rnu is a key that nothing reads; did you mean run?",
                "tokns is a key that nothing reads; did you mean tokens?",
                "greedi is a key that nothing reads; did you mean greedy?",
                "top_p is 2: give 1 or less",
            ],
        )
    ],
    "lens": [
        (
            ["rnu=a", "layer=[1]", "dtype=float16", "matrices=[gat]", "top=0"],
            [
                "run must be given: add run=... to the command",
                "rnu is a key that nothing reads; did you mean run?",
                "layer is a key that nothing reads; did you mean layers?",
                "dtype is 'float16'",
                "matrices is 'gat': give query, key",
                "top is 0: give 1 or more",
            ],
        )
    ],
    "plan": [
        (
            ["modle=nope", "gpu=3", "scale.widht=3", "seeds=0"],
            [
                "modle is a key that nothing reads; did you mean model?",
                "gpu is a key that nothing reads; did you mean gpus?",
                "scale.widht is a key that nothing reads; did you mean width?",
                "seeds is 0: give 1 or more",
            ],
        )
    ],
}


@pytest.mark.parametrize(
    ("command", "overrides", "lines"), [(name, *each) for name, cases in ALL_WRONG.items() for each in cases]
)
def test_all_that_is_wrong_is_told_at_once_a_line_each(command: str, overrides: list[str], lines: list[str]) -> None:
    with pytest.raises(UserError) as refusal:
        settings_of(command, settings_class(command), overrides)
    told = str(refusal.value).splitlines()
    assert len(told) == len(lines), told
    for line in lines:
        assert sum(each.startswith(line) for each in told) == 1, (line, told)


@pytest.mark.parametrize("sweep", [[], ["-m", "model=rope,nope"], ["-m", "modle=a,b", "seed=range(3)"]])
def test_hydras_command_tells_all_wrong_keys_of_a_run_and_of_a_sweep(
    sweep: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    wrong = ["sead=1", "scale.contxt=3"]
    monkeypatch.setattr("sys.argv", ["lab.train", *sweep, *wrong])
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")  # as run_command has it
    with pytest.raises(UserError) as refusal:
        train_by_hydra()
    told = str(refusal.value).splitlines()
    keys = ["sead", "scale.contxt", *(["modle"] if "modle=a,b" in sweep else [])]
    assert sorted(each.partition(" is a key that nothing reads; did you mean")[0] for each in told) == sorted(keys)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("command", [*ALL_WRONG])
def test_help_is_told_whatever_must_still_be_given(command: str, tmp_path: Path) -> None:
    kind = settings_class(command)
    with redirect_stdout(StringIO()) as told:
        print_help(command, kind, "What it is for.", [])
    keys = [name for name in kind.model_fields if name not in ("model", "scale")]
    assert all(re.search(rf"\b{name}\b", told.getvalue()) for name in keys)


@pytest.mark.parametrize(
    ("override", "told"),
    [
        (
            "runs={a:b}",
            "(runs={a:b}: Cannot merge DictConfig with ListConfig); --help shows what its key holds",
        ),
        (
            "+runs.x=2",
            "(+runs.x=2: Index 'x' (str) is not an int); --help shows what its key holds",
        ),
        (
            "runs.a=1",
            "(ValueError: invalid literal for int() with base 10: 'a'); write key=value or group=choice",
        ),
        ("runs=[1,2]", "runs is [1, 2]: give a text"),
        ("runs=null", "runs is null: give a text or a list, such as [a,b]"),
    ],
)
def test_a_value_of_another_kind_than_its_key_holds_is_one_line_that_says_why(override: str, told: str) -> None:
    with pytest.raises(Exception) as error:  # noqa: PT011 - Hydra's own too, which lines_of puts into words
        settings_of("compare", CompareSettings, [override])
    (line,) = lines_of(error.value)
    assert line.removeprefix("an override cannot be read ") == told


def test_a_refused_value_on_the_command_line_is_one_line(tmp_path: Path) -> None:
    line = the_one_line(lab("train", "experiment=smoke", "scale.heads=3", "scale.kv_heads=2", cwd=tmp_path))
    assert "kv_heads is 2" in line
    assert list(tmp_path.iterdir()) == []


def test_an_unreadable_document_is_named_with_file_and_row_unless_skipping_is_asked_for(tmp_path: Path) -> None:
    good = '{"text": "' + "the people of the United States " * 400 + '"}\n'
    for split in ("validation", "test"):
        (tmp_path / f"{split}.jsonl").write_text(good.replace("people", split) * 3)
    (tmp_path / "train.jsonl").write_text(good + '{"title": "no text"}\n' + good.replace("of", "in"))
    paths = [f"data.corpus.{split}={tmp_path / split}.jsonl" for split in ("train", "validation", "test")]
    common = ["experiment=smoke", "data=files", "data.lanes=1", *paths, "measure=none"]
    result = lab("train", *common, cwd=tmp_path)
    assert result.returncode == 1
    assert "Traceback" not in result.stderr
    (line,) = result.stderr.splitlines()
    assert "train.jsonl:2: lacks the field 'text'" in line
    skipping = lab("train", *common, "data.corpus.on_error=skip", cwd=tmp_path)
    assert skipping.returncode == 0, skipping.stderr
    (folder,) = [path for path in (tmp_path / "runs").glob("nope-*/") if Run(path).manifest["state"] == "finished"]
    assert Run(folder).manifest["skipped_documents"].keys() == {"train.jsonl:2"}
    assert "skipped 1 document" in skipping.stdout


def test_a_run_directory_that_holds_a_different_run_is_refused_and_left_alone(tmp_path: Path) -> None:
    first = job("seed=1", f"runs={tmp_path}")
    other = job("seed=2", f"runs={tmp_path}")
    other.run.create(other.config, {"digest": other.digest})
    shutil.move(other.run.path, first.run.path)
    before = (first.run.path / "manifest.json").read_bytes()
    result = lab("train", "experiment=smoke", "seed=1", f"runs={tmp_path}", "overwrite=true", cwd=tmp_path)
    assert "holds a different run" in the_one_line(result)
    assert (first.run.path / "manifest.json").read_bytes() == before


def test_a_directory_that_is_no_run_is_never_deleted(tmp_path: Path) -> None:
    mine = job(f"runs={tmp_path}").run.path
    mine.mkdir()
    (mine / "thesis.tex").write_text("years of work")
    result = lab("train", "experiment=smoke", f"runs={tmp_path}", "overwrite=true", cwd=tmp_path)
    assert "is not a run directory" in the_one_line(result)
    assert (mine / "thesis.tex").read_text() == "years of work"


def test_a_folder_that_cannot_be_written_is_one_line_that_names_it(tmp_path: Path) -> None:
    # Not even root can make a directory in /proc.
    result = lab("train", "experiment=smoke", "measure=none", "runs=/proc/runs", cwd=tmp_path)
    assert "/proc/runs" in the_one_line(result)


def test_runs_that_is_a_file_is_one_line_that_names_it(tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("not a folder")
    assert "runs" in the_one_line(lab("train", "experiment=smoke", "measure=none", cwd=tmp_path))
    assert (tmp_path / "runs").read_text() == "not a folder"


# Where a command is started.


def test_a_working_folder_that_was_deleted_is_one_line(tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    result = lab("train", "experiment=smoke", "measure=none", cwd=gone, before=gone.rmdir)
    assert "the working folder is not there any more: change to one that is" in the_one_line(result)


@pytest.mark.parametrize("home", [None, "/proc/nowhere", "/dev/null"])
def test_no_home_is_no_obstacle(home: str | None, tmp_path: Path) -> None:
    environment = {key: value for key, value in os.environ.items() if key != "HOME"} | ({"HOME": home} if home else {})
    result = lab("train", "experiment=smoke", "measure=none", "logger=csv", cwd=tmp_path, environment=environment)
    assert result.returncode == 0, result.stderr
    assert lab("status", cwd=tmp_path, environment=environment).returncode == 0


@contextmanager
def mounted(folder: Path, options: str) -> Iterator[Path]:
    """A file system of its own in a folder, if that is allowed here."""
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", options, "none", str(folder)]
    if os.geteuid() != 0 or subprocess.run(command, capture_output=True, check=False).returncode != 0:
        pytest.skip("needs the right to mount")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def test_a_disk_that_is_full_ends_in_a_line_and_the_run_goes_on_when_there_is_space(tmp_path: Path) -> None:
    with mounted(tmp_path / "small", "size=2600k") as small:
        command = ["train", "experiment=smoke", "measure=none", "logger=csv", f"runs={small}"]
        line = the_one_line(lab(*command, "trainer.checkpoint_every=1", cwd=tmp_path), last=True)
        assert re.search(r"cannot be written: no space left on device; free space, or choose another folder", line)
        assert not list(small.rglob("*.writing"))
        subprocess.run(["mount", "-o", "remount,size=64m", str(small)], check=True)
        again = lab(*command, "trainer.checkpoint_every=1", cwd=tmp_path)
        assert again.returncode == 0, again.stderr


def test_a_folder_that_is_read_only_is_one_line_and_what_is_in_it_can_be_listed(tmp_path: Path) -> None:
    with mounted(tmp_path / "still", "size=64m") as still:
        command = ["train", "experiment=smoke", "measure=none", "logger=csv", f"runs={still / 'runs'}"]
        assert lab(*command, cwd=tmp_path).returncode == 0
        subprocess.run(["mount", "-o", "remount,ro", str(still)], check=True)
        for refused in (
            command,
            [*command, "overwrite=true"],
            [*command, "seed=1"],
            ["extrapolate", f"runs={still}/runs/*", "measure=excess"],
        ):
            line = the_one_line(lab(*refused, cwd=tmp_path), last=True)
            assert "read-only file system" in line
            assert str(still) in line
        listed = lab("status", str(still / "runs"), cwd=tmp_path)
        assert listed.returncode == 0
        assert "100 %" in listed.stdout
