"""Cached decoding, held against decoding that reads everything again; and what is drawn, against its probabilities."""

import math
from functools import partial

import numpy as np
import pytest
import torch
from scipy.stats import chisquare

from lab.model.attention import Attention
from lab.model.decoder import Decoder
from lab.model.decoding import Cache, greedy, sample
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


# One prompt, a token at a time, drawn.


def outspoken(position: type[PositionEncoding] = RoPE, window: int | None = None) -> Decoder:
    """A decoder that holds some tokens for far likelier than others."""
    model = decoder(position, window)
    with torch.no_grad():
        model.head.weight.mul_(2.5)
    return model


def nucleus(logits: np.ndarray, temperature: float, top_p: float) -> np.ndarray:
    """The probability of each token: of the likeliest, added one by one until they have top_p, their share."""
    likely = np.array([math.exp(value / temperature) for value in logits - logits.max()])
    likely /= likely.sum()
    kept, together = np.zeros(len(likely)), 0.0
    for token in sorted(range(len(likely)), key=lambda each: (-likely[each], each)):
        if together < top_p:
            kept[token] = likely[token]
            together += likely[token]
    return kept / kept.sum()


@pytest.mark.parametrize(("position", "window"), VARIANTS)
@pytest.mark.parametrize("length", [1, 3 * CONTEXT])
def test_without_a_temperature_the_likeliest_token_is_taken_beyond_the_context_too(position, window, length):
    model, given = outspoken(position, window), prompts(length, batch=1)
    found = list(sample(model, given, 2 * CONTEXT, temperature=None))
    assert found == greedy(model, given, 2 * CONTEXT)[0].tolist()
    with torch.inference_mode():
        assert found == uncached(model, given, 2 * CONTEXT)[0].tolist()


@pytest.mark.parametrize(
    ("temperature", "top_p"), [(1.0, 1.0), (0.5, 1.0), (2.0, 1.0), (1.0, 0.9), (1.0, 0.5), (3.0, 0.7), (1.0, 1e-9)]
)
def test_tokens_are_drawn_as_often_as_they_are_likely_and_none_outside_the_nucleus(temperature, top_p):
    model, given, draws = outspoken(), prompts(6, batch=1), 1000
    with torch.inference_mode():
        expected = nucleus(model(given)[0, -1].numpy(), temperature, top_p)
    found = [next(sample(model, given, 1, temperature=temperature, top_p=top_p, seed=seed)) for seed in range(draws)]
    counts = np.bincount(found, minlength=61)
    assert counts[expected == 0].sum() == 0
    often = expected * draws >= 5  # rarer ones are counted together
    seen = np.append(counts[often], counts[~often].sum())
    wanted = np.append(expected[often], expected[~often].sum()) * draws
    if top_p > 1e-9:  # else there is one token
        assert often.sum() > 5
        assert chisquare(seen[wanted > 0], wanted[wanted > 0]).pvalue > 0.001


def test_at_a_temperature_next_to_nothing_the_likeliest_token_is_drawn():
    model, given = outspoken(), prompts(6, batch=1)
    with torch.inference_mode():
        likeliest = int(model(given)[0, -1].argmax())
    for temperature in (1e-6, 1e-200, 5e-324):
        assert {next(sample(model, given, 1, temperature=temperature, seed=seed)) for seed in range(20)} == {likeliest}


def test_the_nucleus_is_no_larger_than_it_must_be():
    model, given = outspoken(), prompts(6, batch=1)
    with torch.inference_mode():
        logits = model(given)[0, -1].numpy()
    sorted_shares = np.sort(nucleus(logits, 1.0, 1.0))[::-1]
    for size in (1, 2, 5):
        inside = sorted_shares[:size].sum()
        for top_p, expected in ((inside - 1e-6, size), (inside + 1e-6, size + 1)):
            assert np.count_nonzero(nucleus(logits, 1.0, top_p)) == expected
            found = {next(sample(model, given, 1, temperature=1.0, top_p=top_p, seed=seed)) for seed in range(400)}
            assert found <= set(np.argsort(-logits, kind="stable")[:expected].tolist())


def test_a_seed_decides_the_draws_whatever_else_is_drawn():
    model, given = outspoken(), prompts(6, batch=1)
    first = list(sample(model, given, 40, temperature=1.0, seed=1))
    torch.manual_seed(7)
    torch.rand(3)
    assert list(sample(model, given, 40, temperature=1.0, seed=1)) == first
    assert list(sample(model, given, 40, temperature=1.0, seed=2)) != first
    assert list(sample(model, given, 60, temperature=1.0, seed=1))[:40] == first
    state = torch.get_rng_state()
    list(sample(model, given, 3, temperature=1.0, seed=2**64 - 1))
    assert torch.get_rng_state().equal(state)


def test_of_equal_tokens_the_lowest_is_the_likeliest():
    model, given = outspoken(), prompts(6, batch=1)
    with torch.no_grad():
        model.head.weight.zero_()
    assert list(sample(model, given, 3, temperature=None)) == [0, 0, 0]
    assert list(sample(model, given, 3, temperature=1.0, top_p=1e-9)) == [0, 0, 0]


def test_a_token_comes_before_the_next_is_computed():
    model, given = outspoken(), prompts(6, batch=1)
    stream = sample(model, given, 10**9, temperature=1.0)
    assert len([next(stream) for _ in range(5)]) == 5


def test_one_prompt_of_at_least_one_token_is_drawn_from_and_no_token_may_be_asked_for():
    model = outspoken()
    assert list(sample(model, prompts(4, batch=1), 0, temperature=1.0)) == []
    for wrong in (prompts(4, batch=2), prompts(0, batch=1)):
        with pytest.raises(ValueError, match="one prompt of at least one token is needed"):
            next(sample(model, wrong, 1, temperature=1.0))
