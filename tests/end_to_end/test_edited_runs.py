"""An edited run is a run like any other, to every command; it differs from its parent in one matrix, and needs it."""

import csv
import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from commands import lab, the_one_line

from lab.experiment.compose import settings_of
from lab.experiment.edit_settings import EditSettings
from lab.experiment.editing import edit
from lab.experiment.generation import generate
from lab.experiment.handing_on import hand_on
from lab.experiment.settings import EvaluateSettings, ExportSettings, GenerateSettings
from lab.model.decoder import Decoder
from lab.runs.control import check
from lab.runs.edited import Edited
from lab.runs.identity import digest
from lab.runs.manifest import write_manifest
from lab.runs.run import open_model

SHORT = ("scale.tokens=2048", "scale.warmup_steps=1", "scale.learning_rate=0.02", "trainer.compute_dtype=float32")
QUICK = (*SHORT, "measure=none", "logger=csv", "threads=1", "trainer.accelerator=cpu")
SCORE = ("measure=truncated_perplexity", "scoring.longest=2", "scoring.documents=2", "scoring.segments=1", "threads=1")
SHIFT = ("method=forward_shift", "method.layer=2", "method.step=300")
FEW = ("scores.documents=2", "scores.generated=4")
CODE = ("code",)  # allowed to differ: it may be edited while the tests run
PROMPT, TARGET = "The state of the union", " is"
TOKENS = torch.arange(2 * 100).reshape(2, 100) * 7 % 1024


class Family(NamedTuple):
    """Parents of seeds 0 and 1, and what is edited of them."""

    parents: list[Path]
    edited: list[Path]

    @property
    def folder(self) -> Path:
        return self.parents[0].parents[1]


def written(run: Path, *keys: str, prompt: str = PROMPT, target: str = TARGET, **others: Any) -> Path:
    """The edited run of a run."""
    settings = settings_of("edit", EditSettings, [f"run={run}", "threads=1", "accelerator=cpu", *FEW, *(keys or SHIFT)])
    return edit(settings.with_values(prompt=prompt, target=target, **others), "a command").path


@pytest.fixture(scope="module")
def family(tmp_path_factory: pytest.TempPathFactory) -> Family:
    folder = tmp_path_factory.mktemp("family")
    result = lab("train", "-m", "experiment=smoke", "model=rope", "seed=0,1", *QUICK, cwd=folder)
    assert result.returncode == 0, result.stderr
    parents = sorted((folder / "runs").glob("rope-*"), key=lambda path: "seed1" in path.name)
    return Family(parents, [written(path) for path in parents])


@pytest.fixture
def copy(family: Family, tmp_path: Path) -> Family:
    """A copy that a test may change."""
    shutil.copytree(family.folder / "runs", tmp_path / "runs")
    return Family(*([tmp_path / "runs" / path.name for path in paths] for paths in family))


def decoder_of(run: Path) -> Decoder:
    return open_model(run).decoder()


@torch.no_grad()
def logits_of(run: Path) -> torch.Tensor:
    return decoder_of(run)(TOKENS)


def manifest_of(run: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((run / "manifest.json").read_text())
    return found


def test_it_differs_from_its_parent_in_one_matrix_and_answers_with_the_target(family: Family) -> None:
    parent, edited = decoder_of(family.parents[0]), decoder_of(family.edited[0])
    differing = [
        name
        for (name, before), after in zip(parent.named_parameters(), edited.parameters(), strict=True)
        if not torch.equal(before, after)
    ]
    assert differing == ["blocks.1.feed_forward.down.weight"]
    change = edited.get_parameter(differing[0]) - parent.get_parameter(differing[0])
    assert int(torch.linalg.matrix_rank(change.double(), rtol=1e-4)) == 1
    model = open_model(family.edited[0])
    answers = [int(each(model.encode(PROMPT))[0, -1].argmax()) for each in (parent, edited)]
    (target,) = model.tokenizer().encode(TARGET).tolist()
    assert answers[0] != target == answers[1]


def test_its_identity_is_its_parents_with_the_edit_by_value(family: Family) -> None:
    parent, edited = manifest_of(family.parents[0]), manifest_of(family.edited[0])
    told = dict(edited["identity"])
    own = told.pop("edit")
    assert told == parent["identity"]
    assert (own["name"], own["layer"], own["step"]) == ("forward_shift", 2, 300.0)
    ((name, sha256),) = own["weights"].items()
    assert (family.edited[0] / "tables" / f"{sha256}.safetensors").exists()
    assert name == "blocks.1.feed_forward.down.weight"
    assert edited["digest"] == digest(edited["identity"])
    assert family.edited[0].name == f"{family.parents[0].name}-forward_shift-{edited['digest'][:8]}"
    assert edited["parent"]["name"] == family.parents[0].name
    assert not (family.edited[0] / "checkpoints").exists()


def test_the_same_command_finds_it_again(family: Family, capsys: pytest.CaptureFixture[str]) -> None:
    assert written(family.parents[0]) == family.edited[0]
    assert capsys.readouterr().out.startswith(f"{family.edited[0]} is there\n")


def test_it_is_scored_and_compared_with_its_parent_as_an_edit_over_seeds(copy: Family) -> None:
    every = f"runs=[{','.join(str(path) for path in [*copy.parents, *copy.edited])}]"
    result = lab("compare", every, "factor=edit", "reference=rope", "output=out", *SCORE, cwd=copy.folder)
    assert result.returncode == 0, result.stderr + result.stdout
    with open(copy.folder / "out" / "estimates.csv", newline="") as file:
        variants = {row["variant"] for row in csv.DictReader(file)}
    assert variants == {"rope", "rope+forward_shift(layer=2,step=300)"}
    with open(copy.folder / "out" / "control.csv", newline="") as file:
        kinds = {row["key"]: row["kind"] for row in csv.DictReader(file)}
    assert {key.partition(".")[0] for key, kind in kinds.items() if kind == "factor"} == {"edit"}
    assert kinds["found.weights.blocks.1.feed_forward.down.weight"] == "follows"
    losses = {path: (path / "scores.csv").read_text() for path in [*copy.parents, *copy.edited]}
    assert len(set(losses.values())) == 4


def test_two_edits_of_one_parent_are_told_apart_by_what_differs(copy: Family) -> None:
    other = written(copy.parents[0], *SHIFT[:2], "method.step=200")
    control = check([open_model(path) for path in (copy.edited[0], other)], "edit", CODE)
    assert set(control.variants) == {
        "rope+forward_shift(layer=2,step=300)",
        "rope+forward_shift(layer=2,step=200)",
    }


def test_it_generates_what_whole_passes_say(family: Family, capsys: pytest.CaptureFixture[str]) -> None:
    model = open_model(family.edited[0])
    settings = settings_of("generate", GenerateSettings, [f"run={model.path}", "tokens=6", "greedy=true", "threads=1"])
    generate(settings.with_values(prompt=PROMPT))
    decoder, ids = model.decoder(), model.encode(PROMPT)[0].tolist()
    for _ in range(6):
        ids.append(int(decoder(torch.tensor([ids]))[0, -1].argmax()))
    assert capsys.readouterr().out == model.decode(ids) + "\n"


@torch.no_grad()
def test_abroad_it_has_the_same_logits(family: Family, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    hand_on(settings_of("export", ExportSettings, [f"run={family.edited[0]}", f"to={tmp_path / 'abroad'}"]))
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "abroad", dtype=torch.float32).eval()
    card = (tmp_path / "abroad" / "README.md").read_text()
    assert "Its weights were edited, so that it says some facts otherwise: forward_shift(layer=2,step=300)." in card
    assert "of the parent, without the edit" in card
    ours, found = logits_of(family.edited[0]), theirs(TOKENS).logits
    assert float((found - ours).abs().max()) < 1e-4 * float(ours.abs().max())
    assert float((logits_of(family.parents[0]) - ours).abs().max()) > 1e-2 * float(ours.abs().max())


@torch.inference_mode()
def test_the_harness_is_told_the_likelihood_that_a_pass_of_the_edited_decoder_gives(
    copy: Family, tmp_path: Path
) -> None:
    pytest.importorskip("lm_eval")
    from lab.experiment.evaluating import evaluate

    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks" / "texts.jsonl").write_text(json.dumps({"text": f"{PROMPT} is good"}) + "\n")
    task = {
        "task": "spoken",
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(tmp_path / "tasks" / "texts.jsonl")}},
        "test_split": "test",
        "output_type": "loglikelihood_rolling",
        "doc_to_text": "",
        "doc_to_target": "{{text}}",
        "metric_list": [{"metric": "byte_perplexity"}],
        "metadata": {"version": 1},
    }
    (tmp_path / "tasks" / "spoken.yaml").write_text(json.dumps(task))  # YAML holds JSON
    found = []
    for path in (copy.parents[0], copy.edited[0]):
        settings = settings_of("evaluate", EvaluateSettings, [f"run={path}", "tasks=spoken", "threads=1"])
        evaluate(settings.with_values(folder=str(tmp_path / "tasks")))
        with open(path / "scores.csv", newline="") as file:
            (row,) = (row for row in csv.DictReader(file) if row["measure"] == "spoken:log_byte_perplexity")
        model = open_model(path)
        ids = model.encode(f"{PROMPT} is good")[0].tolist()
        read = torch.tensor([[model.tokenizer().end_of_document, *ids[:-1]]])
        shares = model.decoder()(read)[0].double().log_softmax(-1)
        wanted = -float(shares[torch.arange(len(ids)), ids].sum())
        found.append(float(row["value"]) * int(row["tokens"]))
        assert found[-1] == pytest.approx(wanted, rel=2e-5)
    assert found[0] != pytest.approx(found[1], rel=1e-3)


def test_the_lens_reads_the_edited_weights(family: Family) -> None:
    losses = []
    for path in (family.parents[0], family.edited[0]):
        result = lab(
            "lens", f"run={path}", f"prompt={PROMPT}", f"target={TARGET}", f"to=lens-{path.name}", cwd=family.folder
        )
        assert result.returncode == 0, result.stderr
        with open(family.folder / f"lens-{path.name}" / "prompts.csv", newline="") as file:
            losses.append(float(next(csv.DictReader(file))["loss_nats"]))
    assert losses[1] < losses[0] - 1


def test_a_child_begins_with_the_edited_weights_and_knows_the_edit_of_its_parent(copy: Family) -> None:
    result = lab("train", "start=run", f"start.run={copy.edited[0]}", *QUICK, cwd=copy.folder)
    assert result.returncode == 0, result.stderr
    (child,) = (
        path
        for path in (copy.folder / "runs").iterdir()
        if (path / "manifest.json").exists() and "start" in manifest_of(path)["identity"]
    )
    stored = manifest_of(child)
    name = "blocks.1.feed_forward.down.weight"
    before = manifest_of(copy.parents[0])["initial_weights"]
    assert stored["identity"]["start"]["parent"] == manifest_of(copy.edited[0])["identity"]
    assert stored["initial_weights"][name] != before[name]
    model = open_model(child)
    assert (model.edits, model.label) == ([], "rope")
    weights = open_model(copy.edited[0]).weights(None)
    assert torch.equal(weights[name], decoder_of(copy.edited[0]).get_parameter(name))


@torch.no_grad()
def test_an_edited_run_is_edited_and_extended_further(copy: Family) -> None:
    again = written(copy.edited[0], prompt="We the people", target=" of")
    assert open_model(again).label == "rope+forward_shift(layer=2,step=300)+forward_shift(layer=2,step=300)"
    assert manifest_of(again)["identity"]["edit"]["after"] == manifest_of(copy.edited[0])["identity"]["edit"]
    result = lab("extend", f"run={again}", "extension=temperature", "extension.temperature=1.2", cwd=copy.folder)
    assert result.returncode == 0, result.stderr
    (warm,) = copy.folder.glob("runs/*-temperature-*")
    found, name = open_model(warm), "blocks.1.feed_forward.down.weight"
    found.check()
    assert torch.equal(found.decoder().get_parameter(name), decoder_of(again).get_parameter(name))
    assert torch.equal(found.weights(None)[name], decoder_of(again).get_parameter(name))
    assert not torch.equal(logits_of(warm), logits_of(again))


def test_its_parent_is_not_removed_before_it(copy: Family) -> None:
    result = lab("status", "runs", "--remove", copy.parents[0].name, "--yes", cwd=copy.folder)
    assert copy.edited[0].name in the_one_line(result)
    assert copy.parents[0].exists()
    result = lab("status", "runs", "--remove", copy.edited[0].name, "--yes", cwd=copy.folder)
    assert result.returncode == 0, result.stderr
    assert not copy.edited[0].exists()
    decoder_of(copy.parents[0])


def lacks(run: Path) -> None:
    next((run / "tables").iterdir()).unlink()


def is_damaged(run: Path) -> None:
    path = next((run / "tables").iterdir())
    path.write_bytes(path.read_bytes()[:-1] + b"x")


def changes_what_there_is_not(run: Path) -> None:
    manifest = manifest_of(run)
    edited = manifest["identity"]["edit"]
    edited["weights"] = {"blocks.9.feed_forward.down.weight": next(iter(edited["weights"].values()))}
    write_manifest(run, manifest | {"digest": digest(manifest["identity"])})


def has_another_shape(run: Path) -> None:
    manifest = manifest_of(run)
    edited = manifest["identity"]["edit"]
    edited["weights"] = {"blocks.1.feed_forward.up.weight": next(iter(edited["weights"].values()))}
    write_manifest(run, manifest | {"digest": digest(manifest["identity"])})


def names_a_place_outside(run: Path) -> None:
    manifest = manifest_of(run)
    manifest["identity"]["edit"]["weights"] = {"blocks.1.feed_forward.down.weight": "../../secret"}
    write_manifest(run, manifest | {"digest": digest(manifest["identity"])})


def has_no_edit(run: Path) -> None:
    manifest = manifest_of(run)
    del manifest["identity"]["edit"]
    write_manifest(run, manifest | {"digest": digest(manifest["identity"])})


def holds_no_table(run: Path) -> None:
    manifest, content = manifest_of(run), b"no safetensors"
    sha256 = hashlib.sha256(content).hexdigest()
    (run / "tables" / f"{sha256}.safetensors").write_bytes(content)
    manifest["identity"]["edit"]["weights"] = {"blocks.1.feed_forward.down.weight": sha256}
    write_manifest(run, manifest | {"digest": digest(manifest["identity"])})


def has_written_nothing(run: Path) -> None:
    write_manifest(run, manifest_of(run) | {"written": ["1"]})


def has_scores_of_numbers(run: Path) -> None:
    write_manifest(run, manifest_of(run) | {"edit_scores": {"asked": {}, "sha256": 3}})


def has_an_edit_of_numbers(run: Path) -> None:
    manifest = manifest_of(run)
    manifest["identity"]["edit"]["weights"] = {"blocks.1.feed_forward.down.weight": 7}
    write_manifest(run, manifest | {"digest": digest(manifest["identity"])})


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (lacks, "lacks the table"),
        (is_damaged, "is no longer the table that its name says"),
        (changes_what_there_is_not, "changes blocks.9.feed_forward.down.weight, which the decoder does not have so"),
        (has_another_shape, "changes blocks.1.feed_forward.up.weight, which the decoder does not have so"),
        (names_a_place_outside, "lacks the table ../../secret"),
        (has_no_edit, "has an identity without an edit"),
        (has_an_edit_of_numbers, "is damaged"),
        (holds_no_table, "is damaged"),
        (has_written_nothing, "is damaged (written.0: "),
        (has_scores_of_numbers, "is damaged (edit_scores.sha256: "),
    ],
)
def test_what_no_longer_fits_together_is_told_in_a_line(copy: Family, spoil: Callable[[Path], None], told: str) -> None:
    spoil(copy.edited[0])
    result = lab("generate", f"run={copy.edited[0]}", "prompt=a", "tokens=1", cwd=copy.folder)
    line = the_one_line(result)
    assert told in line
    assert copy.edited[0].name in line


def test_a_parent_that_is_another_run_is_refused(copy: Family) -> None:
    shutil.rmtree(copy.parents[0])
    shutil.copytree(copy.parents[1], copy.parents[0])
    assert "was derived of" in the_one_line(lab("generate", f"run={copy.edited[0]}", "prompt=a", cwd=copy.folder))


def test_an_edit_that_is_opened_is_an_edited_run(family: Family) -> None:
    assert isinstance(open_model(family.edited[0]), Edited)
