"""An imported model is used like a run: a start, compared, studied, asked; its ancestry is written down."""

import json
import re
import shutil
from pathlib import Path

import pytest
import torch
from commands import lab, the_one_line
from pretrained import SHAPE, llama_in, saved
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from lab.base.tables import read_table
from lab.runs.finding import runs_of
from lab.runs.model import Model
from lab.runs.run import open_model

END = "end_of_document=<|endoftext|>"
SCORED = ("evaluation=sotu", "scoring.longest=4", "scoring.documents=12", "scoring.segments=1", "measure=excess")
BUDGET = ("scale.tokens=4096", "scale.batch_tokens=1024", "scale.micro_batch=8", "scale.warmup_steps=2")
TRAINED = (*BUDGET, "scale.validation_blocks=8", "scale.learning_rate=1e-2", "logger=csv", "measure=none")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Imported as rope, nope and alibi."""
    folder = tmp_path_factory.mktemp("imported")
    llama_in(folder / "source")
    for name in ("rope", "nope", "alibi"):
        result = lab("import_model", "source=source", f"model={name}", END, cwd=folder)
        assert result.returncode == 0, result.stderr
    return folder


def found(folder: Path, pattern: str) -> Model:
    (run,) = runs_of([str(folder / "runs" / pattern)])
    return run


def test_rotary_removed_is_a_child_with_the_parents_shape_tokenizer_and_weights(folder: Path, tmp_path: Path) -> None:
    parent = found(folder, "rope-*")
    result = lab("train", "start=run", f"start.run={parent.path}", "model=nope", *TRAINED, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "model.position.name: rope -> nope" in result.stdout
    child = found(tmp_path, "nope-*")
    kept = ("vocabulary", "layers", "width", "hidden", "heads", "kv_heads", "head_dim", "context")
    assert all(getattr(child.config.scale, key) == getattr(parent.config.scale, key) for key in kept)
    assert child.tokenizer().digest == parent.tokenizer().digest
    manifest = child.manifest
    assert manifest["parent"]["digest"] == parent.digest
    assert manifest["parent"]["weights_sha256"] == parent.checkpoint().weights_digest()
    assert manifest["identity"]["start"]["parent"]["weights"] == parent.identity["weights"]
    assert manifest["identity"]["start"]["parent"]["model"]["position"]["name"] == "rope"
    # The tensors that it began with are the parent's, by the sha256 of each.
    assert manifest["initial_weights"] == parent.manifest["initial_weights"]
    changed = load_file(child.checkpoint().path / "weights.safetensors")
    before = load_file(parent.checkpoint().path / "weights.safetensors")
    assert all(not torch.equal(changed[name], before[name]) for name in before)
    assert lab("export", f"run={child.path}", "to=handed_on", cwd=tmp_path).returncode == 0
    assert f"`{child.digest}`" in (tmp_path / "handed_on" / "README.md").read_text()


def test_readings_of_the_same_weights_are_compared_and_differ_in_the_encoding_alone(folder: Path) -> None:
    command = ("runs=runs/*-source-????????", "factor=model", "reference=rope", "output=readings")
    result = lab("compare", *command, *SCORED, cwd=folder)
    assert result.returncode == 0, result.stderr
    assert "differs within model: model.position.base, model.position.name" in result.stdout
    assert "initial_weights" in result.stdout.partition("equal in all runs:")[2].partition("\n")[0]
    estimates = read_table(folder / "readings" / "estimates.csv")
    assert {row["variant"] for row in estimates} == {"rope", "nope", "alibi"}
    report = (folder / "readings" / "report.md").read_text()
    assert "not trained here" in report
    assert "(training.png)" not in report
    assert not (folder / "readings" / "training.png").exists()
    for picture in re.findall(r"\]\(([^)]*\.png)\)", report):
        assert (folder / "readings" / picture).exists(), picture


def test_models_of_different_weights_are_not_compared_as_encodings(folder: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(folder / "source", other)
    model = AutoModelForCausalLM.from_pretrained(other)
    with torch.no_grad():
        next(model.parameters()).add_(0.01)
    model.save_pretrained(other)
    assert lab("import_model", "source=other", "model=nope", END, cwd=tmp_path).returncode == 0
    shutil.copytree(found(folder, "rope-*-source-????????").path, tmp_path / "runs" / "rope-first")
    line = the_one_line(lab("compare", "runs=runs/*", "factor=model", *SCORED, cwd=tmp_path), last=True)
    assert "the runs differ in more than model: " in line
    assert "weights is " in line


def test_a_temperature_is_folded_into_the_query_weights(folder: Path, tmp_path: Path) -> None:
    parent = found(folder, "rope-*-source-????????")
    result = lab("extend", f"run={parent.path}", "extension=temperature", "extension.temperature=1.5", cwd=folder)
    assert result.returncode == 0, result.stderr
    derived = found(folder, "rope-*-temperature-*")
    assert lab("export", f"run={derived.path}", f"to={tmp_path}/warm", cwd=folder).returncode == 0
    tokens = torch.randint(0, 1024, (1, 200), generator=torch.Generator().manual_seed(0))
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "warm").eval()
    with torch.inference_mode():
        wanted, given = derived.decoder()(tokens), theirs(tokens).logits
        plain = parent.decoder()(tokens)
    assert float((wanted - plain).abs().max()) > 0.1
    torch.testing.assert_close(given, wanted, atol=1e-3, rtol=1e-4)
    assert "What it was extended with (temperature=" in (tmp_path / "warm" / "README.md").read_text()


def test_it_is_studied_asked_and_measured_like_a_run(folder: Path) -> None:
    run = found(folder, "alibi-*")
    study = ("study=first_tokens", "study.longest=2", "study.documents=2", "evaluation=sotu")
    result = lab("analyze", f"runs={run.path}", *study, cwd=folder)
    assert result.returncode == 0, result.stderr
    result = lab("generate", f"run={run.path}", "prompt=The state", "tokens=3", "greedy=true", cwd=folder)
    assert result.returncode == 0, result.stderr
    line = the_one_line(lab("analyze", "study=p_probe", f"runs={run.path}", cwd=folder))
    assert f"study=p_probe asks about people, and {run.path}, which was not trained here, read of none" in line
    line = the_one_line(lab("extrapolate", "measure=answers", "evaluation=sotu", f"runs={run.path}", cwd=folder))
    assert "measure=answers asks about people, and this decoder read of none: train it with data=biographies" in line
    table = folder / "bench.csv"
    bench = ("bench", "extrapolate", "evaluation=sotu", "--run", str(run.path), "--contexts", "3", "--rounds", "1")
    result = lab(*bench, "--csv", str(table), cwd=folder)
    assert result.returncode == 0, result.stderr
    difference = re.search(r"transformers' loss at 64 tokens by (\S+)", " ".join(result.stdout.split()))
    assert difference is not None
    assert float(difference[1]) < 1e-5
    assert read_table(table)[0]["contestant"] == "lab, one pass"
    line = the_one_line(lab("extrapolate", f"runs={run.path}", "measure=excess", cwd=folder))
    assert "is an imported model, without held-out documents of its own: name some, such as evaluation=sotu" in line


def test_the_source_is_written_down_file_by_file(folder: Path) -> None:
    source = json.loads((found(folder, "nope-*").path / "manifest.json").read_text())["source"]
    assert source["name"] == "source"
    assert {"config.json", "model.safetensors"} <= source["files"].keys()
    assert open_model(found(folder, "nope-*").path).label == "nope"


def test_a_child_has_its_parents_eps_head_and_base_unless_they_are_given(tmp_path: Path) -> None:
    told = SHAPE | {"tie_word_embeddings": True, "rms_norm_eps": 1e-6}
    rope = {"rope_parameters": {"rope_type": "default", "rope_theta": 50_000.0}}
    saved(LlamaForCausalLM(LlamaConfig(**told, **rope)), tmp_path / "tied")
    assert lab("import_model", "source=tied", END, cwd=tmp_path).returncode == 0
    parent = found(tmp_path, "rope-*")
    for given, position in (
        (("model=nope",), {"name": "nope"}),
        (("model=window_rope", "model.attention.window=20"), {"name": "rope", "base": 50_000.0}),
        (("model=rope", "model.position.base=10_000", "model.eps=1e-5"), {"name": "rope", "base": 10_000.0}),
    ):
        result = lab("train", "start=run", f"start.run={parent.path}", *given, *TRAINED, "runs=made", cwd=tmp_path)
        assert result.returncode == 0, result.stderr
        (child,) = runs_of([str(tmp_path / "made" / "*")])
        assert child.config.model.tied
        assert child.config.model.eps == (1e-5 if "model.eps=1e-5" in given else 1e-6)
        assert child.config.model.position.plain() == position
        shutil.rmtree(tmp_path / "made")
