"""Scores in float32 of a run that was trained in bfloat16: those of its weights, and not of its arithmetic."""

import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from commands import the_one_line
from oracles.llama_names import llama_names
from transformers import LlamaConfig, LlamaForCausalLM

from lab.data.settings import EvaluationSettings
from lab.experiment.compose import settings_of
from lab.experiment.settings import ScoreSettings
from lab.observe.score_runs import sources_of
from lab.observe.scores import Scores
from lab.observe.scoring import rows_of
from lab.runs.run import Run

Lab = Callable[..., subprocess.CompletedProcess[str]]
SCORE = ("measure=truncated_perplexity", "scoring.longest=2", "scoring.documents=6", "accelerator=cpu")
TRAIN = ("experiment=smoke", "model=rope", "logger=csv", "measure=none", "trainer.accelerator=cpu", "scale.tokens=4096")


@pytest.fixture(scope="module")
def rough(here: Lab, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run that was trained in bfloat16, scored in float32 and then in bfloat16."""
    folder = tmp_path_factory.mktemp("rough")
    result = here("train", *TRAIN, "trainer.compute_dtype=bfloat16", folder=folder)
    assert result.returncode == 0, result.stderr
    (manifest,) = folder.glob("runs/*/manifest.json")
    for dtype in ((), ("scoring.dtype=bfloat16",)):
        result = here("extrapolate", f"runs={manifest.parent}", *SCORE, *dtype, folder=folder)
        assert result.returncode == 0, result.stderr
    return Run(manifest.parent)


def losses(run: Run, precision: str) -> dict[tuple[str, int], float]:
    """The loss of each document at each length."""
    rows = Scores(run.path / "scores.csv").select(precision=precision)
    return {(row["document"], row["length_tokens"]): row["loss_nats"] for row in rows}


@pytest.fixture(scope="module")
def theirs(rough: Run) -> LlamaForCausalLM:
    """The weights in transformers' Llama, which computes in float32."""
    scale = rough.config.scale
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=scale.vocabulary,
            hidden_size=scale.width,
            intermediate_size=scale.hidden,
            num_hidden_layers=scale.layers,
            num_attention_heads=scale.heads,
            num_key_value_heads=scale.kv_heads,
            head_dim=scale.head_dim,
            rms_norm_eps=rough.config.model.eps,
            tie_word_embeddings=False,
            rope_parameters=dict(rope_type="default", rope_theta=10_000.0),
            pad_token_id=None,
            bos_token_id=None,
            eos_token_id=None,
            attn_implementation="eager",
        )
    )
    names = llama_names(scale.layers)
    model.load_state_dict({names[name]: value for name, value in rough.checkpoint().weights().items()}, strict=True)
    return model.float().eval()


@torch.no_grad()
def test_float32_scores_of_a_bfloat16_run_are_those_that_transformers_computes_in_float32(
    rough: Run, theirs: LlamaForCausalLM
) -> None:
    held_out = settings_of("extrapolate", ScoreSettings, [*SCORE, "runs=none"]).evaluation
    assert isinstance(held_out, EvaluationSettings)
    ((_, source),) = sources_of([rough], held_out)
    ids = {item.name: item.ids for item in source.documents()}
    found, coarse = losses(rough, "float32"), losses(rough, "bfloat16")
    assert len(found) == 6 * 3
    for (document, length), loss in found.items():
        first = torch.from_numpy(ids[document][: length + 1].astype(np.int64))[None]
        expected = torch.nn.functional.cross_entropy(theirs(first[:, :-1]).logits[0], first[0, 1:], reduction="none")
        assert loss == pytest.approx(expected.double().mean().item(), rel=3e-7)
        assert coarse[document, length] != pytest.approx(loss, rel=3e-6)


def test_rows_of_both_precisions_stand_beside_each_other_and_are_found_by_theirs(here: Lab, rough: Run) -> None:
    rows = Scores(rough.path / "scores.csv").rows
    assert [row["precision"] for row in rows] == ["float32"] * 18 + ["bfloat16"] * 18
    measured = rough.manifest["measured"].values()
    assert {record["precision"] for record in measured} == {"float32", "bfloat16"}
    settings = {row["setting"] for row in rows}
    assert rows_of(rough, settings, "float32") == rows[:18]
    assert rows_of(rough, settings, "bfloat16") == rows[18:]
    before = (rough.path / "scores.csv").read_bytes()
    for dtype in ("float32", "bfloat16"):
        assert (
            here("extrapolate", f"runs={rough.path}", *SCORE, f"scoring.dtype={dtype}", folder=rough.path).returncode
            == 0
        )
    assert (rough.path / "scores.csv").read_bytes() == before


def test_a_precision_that_no_score_can_have_is_refused(here: Lab, rough: Run) -> None:
    result = here("extrapolate", f"runs={rough.path}", *SCORE, "scoring.dtype=float16", folder=rough.path)
    assert "scoring.dtype is 'float16': give float32 or bfloat16" in the_one_line(result)


def test_a_kernel_that_does_not_serve_the_precision_is_refused_before_anything_is_written(
    here: Lab, tmp_path: Path
) -> None:
    train = (*TRAIN, "model=alibi", "kernel=sdpa", "trainer.compute_dtype=float32")
    told = "scoring.dtype is bfloat16: kernel sdpa cannot serve this model in torch.bfloat16: "
    line = the_one_line(here("train", *train, "measure=excess", "scoring.dtype=bfloat16", folder=tmp_path))
    assert told in line
    assert not list(tmp_path.iterdir())
    assert here("train", *train, folder=tmp_path).returncode == 0
    line = the_one_line(
        here("extrapolate", "runs=runs/*", *SCORE, "scoring.dtype=bfloat16", folder=tmp_path), last=True
    )
    assert told in line
    assert not list(tmp_path.rglob("scores.csv"))
