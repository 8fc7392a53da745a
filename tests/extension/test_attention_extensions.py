"""Attention scaling, initial scaling and window extension, against attention one query at a time in float64."""

import math
from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
import torch

from lab.base.errors import UserError
from lab.base.parts import build
from lab.extension.settings import (
    AttentionScalingSettings,
    InitialScalingSettings,
    TemperatureSettings,
    WindowExtensionSettings,
)
from lab.model.attention import Attention
from lab.model.decoder import Decoder
from lab.model.decoding import Cache
from lab.model.position import ALiBi, NoPE, PositionEncoding
from lab.runs.extensions import ExtensionSettings

WIDTH, HEADS, KV_HEADS, HEAD_DIM, TIME, WINDOW = 24, 4, 2, 6, 40, 7
SLOPES = [2.0**-2, 2.0**-4, 2.0**-6, 2.0**-8]  # ALiBi's of four heads (Press et al. 2022)
KERNELS = ["reference", "sdpa", "banded"]
TOKENS = torch.randint(0, 61, (2, TIME), generator=torch.Generator().manual_seed(1))


def decoder(kind: type[PositionEncoding], window: int | None, kernel: str) -> Decoder:
    made = Decoder(
        vocabulary=61,
        layers=2,
        width=WIDTH,
        hidden=40,
        position=kind(HEADS, HEAD_DIM),
        attention=partial(Attention, WIDTH, HEADS, KV_HEADS, HEAD_DIM, window, kernel),
        seed=3,
        compute_dtype=torch.float64,
    ).eval()
    with torch.no_grad():
        for block in made.blocks:
            block.attention.query.weight *= 20  # so that attention is sharp, and a factor shows
    return made


def by_definition(
    layer: Attention, x: np.ndarray, slopes: list[float] | None, window: int | None, factor: Callable[[int, int], float]
) -> np.ndarray:
    """Attention of each query, its logit with each key times ``factor(query, key)`` before a bias is added."""
    weight = {name: each.detach().double().numpy() for name, each in layer.named_parameters()}
    query, key, value = (x @ weight[f"{name}.weight"].T for name in ("query", "key", "value"))
    mixed = np.zeros((len(x), TIME, HEADS * HEAD_DIM))
    for sample, time, head in np.ndindex(len(x), TIME, HEADS):
        mine, shared = slice(head * HEAD_DIM, (head + 1) * HEAD_DIM), head // (HEADS // KV_HEADS)
        theirs = slice(shared * HEAD_DIM, (shared + 1) * HEAD_DIM)
        seen = [each for each in range(time + 1) if window is None or time - each < window]
        logits = np.array(
            [
                factor(time, each) * (query[sample, time, mine] @ key[sample, each, theirs]) / math.sqrt(HEAD_DIM)
                - (slopes[head] * (time - each) if slopes else 0.0)
                for each in seen
            ]
        )
        shares = np.exp(logits - logits.max())
        mixed[sample, time, mine] = (shares / shares.sum()) @ value[sample, seen, theirs]
    return mixed @ weight["output.weight"].T


SCALED = AttentionScalingSettings(factor=4.0, k=0.5)
FIRST = InitialScalingSettings(factor=4.0, k=0.5, first=3)
WIDER = WindowExtensionSettings(ratio=2.5, scale=1.3)
LAMBDA = 1 + 0.5 * math.log(4)


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("kind", [NoPE, ALiBi])
@pytest.mark.parametrize(
    ("settings", "window", "wider", "factor"),
    [
        (SCALED, None, None, lambda query, key: LAMBDA),
        (SCALED, WINDOW, WINDOW, lambda query, key: LAMBDA),
        (FIRST, None, None, lambda query, key: LAMBDA if key < 3 else 1.0),
        (FIRST, WINDOW, WINDOW, lambda query, key: LAMBDA if key < 3 else 1.0),
        (WIDER, WINDOW, 18, lambda query, key: 1.3),
    ],
)
@torch.no_grad()
def test_logits_have_the_factor_that_the_method_says_and_a_query_sees_the_keys_that_it_says(
    settings: ExtensionSettings,
    window: int | None,
    wider: int | None,
    factor: Callable[[int, int], float],
    kind: type[PositionEncoding],
    kernel: str,
) -> None:
    model = decoder(kind, window, kernel)
    build("extension", settings)(model)
    found = {}
    layer = model.blocks[0].attention
    layer.register_forward_hook(lambda module, given, out: found.update(x=given[0].numpy(), out=out.numpy()))
    model(TOKENS)
    slopes = SLOPES if kind is ALiBi else None
    wanted = by_definition(layer, found["x"], slopes, wider, factor)
    np.testing.assert_allclose(found["out"], wanted, atol=1e-6, rtol=0)
    untouched = by_definition(layer, found["x"], slopes, window, lambda query, key: 1.0)
    assert np.abs(wanted - untouched).max() > 1e-3


@pytest.mark.parametrize("settings", [SCALED, FIRST, WIDER])
@torch.no_grad()
def test_a_cache_changes_nothing(settings: ExtensionSettings) -> None:
    model = decoder(NoPE, WINDOW, "sdpa")
    build("extension", settings)(model)
    cache, parts = Cache(model), []
    for first, last in ((0, 5), (5, 6), (6, 7), (7, 30), (30, TIME)):
        parts.append(model.logits(model.hidden(TOKENS[:, first:last], cache=cache)))
    torch.testing.assert_close(torch.cat(parts, dim=1), model(TOKENS), atol=1e-9, rtol=0)


@pytest.mark.parametrize(
    "settings",
    [
        AttentionScalingSettings(factor=1.0, k=0.5),
        AttentionScalingSettings(factor=4.0, k=0.0),
        InitialScalingSettings(factor=1.0, k=0.5, first=4),
        WindowExtensionSettings(ratio=1.0, scale=1.0),
    ],
)
@torch.no_grad()
def test_what_says_to_change_nothing_changes_no_bit(settings: ExtensionSettings) -> None:
    plain, changed = (decoder(NoPE, WINDOW, "sdpa") for _ in range(2))
    build("extension", settings)(changed)
    assert torch.equal(changed(TOKENS), plain(TOKENS))


@torch.no_grad()
def test_methods_add_up() -> None:
    model, other = (decoder(NoPE, WINDOW, "sdpa") for _ in range(2))
    for each in (WIDER, SCALED):
        build("extension", each)(model)
    build("extension", WindowExtensionSettings(ratio=2.5, scale=1.0))(other)
    build("extension", TemperatureSettings(temperature=1.3 * LAMBDA))(other)
    torch.testing.assert_close(model(TOKENS), other(TOKENS), atol=1e-12, rtol=0)


def test_a_decoder_without_a_window_has_none_to_extend() -> None:
    with pytest.raises(UserError, match="this decoder sees all keys, and has no window to extend"):
        build("extension", WIDER)(decoder(NoPE, None, "sdpa"))


@pytest.mark.parametrize(
    ("settings", "given", "told"),
    [
        (WindowExtensionSettings, {"ratio": 0.5, "scale": 1.0}, "ratio"),
        (WindowExtensionSettings, {"ratio": 2.0, "scale": 0.0}, "scale"),
        (AttentionScalingSettings, {"factor": 0.5, "k": 0.3}, "factor"),
        (AttentionScalingSettings, {"factor": 4.0, "k": -0.3}, "k"),
        (InitialScalingSettings, {"factor": 4.0, "k": 0.3, "first": 0}, "first"),
    ],
)
def test_values_without_a_meaning_are_named(
    settings: type[ExtensionSettings], given: dict[str, float], told: str
) -> None:
    with pytest.raises(UserError, match=f"extension.{told}"):
        settings.check(given, "extension")
