"""Extended RoPE goes out and comes in as transformers' types, with its numbers; what has no type is refused."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from pretrained import ROPE, SHAPE, saved
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from lab.base.errors import UserError
from lab.experiment.compose import settings_of
from lab.experiment.derive import extend
from lab.experiment.extend_settings import ExtendSettings
from lab.runs.derived import Derived
from lab.runs.imported import Imported
from lab.runs.model import Model

TOKENS = torch.randint(0, 1024, (2, 6 * 64), generator=torch.Generator().manual_seed(0))  # of contexts of 64
LONG = [1.0, 1.5, 2.0, 4.0]
RULES = {
    "position_interpolation": ["extension.factor=4"],
    "ntk": ["extension.factor=8"],
    "ntk_by_parts": ["extension.factor=4", "extension.ramp=paper", "extension.beta_fast=4"],
    "yarn": ["extension.factor=4", "extension.beta_fast=8", "extension.beta_slow=0.5"],
    "llama3": ["extension.factor=4"],
    "longrope": [
        "extension.factor=4",
        f"extension.factors=[{[1.0] * 4},{LONG}]",
        "extension.up_to=[64]",
        "extension.search=null",
    ],
    "dynamic_ntk": ["extension.per=text"],
}


def derive(model: Model, rule: str, *keys: str) -> Derived:
    overrides = [f"run={model.path}", f"extension={rule}", *keys]
    return extend(settings_of("extend", ExtendSettings, overrides), str(model.path), "a command")


def load(folder: Path) -> LlamaForCausalLM:
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


def differ(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    return float((ours - theirs).abs().max() / theirs.abs().max())


@pytest.mark.parametrize("reading", ["rope", "window_rope"])
@pytest.mark.parametrize("rule", RULES)
def test_an_extended_decoder_has_the_same_logits_abroad_and_when_it_comes_back(
    llama: Path, take: Callable[..., Imported], give: Callable[..., Path], rule: str, reading: str, tmp_path: Path
) -> None:
    plain = take(llama, model=reading, **({"window": 100} if reading == "window_rope" else {}))
    derived = derive(plain, rule, *RULES[rule])
    folder = give(derived.path)
    again = take(folder, runs=str(tmp_path / "again"))
    again.check()
    for tokens in (TOKENS[:, :40], TOKENS):
        with torch.inference_mode():
            ours, theirs = derived.decoder()(tokens), load(folder)(tokens).logits
            back, before = again.decoder()(tokens), plain.decoder()(tokens)
        assert differ(ours, theirs) < 2e-4
        assert differ(back, ours) < 1e-5  # an attention factor, say, is a number of its own by then
        same = (rule == "dynamic_ntk" or rule == "longrope") and tokens.shape[1] == 40
        assert (differ(ours, before) < 1e-6) == same


@pytest.mark.parametrize(
    "parameters",
    [
        {"rope_type": "linear", "factor": 2.0},
        {"rope_type": "dynamic", "factor": 3.0},
        {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16},
        {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16, "attention_factor": 1.1},
        {
            "rope_type": "llama3",
            "factor": 4.0,
            "original_max_position_embeddings": 16,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
        },
        {
            "rope_type": "longrope",
            "factor": 4.0,
            "original_max_position_embeddings": 16,
            "short_factor": [1.0, 1.0, 1.0, 1.1],
            "long_factor": LONG,
        },
        {
            "rope_type": "longrope",
            "original_max_position_embeddings": 16,
            "short_factor": LONG,
            "long_factor": LONG,
            "attention_factor": 1.0,
        },
    ],
    ids=lambda each: each["rope_type"],
)
@pytest.mark.parametrize("written", ["rope_parameters", "rope_scaling"])
def test_scaled_rope_of_pretrained_models_is_read(
    take: Callable[..., Imported], tmp_path: Path, parameters: dict[str, Any], written: str
) -> None:
    given = dict(SHAPE) | {"rope_parameters": {"rope_theta": 5e4} | parameters}
    if written == "rope_scaling":  # as transformers 4 wrote it
        given = dict(SHAPE) | {"rope_theta": 5e4, "rope_scaling": parameters}
    folder = saved(LlamaForCausalLM(LlamaConfig(**given)), tmp_path / "scaled")
    model = take(folder)
    for length in (12, 16, 17, 300):
        with torch.inference_mode():
            ours, theirs = model.decoder()(TOKENS[:, :length]), load(folder)(TOKENS[:, :length]).logits
        assert differ(ours, theirs) < 2e-4


@pytest.mark.parametrize("rule", ["yarn", "position_interpolation"])
def test_two_rules_at_once_are_refused_and_the_remedy_is_told(
    llama: Path, take: Callable[..., Imported], rule: str
) -> None:
    plain = take(llama)
    once = derive(plain, "ntk", "extension.factor=4")
    with pytest.raises(UserError, match=rf"reads its RoPE with ntk\(s=4\) already.*: extend .*{plain.path.name}"):
        derive(once, rule, "extension.factor=4")


def test_a_decoder_without_rope_is_refused(llama: Path, take: Callable[..., Imported]) -> None:
    plain = take(llama, model="nope")
    with pytest.raises(UserError, match=r"extension yarn is for decoders with RoPE, and .* has nope"):
        derive(plain, "yarn", "extension.factor=4")


def test_start_tokens_that_are_kept_cannot_be_exported(
    llama: Path, take: Callable[..., Imported], give: Callable[..., Path]
) -> None:
    keys = ["extension.factor=4", f"extension.factors=[{LONG}]", "extension.kept=[4]", "extension.search=null"]
    derived = derive(take(llama), "longrope", *keys)
    with pytest.raises(UserError, match="leaves the first 4 as they were"):
        give(derived.path)


def test_an_extension_is_part_of_what_an_imported_model_is(
    llama: Path, take: Callable[..., Imported], tmp_path: Path
) -> None:
    scaled = dict(ROPE["rope_parameters"]) | {"rope_type": "linear", "factor": 2.0}
    config = LlamaConfig(**SHAPE, rope_parameters=scaled)
    theirs = LlamaForCausalLM(config)
    theirs.load_state_dict(load(llama).state_dict())
    plain, model = take(llama), take(saved(theirs, tmp_path / "scaled"))
    assert model.identity["weights"] == plain.identity["weights"]
    assert model.digest != plain.digest
    assert model.label == "rope+position_interpolation(s=2)"
