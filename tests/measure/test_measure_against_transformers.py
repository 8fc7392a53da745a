"""The losses that transformers gives the same weights: truncated, and by its documentation's sliding window."""

import math

import numpy as np
import pytest
import torch
from oracles.llama_names import llama_names
from tiny_decoders import VOCABULARY, document, rows_of, tiny
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

from lab.measure.sliding_perplexity import SlidingPerplexity
from lab.measure.truncated_perplexity import TruncatedPerplexity
from lab.model.decoder import Decoder
from lab.model.position import RoPE

SPAN = 96
NAMES = llama_names(2)


@pytest.fixture(scope="module")
def ours() -> Decoder:
    return tiny(RoPE, compute_dtype=torch.float32)


@pytest.fixture(scope="module")
def theirs(ours: Decoder) -> nn.Module:
    """The same weights in transformers' Llama; every one of them has a place."""
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=VOCABULARY,
            hidden_size=16,
            intermediate_size=24,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=1,
            head_dim=8,
            rms_norm_eps=1e-5,
            tie_word_embeddings=False,
            rope_parameters=dict(rope_type="default", rope_theta=10_000.0),
            pad_token_id=None,
            bos_token_id=None,
            eos_token_id=None,
            attn_implementation="eager",
        )
    )
    model.load_state_dict({NAMES[name]: value for name, value in ours.state_dict().items()}, strict=True)
    return model.float().eval()


def tensor(ids: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(ids.astype(np.int64))[None]


@torch.no_grad()
def test_truncated_perplexity_is_the_loss_that_transformers_gives_the_first_tokens(ours, theirs):
    ids, lengths = document(SPAN + 1), [1, 4, 7, 32, SPAN]
    rows = rows_of(TruncatedPerplexity(lengths=lengths, longest=1, documents=None), ours, ids)
    for row, length in zip(rows, lengths, strict=True):
        first = tensor(ids[: length + 1])
        assert row["loss_nats"] == pytest.approx(theirs(first, labels=first).loss.item(), abs=1e-5)


@torch.no_grad()
def documented(model: nn.Module, encodings: torch.Tensor, max_length: int, stride: int) -> float:
    """The recipe of https://huggingface.co/docs/transformers/perplexity: windows of ``max_length`` tokens, of which
    the ones that an earlier window has scored are masked with -100; each window's mean loss counts with its tokens."""
    end, total, count = 0, 0.0, 0
    for begin in range(0, encodings.shape[1], stride):
        previous, end = end, min(begin + max_length, encodings.shape[1])
        inputs = encodings[:, begin:end]
        labels = inputs.clone()
        labels[:, : previous - begin] = -100  # scored by an earlier window; nothing in the first
        scored = (labels[:, 1:] != -100).sum().item()  # transformers shifts the labels by one
        total += model(inputs, labels=labels).loss.item() * scored
        count += scored
        if end == encodings.shape[1]:
            break
    assert count == encodings.shape[1] - 1
    return total / count


@pytest.mark.parametrize(
    ("length", "stride"), [(8, 8), (8, 4), (16, 8), (16, 16), (32, 4), (32, 1), (48, 48), (96, 32)]
)
def test_sliding_perplexity_is_that_of_the_recipe_in_transformers_documentation(ours, theirs, length, stride):
    """Its windows of L + 1 tokens predict L: they are this lab's windows of L."""
    assert (SPAN - length) % stride == 0
    ids = document(SPAN + 1)
    measure = SlidingPerplexity(
        lengths=[length], longest=1, stride=stride, span=SPAN, documents=None, batch_tokens=1000
    )
    (row,) = rows_of(measure, ours, ids)
    assert row["loss_nats"] == pytest.approx(documented(theirs, tensor(ids), length + 1, stride), abs=1e-5)
    assert 1 < row["loss_nats"] < 4 * math.log(VOCABULARY)


def test_the_recipes_perplexity_depends_on_window_and_stride(theirs):
    found = {
        documented(theirs, tensor(document(SPAN + 1)), length + 1, stride)
        for length, stride in [(8, 4), (8, 8), (32, 4)]
    }
    assert min(abs(one - other) for one in found for other in found if one != other) > 1e-3
