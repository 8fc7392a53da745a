"""Temperature: the product of query and key times a factor, against attention one query at a time in float64."""

from functools import partial

import numpy as np
import pytest
import torch
from oracles.attention_loops import attention_loops
from oracles.rotation import rotation

from lab.extension.extension import Scaled
from lab.model.attention import Attention
from lab.model.decoder import Decoder
from lab.model.decoding import Cache
from lab.model.position import ALiBi, NoPE, PositionEncoding, RoPE

WIDTH, HEADS, KV_HEADS, HEAD_DIM, TIME = 24, 4, 2, 6, 40
SLOPES = [2.0**-2, 2.0**-4, 2.0**-6, 2.0**-8]  # ALiBi's of four heads (Press et al. 2022)
POSITIONS = [NoPE, RoPE, ALiBi]
KERNELS = ["reference", "sdpa", "banded"]


def decoder(position: PositionEncoding, window: int | None, kernel: str) -> Decoder:
    return Decoder(
        vocabulary=61,
        layers=2,
        width=WIDTH,
        hidden=40,
        position=position,
        attention=partial(Attention, WIDTH, HEADS, KV_HEADS, HEAD_DIM, window, kernel),
        seed=3,
        compute_dtype=torch.float64,
    ).eval()


def by_loops(layer: Attention, x: torch.Tensor, kind: type[PositionEncoding], factor: float) -> np.ndarray:
    """What a layer's attention is by its definition, with the slopes as they are."""
    weights = {name: each.detach().numpy().astype(np.float64) for name, each in layer.named_parameters()}
    states = x.numpy()

    def heads(name: str, count: int) -> np.ndarray:
        projected = states @ weights[f"{name}.weight"].T
        return projected.reshape(len(states), TIME, count, HEAD_DIM).transpose(0, 2, 1, 3)

    query, key, value = heads("query", HEADS), heads("key", KV_HEADS), heads("value", KV_HEADS)
    if kind is RoPE:
        for vectors in (query, key):
            for place in np.ndindex(*vectors.shape[:3]):
                vectors[place] = rotation(vectors[place].copy(), place[2])
    mixed, *_ = attention_loops(
        query,
        key,
        value,
        np.zeros_like(query),
        window=layer.window,
        slopes=SLOPES if kind is ALiBi else None,
        scale=factor / np.sqrt(HEAD_DIM),
        offset=0,
        documents=None,
    )
    return mixed.transpose(0, 2, 1, 3).reshape(len(states), TIME, -1) @ weights["output.weight"].T


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("window", [None, 7])
@pytest.mark.parametrize("kind", POSITIONS)
@pytest.mark.parametrize("factors", [(1.7,), (0.3,), (1.7, 0.4)])
@torch.no_grad()
def test_the_product_has_the_factor_and_a_bias_has_not(
    kind: type[PositionEncoding], window: int | None, kernel: str, factors: tuple[float, ...]
) -> None:
    position = kind(HEADS, HEAD_DIM)
    for factor in factors:
        position = Scaled(position, factor)
    model = decoder(position, window, kernel)
    layer = model.blocks[0].attention
    layer.query.weight *= 20  # so that attention is sharp, and a factor shows
    found = {}
    layer.register_forward_hook(lambda module, given, out: found.update(x=given[0], out=out))
    model(torch.randint(0, 61, (2, TIME), generator=torch.Generator().manual_seed(1)))
    told = found["out"].numpy()
    # RoPE's tables are float32, as is the slopes' memory.
    np.testing.assert_allclose(told, by_loops(layer, found["x"], kind, float(np.prod(factors))), atol=1e-6, rtol=0)
    assert np.abs(told - by_loops(layer, found["x"], kind, 1.0)).max() > 1e-3


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("window", [None, 7])
@pytest.mark.parametrize("kind", POSITIONS)
@torch.no_grad()
def test_one_changes_no_bit_and_a_cache_changes_nothing(
    kind: type[PositionEncoding], window: int | None, kernel: str
) -> None:
    tokens = torch.randint(0, 61, (2, TIME), generator=torch.Generator().manual_seed(2))
    plain = decoder(kind(HEADS, HEAD_DIM), window, kernel)
    assert torch.equal(decoder(Scaled(kind(HEADS, HEAD_DIM), 1.0), window, kernel)(tokens), plain(tokens))
    warm = decoder(Scaled(kind(HEADS, HEAD_DIM), 1.7), window, kernel)
    cache, parts = Cache(warm), []
    for first, last in ((0, 5), (5, 6), (6, 7), (7, 30), (30, TIME)):
        parts.append(warm.logits(warm.hidden(tokens[:, first:last], cache=cache)))
    torch.testing.assert_close(torch.cat(parts, dim=1), warm(tokens), atol=1e-9, rtol=0)
    assert not torch.allclose(warm(tokens), plain(tokens), atol=1e-4)


@pytest.mark.parametrize("kind", POSITIONS)
def test_what_it_does_not_change_it_hands_on(kind: type[PositionEncoding]) -> None:
    inner = kind(HEADS, HEAD_DIM)
    outer = Scaled(inner, 1.7)
    assert outer.slopes is inner.slopes
    assert outer.depends_on_length == inner.depends_on_length
    assert (outer.heads, outer.head_dim) == (HEADS, HEAD_DIM)
    assert not list(outer.parameters())
    assert not outer.state_dict()
    assert {outer.scale(length) for length in (1, 64, 4096)} == {1.7}
    outer.reach(TIME)
    query = torch.randn(1, HEADS, TIME, HEAD_DIM, generator=torch.Generator().manual_seed(3))
    for mine, theirs in zip(
        outer.rotate(query, query, torch.arange(TIME)), inner.rotate(query, query, torch.arange(TIME)), strict=True
    ):
        assert torch.equal(mine, theirs)
