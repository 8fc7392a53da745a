"""The fence: a configuration names parts by role and short name, and reaches nothing else."""

import re
import sys
from pathlib import Path

import pytest
import yaml

import lab.experiment.comparison
import lab.experiment.hydra_main
from lab.base.errors import UserError
from lab.base.parts import DECLARED, build, find, part, parts_of
from lab.base.settings import Settings
from lab.experiment.compose import settings_of
from lab.experiment.settings import TrainSettings
from lab.model.settings import RoPESettings
from lab.runs.settings import RunSettings

ROLES = list(DECLARED)


def test_no_attribute_of_any_loaded_module_is_a_part() -> None:
    registered = {role: set(parts_of(role)) for role in ROLES}
    names = set()
    for name, module in list(sys.modules.items()):
        names.add(name)
        for attribute in dir(module):
            names |= {attribute, f"{name}.{attribute}", f"{name}:{attribute}"}
    assert len(names) > 50_000
    for number, name in enumerate(sorted(names)[::20]):  # the near names that a refusal tells cost too much for each
        role = ROLES[number % len(ROLES)]
        if name not in registered[role]:
            with pytest.raises(UserError, match="does not exist"):
                find(role, name)
    parts = {(role, name) for role in ROLES for name in registered[role]}
    assert {(each.role, each.name) for role in ROLES for each in parts_of(role).values()} == parts
    assert not {name for name in names if "." in name or ":" in name} & {name for _, name in parts}


TRICKS = ["", ".", "..", "rope.", "rope.__class__", "lab.model.position:RoPE", "__import__('os').system", "os.system"]
TRICKS += ["RoPE", "rope\n", "ROPE", "hydra.utils.instantiate", "../rope", "builtins.eval", "position/rope"]


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("name", [*TRICKS, None, 3, ["rope"], {"name": "rope"}])
def test_no_trick_and_no_other_type_is_a_name(role: str, name: object) -> None:
    with pytest.raises(UserError, match="does not exist"):
        find(role, name)


def test_no_part_of_another_role_is_built() -> None:
    for role in ROLES:
        for other in ROLES:
            for name in set(parts_of(other)) - set(parts_of(role)):
                with pytest.raises(UserError, match="does not exist"):
                    find(role, name)


def test_settings_of_another_class_do_not_build_a_part_of_their_name() -> None:
    class Forged(Settings):
        name: str = "rope"
        base: float = 1.0

    with pytest.raises(UserError, match="other settings"):
        build("position", Forged(), heads=1, head_dim=2)


def test_a_name_cannot_be_registered_twice() -> None:
    with pytest.raises(ValueError, match="registered twice"):
        part("position", "os:system")(RoPESettings)
    with pytest.raises(ValueError, match="no role"):
        part("program", "os:system")(RoPESettings)


NODES = ["model.position", "model.attention", "data.corpus", "tokenizer", "optimizer", "schedule", "start"]


@pytest.mark.parametrize("node", NODES)
@pytest.mark.parametrize(
    "forged",
    [
        {"_target_": "os.system", "command": "touch reached"},
        {"name": "os.system", "command": "touch reached"},
        {"_target_": "lab.training.fit.run_process", "args": "touch reached", "shell": True},
        {"_target_": "lab.runs.run.shutil.rmtree", "_args_": ["."]},
        {"_partial_": True, "name": "rope"},
    ],
)
def test_a_forged_node_of_a_stored_configuration_is_refused_and_runs_nothing(
    node: str, forged: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    plain = settings_of("train", TrainSettings, []).of_run().plain()
    *path, last = node.split(".")
    place = plain
    for key in path:
        place = place[key]
    place[last] = forged
    with pytest.raises(UserError):
        RunSettings.check(plain)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("tag", ["!!python/object/apply:os.system ['touch reached']", "!!python/name:os.system"])
def test_a_yaml_tag_is_refused_and_runs_nothing(tag: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from lab.runs.run import Run

    monkeypatch.chdir(tmp_path)
    (tmp_path / "config.yaml").write_text(f"model: {tag}\n")
    with pytest.raises(UserError, match="cannot be read"):
        _ = Run(tmp_path).config
    with pytest.raises(yaml.YAMLError):
        yaml.safe_load(tag)
    assert [path.name for path in tmp_path.iterdir()] == ["config.yaml"]


def test_the_configuration_holds_no_address_but_the_launchers() -> None:
    conf = Path(lab.experiment.comparison.__file__).parents[2] / "conf"
    lines = [
        (path.name, line)
        for path in conf.rglob("*.yaml")
        for line in path.read_text().splitlines()
        if re.search(r"\b_target_\b", line)
    ]
    assert [(name, line.split("#")[0].strip()) for name, line in lines] == [
        ("slurm.yaml", "_target_: hydra_plugins.lab.SlurmLauncher")
    ]
