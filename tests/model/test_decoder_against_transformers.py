"""The same weights in transformers' Llama, Mistral and SmolLM3 give the same logits, loss and gradients."""

from functools import partial

import pytest
import torch
from oracles.llama_names import llama_names
from torch import Tensor, nn
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    SmolLM3Config,
    SmolLM3ForCausalLM,
)

from lab.model.attention import Attention
from lab.model.decoder import Decoder
from lab.model.position import NoPE, PositionEncoding, RoPE

VOCABULARY, LAYERS, WIDTH, HIDDEN, HEADS, KV_HEADS, HEAD_DIM = 71, 3, 24, 40, 4, 2, 10
CONTEXT, WINDOW = 32, 12
LENGTHS = [1, WINDOW, WINDOW + 1, CONTEXT, 3 * CONTEXT, 5 * CONTEXT]  # within and beyond window and context
SHAPE = dict(
    vocab_size=VOCABULARY,
    hidden_size=WIDTH,
    intermediate_size=HIDDEN,
    num_hidden_layers=LAYERS,
    num_attention_heads=HEADS,
    num_key_value_heads=KV_HEADS,
    head_dim=HEAD_DIM,
    max_position_embeddings=CONTEXT,
    rms_norm_eps=1e-5,
    tie_word_embeddings=False,
    rope_parameters=dict(rope_type="default", rope_theta=10_000.0),
    pad_token_id=None,
    bos_token_id=None,
    eos_token_id=None,
    attn_implementation="eager",
)
NO_ROPE = dict(no_rope_layers=[0] * LAYERS)  # transformers' name: 0 is "no RoPE in this layer"


def llama() -> nn.Module:
    return LlamaForCausalLM(LlamaConfig(**SHAPE))


def mistral(window: int | None) -> nn.Module:
    return MistralForCausalLM(MistralConfig(**SHAPE, sliding_window=window))


def smollm3(window: int | None) -> nn.Module:
    return SmolLM3ForCausalLM(
        SmolLM3Config(**SHAPE, **NO_ROPE, use_sliding_window=window is not None, sliding_window=window)
    )


FAMILIES = {
    "rope": (llama, RoPE, None),
    "window_rope": (partial(mistral, WINDOW), RoPE, WINDOW),
    "nope": (partial(smollm3, None), NoPE, None),
    "window_nope": (partial(smollm3, WINDOW), NoPE, WINDOW),
}

NAMES = llama_names(LAYERS)


def decoder(position: type[PositionEncoding], window: int | None, kernel: str = "auto") -> Decoder:
    """Weights large enough that attention is far from even, and norms that are not ones."""
    model = Decoder(
        VOCABULARY,
        LAYERS,
        WIDTH,
        HIDDEN,
        position(HEADS, HEAD_DIM),
        partial(Attention, WIDTH, HEADS, KV_HEADS, HEAD_DIM, window, kernel),
        seed=0,
        compute_dtype=torch.float64,
    )
    draw = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter.uniform_(0.5, 1.5, generator=draw)
            else:
                parameter.normal_(std=0.25, generator=draw)
    return model


def with_weights_of(model: Decoder, oracle: nn.Module) -> nn.Module:
    """``oracle`` in float64 with the decoder's weights; every one of them must have a place."""
    weights = {NAMES[name]: value.double() for name, value in model.state_dict().items()}
    oracle = oracle.double().eval()
    oracle.load_state_dict(weights, strict=True)
    return oracle


def tokens(length: int) -> Tensor:
    return torch.randint(0, VOCABULARY, (2, length), generator=torch.Generator().manual_seed(length))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("kernel", ["reference", "sdpa", "banded"])
def test_logits_equal_transformers(family, kernel):
    make, position, window = FAMILIES[family]
    model = decoder(position, window, kernel)
    oracle = with_weights_of(model, make())
    with torch.no_grad():
        for length in LENGTHS:
            expected = oracle(tokens(length)).logits
            assert expected.abs().max() > 1
            # The oracle forms norms, angles and softmax in float32, whatever its weights.
            torch.testing.assert_close(model(tokens(length)), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_loss_and_gradients_equal_transformers(family):
    make, position, window = FAMILIES[family]
    model = decoder(position, window)
    oracle = with_weights_of(model, make())
    given = tokens(5 * CONTEXT)
    loss = model.next_token_losses(model.hidden(given[:, :-1]), given[:, 1:]).mean()
    expected = oracle(given, labels=given).loss
    torch.testing.assert_close(loss, expected.double(), rtol=1e-5, atol=0)
    loss.backward()
    expected.backward()
    theirs = dict(oracle.named_parameters())
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(
            parameter.grad.double(),
            theirs[NAMES[name]].grad,
            rtol=1e-4,
            atol=1e-5,
            msg=lambda m, n=name: f"{n}: {m}",
        )


@pytest.mark.parametrize("make", [mistral, smollm3])
def test_the_oracles_window_is_active_from_the_first_key_it_hides(make):
    model = decoder(NoPE, None)
    full, windowed = (with_weights_of(model, make(window)) for window in (None, WINDOW))
    given = tokens(CONTEXT)
    with torch.no_grad():
        difference = (full(given).logits - windowed(given).logits).abs().amax(dim=(0, 2))
    assert difference[:WINDOW].max() < 1e-6
    assert difference[WINDOW:].min() > 1e-3


def test_the_oracle_without_rope_is_not_the_one_with_rope():
    model = decoder(NoPE, None)
    given = tokens(CONTEXT)
    with torch.no_grad():
        rope, nope = (with_weights_of(model, make())(given).logits for make in (llama, partial(smollm3, None)))
    assert (rope - nope)[:, 1:].abs().amax(dim=(0, 2)).min() > 1e-2
