"""Whatever stands on a command line: it works, or is told in a line, and nothing is left behind."""

import shlex
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from commands import the_one_line

from lab.__main__ import commands
from lab.base.commandline import lines_of
from lab.base.errors import UserError
from lab.base.settings import explained, flatten
from lab.experiment.completion import settings_class
from lab.experiment.compose import composed, groups_of, settings_of
from lab.runs.manifest import write_manifest
from lab.runs.run import Run

SMOKE = ("experiment=smoke", "logger=csv", "measure=none", "trainer.accelerator=cpu")
GIVEN = {
    "train": ["experiment=smoke"],
    "extrapolate": ["runs=a"],
    "compare": ["runs=a"],
    "extend": ["run=a", "extension=temperature", "extension.temperature=2"],
    "generate": ["run=a"],
    "lens": ["run=a"],
    "plan": [],
    "analyze": ["runs=a", "study=state_norms"],
    "import_model": ["source=a"],
    "export": ["run=a", "to=b"],
    "evaluate": ["run=a", "tasks=[c]"],
}


def keys_of(command: str) -> list[str]:
    """The groups of a command, and its keys at the top and one below."""
    from omegaconf import OmegaConf

    raw = OmegaConf.to_container(composed(command, GIVEN[command]), resolve=False)
    parts = [key.split(".") for key in flatten(raw)]  # type: ignore[arg-type]
    return sorted({*groups_of(command), *(part[0] for part in parts), *(".".join(part[:2]) for part in parts)})


@pytest.mark.parametrize("command", GIVEN)
def test_a_key_that_is_deleted_is_told_in_lines(command: str) -> None:
    errors: dict[str, Exception] = {}
    for key in keys_of(command):
        try:
            settings_of(command, settings_class(command), [*GIVEN[command], f"~{key}"])
        except Exception as error:
            errors[key] = error
    assert errors
    assert [f"~{key}: {error!r}" for key, error in errors.items() if not lines_of(error)] == []
    assert max(len(line) for error in errors.values() for line in lines_of(error)) < 300


@pytest.mark.parametrize("options", [[], ["-m", "seed=0,1"]])
@pytest.mark.parametrize("key", ["~runs", "~data.corpus", "~data", "~seed", "~hydra.sweep.dir", "~hydra.sweep"])
def test_lab_train_without_a_key_is_one_line(key: str, options: list[str], here: Callable, tmp_path: Path) -> None:
    if "seed=0,1" in options and key == "~seed":
        options = ["-m", "kernel=auto,sdpa"]
    result = here("train", *SMOKE, *options, key, "plan=true", folder=tmp_path)
    if result.returncode or not key.startswith("~hydra"):
        the_one_line(result, last=True)
    left = [path.name for path in tmp_path.glob("*/*")]
    assert left in ([], ["multirun.yaml"])  # of a sweep Hydra makes the folder, and writes down what was asked for


WITH_WORD = {"prepare": ["blocks"], "bench": ["attention"]}


@pytest.mark.parametrize("option", ["--nonsense", "--seed=1", "-x"])
@pytest.mark.parametrize("command", sorted(commands()))
def test_an_option_that_does_not_exist_is_one_line_of_the_labs_own(
    command: str, option: str, here: Callable, tmp_path: Path
) -> None:
    line = the_one_line(here(command, *WITH_WORD.get(command, []), option, folder=tmp_path))
    assert option in line
    assert "--help" in line
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("place", range(4))
def test_m_works_wherever_it_stands(place: int, here: Callable, tmp_path: Path) -> None:
    arguments = [*SMOKE[:2], "seed=0,1", "plan=true"]
    arguments.insert(place, "-m")
    result = here("train", *arguments, folder=tmp_path)
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("-seed") >= 2


def test_overrides_may_stand_on_both_sides_of_an_option(here: Callable, tmp_path: Path) -> None:
    line = the_one_line(here("prepare", "blocks", SMOKE[0], "--processes", "0", "scale.tokens=4096", folder=tmp_path))
    assert "--processes is 0" in line
    line = the_one_line(here("prepare", "blocks", SMOKE[0], "--processes", "1", "sead=1", folder=tmp_path))
    assert "sead is a key that nothing reads" in line


@pytest.mark.parametrize("command", ["train", "extrapolate", "compare"])
@pytest.mark.parametrize("names", ["[copy,copy]", "[excess, copy,excess]"])
def test_a_measure_that_is_named_twice_is_told(command: str, names: str, here: Callable, tmp_path: Path) -> None:
    runs = [] if command == "train" else ["runs=a"]
    line = the_one_line(here(command, *runs, f"measure={names}", folder=tmp_path))
    assert "twice: name each once" in line


@pytest.mark.parametrize("choice", ["adapter=null", "model=null", "objective="])
@pytest.mark.parametrize("command", ["train", "plan"])
def test_a_choice_of_nothing_is_told(command: str, choice: str, here: Callable, tmp_path: Path) -> None:
    group = choice.partition("=")[0]
    line = the_one_line(here(command, choice, folder=tmp_path))
    assert line.endswith(f"{choice} chooses nothing: leave {group} out, or name one of conf/{group}")


def test_no_measure_at_all_is_told(here: Callable, tmp_path: Path) -> None:
    for command in ("train", "extrapolate"):
        with pytest.raises(UserError, match="measure must be given: choose one"):
            settings_of(command, settings_class(command), [*GIVEN[command], "measure=[]"])


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["train", *SMOKE, "data.workers=100000"], "data.workers is 100000: give 1024 or less"),
        (["train", *SMOKE, "data.workers=3"], "lanes is 32: it must be a multiple of processes x workers = 1 x 3"),
        (["train", *SMOKE, f"compare={'n' * 300}"], "give a text of at most 100 signs"),
        (["train", *SMOKE, f"runs=a/b/{'n' * 300}"], "file name too long; choose a shorter name"),
        (["plan", "gpus=1000000000000"], "gpus is 1000000000000: give 10000000 or less"),
        (["prepare", "tokenizer", "--vocabulary", "0", "--output", "a/b/t.json"], "vocabulary is 0; give at least 258"),
        (
            ["prepare", "tokenizer", "--vocabulary", "300", "--output", f"a/b/{'n' * 300}/t.json"],
            "file name too long; choose a shorter name",
        ),
        (["prepare", "blocks", *SMOKE, "--processes", "0"], "--processes is 0: give 1 or more"),
    ],
)
def test_what_is_refused_leaves_no_folder(arguments: list[str], told: str, here: Callable, tmp_path: Path) -> None:
    assert told in the_one_line(here(*arguments, folder=tmp_path), last=True)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "value", ["a=b", "a#b.jsonl", "a[1].jsonl", "a(1)", "<|end_of_text|>", "\u00e9 (x).txt", "{a}", "it's"]
)
def test_a_value_is_taken_or_told_with_the_quotes_that_it_needs(value: str, here: Callable, tmp_path: Path) -> None:
    key = "runs"
    result = here("train", *SMOKE, f"{key}={value}", "plan=true", folder=tmp_path)
    if result.returncode:
        line = the_one_line(result, last=True)
        quoted = line.partition("quote it, for the shell too: ")[2]
        assert quoted, line
        (argument,) = shlex.split(quoted)
        settings = settings_of("train", settings_class("train"), [*SMOKE, argument])
    else:
        settings = settings_of("train", settings_class("train"), [*SMOKE, f"{key}={value}"])
    assert getattr(settings, key) == value


@pytest.mark.parametrize("value", ["a=b", "a#b", "a(1)", "<|x|>"])
@pytest.mark.parametrize("command", ["extrapolate", "compare", "analyze"])
def test_every_command_tells_the_quotes_that_a_value_needs(
    command: str, value: str, here: Callable, tmp_path: Path
) -> None:
    chosen = ["study=state_norms"] if command == "analyze" else []
    line = the_one_line(here(command, *chosen, f"runs={value}", folder=tmp_path))
    (argument,) = shlex.split(line.partition("quote it, for the shell too: ")[2])
    assert settings_of(command, settings_class(command), [*chosen, argument]).runs == value


def test_a_stored_configuration_that_names_code_is_refused_when_its_run_is_scored(
    here: Callable, tmp_path: Path
) -> None:
    assert here("train", *SMOKE, "model=rope", folder=tmp_path).returncode == 0
    (run,) = [path.parent for path in tmp_path.glob("runs/*/manifest.json")]
    reached = tmp_path / "reached"
    config = yaml.safe_load((run / "config.yaml").read_text())
    config["schedule"] = {"_target_": "pathlib.Path.touch", "_args_": [str(reached)]}
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    write_manifest(run, Run(run).manifest)  # sealed anew
    line = the_one_line(here("extrapolate", f"runs={run}", "measure=excess", folder=tmp_path), last=True)
    assert "config.yaml is damaged" in line
    assert not reached.exists()


@pytest.mark.parametrize("command", ["extrapolate", "compare", "generate", "analyze"])
def test_choices_of_a_folder_of_ones_own_are_found_by_every_command(
    command: str, here: Callable, tmp_path: Path
) -> None:
    own = tmp_path / "own"
    (own / "evaluation").mkdir(parents=True)
    (own / "evaluation" / "mine.yaml").write_text("# Mine.\ncorpus:\n  name: kjv\n  on_error: stop\n")
    given = [*GIVEN[command], *([] if command == "generate" else ["evaluation=mine"])]
    line = the_one_line(here(command, "--config-dir", str(own), *given, folder=tmp_path), last=True)
    assert "a: no such run" in line
    line = the_one_line(here(command, "--config-dir", str(tmp_path / "none"), *given, folder=tmp_path))
    assert "name a folder with choices laid out as in conf/" in line


@pytest.mark.parametrize("command", GIVEN)
def test_help_prints_the_explanation_of_every_key_that_it_shows(command: str, here: Callable, tmp_path: Path) -> None:
    result = here(command, *GIVEN[command], "--help", folder=tmp_path)
    assert result.returncode == 0, result.stderr
    told = " ".join(result.stdout.split())
    given = settings_of(command, settings_class(command), GIVEN[command])
    rows = explained(settings_class(command), given.plain())
    assert len(rows) > 1
    for key, _, explanation in rows:
        assert f"{key}=" in told
        assert " ".join(explanation.split()) in told


def test_help_of_a_sweep_explains_its_first_run(here: Callable, tmp_path: Path) -> None:
    result = here("train", "-m", "model=nope,rope", "seed=3,4", "--help", folder=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "seed=3" in result.stdout
    assert "model.position.base" not in result.stdout


def test_several_values_without_m_are_told_how_to_be_given(here: Callable, tmp_path: Path) -> None:
    line = the_one_line(here("train", *SMOKE, "model=nope,rope", folder=tmp_path))
    assert "model=nope,rope: add -m to train a run of each value" in line
    line = the_one_line(here("extrapolate", "runs=a", "measure=copy,excess", folder=tmp_path))
    assert "a list is written measure=[copy,excess]; a run of each value is for lab.train -m" in line
    assert list(tmp_path.iterdir()) == []
