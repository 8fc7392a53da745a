"""Initial weights depend on seed, name, shape and rule, and on nothing else."""

import hashlib
import math
from collections import OrderedDict

import pytest
import torch
from torch import nn

from lab.model.attention import Attention
from lab.model.decoder import Decoder
from lab.model.initialise import draw, fingerprints, initialise
from lab.model.position import ALiBi, NoPE, RoPE


def decoder(
    position: type = NoPE, window: int | None = None, kernel: str = "auto", seed: int = 0, layers: int = 2
) -> Decoder:
    return Decoder(
        vocabulary=50,
        layers=layers,
        width=32,
        hidden=48,
        position=position(4, 8),
        attention=lambda: Attention(32, 4, 2, 8, window, kernel),
        seed=seed,
    )


@pytest.mark.parametrize("position", [NoPE, RoPE, ALiBi])
@pytest.mark.parametrize("window", [None, 4])
@pytest.mark.parametrize("kernel", ["auto", "matched", "reference", "banded"])
def test_every_variant_starts_from_the_same_weights(position, window, kernel):
    assert fingerprints(decoder(position, window, kernel)) == fingerprints(decoder())


def test_another_seed_gives_another_value_to_every_drawn_parameter():
    first, second = fingerprints(decoder(seed=0)), fingerprints(decoder(seed=1))
    assert {name for name in first if first[name] == second[name]} == {n for n in first if "norm" in n}


def test_parameters_of_one_shape_differ():
    hashes = [digest for name, digest in fingerprints(decoder()).items() if "norm" not in name]
    assert len(set(hashes)) == len(hashes) == 2 * 7 + 2


def test_the_order_in_which_modules_are_made_does_not_matter():
    first = nn.Sequential(OrderedDict(one=nn.Linear(5, 6, bias=False), two=nn.Linear(5, 6, bias=False)))
    second = nn.Sequential(OrderedDict(two=nn.Linear(5, 6, bias=False), one=nn.Linear(5, 6, bias=False)))
    for module in (first, second):
        initialise(module, seed=3, width=5, layers=1)
    assert torch.equal(first.one.weight, second.one.weight)
    assert torch.equal(first.two.weight, second.two.weight)


def test_depth_changes_only_what_the_rule_says():
    shallow, deep = fingerprints(decoder(layers=2)), fingerprints(decoder(layers=3))
    changed = {name for name in shallow if shallow[name] != deep[name]}
    assert changed == {
        f"blocks.{n}.{name}.weight" for n in range(2) for name in ("attention.output", "feed_forward.down")
    }


def test_standard_deviations_are_tinyllamas():
    width, hidden, layers = 192, 320, 3
    model = Decoder(
        vocabulary=500,
        layers=layers,
        width=width,
        hidden=hidden,
        position=NoPE(4, 48),
        attention=lambda: Attention(width, 4, 4, 48, None, "auto"),
        seed=7,
    )
    inward = math.sqrt(2 / 5 / width)  # lit_gpt/model.py: nn.Linear and nn.Embedding
    outward = 1 / math.sqrt(width) / layers  # proj.weight and w3.weight
    seen = set()
    for name, parameter in model.named_parameters():
        kind = name.split(".", 2)[-1] if name.startswith("blocks") else name
        seen.add(kind)
        if kind.endswith("norm.weight"):
            assert torch.equal(parameter, torch.ones(width)), name
            continue
        expected = outward if kind in ("attention.output.weight", "feed_forward.down.weight") else inward
        count = parameter.numel()
        assert parameter.std().item() == pytest.approx(expected, rel=4 / math.sqrt(2 * count)), name
        assert abs(parameter.mean().item()) < 4 * expected / math.sqrt(count), name
    assert len(seen) == 12


def test_drawing_neither_reads_nor_moves_the_global_random_state():
    torch.manual_seed(1)
    first = fingerprints(decoder())
    torch.manual_seed(2)
    state = torch.get_rng_state()
    assert fingerprints(decoder()) == first
    assert torch.equal(torch.get_rng_state(), state)


def test_drawing_does_not_depend_on_threads():
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        one = draw(0, "embedding", (512, 256), 0.02)
        torch.set_num_threads(4)
        four = draw(0, "embedding", (512, 256), 0.02)
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(one, four)


def test_drawing_is_on_the_cpu_in_float32_whatever_the_default_type_and_device():
    expected = draw(0, "embedding", (8, 8), 0.02)
    torch.set_default_dtype(torch.bfloat16)
    try:
        with torch.device("meta"):
            ones, drawn = draw(0, "norm.weight", (8,), None), draw(0, "embedding", (8, 8), 0.02)
    finally:
        torch.set_default_dtype(torch.float32)
    assert torch.equal(drawn, expected)
    assert torch.equal(ones, torch.ones(8))


def test_values_are_what_they_were_when_the_lab_was_made():
    weight = draw(0, "blocks.0.attention.query.weight", (16, 8), math.sqrt(2 / (5 * 8)))
    assert (
        hashlib.sha256(weight.numpy().tobytes()).hexdigest()
        == "267ce1e03042ec6a3f3a028fad83275edc4192b3f454a6b2fe57b20181c53f6f"
    )


def test_fingerprints_tell_one_changed_value():
    model = decoder()
    before = fingerprints(model)
    with torch.no_grad():
        model.blocks[1].feed_forward.up.weight[3, 4] += 1e-6
    after = fingerprints(model)
    assert {name for name in before if before[name] != after[name]} == {"blocks.1.feed_forward.up.weight"}
