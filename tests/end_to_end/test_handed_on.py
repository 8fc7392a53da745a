"""Trained runs handed on: transformers, which knows nothing of the lab, finds its perplexities; PEFT its matrices."""

import math
from pathlib import Path

import pytest
import torch
from commands import lab
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer

from lab.data.sources.documents import Sotu
from lab.observe.scores import Scores
from lab.runs.finding import runs_of

MODELS = ("nope", "rope", "alibi", "window_nope", "window_rope", "window_alibi", "narrow_window_nope")
LENGTHS = (32, 64, 128, 512)  # up to eight contexts C


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Seven trained runs in runs/, each exported to exported/."""
    folder = tmp_path_factory.mktemp("handed_on")
    smoke = ("experiment=smoke", "logger=csv", "scale.tokens=32768", "scale.learning_rate=1e-2")
    measure = ("measure=truncated_perplexity", f"measure.truncated_perplexity.lengths={[*LENGTHS]}".replace(" ", ""))
    result = lab("train", "-m", *smoke, *measure, "scoring.documents=3", f"model={','.join(MODELS)}", cwd=folder)
    assert result.returncode == 0, result.stderr
    for run in runs_of([str(folder / "runs" / "*")]):
        result = lab("export", f"run={run.path}", f"to=exported/{run.label}", cwd=folder)
        assert result.returncode == 0, result.stderr
    return folder


@pytest.mark.parametrize("name", MODELS)
def test_transformers_gives_an_exported_run_the_labs_perplexity_to_four_digits(folder: Path, name: str) -> None:
    exported = folder / "exported" / name
    model = AutoModelForCausalLM.from_pretrained(exported, trust_remote_code=True).eval()
    tokenizer = AutoTokenizer.from_pretrained(exported)
    (run,) = [each for each in runs_of([str(folder / "runs" / "*")]) if each.label == name]
    texts = {entry.name: entry.text for entry in Sotu().documents("test", "")}
    rows = Scores(run.path / "scores.csv").rows
    assert len(rows) == 3 * len(LENGTHS)
    for row in rows:
        length = row["length_tokens"]
        tokens = tokenizer(texts[row["document"]], return_tensors="pt")["input_ids"][:, : length + 1]
        with torch.inference_mode():
            logits = model(tokens[:, :-1]).logits[0].double()
        loss = float(torch.nn.functional.cross_entropy(logits, tokens[0, 1:]))
        assert math.exp(loss) == pytest.approx(math.exp(row["loss_nats"]), rel=5e-5), (row["document"], length)
    inside, beyond = (
        [row["loss_nats"] for row in rows if row["length_tokens"] == length] for length in (LENGTHS[1], LENGTHS[-1])
    )
    assert max(map(abs, (a - b for a, b in zip(inside, beyond, strict=True)))) > 0.01  # lengths are told apart


@pytest.mark.parametrize("name", ["rope", "alibi"])
def test_peft_adapts_our_matrices_here_and_exported(folder: Path, name: str) -> None:
    (run,) = [each for each in runs_of([str(folder / "runs" / "*")]) if each.label == name]
    tokens = torch.randint(0, 1000, (2, 40), generator=torch.Generator().manual_seed(0))
    theirs = AutoModelForCausalLM.from_pretrained(folder / "exported" / name, trust_remote_code=True)
    for model, targets, logits in (
        (run.decoder(), ["query", "value", "down"], lambda model: model(tokens)),
        (theirs, ["q_proj", "v_proj", "down_proj"], lambda model: model(tokens).logits),
    ):
        before = logits(model).detach()
        adapted = get_peft_model(model, LoraConfig(r=4, target_modules=targets, lora_alpha=8, init_lora_weights=True))
        trained = {name for name, parameter in adapted.named_parameters() if parameter.requires_grad}
        assert len(trained) == 2 * 3 * 2  # two factors, three matrices, two layers
        torch.testing.assert_close(logits(adapted), before)  # one factor is 0
        optimizer = torch.optim.SGD([each for each in adapted.parameters() if each.requires_grad], lr=1.0)
        loss = torch.nn.functional.cross_entropy(logits(adapted)[:, :-1].flatten(0, 1), tokens[:, 1:].flatten())
        loss.backward()
        optimizer.step()
        again = torch.nn.functional.cross_entropy(logits(adapted)[:, :-1].flatten(0, 1), tokens[:, 1:].flatten())
        assert float(again) < float(loss)


def test_a_run_that_is_scored_on_what_it_was_trained_on_is_told_so(folder: Path) -> None:
    (run,) = [each for each in runs_of([str(folder / "runs" / "*")]) if each.label == "rope"]
    scored = ("measure=truncated_perplexity", "measure.truncated_perplexity.lengths=[32]", "scoring.documents=2")
    for evaluation, told in (("sotu_longest", True), ("sotu", False)):
        result = lab("extrapolate", f"runs={run.path}", f"evaluation={evaluation}", *scored, cwd=folder)
        assert result.returncode == 0, result.stderr
        assert ("was trained on 27 of the 43 texts that are scored: these are not held out" in result.stderr) is told
