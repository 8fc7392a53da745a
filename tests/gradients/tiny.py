"""Decoders of random weights, small enough to form every gradient by autograd."""

from functools import partial

import torch

from lab.gradients.capture import Example
from lab.model.attention import Attention
from lab.model.decoder import Decoder
from lab.model.position import ALiBi, Learned, NoPE, PositionEncoding, RoPE, Sinusoidal

LAYERS, WIDTH, HIDDEN, VOCABULARY = 3, 24, 40, 31
HEADS, HEAD_DIM = 4, 8
VARIANTS = [
    (NoPE, None),
    (RoPE, None),
    (ALiBi, None),
    (NoPE, 3),
    (RoPE, 3),
    (ALiBi, 3),
    (RoPE, 1),
    (Learned, None),
    (Sinusoidal, 4),
]
# Of different lengths; targets of one token and of several. No prompt has a token twice, but the last.
EXAMPLES = [
    Example((3, 17, 5, 11, 8), (2,)),
    Example((9, 1, 30, 4, 22, 6, 13, 27, 16), (7, 19, 25)),
    Example((12,), (20,)),
    Example((14, 29), (10, 24)),
    Example((5, 21, 5, 5, 28, 21, 0), (18,)),
]


def encoding(kind: type[PositionEncoding]) -> PositionEncoding:
    if kind is Learned:
        return Learned(HEADS, HEAD_DIM, WIDTH, 16)
    return Sinusoidal(HEADS, HEAD_DIM, WIDTH, 16) if kind is Sinusoidal else kind(HEADS, HEAD_DIM)


def tiny(
    kind: type[PositionEncoding] = RoPE, window: int | None = None, kv_heads: int = 2, tied: bool = False, layers=LAYERS
) -> Decoder:
    attention = partial(Attention, WIDTH, HEADS, kv_heads, HEAD_DIM, window, "auto")
    decoder = Decoder(VOCABULARY, layers, WIDTH, HIDDEN, encoding(kind), attention, seed=None, tied=tied)
    draw = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for name, parameter in decoder.named_parameters():
            # Large enough that every block matters and attention is not even.
            value = torch.randn(parameter.shape, generator=draw) / parameter.shape[-1] ** 0.5
            parameter.copy_(1 + 0.2 * value if name.endswith("norm.weight") else 2 * value)
    return decoder.eval()
