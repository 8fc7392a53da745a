"""Cached greedy decoding, held against decoding that reads everything again for each token."""

from functools import partial

import pytest
import torch

from lab.model.attention import Attention
from lab.model.decoder import Decoder
from lab.model.decoding import Cache, greedy
from lab.model.position import ALiBi, NoPE, PositionEncoding, RoPE

CONTEXT = 32
VARIANTS = [
    (NoPE, None),
    (RoPE, None),
    (ALiBi, None),
    (NoPE, 12),
    (RoPE, 12),
    (ALiBi, 12),
    (NoPE, 5),
    (NoPE, 1),
]


def decoder(position: type[PositionEncoding], window: int | None, kernel: str = "matched") -> Decoder:
    return Decoder(
        vocabulary=61,
        layers=3,
        width=24,
        hidden=40,
        position=position(4, 6),
        attention=partial(Attention, 24, 4, 2, 6, window, kernel),
        seed=3,
        compute_dtype=torch.float64,
    ).eval()


def uncached(model: Decoder, prompts: torch.Tensor, new_tokens: int) -> torch.Tensor:
    tokens = prompts
    for _ in range(new_tokens):
        tokens = torch.cat((tokens, model(tokens)[:, -1:].argmax(dim=-1)), dim=1)
    return tokens[:, prompts.shape[1] :]


def prompts(length: int, batch: int = 2) -> torch.Tensor:
    return torch.randint(0, 61, (batch, length), generator=torch.Generator().manual_seed(length))


@pytest.mark.parametrize(("position", "window"), VARIANTS)
@pytest.mark.parametrize("kernel", ["reference", "sdpa", "banded"])
@pytest.mark.parametrize("length", [1, 20, CONTEXT, 3 * CONTEXT])
@torch.inference_mode()
def test_cached_decoding_gives_the_tokens_of_uncached_decoding_beyond_the_context_too(position, window, kernel, length):
    model = decoder(position, window, kernel)
    given = prompts(length)
    new_tokens = 2 * CONTEXT
    assert greedy(model, given, new_tokens).equal(uncached(model, given, new_tokens))


@pytest.mark.parametrize(("position", "window"), VARIANTS)
@torch.inference_mode()
def test_states_do_not_depend_on_how_the_tokens_are_cut_for_the_cache(position, window):
    model = decoder(position, window)
    tokens = prompts(150)
    whole = model.hidden(tokens)
    cache = Cache(model)
    parts = [model.hidden(part, cache=cache) for part in tokens.split([1, 40, 3, 1, 100, 5], dim=1)]
    torch.testing.assert_close(torch.cat(parts, dim=1), whole, rtol=1e-10, atol=1e-10)
    assert cache.length == 150


@torch.inference_mode()
def test_with_a_window_the_cache_holds_one_key_less_than_the_window_and_no_more_memory():
    model = decoder(NoPE, 12)
    cache = Cache(model)
    for part in (prompts(100), prompts(1), prompts(3)):
        model.hidden(part, cache=cache)
        for layer in cache.layers:
            assert layer.keys.shape == layer.values.shape == (2, 2, 11, 6)
            assert layer.keys.untyped_storage().nbytes() == 2 * 2 * 11 * 6 * 8


def test_no_new_token_and_no_prompt():
    model = decoder(RoPE, None)
    assert greedy(model, prompts(4), 0).shape == (2, 0)
    with pytest.raises(ValueError, match="at least one token"):
        greedy(model, prompts(0), 3)


def test_documents_cannot_be_isolated_in_a_cache():
    model = decoder(RoPE, None)
    with pytest.raises(ValueError, match="which document"):
        model.hidden(prompts(4), documents=torch.zeros(2, 4), cache=Cache(model))
