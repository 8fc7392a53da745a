"""Optimisers and schedules against torch's own, and against their formulas."""

import math

import pytest
import torch

from lab.base.errors import UserError
from lab.model.attention import Attention
from lab.model.decoder import Decoder
from lab.model.position import NoPE
from lab.training.optimizers import Muon, adamw
from lab.training.schedules import constant, cosine, wsd


def decoder() -> Decoder:
    return Decoder(11, 2, 8, 12, NoPE(2, 4), lambda: Attention(8, 2, 1, 4, window=None, kernel="reference"), seed=0)


def train(model: Decoder, step: list[torch.optim.Optimizer], steps: int = 3) -> None:
    """Steps on gradients drawn from a fixed seed: Muon magnifies the last bits of gradients that were computed."""
    draw = torch.Generator().manual_seed(0)
    for _ in range(steps):
        for parameter in model.parameters():
            parameter.grad = torch.randn(parameter.shape, generator=draw)
        for optimizer in step:
            optimizer.step()


def test_muon_moves_block_matrices_as_torch_muon_and_all_else_as_torch_adamw() -> None:
    ours, theirs = decoder(), decoder()
    settings = {"betas": (0.9, 0.95), "eps": 1e-8, "weight_decay": 0.1}
    train(ours, [Muon(ours, learning_rate=0.01, momentum=0.9, **settings)])
    matrices = [p for name, p in theirs.named_parameters() if "blocks" in name and p.ndim == 2]
    others = [p for name, p in theirs.named_parameters() if "blocks" not in name or p.ndim != 2]
    assert len(matrices) == 14
    muon = torch.optim.Muon(matrices, lr=0.01, weight_decay=0.1, momentum=0.9, adjust_lr_fn="match_rms_adamw")
    train(theirs, [muon, torch.optim.AdamW(others, lr=0.01, **settings)])
    for (name, mine), other in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(mine, other, msg=name)


def test_a_schedule_on_muon_reaches_both_of_its_parts() -> None:
    model = decoder()
    optimizer = Muon(model, learning_rate=0.5, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.0, momentum=0.9)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.0)
    train(model, [optimizer], steps=1)
    assert all(torch.equal(before[name], p) for name, p in model.named_parameters())


def test_muon_continues_from_its_saved_state_as_if_never_stopped() -> None:
    settings = {"learning_rate": 0.01, "betas": (0.9, 0.95), "eps": 1e-8, "weight_decay": 0.1, "momentum": 0.9}
    straight, stopped = decoder(), decoder()
    optimizer = Muon(straight, **settings)
    first, second = Muon(stopped, **settings), Muon(stopped, **settings)
    for half in ([first], [second]):
        train(straight, [optimizer], steps=2)
        train(stopped, half, steps=2)
        second.load_state_dict(first.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(straight.parameters(), stopped.parameters(), strict=True))


def test_adamw_decays_every_parameter_as_tinyllama_does() -> None:
    model = decoder()
    optimizer = adamw(model, learning_rate=0.1, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.1)
    (group,) = optimizer.param_groups
    assert group["weight_decay"] == 0.1
    assert len(group["params"]) == len(list(model.parameters()))


def test_every_schedule_warms_up_linearly_to_its_peak() -> None:
    for factor in (constant(100, 10), cosine(100, 10, 0.1), wsd(100, 10, 0.2, 0.0)):
        assert [factor(step) for step in range(10)] == pytest.approx([(step + 1) / 10 for step in range(10)])


def test_cosine_is_half_a_period_down_to_its_final_fraction() -> None:
    factor = cosine(101, 0, 0.1)
    assert factor(0) == 1.0
    assert factor(50) == pytest.approx(0.55)
    assert factor(100) == pytest.approx(0.1)
    assert factor(25) == pytest.approx(0.1 + 0.9 * (1 + math.cos(math.pi / 4)) / 2)


def test_wsd_is_flat_until_the_last_fraction_and_then_linear() -> None:
    factor = wsd(100, 10, 0.2, 0.0)
    assert {factor(step) for step in range(9, 80)} == {1.0}
    assert [factor(80), factor(89), factor(99)] == pytest.approx([0.95, 0.5, 0.0])


def test_a_warm_up_as_long_as_the_run_is_refused() -> None:
    for make in (constant, lambda s, w: cosine(s, w, 0.1), lambda s, w: wsd(s, w, 0.2, 0.0)):
        with pytest.raises(UserError, match=r"warmup_steps is 10 and the run has 10"):
            make(10, 10)
