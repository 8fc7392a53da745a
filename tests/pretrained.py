"""Tiny pretrained decoders, as transformers writes them."""

import shutil
from pathlib import Path
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from lab.data.tokenizer import shipped_tokenizers

SHAPE: dict[str, Any] = {
    "vocab_size": 1024,
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 64,
    "rms_norm_eps": 1e-5,
    "tie_word_embeddings": False,
    "bos_token_id": 0,
    "eos_token_id": 0,
    "pad_token_id": None,
}
ROPE = {"rope_parameters": {"rope_type": "default", "rope_theta": 5_000.0}}


def saved(model: Any, folder: Path) -> Path:
    """A model with large weights, so that a difference shows, in a folder with a tokenizer."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.2)
            else:
                parameter.copy_(1 + 0.1 * torch.randn(parameter.shape, generator=generator))
    model.save_pretrained(folder)
    shutil.copy(shipped_tokenizers() / "sotu_1k" / "tokenizer.json", folder)
    return folder


def llama_in(folder: Path) -> Path:
    """A decoder of the Llama type."""
    return saved(LlamaForCausalLM(LlamaConfig(**SHAPE, **ROPE)), folder)
