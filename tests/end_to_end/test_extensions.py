"""Derived runs of every method go through the commands; what cannot be is one line."""

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from commands import lab, the_one_line

from lab.runs.run import open_model

QUICK = ("measure=none", "logger=csv", "threads=1")
SCORE = ("measure=excess", "scoring.longest=4", "scoring.documents=3", "scoring.segments=1", "threads=1")
VECTORS = ("vectors.longest=4", "vectors.windows=8", "search.documents=2", "threads=1")
REPLACED = ("extension=vector_replacement", "extension.contexts=4", "extension.ratio=5", *VECTORS)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("extended")
    for model, seed in (("nope", 0), ("nope", 1), ("window_nope", 0), ("alibi", 0)):
        trained = lab("train", "experiment=smoke", f"model={model}", f"seed={seed}", *QUICK, cwd=folder)
        assert trained.returncode == 0, trained.stderr
    return folder


def path_of(folder: Path, pattern: str) -> Path:
    (found,) = (folder / "runs").glob(pattern)
    return found


@pytest.fixture(scope="module")
def extend(runs: Path) -> Callable[..., Path]:
    def extend(model: str, name: str, *keys: str, seed: int = 0) -> Path:
        parent = path_of(runs, f"{model}-2x32-C64-sotu-seed{seed}-????????")
        before = {path.name for path in (runs / "runs").iterdir()}
        result = lab("extend", f"run={parent}", f"extension={name}", *keys, cwd=runs)
        assert result.returncode == 0, result.stderr
        (made,) = {path.name for path in (runs / "runs").iterdir() if not path.name.startswith(".")} - before
        return runs / "runs" / made

    return extend


@pytest.fixture(scope="module")
def derived(extend: Callable[..., Path]) -> dict[str, Path]:
    return {
        "attention_scaling": extend("nope", "attention_scaling", "extension.factor=4", "extension.k=0.4"),
        "initial_scaling": extend("nope", "initial_scaling", "extension.factor=4"),
        "vector_replacement": extend("nope", *REPLACED[0].split("=")[1:], *REPLACED[1:]),
        "window_extension": extend("window_nope", "window_extension", "extension.ratio=2", "extension.scale=1.1"),
    }


def test_each_is_scored_and_compared_with_its_parent(runs: Path, derived: dict[str, Path]) -> None:
    for model, names in (("nope", [*derived][:3]), ("window_nope", ["window_extension"])):
        parent = path_of(runs, f"{model}-2x32-C64-sotu-seed0-????????")
        chosen = ",".join(f"'{path}'" for path in (parent, *(derived[name] for name in names)))
        result = lab("compare", f"runs=[{chosen}]", "factor=extension", *SCORE, f"output=compared_{model}", cwd=runs)
        assert result.returncode == 0, result.stderr + result.stdout
        with open(runs / f"compared_{model}" / "estimates.csv", newline="") as file:
            variants = {row["variant"] for row in csv.DictReader(file)}
        assert len(variants) == 1 + len(names)
        losses = {
            path: [row["loss_nats"] for row in rows(path) if row["measure"] == "whole_prefix"]
            for path in (parent, *(derived[name] for name in names))
        }
        assert len({tuple(each) for each in losses.values()}) == 1 + len(names)


def rows(run: Path) -> list[dict[str, str]]:
    with open(run / "scores.csv", newline="") as file:
        return list(csv.DictReader(file))


def test_each_writes_a_text(runs: Path, derived: dict[str, Path]) -> None:
    for path in derived.values():
        result = lab("generate", f"run={path}", "prompt=The state", "tokens=5", "greedy=true", cwd=runs)
        assert result.returncode == 0, result.stderr


def test_each_is_exported_as_the_same_decoder_or_refused_by_name(runs: Path, derived: dict[str, Path]) -> None:
    from transformers import AutoModelForCausalLM

    tokens = torch.randint(0, 1024, (1, 200), generator=torch.Generator().manual_seed(0))
    for name, path in derived.items():
        result = lab("export", f"run={path}", f"to=exported/{name}", cwd=runs)
        if name in ("attention_scaling", "window_extension"):
            assert result.returncode == 0, result.stderr
            theirs = AutoModelForCausalLM.from_pretrained(runs / "exported" / name, dtype=torch.float32).eval()
            ours = open_model(path).decoder()
            ours.compute_dtype = torch.float32
            with torch.inference_mode():
                wanted, found = ours(tokens), theirs(tokens).logits
            assert float((found - wanted).abs().max()) < 1e-4 * float(wanted.abs().max())
        else:
            assert f"transformers cannot express the extension {name}; export its parent" in the_one_line(result)


def test_vectors_of_derived_runs_are_held_against_those_of_their_parent(runs: Path, derived: dict[str, Path]) -> None:
    few = ("study.vectors.windows=8", "study.vectors.longest=4", "threads=1")
    chosen = ",".join(f"'{derived[name]}'" for name in ("attention_scaling", "vector_replacement"))
    result = lab("analyze", f"runs=[{chosen}]", "study=interpolation", *few, cwd=runs)
    assert result.returncode == 0, result.stderr
    with open(runs / "analysis" / "interpolation.csv", newline="") as file:
        assert len({row["variant"] for row in csv.DictReader(file)}) == 2
    parent = path_of(runs, "nope-2x32-C64-sotu-seed0-????????")
    line = the_one_line(lab("analyze", f"runs={parent}", "study=interpolation", *few, cwd=runs))
    assert f"{parent} is no derived run: interpolation compares one with the run that it is of" in line


def test_what_a_search_found_is_in_the_identity_by_value_and_how_in_the_manifest(
    runs: Path, derived: dict[str, Path]
) -> None:
    path = derived["vector_replacement"]
    manifest: dict[str, Any] = json.loads((path / "manifest.json").read_text())
    with open(path / "search.csv", newline="") as file:
        tried = list(csv.DictReader(file))
    best = min(tried, key=lambda row: float(row["loss_beyond_nats"]))
    told = manifest["identity"]["extension"]
    assert (told["layer"], told["ratio"], told["alpha"]) == (int(best["layer"]), 5.0, 1.3)
    assert [row["layer"] for row in tried] == ["1", "2"]
    (table,) = (path / "tables").iterdir()
    assert table.stem == told["table_sha256"]
    assert manifest["found"]["windows"] == 8
    assert len(manifest["found"]["documents"]) == 2
    assert manifest["asked"]["extension"]["layer"] == "sweep"


def test_the_same_command_finds_what_it_made_without_another_search(runs: Path, derived: dict[str, Path]) -> None:
    parent = path_of(runs, "nope-2x32-C64-sotu-seed0-????????")
    result = lab("extend", f"run={parent}", *REPLACED, cwd=runs)
    assert result.returncode == 0, result.stderr
    assert f"{derived['vector_replacement'].name} is there" in result.stdout
    assert "sweep" not in result.stderr


def test_k_is_fitted_where_it_is_best(runs: Path, extend: Callable[..., Path]) -> None:
    keys = ("extension.factor=4", "extension.k=fit", "search.documents=2", "threads=1")
    path = extend("nope", "attention_scaling", *keys)
    k = json.loads((path / "manifest.json").read_text())["identity"]["extension"]["k"]
    with open(path / "search.csv", newline="") as file:
        tried = {float(row["k"]): float(row["loss_beyond_nats"]) for row in csv.DictReader(file)}
    assert k == pytest.approx(min(tried, key=lambda each: tried[each]), abs=1e-4)
    assert len(tried) > 5


def test_values_that_were_found_differ_from_seed_to_seed_and_are_one_variant(
    runs: Path, extend: Callable[..., Path]
) -> None:
    keys = ("extension.factor=4", "extension.k=fit", "search.documents=3", "threads=1")
    parents = [path_of(runs, f"nope-2x32-C64-sotu-seed{seed}-????????") for seed in (0, 1)]
    derived = [extend("nope", "attention_scaling", *keys, seed=seed) for seed in (0, 1)]
    found = [json.loads((path / "manifest.json").read_text())["identity"]["extension"]["k"] for path in derived]
    assert found[0] != found[1]
    chosen = ",".join(f"'{path}'" for path in (*parents, *derived))
    result = lab("compare", f"runs=[{chosen}]", "factor=extension", *SCORE, "output=of_seeds", cwd=runs)
    assert result.returncode == 0, result.stderr + result.stdout
    with open(runs / "of_seeds" / "estimates.csv", newline="") as file:
        assert {row["variant"] for row in csv.DictReader(file)} == {"nope", "nope+attention_scaling(factor=4,k=fit)"}
    with open(runs / "of_seeds" / "control.csv", newline="") as file:
        told = {(row["key"], row["kind"]) for row in csv.DictReader(file)}
    assert ("found.k", "follows") in told
    assert ("extension.k", "factor") in told


def test_children_of_what_was_found_are_one_variant_over_seeds_too(
    runs: Path, extend: Callable[..., Path], tmp_path: Path
) -> None:
    keys = ("extension.factor=4", "extension.k=fit", "search.documents=4", "threads=1")
    for seed in (0, 1):
        starts = [path_of(runs, f"nope-2x32-C64-sotu-seed{seed}-????????")]
        starts.append(extend("nope", "attention_scaling", *keys, seed=seed))
        for start in starts:
            short = ("scale.tokens=2048", "scale.warmup_steps=1", f"runs={tmp_path}")
            result = lab("train", "start=run", f"start.run={start}", *short, *QUICK, cwd=runs)
            assert result.returncode == 0, result.stderr
    children = [open_model(path.parent) for path in tmp_path.glob("*/manifest.json")]
    label = "nope+attention_scaling(factor=4,k=fit)"
    assert sorted(each.label for each in children) == ["nope", "nope", label, label]
    assert len({str(each.extensions) for each in children}) == 3
    result = lab("compare", f"runs='{tmp_path}/*'", "factor=extension", *SCORE, "output=of_children", cwd=runs)
    assert result.returncode == 0, result.stderr + result.stdout
    with open(runs / "of_children" / "control.csv", newline="") as file:
        told = {(row["key"], row["kind"]) for row in csv.DictReader(file)}
    assert {("start.parent.found.k", "follows"), ("start.parent.extension.k", "factor")} <= told


def test_a_child_is_trained_with_replaced_vectors_and_goes_on_without_its_parent(
    runs: Path, derived: dict[str, Path], tmp_path: Path
) -> None:
    shutil.copytree(runs / "runs", tmp_path / "runs")
    parent = f"runs/{derived['vector_replacement'].name}"
    command = ("train", "start=run", f"start.run={parent}", "scale.tokens=8192", *QUICK)
    result = lab(*command, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    (child,) = {path.name for path in (tmp_path / "runs").iterdir() if not path.name.startswith(".")} - {
        path.name for path in (runs / "runs").iterdir()
    }
    shutil.rmtree(tmp_path / parent)
    model = open_model(tmp_path / "runs" / child)
    model.check()
    assert [each.name for each in model.extensions] == ["vector_replacement"]
    assert model.decoder() is not None


def test_a_table_that_is_gone_or_other_is_told(runs: Path, derived: dict[str, Path], tmp_path: Path) -> None:
    shutil.copytree(runs / "runs", tmp_path / "runs")
    (table,) = (tmp_path / "runs" / derived["vector_replacement"].name / "tables").iterdir()
    command = ("generate", f"run=runs/{derived['vector_replacement'].name}", "prompt=a", "tokens=2")
    table.write_bytes(table.read_bytes()[:-1] + b"\1")
    assert "is no longer the table that its name says; restore it" in the_one_line(lab(*command, cwd=tmp_path))
    table.unlink()
    assert "of an extension; restore it" in the_one_line(lab(*command, cwd=tmp_path))


@pytest.mark.parametrize(
    ("model", "keys", "told"),
    [
        ("alibi", REPLACED, "is for decoders whose states alone tell positions"),
        ("nope", (*REPLACED, "extension.layer=3"), "extension.layer is 3, and the decoder has layers 1 to 2"),
        ("nope", (*REPLACED, "extension.ratio=0.5"), "extension.ratio"),
        ("nope", (*REPLACED, "extension.contexts=5"), "extension.contexts is 5, and vectors.longest 4"),
        ("nope", (*REPLACED, "extension.first=63"), "extension.first is 63: leave two of C = 64"),
        ("nope", (*REPLACED, "vectors.windows=1"), "windows is 1: vectors are compared between two halves"),
        ("nope", (*REPLACED, "search.ratios=[2.0]"), "search has 1 ratios and 0 alphas"),
        ("nope", (*REPLACED, "extension.table_sha256=abc"), "extension.table_sha256 is found, not given"),
        ("nope", ("extension=window_extension", "extension.ratio=2"), "sees all keys, and has no window to extend"),
        ("nope", ("extension=attention_scaling", "extension.factor=1", "extension.k=fit"), "k is fitted beyond C"),
    ],
)
def test_what_cannot_be_is_one_line_and_leaves_nothing(
    runs: Path, tmp_path: Path, model: str, keys: tuple[str, ...], told: str
) -> None:
    parent = path_of(runs, f"{model}-2x32-C64-sotu-seed0-????????")
    shutil.copytree(parent, tmp_path / "runs" / parent.name)
    line = the_one_line(lab("extend", f"run=runs/{parent.name}", *keys, cwd=tmp_path))
    assert told in line
    assert [path.name for path in (tmp_path / "runs").iterdir() if not path.name.endswith(".lock")] == [parent.name]


def test_another_encoding_is_replaced_by_force_as_a_negative_control(extend: Callable[..., Path]) -> None:
    path = extend("alibi", "vector_replacement", *REPLACED[1:], "extension.force=true", "extension.layer=1")
    assert open_model(path).decoder() is not None
