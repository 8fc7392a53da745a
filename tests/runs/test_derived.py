"""Derived runs: the weights of a run beside it, read otherwise; and what is refused of what no longer fits together."""

import csv
import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from commands import the_one_line

from lab.base.errors import UserError
from lab.experiment.compose import settings_of
from lab.experiment.scoring import extrapolate
from lab.experiment.settings import ScoreSettings
from lab.model.decoder import Decoder
from lab.report.run_list import Chosen, show
from lab.runs.control import check
from lab.runs.identity import digest
from lab.runs.manifest import seal, write_manifest
from lab.runs.run import Run, open_model

Lab = Callable[..., subprocess.CompletedProcess[str]]
QUICK = ("logger=csv", "measure=none", "trainer.accelerator=cpu", "trainer.log_every=1")
SCORE = ("measure=truncated_perplexity", "scoring.longest=2", "scoring.segments=1", "accelerator=cpu")
LONG = "a" * 300
CODE = ("code",)  # allowed to differ: it may be edited while the tests run


def extended(here: Lab, folder: Path, run: str, temperature: float) -> str:
    """The name of the derived run that the command makes."""
    before = {path.name for path in (folder / "runs").iterdir()}
    result = here(
        "extend", f"run=runs/{run}", "extension=temperature", f"extension.temperature={temperature}", folder=folder
    )
    assert result.returncode == 0, result.stderr
    (made,) = {path.name for path in (folder / "runs").iterdir() if not path.name.startswith(".")} - before
    return made


@pytest.fixture(scope="module")
def family(here: Lab, trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder whose runs/ holds, by these names in family.json: nope, warm (of it), same (of it, unchanged), hot (of
    warm); all scored."""
    folder = tmp_path_factory.mktemp("family")
    (nope,) = (trained / "runs").glob("nope-*")
    shutil.copytree(nope, folder / "runs" / nope.name)
    names = {"nope": nope.name}
    names["warm"] = extended(here, folder, nope.name, 1.2)
    names["same"] = extended(here, folder, nope.name, 1.0)
    names["hot"] = extended(here, folder, names["warm"], 1.5)
    result = here("extrapolate", "runs=runs/*", *SCORE, folder=folder)
    assert result.returncode == 0, result.stderr
    (folder / "family.json").write_text(json.dumps(names))
    return folder


@pytest.fixture
def copy(family: Path, tmp_path: Path) -> Path:
    """A copy that a test may change."""
    shutil.copytree(family, tmp_path, dirs_exist_ok=True)
    return tmp_path


def path_of(folder: Path, name: str) -> Path:
    return folder / "runs" / json.loads((folder / "family.json").read_text())[name]


def manifest_of(run: Path) -> dict[str, Any]:
    return json.loads((run / "manifest.json").read_text())


def edit(run: Path, **changes: Any) -> None:
    """Fields of the manifest, which is sealed again; the digest follows the identity where only that is changed."""
    manifest = manifest_of(run) | changes
    if "identity" in changes and "digest" not in changes:
        manifest["digest"] = digest(manifest["identity"])
    write_manifest(run, manifest)


def content_of(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file() and not path.name.endswith(".lock"))
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def rows_of(run: Path) -> list[dict[str, str]]:
    with open(run / "scores.csv", newline="") as file:
        return list(csv.DictReader(file))


TOKENS = torch.arange(2 * 100).reshape(2, 100) * 7 % 1024


@torch.no_grad()
def logits_of(run: Path) -> torch.Tensor:
    return accurate(run)(TOKENS)


def accurate(run: Path) -> Decoder:
    """Its decoder in float32, whatever it was trained in."""
    decoder = open_model(run).decoder()
    decoder.compute_dtype = torch.float32
    return decoder


# What a derived run is.


def test_its_identity_is_its_parents_with_the_extension_and_it_holds_no_weights(family: Path) -> None:
    nope, warm, hot = (path_of(family, name) for name in ("nope", "warm", "hot"))
    parent = manifest_of(nope)
    one = {"name": "temperature", "temperature": 1.2}
    assert manifest_of(warm)["identity"] == parent["identity"] | {"extension": one}
    two = {"name": "temperature", "temperature": 1.5, "after": one}
    assert manifest_of(hot)["identity"] == parent["identity"] | {"extension": two}
    for run, above in ((warm, nope), (hot, warm)):
        manifest = manifest_of(run)
        assert manifest["digest"] == digest(manifest["identity"])
        assert run.name == f"{above.name}-temperature-{manifest['digest'][:8]}"
        weights = manifest_of(warm)["parent"]["weights_sha256"]
        told = {"name": above.name, "digest": manifest_of(above)["digest"], "step": 4, "weights_sha256": weights}
        assert manifest["parent"] == told
        assert not list(run.rglob("*.safetensors"))
        assert str(family) not in (run / "manifest.json").read_text()
    assert [open_model(path_of(family, name)).label for name in ("nope", "warm", "hot")] == [
        "nope",
        "nope+temperature=1.2",
        "nope+temperature=1.2+temperature=1.5",
    ]


def test_the_same_command_finds_it_again_and_changes_nothing(here: Lab, copy: Path) -> None:
    before = content_of(copy)
    nope, warm = path_of(copy, "nope"), path_of(copy, "warm")
    command = ("extend", f"run=runs/{nope.name}", "extension=temperature", "extension.temperature=1.2")
    assert here(*command, folder=copy).stdout == f"runs/{warm.name} is there\n"
    (copy / "link").symlink_to(nope)
    for folder, way in ((copy, "link"), (nope, "."), (nope / "checkpoints", "..")):
        found = here("extend", f"run={way}", *command[2:], folder=folder)
        assert found.stdout == f"{warm} is there\n", found.stderr
    (copy / "link").unlink()
    assert content_of(copy) == before


def test_extensions_of_extensions_multiply(family: Path) -> None:
    logits = {name: logits_of(path_of(family, name)) for name in ("nope", "warm", "same", "hot")}
    assert torch.equal(logits["same"], logits["nope"])
    for name, factor in (("warm", 1.2), ("hot", 1.2 * 1.5)):
        # The same factor on the queries' matrix, from which the product with the keys is formed.
        decoder = accurate(path_of(family, "nope"))
        with torch.no_grad():
            for block in decoder.blocks:
                block.attention.query.weight *= factor
            expected = decoder(TOKENS)
        torch.testing.assert_close(logits[name], expected, atol=2e-5, rtol=0)
        assert (logits[name] - logits["nope"]).abs().max() > 1e-3


def test_it_is_scored_into_a_table_of_its_own(family: Path) -> None:
    rows = {name: rows_of(path_of(family, name)) for name in ("nope", "warm", "same", "hot")}
    assert rows["same"] == rows["nope"]
    losses = {name: [row["loss_nats"] for row in rows[name]] for name in rows}
    assert len({len(each) for each in losses.values()}) == 1
    assert all(mine != theirs for mine, theirs in zip(losses["warm"], losses["nope"], strict=True))
    assert len({tuple(each) for each in losses.values()}) == 3
    assert all(manifest_of(path_of(family, name))["measured"] for name in rows)


def test_it_is_listed_beside_its_parent(here: Lab, family: Path) -> None:
    result = here("status", folder=family)
    assert (result.returncode, result.stderr) == (0, "")
    line = next(line for line in result.stdout.splitlines() if path_of(family, "hot").name in line)
    assert f"derived of {path_of(family, 'warm').name}" in line


def test_moved_together_with_its_parent_it_is_what_it_was(here: Lab, copy: Path) -> None:
    before = logits_of(path_of(copy, "hot"))
    os.rename(copy / "runs", copy / "elsewhere")
    hot = copy / "elsewhere" / path_of(copy, "hot").name
    assert torch.equal(logits_of(hot), before)
    model = open_model(hot)
    model.check()
    assert model.digest == manifest_of(hot)["digest"]


def test_factor_extension_compares_it_with_its_parent_and_no_other_factor_does(here: Lab, copy: Path) -> None:
    runs = [open_model(path_of(copy, name)) for name in ("nope", "warm", "hot")]
    control = check(runs, "extension", CODE)
    assert list(control.variants) == [run.label for run in runs]
    assert all(key.startswith("extension") for key in control.keys("factor"))
    assert not control.keys("follows")
    given = f"runs=[runs/{runs[0].path.name},runs/{runs[1].path.name}]"
    for factor, told in (
        ("model", "model has one value in all runs given (2); they differ in extension."),
        ("seed", "seed"),
    ):
        assert told in the_one_line(here("compare", given, f"factor={factor}", *SCORE, folder=copy), last=True)
    assert not (copy / "comparison").exists()
    # A difference beside it is refused.
    other = copy / "runs" / "other"
    shutil.copytree(runs[0].path, other)
    edit(other, identity=runs[0].identity | {"kernel": "reference"})
    with pytest.raises(UserError, match=r"more than extension: kernel is reference in other and auto in nope"):
        check([open_model(other), runs[1]], "extension", CODE)


def test_a_comparison_with_its_parent_makes_its_report(here: Lab, copy: Path) -> None:
    given = f"runs=[{path_of(copy, 'nope')},{path_of(copy, 'warm')}]"
    result = here("compare", given, "factor=extension", *SCORE, folder=copy)
    assert result.returncode == 0, result.stderr
    assert "nope+temperature=1.2" in (copy / "comparison" / "report.md").read_text()


def test_a_run_that_was_not_scored_does_not_pass_for_scored_by_its_parents_rows(copy: Path) -> None:
    edit(path_of(copy, "warm"), measured={})
    assert not open_model(path_of(copy, "warm")).facts["measured"]
    manifest = manifest_of(path_of(copy, "warm"))
    del manifest["measured"]
    write_manifest(path_of(copy, "warm"), manifest)
    assert "measured" not in open_model(path_of(copy, "warm")).facts
    check([open_model(path_of(copy, name)) for name in ("nope", "warm")], "extension", CODE)


# Children of derived runs.


@pytest.fixture(scope="module")
def children(here: Lab, family: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The first lines and runs of children of nope and of warm, and a child of warm read otherwise."""
    folder = tmp_path_factory.mktemp("children")
    shutil.copytree(family, folder, dirs_exist_ok=True)
    found = {name: path_of(folder, name) for name in ("nope", "warm")}
    for name in ("nope", "warm"):
        before = set(folder.glob("runs/*/manifest.json"))
        result = here("train", "start=run", f"start.run=runs/{found[name].name}", *QUICK, folder=folder)
        assert result.returncode == 0, result.stderr
        (made,) = set(folder.glob("runs/*/manifest.json")) - before
        found[f"child of {name}"] = made.parent
        (folder / f"{name}.txt").write_text(result.stdout)
    name = extended(here, folder, found["child of warm"].name, 3.0)
    return found | {"derived": folder / "runs" / name}


def test_a_child_of_a_derived_run_is_trained_with_the_extension(children: dict[str, Path]) -> None:
    child, warm = children["child of warm"], children["warm"]
    folder = child.parent.parent
    assert (folder / "warm.txt").read_text().splitlines()[0] == f"child of {warm.name}, step 4: nothing differs"
    manifest = manifest_of(child)
    extension = {"name": "temperature", "temperature": 1.2}
    assert manifest["extensions"] == manifest["identity"]["extensions"] == [extension]
    assert manifest["identity"]["start"]["parent"] == manifest_of(warm)["identity"]
    assert manifest["parent"]["name"] == warm.name
    assert open_model(child).label == "nope+temperature=1.2"
    # They begin with the same weights and read the same blocks; only the factor tells their losses apart.
    assert manifest["initial_weights"] == manifest_of(children["child of nope"])["initial_weights"]
    assert manifest["blocks"] == manifest_of(children["child of nope"])["blocks"]
    first = {}
    for name in ("nope", "warm"):
        with open(children[f"child of {name}"] / "metrics.csv", newline="") as file:
            first[name] = float(next(csv.DictReader(file))["loss_nats"])
    assert abs(first["warm"] - first["nope"]) > 1e-6
    assert open_model(child).decoder().position.scale(1) == 1.2
    assert open_model(children["derived"]).decoder().position.scale(1) == pytest.approx(3.6)


def test_children_of_a_derived_run_and_of_its_parent_are_compared_by_their_start_or_extension(
    children: dict[str, Path],
) -> None:
    runs = [open_model(children[f"child of {name}"]) for name in ("nope", "warm")]
    for factor in ("start", "extension"):
        control = check(runs, factor, CODE)
        assert all(key.startswith("start.parent.extension") for key in control.keys("factor"))
        assert control.keys("follows") == ["extensions"]
    with pytest.raises(UserError, match=r"more than seed: start.step is 4 in .* and absent in "):
        check([*runs, open_model(children["nope"])], "seed", CODE)
    check([open_model(children["child of warm"]), open_model(children["derived"])], "extension", CODE)


# Refusals.


def refusal(run: Path) -> str:
    """The line with which a run is refused that is opened, checked and built."""
    line = told_by(lambda: checked(run))
    assert line is not None
    return line


def checked(run: Path) -> None:
    model = open_model(run)
    model.check()
    model.decoder()


def told_by(act: Callable[[], Any]) -> str | None:
    """The one line of a user's mistake; None if all went well. Anything else that is raised fails the test."""
    try:
        act()
    except UserError as error:
        lines = str(error).splitlines()
    else:
        return None
    (line,) = lines
    return line


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (("run=runs/none", "extension=temperature", "extension.temperature=2"), "runs/none: no such run"),
        (("run=runs", "extension=temperature", "extension.temperature=2"), "runs is not a run directory"),
        (
            ("run={nope}", "extension=temperature", "extension.temperature=0"),
            "extension.temperature is 0: give a number",
        ),
        (("run={nope}", "extension=temperature", "extension.temperature=-1"), "extension.temperature is -1: give"),
        (("run={nope}", "extension=temperature", "extension.temperature=nan"), "extension.temperature is nan: give"),
        (("run={nope}", "extension=temperature", "extension.temperature=.inf"), "extension.temperature is"),
        (
            ("run={nope}", "extension=temperature", "extension.temperature=warm"),
            "extension.temperature is 'warm': give",
        ),
        (("run={nope}", "extension=temperature"), "extension.temperature must be given"),
        (("run={nope}", "extension=cold"), "extension"),
        (("run={nope}",), "extension must be given"),
        (("extension=temperature", "extension.temperature=2"), "run must be given"),
    ],
)
def test_an_extension_that_cannot_be_made_is_refused_in_a_line_and_nothing_is_written(
    here: Lab, copy: Path, given: tuple[str, ...], told: str
) -> None:
    before = content_of(copy)
    overrides = (each.format(nope=f"runs/{path_of(copy, 'nope').name}") for each in given)
    assert told in the_one_line(here("extend", *overrides, folder=copy))
    assert content_of(copy) == before


def test_unfinished_and_damaged_runs_are_not_extended(here: Lab, copy: Path) -> None:
    nope = path_of(copy, "nope")
    given = (f"run=runs/{nope.name}", "extension=temperature", "extension.temperature=7")
    edit(nope, state="training")
    assert "is unfinished: train it to its end" in the_one_line(here("extend", *given, folder=copy))
    edit(nope, state="finished")
    weights = nope / "checkpoints" / "step=00000004" / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\1")
    assert "weights.safetensors is damaged" in the_one_line(here("extend", *given, folder=copy))
    assert len(list(copy.glob("runs/*/manifest.json"))) == 4


def test_a_parent_that_is_missing_or_changed_is_named_with_the_remedy(copy: Path) -> None:
    nope, warm, hot = (path_of(copy, name) for name in ("nope", "warm", "hot"))
    os.rename(nope, copy / "away")
    for run in (warm, hot):
        assert f"{warm} reads the weights of {nope}, which is not there: restore it beside" in refusal(run)
    nope.symlink_to(copy / "away")
    assert f"{nope}, which {warm} is derived of, is a link: move the run itself there" in refusal(hot)
    nope.unlink()
    os.rename(copy / "away", nope)
    refused = {
        "another digest": lambda: edit(nope, identity=manifest_of(nope)["identity"] | {"seed": 3}),
        "state": lambda: edit(nope, state=3),
        "not a run directory": lambda: (nope / "manifest.json").unlink(),
        "manifest.json is damaged": lambda: (nope / "manifest.json").write_text("{"),
        "config.yaml says seed is 4": lambda: (nope / "config.yaml").write_text(
            (nope / "config.yaml").read_text().replace("\nseed: 0", "\nseed: 4")
        ),
    }
    whole = content_of(nope)
    for told, damage in refused.items():
        damage()
        line = refusal(hot)
        assert (f"{nope} has digest " in line) if told == "another digest" else (told in line), line
        assert nope.name in line
        for name, content in whole.items():
            (nope / name).write_bytes(content)
    open_model(hot).check()


def test_other_weights_are_refused_whoever_has_sealed_them(copy: Path, trained: Path) -> None:
    nope, hot = path_of(copy, "nope"), path_of(copy, "hot")
    (rope,) = (trained / "runs").glob("rope-*")
    other = Run(rope).checkpoint(4)
    shutil.rmtree(nope / "checkpoints" / "step=00000004")
    assert "step=00000004: checkpoint.json is missing; checkpoints are there of steps 2" in refusal(hot)
    shutil.copytree(other.path, nope / "checkpoints" / "step=00000004")
    assert f"step=00000004: it is of another run (digest {Run(rope).digest[:8]})" in refusal(hot)
    run = Run(nope)
    run.checkpoints.save(4, other.weights(), other.state())  # as if it were its own
    assert "holds other weights than the run had when it was finished; restore them" in refusal(hot)
    run.update_manifest(proof=run.prove())
    run.decoder()
    assert "no longer holds the weights that " in refusal(hot)
    assert "restore them" in refusal(hot)


def test_another_step_than_its_own_is_refused(here: Lab, copy: Path) -> None:
    warm = path_of(copy, "warm")
    line = the_one_line(here("extrapolate", f"runs=runs/{warm.name}", "checkpoint=2", *SCORE, folder=copy), last=True)
    assert f"reads optimiser step 4 of {path_of(copy, 'nope').name}, not 2" in line
    line = the_one_line(here("train", "start=run", f"start.run={warm}", "start.step=2", *QUICK, folder=copy), last=True)
    assert "reads optimiser step 4 of" in line


def test_what_was_edited_in_a_derived_run_alone_is_refused(copy: Path) -> None:
    nope, warm = path_of(copy, "nope"), path_of(copy, "warm")
    whole = content_of(warm)
    config = whole["config.yaml"].decode()
    other = {"name": "temperature", "temperature": 2.0}
    identity = manifest_of(warm)["identity"]
    damages: dict[str, Callable[[], Any]] = {
        "extensions that are not those of its identity": lambda: edit(warm, extensions=[other]),
        "extensions that are not those of its identity ": lambda: edit(warm, extensions=[]),
        "extensions that are not those of its identity and": lambda: edit(
            warm, identity=identity | {"extension": other}
        ),
        "extensions that are not those of its identity and its": lambda: edit(
            warm, identity=manifest_of(nope)["identity"]
        ),
        "extension 'x.y:Z' does not exist": lambda: edit(warm, extensions=[{"name": "x.y:Z"}]),
        "extension.temperature is '2': give a number": lambda: edit(warm, extensions=[other | {"temperature": "2"}]),
        "extension.more is a key that nothing reads": lambda: edit(warm, extensions=[other | {"more": 1}]),
        "config.yaml says scale.context is 32": lambda: (warm / "config.yaml").write_text(
            config.replace("context: 64", "context: 32")
        ),
        "config.yaml cannot be read": lambda: (warm / "config.yaml").unlink(),
        "another digest than what it holds": lambda: edit(warm, digest="0" * 64),
    }
    for told, damage in damages.items():
        damage()
        line = refusal(warm)
        assert told.strip() in line
        assert str(warm) in line
        assert "restore it" in line
        for name, content in whole.items():
            (warm / name).write_bytes(content)


@pytest.mark.parametrize(
    "name", ["", ".", "..", "/", "../runs", "a/b", "/etc", "runs/", "a\0b", LONG, "ä" * 200, "./nope", "nope/.."]
)
def test_a_parent_is_a_bare_name_beside_it(copy: Path, name: str) -> None:
    warm = path_of(copy, "warm")
    edit(warm, parent=manifest_of(warm)["parent"] | {"name": name})
    assert "which is no run beside it; restore it" in refusal(warm)


def test_a_circle_of_derived_runs_is_told(here: Lab, copy: Path) -> None:
    warm, hot = path_of(copy, "warm"), path_of(copy, "hot")
    edit(warm, parent=manifest_of(warm)["parent"] | {"name": hot.name, "digest": manifest_of(hot)["digest"]})
    assert "is derived of itself, by way of " in refusal(hot)
    assert "is derived of itself, by way of " in refusal(warm)
    listed = here("status", folder=copy)
    assert listed.returncode == 0
    assert len(listed.stderr.splitlines()) == 2
    line = the_one_line(here("extrapolate", f"runs=runs/{hot.name}", *SCORE, folder=copy))
    assert "is derived of itself" in line
    edit(hot, parent=manifest_of(hot)["parent"] | {"name": hot.name, "digest": manifest_of(hot)["digest"]})
    assert "is derived of itself, by way of " in refusal(hot)


# Removal.


def test_a_run_is_not_removed_while_a_derived_run_needs_it(here: Lab, copy: Path) -> None:
    nope, warm, same, hot = (path_of(copy, name) for name in ("nope", "warm", "same", "hot"))
    before = content_of(copy)
    for run, told in ((nope, f"{same.name}, {warm.name}"), (warm, hot.name)):
        names = ", ".join(sorted(told.split(", ")))
        line = the_one_line(here("status", "--remove", run.name, "--yes", folder=copy))
        assert line.endswith(f"holds the weights of {names}: remove these first, or with it")
    line = the_one_line(here("status", "--remove", nope.name, warm.name, "--yes", folder=copy))
    assert "holds the weights of" in line
    again = ("experiment=smoke", *QUICK, "scale.tokens=4096", "trainer.checkpoint_every=2", "overwrite=true")
    line = the_one_line(here("train", *again, folder=copy), last=True)
    assert f"{nope.name} holds the weights of " in line
    assert "remove these first" in line
    assert content_of(copy) == before
    result = here("status", "--remove", nope.name, hot.name, warm.name, same.name, "--yes", folder=copy)
    assert result.returncode == 0, result.stderr
    assert not list((copy / "runs").glob("*/manifest.json"))


def test_a_damaged_derived_run_is_removed_with_its_parent_or_alone(here: Lab, copy: Path) -> None:
    nope, warm, same, hot = (path_of(copy, name) for name in ("nope", "warm", "same", "hot"))
    edit(warm, extensions=None)
    assert here("status", "--remove", hot.name, "--yes", folder=copy).returncode == 0
    assert here("status", "--remove", nope.name, same.name, warm.name, "--yes", folder=copy).returncode == 0
    assert not list((copy / "runs").glob("*/manifest.json"))


# Whatever stands in a manifest.


def deep(levels: int) -> dict[str, Any]:
    nested: dict[str, Any] = {}
    for _ in range(levels):
        nested = {"a": nested}
    return nested


MISSING = "missing"
FIELDS = ["format", "kind", "digest", "identity", "state", "parent", "extensions", "command"]
FIELDS += ["measured", "scored", "documents"]
PLACES = [
    *((field,) for field in FIELDS),
    *(("parent", field) for field in ("name", "digest", "step", "weights_sha256")),
    ("extensions", 0),
    ("extensions", 0, "name"),
    ("extensions", 0, "temperature"),
    ("identity", "data"),
    ("identity", "extension"),
]
VALUES = (None, 10**30, "text", [1], deep(150), deep(600), MISSING)


def harmless(place: tuple[str | int, ...], value: Any) -> bool:
    """Whether a field may be missing, or hold this."""
    held = {"command": ["text"], "measured": [deep(150)], "scored": [], "documents": []}
    return place[0] in held and value in (*held[str(place[0])], MISSING)


@pytest.fixture(scope="module")
def settings() -> ScoreSettings:
    return settings_of("extrapolate", ScoreSettings, [*SCORE, "runs=none"])


@pytest.mark.parametrize("place", PLACES, ids=lambda place: ".".join(map(str, place)))
def test_a_value_of_another_type_anywhere_in_a_manifest_is_told_in_a_line(
    copy: Path, place: tuple[str | int, ...], settings: ScoreSettings, capsys: pytest.CaptureFixture[str]
) -> None:
    nope, warm = path_of(copy, "nope"), path_of(copy, "warm")
    chosen, beside = settings.with_values(runs=str(warm)), copy / "runs"
    for other in ("same", "hot"):
        shutil.rmtree(path_of(copy, other))
    for value in VALUES:
        for resealed in (False, True) if place[0] == "identity" else (False,):
            manifest = manifest_of(path_of(copy, "warm"))
            whole = json.dumps(manifest)
            node: Any = manifest
            for key in place[:-1]:
                node = node[key]
            if value is MISSING:
                del node[place[-1]]
            else:
                node[place[-1]] = value
            if resealed and isinstance(manifest.get("identity"), dict):
                manifest["digest"] = digest(manifest["identity"])
            (warm / "manifest.json").write_text(json.dumps(manifest | {"sha256": seal(manifest)}))
            told = [told_by(act) for act in (lambda: open_model(warm).decoder(), lambda: extrapolate(chosen))]
            show(Chosen(beside), verify=False)
            lines = capsys.readouterr().err.splitlines()
            assert len(lines) <= 1
            if json.dumps(manifest) != whole and not harmless(place, value):
                assert nope.name in str(told[0] or told[1]), value
            (warm / "manifest.json").write_text(whole)
