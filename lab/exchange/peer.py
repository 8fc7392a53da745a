"""transformers' decoder with the lab's weights, in memory: what benches are measured against."""

from typing import Any

import torch
from torch import nn

from lab.base.errors import UserError
from lab.exchange.exporting import configuration
from lab.exchange.names import abroad
from lab.model.decoder import Decoder


def peer_of(config: Any, decoder: Decoder, dtype: torch.dtype) -> nn.Module:
    """The class of transformers that computes what a decoder does, in evaluation mode, where the decoder is.

    Args:
        config: has the decoder's ``model`` and ``scale``.

    Raises:
        UserError: transformers is missing, or has no such decoder.
    """
    try:
        import transformers
    except ImportError:
        raise UserError("the peer needs transformers: pip install 'context-window-lab[bench]'") from None
    from lab.exchange.abroad import modeling_lab_alibi

    attention: Any = decoder.blocks[0].attention
    told = configuration(config, attention.window, 0)
    kind: Any = getattr(transformers, told["architectures"][0], modeling_lab_alibi.LabAlibiForCausalLM)
    model: nn.Module = kind(kind.config_class(**told)).to(dtype)
    weights = {abroad(name): tensor for name, tensor in decoder.state_dict().items()}
    if config.model.tied:
        weights["lm_head.weight"] = weights["model.embed_tokens.weight"]
    model.load_state_dict(weights)
    return model.to(decoder.embedding.device).eval()
