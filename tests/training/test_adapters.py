"""Adapters: what they add, what they leave as it is, and what is read of a run that was trained with one."""

import json
from pathlib import Path

import pytest
import torch
from commands import lab, the_one_line
from measure.tiny_decoders import VARIANTS, document, tiny
from safetensors.torch import load_file

from lab.runs.run import open_model
from lab.training.adapters import HeadScaling, attentions
from lab.training.fit import make_optimizer
from lab.training.settings import AdamWSettings, HeadScalingSettings


def tokens_of(length: int = 24) -> torch.Tensor:
    return torch.tensor(document(length)[None].astype("int64"))


@pytest.mark.parametrize(("position", "window"), VARIANTS)
@torch.inference_mode()
def test_factors_multiply_the_logits_of_their_heads_and_are_merged_into_queries(position, window) -> None:
    tokens = tokens_of()
    wanted, scaled = tiny(position, window), tiny(position, window)
    adapter = HeadScaling(initial=1.0)
    adapter(scaled)
    torch.testing.assert_close(scaled.hidden(tokens), wanted.hidden(tokens), atol=0, rtol=0)
    factors = torch.tensor([1.25, 1.75])
    for attention in attentions(scaled):
        attention.head_scale.copy_(factors)
    for attention in attentions(wanted):
        for head, factor in enumerate(factors):
            attention.query.weight[head * attention.head_dim : (head + 1) * attention.head_dim] *= factor
    torch.testing.assert_close(scaled.hidden(tokens), wanted.hidden(tokens), atol=1e-5, rtol=0)
    adapter.merge(scaled)
    assert {name for name, _ in scaled.named_parameters()} == {name for name, _ in wanted.named_parameters()}
    torch.testing.assert_close(scaled.hidden(tokens), wanted.hidden(tokens), atol=1e-5, rtol=0)


def test_only_the_factors_are_trained_by_the_gradient_of_the_loss_and_none_falls_below_1() -> None:
    decoder, tokens = tiny(), tokens_of()
    adapter = HeadScaling(initial=1.0)
    adapter(decoder)
    trained = {name for name, each in decoder.named_parameters() if each.requires_grad}
    assert trained == {f"blocks.{block}.attention.head_scale" for block in range(2)}

    def loss() -> torch.Tensor:
        return decoder.next_token_losses(decoder.hidden(tokens[:, :-1]), tokens[:, 1:]).double().mean()

    loss().backward()
    with torch.no_grad():
        for attention in attentions(decoder):
            found = attention.head_scale.grad.clone()
            for head in range(2):
                slopes = []
                for step in (1e-3, -1e-3):
                    attention.head_scale[head] += step
                    slopes.append(float(loss()) / step / 2)
                    attention.head_scale[head] -= step
                assert float(found[head]) == pytest.approx(sum(slopes), rel=2e-2, abs=1e-5)
        for attention in attentions(decoder):
            attention.head_scale.copy_(torch.tensor([0.5, 1.5]))
    adapter.constrain(decoder)
    for attention in attentions(decoder):
        assert attention.head_scale.tolist() == [1.0, 1.5]


def test_a_step_that_leads_below_1_ends_there() -> None:
    decoder = tiny()
    HeadScaling(initial=1.0)(decoder)
    settings = AdamWSettings(learning_rate=0.1, betas=[0.9, 0.95], eps=1e-8, weight_decay=0.0)
    optimizer = make_optimizer(settings, HeadScalingSettings(initial=1.0), decoder)
    for attention in attentions(decoder):
        attention.head_scale.grad = torch.tensor([1.0, -1.0])
    optimizer.step()
    for attention in attentions(decoder):
        assert attention.head_scale.tolist() == pytest.approx([1.0, 1.1])


RECIPE = ("adapter=head_scaling", "adapter.initial=1.0", "optimizer.weight_decay=0", "scale.tokens=4096")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run, its child that is trained with an adapter at twice the context, and that one's child without."""
    folder = tmp_path_factory.mktemp("runs")
    smoke = ("experiment=smoke", "measure=none", "logger=csv", "trainer.compute_dtype=float32", "threads=1")
    assert lab("train", *smoke, cwd=folder).returncode == 0
    parent = path_of(folder, "runs/nope-2x32-C64-*")
    own = ("measure=none", "logger=csv", "threads=1")
    begun = lab(
        "train", "start=run", f"start.run={parent}", *RECIPE, "scale.context=128", "runs=adapted", *own, cwd=folder
    )
    assert begun.returncode == 0, begun.stderr
    adapted = path_of(folder, "adapted/nope-*")
    after = lab("train", "start=run", f"start.run={adapted}", "runs=after", "scale.tokens=4096", *own, cwd=folder)
    assert after.returncode == 0, after.stderr
    return folder


def path_of(folder: Path, pattern: str) -> Path:
    (path,) = folder.glob(pattern)
    return path


def test_a_run_with_an_adapter_has_its_parents_weights_and_factors_of_its_own(runs: Path) -> None:
    parent, adapted = (open_model(path_of(runs, f"{name}/nope-*")) for name in ("runs", "adapted"))
    stored = adapted.checkpoint().weights()
    for name, weight in parent.checkpoint().weights().items():
        torch.testing.assert_close(stored[name], weight, atol=0, rtol=0)
    factors = torch.stack([stored[f"blocks.{block}.attention.head_scale"] for block in range(2)])
    assert (factors >= 1).all()
    assert (factors != 1).all()
    assert adapted.label == "nope+head_scaling"
    assert adapted.identity["adapter"] == {"name": "head_scaling", "initial": 1.0}
    decoder, plain = adapted.decoder(), parent.decoder()
    for block, (one, other) in enumerate(zip(attentions(decoder), attentions(plain), strict=True)):
        rows = factors[block].repeat_interleave(one.head_dim)
        torch.testing.assert_close(one.query.weight, other.query.weight * rows[:, None])


def test_a_child_of_it_starts_from_what_it_computes_and_trains_all_weights(runs: Path) -> None:
    adapted, after = (open_model(path_of(runs, f"{name}/nope-*")) for name in ("adapted", "after"))
    assert "adapter" not in after.identity
    assert after.identity["start"]["parent"]["adapter"]["name"] == "head_scaling"
    begun = after.manifest["initial_weights"]
    assert set(begun) == {name for name, _ in adapted.decoder().named_parameters()}
    before, now = adapted.decoder().state_dict(), after.decoder().state_dict()
    assert all(not torch.equal(before[name], now[name]) for name in before)


def test_it_is_scored_exported_and_extended_as_any_other(runs: Path) -> None:
    adapted = path_of(runs, "adapted/nope-*")
    score = ("measure=truncated_perplexity", "scoring.longest=2", "scoring.documents=2", "threads=1")
    scored = lab("extrapolate", f"runs={adapted}", *score, cwd=runs)
    assert scored.returncode == 0, scored.stderr
    exported = lab("export", f"run={adapted}", "to=exported", cwd=runs)
    assert exported.returncode == 0, exported.stderr
    weights = load_file(runs / "exported" / "model.safetensors")
    assert not [name for name in weights if "head_scale" in name]
    assert json.loads((runs / "exported" / "config.json").read_text())["max_position_embeddings"] == 128
    extended = lab("extend", f"run={adapted}", "extension=temperature", "extension.temperature=1.1", cwd=runs)
    assert extended.returncode == 0, extended.stderr


def test_without_a_parent_there_is_nothing_that_could_stay_as_it_is(tmp_path: Path) -> None:
    line = the_one_line(lab("train", "experiment=smoke", "adapter=head_scaling", cwd=tmp_path))
    assert "adapter=head_scaling trains numbers beside the weights of a parent" in line
    assert "start=run start.run=" in line
    assert not (tmp_path / "runs").exists()
