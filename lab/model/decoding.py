"""Greedy decoding with cached keys and values, for every position encoding and window, at any length."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lab.model.decoder import Block, Decoder


class LayerCache:
    """The keys (rotated, where the encoding rotates) and values that one layer's next queries may see.

    With a window of W keys, the query's own included, these are the last W - 1: memory does not grow beyond.
    """

    def __init__(self, window: int | None) -> None:
        self.window = window
        self.keys: Float[Tensor, "batch kv_heads keys head_dim"] | None = None
        self.values: Float[Tensor, "batch kv_heads keys head_dim"] | None = None

    def extend(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """The kept keys and values with the new ones behind them; of these, what later queries need is kept."""
        if self.keys is not None and self.values is not None:
            keys, values = torch.cat((self.keys, keys), dim=2), torch.cat((self.values, values), dim=2)
        first = 0 if self.window is None else max(0, keys.shape[2] - self.window + 1)
        self.keys, self.values = keys, values
        if first:  # copied, or the slice would hold on to the memory of all
            self.keys, self.values = keys[:, :, first:].clone(), values[:, :, first:].clone()
        return keys, values


class Cache:
    """What a decoder keeps of the tokens it has read.

    Attributes:
        length: tokens read so far; the next token stands at this position.
        layers: one :class:`LayerCache` a layer.
    """

    def __init__(self, decoder: Decoder) -> None:
        self.length = 0
        self.layers = [LayerCache(block.attention.window) for block in decoder.blocks if isinstance(block, Block)]


@torch.inference_mode()
def greedy(decoder: Decoder, prompts: Int[Tensor, "batch time"], new_tokens: int) -> Int[Tensor, "batch new_tokens"]:
    """The most likely next token, ``new_tokens`` times, after prompts of one length; of equal ones the lowest id.

    Each token is read once: the cost of a step grows with the keys that it sees, not with their square.

    Raises:
        ValueError: a prompt without tokens.
    """
    if prompts.shape[1] < 1:
        raise ValueError("a prompt needs at least one token")
    cache = Cache(decoder)
    tokens, chosen = prompts, []
    for _ in range(new_tokens):
        hidden = decoder.hidden(tokens, cache=cache)
        tokens = decoder.logits(hidden[:, -1:]).argmax(dim=-1)
        chosen.append(tokens)
    return torch.cat(chosen, dim=1) if chosen else prompts[:, :0]
