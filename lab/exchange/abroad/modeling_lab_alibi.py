"""A decoder with ALiBi (Press, Smith, Lewis 2022) for Hugging Face transformers, all of it on this page.

Pre-norm RMSNorm, SwiGLU, grouped-query attention, no biases, as Llama; instead of rotations the logit of a query and a
key loses slope * distance. With `attention_window` a query sees so many keys, its own included.
"""

import math

import torch
from torch import nn
from torch.nn import functional
from transformers import DynamicCache, GenerationMixin, PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutputWithPast


class LabAlibiConfig(PretrainedConfig):
    model_type = "lab_alibi"

    def __init__(
        self,
        vocab_size=32_000,
        hidden_size=2_048,
        intermediate_size=5_632,
        num_hidden_layers=22,
        num_attention_heads=32,
        num_key_value_heads=4,
        head_dim=64,
        max_position_embeddings=2_048,
        rms_norm_eps=1e-5,
        attention_window=None,
        **rest,
    ):
        self.vocab_size = vocab_size
        self.hidden_size = hidden_size
        self.intermediate_size = intermediate_size
        self.num_hidden_layers = num_hidden_layers
        self.num_attention_heads = num_attention_heads
        self.num_key_value_heads = num_key_value_heads
        self.head_dim = head_dim
        self.max_position_embeddings = max_position_embeddings
        self.rms_norm_eps = rms_norm_eps
        self.attention_window = attention_window
        super().__init__(**rest)


def slopes(heads):
    """A geometric sequence; for other numbers of heads than powers of two filled up from that of twice the power."""
    power = 2 ** math.floor(math.log2(heads))
    first = [2.0 ** (-8.0 * (index + 1) / power) for index in range(power)]
    return first + [2.0 ** (-4.0 * (index + 1) / power) for index in range(0, 2 * power, 2)][: heads - power]


class Norm(nn.Module):
    def __init__(self, width, eps):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x):
        wide = x.float()
        return (wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + self.eps)).to(x.dtype) * self.weight


class Attention(nn.Module):
    def __init__(self, config, layer):
        super().__init__()
        self.layer, self.head_dim = layer, config.head_dim
        width = config.hidden_size
        self.q_proj = nn.Linear(width, config.num_attention_heads * config.head_dim, bias=False)
        self.k_proj = nn.Linear(width, config.num_key_value_heads * config.head_dim, bias=False)
        self.v_proj = nn.Linear(width, config.num_key_value_heads * config.head_dim, bias=False)
        self.o_proj = nn.Linear(config.num_attention_heads * config.head_dim, width, bias=False)

    def forward(self, x, bias, cache):
        batch, time, _ = x.shape
        query, key, value = (
            project(x).view(batch, time, -1, self.head_dim).transpose(1, 2)
            for project in (self.q_proj, self.k_proj, self.v_proj)
        )
        if cache is not None:
            key, value = cache.update(key, value, self.layer)
        mixed = functional.scaled_dot_product_attention(query, key, value, attn_mask=bias, enable_gqa=True)
        return self.o_proj(mixed.transpose(1, 2).reshape(batch, time, -1))


class FeedForward(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.gate_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.up_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size, bias=False)

    def forward(self, x):
        return self.down_proj(functional.silu(self.gate_proj(x)) * self.up_proj(x))


class Block(nn.Module):
    def __init__(self, config, layer):
        super().__init__()
        self.input_layernorm = Norm(config.hidden_size, config.rms_norm_eps)
        self.self_attn = Attention(config, layer)
        self.post_attention_layernorm = Norm(config.hidden_size, config.rms_norm_eps)
        self.mlp = FeedForward(config)

    def forward(self, x, bias, cache):
        x = x + self.self_attn(self.input_layernorm(x), bias, cache)
        return x + self.mlp(self.post_attention_layernorm(x))


class Decoder(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(Block(config, layer) for layer in range(config.num_hidden_layers))
        self.norm = Norm(config.hidden_size, config.rms_norm_eps)


class LabAlibiForCausalLM(PreTrainedModel, GenerationMixin):
    config_class = LabAlibiConfig
    base_model_prefix = "model"
    _tied_weights_keys = {"lm_head.weight": "model.embed_tokens.weight"}  # noqa: RUF012
    _supports_sdpa = True

    def __init__(self, config):
        super().__init__(config)
        self.model = Decoder(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()

    def bias(self, start, time, attention_mask, like):
        """What is added to the logits: [batch, heads, time, start + time]."""
        keys = torch.arange(start + time, device=like.device)
        distance = keys[start:, None] - keys
        hidden = distance < 0
        if self.config.attention_window is not None:
            hidden = hidden | (distance >= self.config.attention_window)
        steep = torch.tensor(slopes(self.config.num_attention_heads), device=like.device)[:, None, None]
        bias = (-steep * distance).masked_fill(hidden, torch.finfo(torch.float32).min)[None]
        if attention_mask is not None:
            padded = attention_mask[:, None, None, :].to(torch.bool).logical_not()
            bias = bias.masked_fill(padded, torch.finfo(torch.float32).min)
        return bias.to(like.dtype).clamp(min=torch.finfo(like.dtype).min)

    def forward(
        self,
        input_ids=None,
        attention_mask=None,
        past_key_values=None,
        inputs_embeds=None,
        labels=None,
        use_cache=None,
        output_hidden_states=None,
        return_dict=None,
        logits_to_keep=0,
        **rest,
    ):
        if output_hidden_states is None:
            output_hidden_states = self.config.output_hidden_states
        if return_dict is None:
            return_dict = self.config.return_dict
        if use_cache and past_key_values is None:
            past_key_values = DynamicCache()
        x = self.model.embed_tokens(input_ids) if inputs_embeds is None else inputs_embeds
        start = past_key_values.get_seq_length() if past_key_values is not None else 0
        bias = self.bias(start, x.shape[1], attention_mask, x)
        states = []
        for block in self.model.layers:
            states.append(x)
            x = block(x, bias, past_key_values)
        x = self.model.norm(x)
        states.append(x)
        kept = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        logits = self.lm_head(x[:, kept])
        loss = None
        if labels is not None:
            loss = self.loss_function(logits=logits, labels=labels, vocab_size=self.config.vocab_size, **rest)
        output = CausalLMOutputWithPast(
            loss=loss,
            logits=logits,
            past_key_values=past_key_values,
            hidden_states=tuple(states) if output_hidden_states else None,
        )
        return output if return_dict else output.to_tuple()
