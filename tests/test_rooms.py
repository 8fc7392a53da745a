"""The house: commands at the top, rooms below, imports downwards only, and code digests over what is really loaded."""

import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from lab.experiment.completion import keys_of, settings_class
from lab.experiment.compose import configuration_folder
from lab.observe.scoring import ROOMS as SCORING
from lab.runs.environment import ROOMS as TRAINING

LAB = Path(__file__).parents[1] / "lab"
COMMANDS = (
    "train",
    "extrapolate",
    "compare",
    "plan",
    "extend",
    "edit",
    "analyze",
    "generate",
    "lens",
    "import_model",
    "export",
    "evaluate",
)  # that take keys
# The floors from the ground up; a room imports from lower floors only, and from itself.
FLOORS = (
    ("base",),
    ("model", "data", "cluster"),
    ("runs",),
    ("planning", "observe", "extension", "exchange", "training"),
    ("measure", "analysis", "knowledge", "gradients"),
    ("evidence",),
    ("report",),
    ("experiment",),
    ("benches",),
)
FLOOR = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}


def imported(path: Path) -> set[str]:
    """The rooms, or commands, that a file names in its imports, those inside functions too."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("lab."):
            found.add((node.module or "").split(".")[1])
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[1] for alias in node.names if alias.name.startswith("lab.")}
    return found


def test_every_room_has_a_floor_and_no_room_has_a_commands_name() -> None:
    rooms = {path.name for path in LAB.iterdir() if (path / "__init__.py").exists()}
    assert rooms == set(FLOOR)
    assert not rooms & {path.stem for path in LAB.glob("*.py")}


@pytest.mark.parametrize("path", sorted(LAB.glob("*/**/*.py")), ids=lambda path: str(path.relative_to(LAB)))
def test_a_room_imports_from_lower_floors_only(path: Path) -> None:
    room = path.relative_to(LAB).parts[0]
    for other in imported(path) - {room}:
        assert other in FLOOR, f"{path} imports the command lab.{other}"
        assert FLOOR[other] < FLOOR[room], f"{path} imports {other}, which is not below {room}"


def test_a_wheel_has_every_package() -> None:
    listed = tomllib.loads((LAB.parent / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    folders = {path.parent.relative_to(LAB.parent) for path in LAB.rglob("*.py")}
    data = {"lab.biographies", "lab.conf", "lab.slurm", "lab.tokenizers"}
    assert {".".join(folder.parts) for folder in folders} == set(listed) - data


def test_a_file_at_the_top_is_a_command_that_nothing_imports() -> None:
    for path in LAB.glob("*.py"):
        if path.name != "__init__.py":
            assert 'if __name__ == "__main__":' in path.read_text(), path
    named = {name for path in LAB.rglob("*.py") for name in imported(path)}
    assert named <= set(FLOOR)


def keys_and_groups() -> tuple[set[str], set[str]]:
    """The dotted keys of all commands, and what stands left of = in a choice."""
    keys = {key for command in COMMANDS for key in keys_of(settings_class(command))}
    groups = {key.rpartition(".")[0] for key in keys} | {path.name for path in Path(configuration_folder()).iterdir()}
    return {key for key in keys if "." in key}, (groups | {key for key in keys if "." not in key}) - {""}


def test_a_room_below_the_settings_names_no_key_of_the_configuration_in_its_messages() -> None:
    keys, groups = keys_and_groups()
    assert {"data.lanes", "scale.context", "model.attention.window"} <= keys
    assert {"model", "data", "measure", "kernel"} <= groups
    named = re.compile(
        rf"(?<![\w.])(?:(?:{'|'.join(map(re.escape, sorted(keys)))})(?![\w.])|(?:{'|'.join(sorted(groups))})=)"
    )
    assert named.search("lower scale.context")
    assert named.search("use kernel=auto")
    for room in (room for floor in FLOORS[:2] for room in floor):
        for path in (LAB / room).rglob("*.py"):
            for raised in (node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Raise)):
                for node in ast.walk(raised):
                    if isinstance(node, ast.Constant) and isinstance(node.value, str):
                        assert not named.search(node.value), f"{path}:{node.lineno}: {node.value}"


HELP = """
import runpy, sys
sys.argv = ["lab", *{arguments!r}, "--help"]
try:
    runpy.run_module("lab.{name}", run_name="__main__")
except SystemExit as end:
    assert not end.code
assert "torch" not in sys.modules
"""


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        *[(name, []) for name in ("train", "extrapolate", "compare", "plan", "generate", "status", "prepare", "bench")],
        *[(name, []) for name in ("extend", "edit", "analyze", "lens")],
    ],
)
def test_a_command_tells_its_keys_without_torch(name: str, arguments: list[str]) -> None:
    code = HELP.format(name=name, arguments=arguments)
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr


WATCH = """
import sys
import lab.observe.scoring as scoring
import lab.training.fit as training
seen = {}
def watched(name, function):
    def run(*arguments, **keywords):
        result = function(*arguments, **keywords)
        seen.setdefault(name, {each for each in sys.modules if each.startswith("lab.")})
        return result
    return run
training.fit = watched("training", training.fit)
scoring.score_items = watched("scoring", scoring.score_items)
import lab.train
sys.argv = ["lab.train", "experiment=smoke", "logger=csv", "scoring.longest=2"]
lab.train.main()
print("SEEN", {name: sorted(modules) for name, modules in seen.items()})
"""


def test_nothing_outside_the_rooms_of_the_code_digest_is_loaded_while_training_and_while_scoring(
    tmp_path: Path,
) -> None:
    result = subprocess.run([sys.executable, "-c", WATCH], capture_output=True, text=True, cwd=tmp_path, check=False)
    assert result.returncode == 0, result.stderr
    seen = ast.literal_eval(result.stdout.partition("SEEN ")[2])
    # Of the measures only those in use score; the others are declared.
    for what, rooms in {"training": TRAINING, "scoring": (*SCORING, "measure", "training")}.items():
        outside = [name for name in seen[what] if name.split(".")[1] not in (*rooms, "train")]
        assert not outside, f"loaded while {what}, and not in its digest: {outside}"


def test_commands_begin_without_the_libraries_that_take_seconds_to_load() -> None:
    slow = {"lightning", "transformers", "datasets", "scipy.stats", "sympy", "torch._dynamo"}
    needed = {"evaluating": "the harness reads its tasks with datasets"}
    modules = [path.stem for path in sorted((LAB / "experiment").glob("*.py")) if path.stem not in needed]
    code = f"import sys\nfrom lab.experiment import {', '.join(modules)}\nprint(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert slow & set(loaded.stdout.split()) == set()


def test_no_two_files_of_tests_have_one_name() -> None:
    """pytest would refuse the second of them."""
    names = [path.name for path in (LAB.parent / "tests").rglob("test_*.py")]
    assert sorted(names) == sorted(set(names))
