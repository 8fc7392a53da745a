"""Children: runs that begin with the weights of a parent, what they take over from it, and what is refused."""

import contextlib
import csv
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from commands import the_one_line
from safetensors.torch import load_file

from lab.base.errors import UserError
from lab.base.parts import build
from lab.data.stream.fingerprint import Fingerprint
from lab.data.stream.order import BlockStream
from lab.experiment.child import inherit
from lab.experiment.compose import checked, composed
from lab.experiment.settings import TrainSettings
from lab.experiment.setup import Setup
from lab.runs.control import check
from lab.runs.identity import FORMAT, digest
from lab.runs.manifest import seal, write_manifest
from lab.runs.run import open_model

Lab = Callable[..., subprocess.CompletedProcess[str]]
QUICK = ("logger=csv", "measure=none", "trainer.accelerator=cpu", "trainer.log_every=1")
CODE = ("code",)  # allowed to differ: it may be edited while the tests run
STEP_BLOCKS = 16  # batch_tokens 1024 / C 64
BLOCKS = 64  # of the four steps of a parent


def run_of(folder: Path, name: str) -> Path:
    """The run from scratch of a model, or a child of the lineage by how it reads its data."""
    for path in (folder / "runs").glob("*/manifest.json"):
        start = manifest_of(path.parent)["identity"].get("start", {"data": path.parent.name.partition("-")[0]})
        if start["data"] == name:
            return path.parent
    raise FileNotFoundError(name)


def start(parent: Path | str, *others: str) -> tuple[str, ...]:
    return ("start=run", f"start.run={parent}", *QUICK, *others)


def setup_of(folder: Path, *overrides: str) -> Setup:
    """What the command would train, without training."""
    with contextlib.chdir(folder):
        return Setup(checked(TrainSettings, inherit(composed("train", overrides), overrides)))


def child_of(here: Lab, folder: Path, parent: Path | str, *others: str) -> tuple[Path, list[str]]:
    """The directory of a child that is trained by the command, and the lines that this prints."""
    before = set(folder.rglob("manifest.json"))
    result = here("train", *start(parent, *others), folder=folder)
    assert result.returncode == 0, result.stderr
    (made,) = set(folder.rglob("manifest.json")) - before
    return made.parent, result.stdout.splitlines()


def manifest_of(run: Path) -> dict[str, Any]:
    return json.loads((run / "manifest.json").read_text())


def edit(run: Path, **changes: Any) -> None:
    write_manifest(run, manifest_of(run) | changes)


def metrics_of(run: Path) -> list[dict[str, str]]:
    with open(run / "metrics.csv", newline="") as file:
        return list(csv.DictReader(file))


def last_checkpoint(run: Path) -> Path:
    return max((run / "checkpoints").glob("step=*"))


def stream_of(setup: Setup) -> BlockStream:
    """The training blocks from the first document on, without any cursor of a parent."""
    config = setup.config
    return BlockStream(
        build("corpus", config.data.corpus),
        "train",
        setup.tokenizer,
        context=config.scale.context,
        seed=config.data.seed,
        lanes=config.data.lanes,
    )


def fingerprint_of(stream: BlockStream, first: int, count: int) -> str:
    total = Fingerprint()
    for number in range(first, first + count):
        total.add(number, stream.block(number).tokens)
    return total.hex


@pytest.fixture(scope="module")
def lineage(here: Lab, trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the parents and, of rope, a nope that reads on and one that reads again; what was printed stands
    in on.txt and again.txt."""
    folder = tmp_path_factory.mktemp("lineage")
    shutil.copytree(trained / "runs", folder / "runs")
    parent = run_of(folder, "rope")
    for how in ("on", "again"):
        _, lines = child_of(here, folder, f"runs/{parent.name}", "model=nope", f"start.data={how}")
        (folder / f"{how}.txt").write_text("\n".join(lines))
    return folder


@pytest.fixture
def copied(lineage: Path, tmp_path: Path) -> Path:
    """A copy that a test may change."""
    shutil.copytree(lineage / "runs", tmp_path / "runs")
    return tmp_path


# How a child begins.


def test_a_child_of_another_model_begins_with_the_weights_of_its_parent_to_the_bit(lineage: Path) -> None:
    parent, child = run_of(lineage, "rope"), run_of(lineage, "on")
    stored = load_file(last_checkpoint(parent) / "weights.safetensors")
    begun = dict(setup_of(lineage, *start(parent, "model=nope")).fresh_decoder().named_parameters())
    assert begun.keys() == stored.keys()
    assert all(torch.equal(begun[name], stored[name]) for name in stored)
    manifest = manifest_of(child)
    # The proof in the manifest is of the same matrices as those that the parent's file holds.
    for name, tensor in stored.items():
        content = tensor.contiguous().numpy().tobytes()
        assert hashlib.sha256(content).hexdigest().startswith(manifest["initial_weights"][name][:16]), name
    assert manifest["parent"] == {
        "name": parent.name,
        "digest": manifest_of(parent)["digest"],
        "step": 4,
        "weights_sha256": hashlib.sha256((last_checkpoint(parent) / "weights.safetensors").read_bytes()).hexdigest(),
    }
    assert (lineage / "on.txt").read_text().splitlines()[0] == (
        f"child of {parent.name}, step 4: model.position.base: 10000.0 -> absent; model.position.name: rope -> nope"
    )
    assert manifest["initial_weights"] != manifest_of(parent)["initial_weights"]


def test_what_is_not_given_is_the_parents_and_what_is_given_wins(trained: Path) -> None:
    parent = run_of(trained, "rope")
    theirs, own = open_model(parent).config, setup_of(trained, *start(parent)).config
    for name in ("model", "scale", "tokenizer", "data", "optimizer", "schedule", "seed", "kernel"):
        assert getattr(own, name) == getattr(theirs, name), name
    given = ("seed=7", "scale.tokens=3072", "optimizer.weight_decay=0.3", "schedule=wsd", "model/position=alibi")
    own = setup_of(trained, *start(parent, *given)).config
    assert (own.seed, own.scale.tokens, own.optimizer.weight_decay) == (7, 3072, 0.3)
    assert (own.schedule.name, own.model.position.name) == ("wsd", "alibi")
    assert own.model.attention == theirs.model.attention
    assert own.optimizer.betas == theirs.optimizer.betas
    assert (own.scale.context, own.scale.width, own.scale.layers) == (64, 32, 2)
    # A value that follows another goes with it: the data are shuffled by the seed, the peak is the scale's.
    assert own.data.seed == 7
    own = setup_of(trained, *start(parent, "scale.learning_rate=0.001")).config
    assert own.optimizer.learning_rate == 0.001


def test_values_that_a_parent_was_given_stay_where_the_child_gives_what_they_would_follow(
    here: Lab, tmp_path: Path
) -> None:
    own = ("optimizer.learning_rate=0.0005", "data.seed=3", "trainer.gradient_clip=0.5", "scale.tokens=3072")
    result = here("train", "experiment=smoke", *QUICK, *own, folder=tmp_path)
    assert result.returncode == 0, result.stderr
    config = setup_of(tmp_path, *start(run_of(tmp_path, "nope"), "seed=1", "scale.learning_rate=0.1")).config
    assert (config.optimizer.learning_rate, config.data.seed, config.trainer.gradient_clip) == (0.0005, 3, 0.5)


def test_an_experiment_is_given_with_all_that_it_sets_and_takes_up(here: Lab, copied: Path) -> None:
    folder = copied / "own" / "experiment"
    folder.mkdir(parents=True)
    (folder / "base.yaml").write_text("# @package _global_\nscale:\n  tokens: 3072\nseed: 5\n")
    (folder / "mine.yaml").write_text(
        "# @package _global_\ndefaults:\n  - base\n  - override /model: alibi\n  - _self_\nscale:\n  warmup_steps: 1\n"
    )
    parent = run_of(copied, "rope")
    result = here("train", "--config-dir", str(folder.parent), *start(parent, "experiment=mine"), folder=copied)
    assert result.returncode == 0, result.stderr
    child = max((copied / "runs").glob("alibi-*"), key=lambda path: path.stat().st_mtime)
    config = open_model(child).config
    assert (config.model.position.name, config.scale.tokens, config.scale.warmup_steps) == ("alibi", 3072, 1)
    assert config.seed == 5
    assert config.scale.width == 32
    assert setup_of(copied, *start(parent, "experiment=pilot_study", "data.mode=stream")).config.kernel == "matched"


def test_optimizer_and_schedule_begin_anew(lineage: Path) -> None:
    parent, child = run_of(lineage, "rope"), run_of(lineage, "on")
    rates = [[row["learning_rate"] for row in metrics_of(run)] for run in (parent, child)]
    assert rates[0] == rates[1]
    assert len(set(rates[0])) > 1
    assert [row["step"] for row in metrics_of(child)] == ["1", "2", "3", "4"]
    state = open_model(child).checkpoint(4).state()
    steps = {int(each["step"]) for each in state["optimizer_states"][0]["state"].values()}
    assert steps == {4}


def test_start_scratch_adds_nothing_to_the_identity(trained: Path) -> None:
    manifest = manifest_of(run_of(trained, "nope"))
    assert not {"start", "extension", "extensions"} & manifest["identity"].keys()
    given = ("experiment=smoke", *QUICK, "scale.tokens=4096")
    told, plain = setup_of(trained, *given, "start=scratch"), setup_of(trained, *given)
    assert told.digest == plain.digest == manifest["digest"]
    assert told.run.path.name == run_of(trained, "nope").name


def test_the_identity_holds_the_parents_by_value_and_no_path(here: Lab, copied: Path, tmp_path: Path) -> None:
    parent = run_of(copied, "rope")
    child = run_of(copied, "on")
    identity = manifest_of(child)["identity"]
    assert identity["start"] == {"parent": manifest_of(parent)["identity"], "step": 4, "data": "on"}
    assert parent.name not in json.dumps(identity)
    assert str(tmp_path) not in json.dumps(identity)
    grandchild, _ = child_of(here, copied, child, "start.data=again")
    assert manifest_of(grandchild)["identity"]["start"]["parent"] == identity
    before = {run.name: manifest_of(run)["digest"] for run in (child, grandchild)}

    elsewhere = tmp_path / "elsewhere" / "deeper"
    shutil.copytree(copied / "runs", elsewhere / "renamed")
    moved = elsewhere / "renamed" / parent.name
    setup = setup_of(elsewhere, *start(moved, "model=nope", "runs=renamed"))
    assert setup.digest == before[child.name]
    result = here("train", *start(moved, "model=nope", "runs=renamed"), folder=elsewhere)
    assert result.stdout.splitlines() == [f"renamed/{child.name} is finished"]
    os.rename(moved, elsewhere / "another-name")
    moved = elsewhere / "another-name"
    assert setup_of(elsewhere, *start(moved, "model=nope", "runs=renamed")).digest == before[child.name]
    again = setup_of(elsewhere, *start(f"renamed/{child.name}", "start.data=again", "runs=renamed"))
    assert again.digest == before[grandchild.name] == digest(again.identity)


def test_a_parent_may_be_named_by_dot_or_link_and_is_recorded_by_its_own_name(copied: Path) -> None:
    parent = run_of(copied, "rope")
    (copied / "link").symlink_to(parent)
    for folder, way in ((copied, parent), (copied, "link"), (parent, "."), (parent / "checkpoints", "..")):
        setup = setup_of(folder, *start(way))
        with contextlib.chdir(folder):
            assert setup.start.record()["name"] == parent.name


# Which data it reads.


def test_on_equal_data_a_child_reads_on_and_again_reads_from_the_first_block(lineage: Path) -> None:
    parent, child, again = (run_of(lineage, name) for name in ("rope", "on", "again"))
    setup = setup_of(lineage, *start(parent, "model=nope"))
    assert (setup.first_block, setup.identity["start"]["data"]) == (BLOCKS, "on")
    # It goes on from where the parent's lanes stood: nothing is read again.
    assert len(setup.data.state_dict()["cursors"]) == setup.stream.lanes
    stream = stream_of(setup)
    assert manifest_of(child)["first_block"] == BLOCKS
    assert manifest_of(child)["blocks"] == {"count": BLOCKS, "fingerprint": fingerprint_of(stream, BLOCKS, BLOCKS)}
    assert manifest_of(parent)["blocks"]["fingerprint"] == fingerprint_of(stream, 0, BLOCKS)
    # The first loss is that of the parent's weights, on the first blocks that it has not read.
    tokens = torch.stack([torch.from_numpy(stream.block(BLOCKS + each).tokens.astype("int64")) for each in range(16)])
    decoder = setup.fresh_decoder()
    with torch.no_grad():
        losses = decoder.next_token_losses(decoder.hidden(tokens[:, :-1]), tokens[:, 1:])
    assert float(metrics_of(child)[0]["loss_nats"]) == pytest.approx(losses.mean().item(), abs=1e-5)

    assert manifest_of(again)["first_block"] == 0
    assert manifest_of(again)["blocks"] == manifest_of(parent)["blocks"]
    assert manifest_of(again)["identity"]["start"]["data"] == "again"


def test_to_read_on_counts_over_generations_steps_and_batches(here: Lab, copied: Path) -> None:
    parent = run_of(copied, "nope")
    child, _ = child_of(here, copied, parent, "start.step=2", "scale.tokens=3072", "scale.batch_tokens=512")
    first = 2 * STEP_BLOCKS
    assert manifest_of(child)["first_block"] == first
    grandchild, _ = child_of(here, copied, child)
    setup = setup_of(copied, *start(child))
    assert manifest_of(grandchild)["first_block"] == setup.first_block == first + 48
    assert manifest_of(grandchild)["blocks"]["fingerprint"] == fingerprint_of(stream_of(setup), first + 48, 48)
    # Where a generation has read again, the next reads on from there.
    assert setup_of(copied, *start(run_of(copied, "again"))).first_block == BLOCKS
    assert setup_of(copied, *start(run_of(copied, "on"))).first_block == 2 * BLOCKS


@pytest.mark.parametrize(
    "others",
    [
        ("data.seed=5",),
        ("data.tile=64",),
        ("data.lanes=16",),
        ("scale.context=32",),
        (
            "data=files",
            "data.corpus.train=a.txt",
            "data.corpus.validation=b.txt",
            "data.corpus.test=c.txt",
            "data.lanes=1",
        ),
    ],
)
def test_on_other_data_a_child_begins_with_the_first_block_and_says_so(copied: Path, others: tuple[str, ...]) -> None:
    for name in "abc":
        (copied / f"{name}.txt").write_text(f"{name} gold river treaty nation people of the war " * 400)
    parent = run_of(copied, "nope")
    for how in ("on", "again"):
        setup = setup_of(copied, *start(parent, *others, f"start.data={how}", "scale.validation_blocks=1"))
        assert (setup.first_block, setup.identity["start"]["data"]) == (0, "other")
        assert setup.data.state_dict()["next_block"] == 0


def test_isolation_of_documents_and_workers_leave_the_data_the_same(trained: Path) -> None:
    given = ("data.isolate_documents=true", "kernel=reference", "data.workers=2")
    assert setup_of(trained, *start(run_of(trained, "nope"), *given)).first_block == BLOCKS


def test_written_blocks_of_a_child_reach_as_far_as_it_reads(here: Lab, copied: Path) -> None:
    parent = run_of(copied, "rope")
    command = ("start=run", f"start.run={parent}", "logger=csv", "trainer.accelerator=cpu", "trainer.log_every=1")
    written = here("prepare", "blocks", *command, "--processes", "1", folder=copied)
    assert written.returncode == 0, written.stderr
    assert f"{2 * BLOCKS} blocks;" in written.stdout
    stored, _ = child_of(here, copied, parent, "model=nope", "data.mode=blocks", "runs=others")
    assert metrics_of(stored) == metrics_of(run_of(copied, "on"))
    assert manifest_of(stored)["digest"] == manifest_of(run_of(copied, "on"))["digest"]


def test_with_another_context_the_next_smaller_micro_batch_that_divides_is_taken_and_said(
    here: Lab, copied: Path
) -> None:
    parent = run_of(copied, "nope")
    child, lines = child_of(here, copied, parent, "scale.context=256", "scale.validation_blocks=1")
    assert lines[0] == "scale.micro_batch is 4: 8 x C = 2048 does not divide batch_tokens = 1024"
    assert lines[1].startswith("child of ")
    assert "scale.context: 64 -> 256; scale.micro_batch: 8 -> 4" in lines[1]
    assert open_model(child).config.scale.micro_batch == 4
    refused = here("train", *start(parent, "scale.context=256", "scale.micro_batch=8"), folder=copied)
    assert "batch_tokens is 1024, not a multiple of micro_batch x context = 2048" in the_one_line(refused)
    refused = here("train", *start(parent, "scale.context=100"), folder=copied)
    assert "batch_tokens is 1024, not a multiple of micro_batch x context" in the_one_line(refused)


# A child that is stopped, and one whose parent is gone.


def test_a_killed_child_goes_on_to_the_bit_even_if_its_parent_is_gone(here: Lab, copied: Path) -> None:
    parent = run_of(copied, "rope")
    shutil.copytree(copied / "runs", copied / "whole")
    given = ("model=nope", "scale.tokens=6144", "trainer.checkpoint_every=2")
    command = start(f"runs/{parent.name}", *given)
    process = subprocess.run(
        [sys.executable, "-m", "lab.train", *command],
        cwd=copied,
        capture_output=True,
        check=False,
        env=os.environ | {"LAB_KILL_AT": "after-rename:2"},
    )
    assert process.returncode == -signal.SIGKILL, process.stderr
    (killed,) = (path.parent for path in copied.glob("runs/*/manifest.json") if '"training"' in path.read_text())
    result = here("train", *start(f"whole/{parent.name}", *given, "runs=whole"), folder=copied)
    assert result.returncode == 0, result.stderr
    shutil.rmtree(parent)
    result = here("train", *command, folder=copied)
    assert result.returncode == 0, result.stderr
    lines = result.stdout.splitlines()
    assert lines[0] == f"runs/{parent.name} is not there any more: runs/{killed.name}, begun from it, needs it no more"
    assert lines[1].startswith(f"runs/{killed.name}: continuing after optimiser step 4 of 6")
    whole = copied / "whole" / killed.name
    assert manifest_of(killed)["blocks"] == manifest_of(whole)["blocks"]
    assert metrics_of(killed) == metrics_of(whole)
    for name in ("weights.safetensors", "training.safetensors", "training.json"):
        assert (last_checkpoint(killed) / name).read_bytes() == (last_checkpoint(whole) / name).read_bytes(), name


def test_a_finished_child_is_found_listed_scored_and_continued_from_without_its_parent(here: Lab, copied: Path) -> None:
    parent = run_of(copied, "rope")
    command = start(f"runs/{parent.name}", "model=nope")
    child, other = run_of(copied, "on"), run_of(copied, "again")
    shutil.rmtree(parent)
    for name, given in {child.name: (), other.name: ("start.data=again",)}.items():
        result = here("train", *command, *given, folder=copied)
        assert result.returncode == 0, result.stderr
        assert result.stdout.splitlines() == [
            f"runs/{parent.name} is not there any more: runs/{name}, begun from it, needs it no more",
            f"runs/{name} is finished",
        ]
    listed = here("status", folder=copied)
    assert (listed.returncode, listed.stderr) == (0, "")
    assert child.name in listed.stdout
    scored = here(
        "extrapolate", f"runs=runs/{child.name}", "measure=truncated_perplexity", "scoring.longest=2",
        "scoring.segments=1", folder=copied,
    )  # fmt: skip
    assert scored.returncode == 0, scored.stderr
    assert setup_of(copied, *start(child)).start.record()["name"] == child.name
    # What was never begun cannot be, and to begin it anew needs the parent too.
    for given in (("seed=2",), ("overwrite=true",), ("start.step=2",)):
        line = the_one_line(here("train", *command, *given, folder=copied))
        assert line == f"error: runs/{parent.name}: no such run; python -m lab.status runs lists those there are"
    assert (last_checkpoint(child) / "weights.safetensors").exists()


def test_a_child_without_a_checkpoint_needs_its_parent_and_says_so(here: Lab, copied: Path) -> None:
    parent = run_of(copied, "rope")
    child = run_of(copied, "on")
    shutil.rmtree(child / "checkpoints")
    (child / "metrics.csv").unlink()
    edit(child, state="training")
    shutil.move(parent, copied / "away")
    line = the_one_line(here("train", *start(f"runs/{parent.name}", "model=nope"), folder=copied), last=True)
    assert line == (
        f"error: runs/{child.name} has no checkpoint yet, and its parent {parent.name} is not there: restore the parent"
    )


# Comparisons of children.


def test_two_diets_of_one_parent_are_compared_and_what_was_chosen_beside_is_refused(here: Lab, copied: Path) -> None:
    for name in ("train", "validation", "test"):
        lines = (json.dumps({"text": f"{name} {number} gold river treaty of the war " * 40}) for number in range(64))
        (copied / f"{name}.jsonl").write_text("\n".join(lines))
    files = ("data=files", *(f"data.corpus.{name}={name}.jsonl" for name in ("train", "validation", "test")))
    other, _ = child_of(here, copied, run_of(copied, "rope"), "model=nope", *files, "scale.validation_blocks=8")
    on, again, fed = (open_model(path) for path in (run_of(copied, "on"), run_of(copied, "again"), other))
    control = check([on, fed], "data", CODE)
    assert control.keys("follows") == ["blocks.fingerprint", "start.data"]
    assert all(key.startswith("data.corpus.") for key in control.keys("factor"))
    assert len(control.variants) == 2
    with pytest.raises(UserError, match=r"more than data: .*start.data is .*on in .*again in "):
        check([on, again, fed], "data", CODE)
    assert check([on, again], "start.data", CODE).keys("follows") == ["blocks.fingerprint"]


def test_a_child_is_held_against_a_run_from_scratch_by_its_start_alone(lineage: Path) -> None:
    runs = [open_model(run_of(lineage, name)) for name in ("nope", "on")]
    control = check(runs, "start", CODE)
    assert control.keys("follows") == ["blocks.fingerprint", "initial_weights"]
    with pytest.raises(UserError, match=r"model has one value in all runs"):
        check([runs[1], open_model(run_of(lineage, "again"))], "model", CODE)
    with pytest.raises(UserError, match=r"more than model: .*start.data is "):
        check([open_model(run_of(lineage, "rope")), runs[1]], "model", CODE)


# What is refused.


def refused(here: Lab, folder: Path, parent: Path | str, *others: str) -> str:
    """The one line; fails if anything was written."""
    before = sorted(path for path in folder.rglob("*") if not path.name.endswith(".lock"))
    line = the_one_line(here("train", *start(parent, *others), folder=folder), last=True)
    assert sorted(path for path in folder.rglob("*") if not path.name.endswith(".lock")) == before
    return line


def test_a_parent_that_is_missing_or_no_run_is_named(here: Lab, copied: Path) -> None:
    (copied / "empty").mkdir()
    assert "runs/none: no such run; python -m lab.status runs lists" in refused(here, copied, "runs/none")
    assert "empty is not a run directory: it has no manifest.json" in refused(here, copied, "empty")
    assert "start.run must be given" in the_one_line(here("train", "start=run", folder=copied))


def test_an_unfinished_parent_is_a_parent_at_a_step_that_is_given(here: Lab, copied: Path) -> None:
    parent = run_of(copied, "rope")
    edit(parent, state="training")
    line = refused(here, copied, parent)
    assert f"{parent} is unfinished: train it to its end with the command that began it, or start from one of" in line
    assert "start.step=STEP" in line
    child, _ = child_of(here, copied, parent, "start.step=2")
    assert manifest_of(child)["parent"]["step"] == 2
    assert manifest_of(child)["first_block"] == 2 * STEP_BLOCKS
    stored = load_file(parent / "checkpoints" / "step=00000002" / "weights.safetensors")
    begun = setup_of(copied, *start(parent, "start.step=2")).fresh_decoder()
    assert all(torch.equal(value, stored[name]) for name, value in begun.named_parameters())


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (("start.step=3",), "step=00000003: checkpoint.json is missing; checkpoints are there of steps 2, 4"),
        (("start.step=0",), "start.step is 0: give "),
        (("start.step=first",), "start.step is 'first': give "),
        (("start.data=off",), "start.data is 'off': give on or again"),
        (("scale.width=64",), "of shape (1024, 32), and this decoder (1024, 64): give the same shape"),
        (("scale.layers=3",), "has no blocks.2.attention.key.weight, which this decoder needs"),
        (("scale.layers=1",), "has blocks.1.attention.key.weight, which this decoder has no place for"),
        (("scale.heads=4",), "has blocks.0.attention.query.weight of shape (32, 32), and this decoder (64, 32)"),
        (("model.tied=true",), "has head.weight, which this decoder has no place for: give the same tied"),
        (("tokenizer=sotu_4k",), "embedding of shape (1024, 32), and this decoder (4096, 32)"),
        (("scale.vocabulary=4096",), "embedding of shape (1024, 32), and this decoder (4096, 32)"),
    ],
)
def test_a_start_that_cannot_be_is_refused_with_what_does_not_fit(
    here: Lab, copied: Path, given: tuple[str, ...], told: str
) -> None:
    assert told in refused(here, copied, run_of(copied, "rope"), *given)


def test_a_damaged_parent_is_refused_with_the_file_and_the_remedy(here: Lab, copied: Path) -> None:
    parent = run_of(copied, "rope")
    weights, manifest, config = (
        last_checkpoint(parent) / "weights.safetensors",
        parent / "manifest.json",
        parent / "config.yaml",
    )
    whole = {path: path.read_bytes() for path in (weights, manifest, config)}
    flipped = bytearray(whole[weights])
    flipped[len(flipped) // 2] ^= 1
    other = json.loads(whole[manifest])
    other["identity"]["seed"] = 9
    resealed = other | {"sha256": seal(other)}
    nested = f'{{"format": {FORMAT}, "a":'.encode() + b'{"a":' * 300 + b"1" + b"}" * 301
    damages = [
        (weights, bytes(flipped), "weights.safetensors is damaged: its sha256 differs; checkpoints are there of steps"),
        (weights, whole[weights][:-100], "weights.safetensors has another length than it was written with"),
        (weights, None, "weights.safetensors is missing"),
        (manifest, b"garbage", "manifest.json is damaged ("),
        (manifest, b"", "manifest.json is damaged ("),
        (manifest, b"\xff\xfe", "manifest.json is damaged ("),
        (manifest, b"[" * 100_000, "manifest.json is damaged ("),
        (manifest, nested, "it is nested deeper than 200"),
        (manifest, json.dumps(other).encode(), "manifest.json is damaged (it is not as it was written: its sha256"),
        (manifest, json.dumps(resealed).encode(), "manifest.json has another digest than what it holds; restore it"),
        (config, whole[config].replace(b"seed: 0", b"seed: 3"), "config.yaml says "),
        (config, whole[config].replace(b"context: 64", b"context: 100"), "config.yaml says scale.context is 100, and"),
        (config, whole[config].replace(b"base: 10000.0", b"base: wide"), "config.yaml is damaged (model.position.base"),
        (config, b"a: [", "config.yaml cannot be read"),
        (config, None, "config.yaml cannot be read"),
    ]
    for path, content, told in damages:
        assert content != whole[path]
        path.write_bytes(content) if content is not None else path.unlink()
        line = refused(here, copied, parent, "model=nope")
        assert told in line, line
        assert "restore" in line or "checkpoints are there of steps 2" in line, line
        path.write_bytes(whole[path])
    assert setup_of(copied, *start(parent, "model=nope")).first_block == BLOCKS
