"""What a decoder's tensors are called abroad: one table, read in both directions; and what a source is called here.

As in transformers' Llama, Mistral and SmolLM3 (src/transformers/models/llama/modeling_llama.py), which agree.
"""

import re

ABROAD = {
    "embedding": "model.embed_tokens.weight",
    "blocks.{}.attention_norm.weight": "model.layers.{}.input_layernorm.weight",
    "blocks.{}.attention.query.weight": "model.layers.{}.self_attn.q_proj.weight",
    "blocks.{}.attention.key.weight": "model.layers.{}.self_attn.k_proj.weight",
    "blocks.{}.attention.value.weight": "model.layers.{}.self_attn.v_proj.weight",
    "blocks.{}.attention.output.weight": "model.layers.{}.self_attn.o_proj.weight",
    "blocks.{}.feed_forward_norm.weight": "model.layers.{}.post_attention_layernorm.weight",
    "blocks.{}.feed_forward.gate.weight": "model.layers.{}.mlp.gate_proj.weight",
    "blocks.{}.feed_forward.up.weight": "model.layers.{}.mlp.up_proj.weight",
    "blocks.{}.feed_forward.down.weight": "model.layers.{}.mlp.down_proj.weight",
    "norm.weight": "model.norm.weight",
    "head.weight": "lm_head.weight",
}
HERE = {theirs: ours for ours, theirs in ABROAD.items()}


def abroad(name: str) -> str:
    """E.g. ``model.layers.3.mlp.up_proj.weight`` for ``blocks.3.feed_forward.up.weight``."""
    pattern, layer = _without_layer(name)
    return ABROAD[pattern].format(layer)


def here(name: str) -> str | None:
    """The other way round; None for a tensor that no decoder of the lab has."""
    pattern, layer = _without_layer(name)
    return HERE[pattern].format(layer) if pattern in HERE else None


def _without_layer(name: str) -> tuple[str, str]:
    found = re.search(r"(?<=\.)\d+(?=\.)", name)
    return (name.replace(found[0], "{}", 1), found[0]) if found else (name, "")


def slug(source: str) -> str:
    """What a source is called in names."""
    name = source.partition("@")[0].rstrip("/").rpartition("/")[2]
    return re.sub(r"[^A-Za-z0-9._]+", "-", name.removesuffix(".gguf"))[:60].strip("-.") or "model"
