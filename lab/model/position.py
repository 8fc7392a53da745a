"""Position encodings: how a decoder knows where a token stands.

A position encoding answers these questions, and the decoder asks nothing else of it:

- ``embed(states, start)``: what is added to the embedding (the absolute encodings add vectors, the others nothing);
- ``rotate(query, key, positions)``: what to do to queries and keys (RoPE rotates them, the others do nothing);
- ``slopes``: the linear bias of each head, or ``None`` (ALiBi);
- ``scale(length)``: a factor on the logits, 1 unless an extension says otherwise;
- ``reach(length)``: whatever is to be made ready for a length;
- ``longest``: the greatest length that it has positions for, ``None`` where there is no end.

Rotations may be scaled to the length of a text. ``depends_on_length``: all positions have those of the whole text, so
that a token's score changes with the tokens behind it, and keys in a cache hold for texts of one ``version(length)``
only. ``turns_keys``: each position has those of the text that ends with it; then a key turns anew with every query.

Adding one is: a class here, its settings in ``lab/model/settings.py``, a file in ``conf/model/position/`` and one in
``conf/model/``, a test against an independent formula.
"""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Complex, Float, Int
from torch import Tensor, nn

from lab.base.errors import UserError
from lab.model.elementwise import Rotation


class PositionEncoding(nn.Module):
    """The interface, and its neutral answers.

    Args:
        heads: number of query heads.
        head_dim: width of one head.
    """

    depends_on_length = False
    turns_keys = False
    longest: int | None = None
    slopes: Float[Tensor, "heads"] | None

    def __init__(self, heads: int, head_dim: int) -> None:
        super().__init__()
        self.heads = heads
        self.head_dim = head_dim
        self.register_buffer("slopes", None, persistent=False)

    def embed(self, states: Float[Tensor, "batch time width"], start: int) -> Float[Tensor, "batch time width"]:
        """Embedded tokens, the first of which stands at position ``start``, with what tells their positions."""
        return states

    def reach(self, length: int) -> None:
        """Make ready for positions below ``length``; the decoder calls this once a pass, outside compiled code."""

    def version(self, length: int) -> int:
        """Texts whose lengths have the same are turned alike."""
        return 0

    def scale(self, length: int) -> float:
        """Factor on the logits of a pass over ``length`` tokens, those in a cache included."""
        return 1.0

    def phases(
        self, lengths: Sequence[int], positions: Int[Tensor, "positions"]
    ) -> Complex[Tensor, "lengths positions half"]:
        """e^(i angle) of each pair at positions of texts of several lengths, of an encoding that ``turns_keys``."""
        raise NotImplementedError

    def rotate(
        self,
        query: Float[Tensor, "batch heads time head_dim"],
        key: Float[Tensor, "batch kv_heads time head_dim"],
        positions: Int[Tensor, "time"],
    ) -> tuple[Tensor, Tensor]:
        """Queries and keys as attention shall see them; same shapes and types as given."""
        return query, key


class NoPE(PositionEncoding):
    """No position encoding: the causal mask alone tells order (Haviv et al. 2022; Kazemnejad et al. 2023)."""


class Sinusoidal(PositionEncoding):
    """Fixed sines and cosines beside the embedding (Vaswani et al. 2017, arXiv 1706.03762, section 3.5).

    Position t has sin(t / 10,000^(2i/width)) in dimension 2i and the cosine in 2i + 1. There they are added to the
    embedding times sqrt(width); here the sinusoids are divided by it, so that the embedding is that of all variants: a
    common factor, which the norms take out.

    Raises:
        UserError: ``width`` is odd.
    """

    table: Float[Tensor, "positions width"]

    def __init__(self, heads: int, head_dim: int, width: int, context: int) -> None:
        super().__init__(heads, head_dim)
        if width % 2:
            raise UserError(f"width is {width}: sinusoids come in pairs; choose an even number")
        self.width = width
        self.register_buffer("table", torch.empty(0, width), persistent=False)

    def embed(self, states: Tensor, start: int) -> Tensor:
        stop = start + states.shape[1]
        if stop > len(self.table):
            positions = torch.arange(stop, dtype=torch.float64, device=states.device)
            exponents = torch.arange(0, self.width, 2, dtype=torch.float64, device=states.device) / self.width
            angles = torch.outer(positions, 10_000.0**-exponents)
            table = torch.stack((angles.sin(), angles.cos()), dim=-1).flatten(1) / math.sqrt(self.width)
            self.table = table.to(torch.float32)
        return states + self.table[start:stop].to(states.dtype)


class Learned(PositionEncoding):
    """A vector for each position of the context, trained as the embedding is (Gehring et al. 2017, arXiv 1705.03122).

    There is none beyond the context C: such a decoder reads no longer text.
    """

    def __init__(self, heads: int, head_dim: int, width: int, context: int) -> None:
        super().__init__(heads, head_dim)
        self.weight = nn.Parameter(torch.empty(context, width))
        self.longest = context

    def embed(self, states: Tensor, start: int) -> Tensor:
        """Raises UserError beyond the context."""
        stop = start + states.shape[1]
        if stop > len(self.weight):
            raise UserError(
                f"learned positions end at C = {len(self.weight):,}, and {stop:,} tokens are to be read: give fewer, "
                "or take a decoder with another position encoding"
            )
        return states + self.weight[start:stop].to(states.dtype)


class RoPE(PositionEncoding):
    """Rotary position embedding (Su et al. 2021, equation 34).

    At position t the pair of dimensions (i, i + head_dim/2) turns by the angle t * inverse_frequencies[i], with
    inverse_frequencies[i] = base ** (-2i / head_dim). The pairing is "half-split", as in transformers' Llama.
    Angles are formed in float64: float32 angles break shift invariance from position 131,072 on. The cosine and
    sine tables are kept in float32 and grow with the longest position asked for.

    Args:
        base: wavelength base (10,000 in TinyLlama).

    Raises:
        UserError: ``head_dim`` is odd.
    """

    inverse_frequencies: Float[Tensor, "half"]
    table: Float[Tensor, "two positions half"]

    def __init__(self, heads: int, head_dim: int, base: float = 10_000.0) -> None:
        super().__init__(heads, head_dim)
        if head_dim % 2:
            raise UserError(f"head_dim is {head_dim}: RoPE turns pairs of dimensions; choose an even number")
        self.base = base
        # On the CPU, wherever shapes alone are tried: arithmetic on the meta device loads a compiler, for a second.
        exponents = torch.arange(0, head_dim, 2, dtype=torch.float64, device="cpu") / head_dim
        self.register_buffer("inverse_frequencies", base**-exponents, persistent=False)
        self.register_buffer("table", torch.empty(2, 0, head_dim // 2, device="cpu"), persistent=False)

    def reach(self, length: int) -> None:
        if length > self.table.shape[1]:
            angles = self.angles(length)
            self.table = torch.stack((angles.cos(), angles.sin())).to(torch.float32)

    def angles(self, length: int) -> Float[Tensor, "length half"]:
        """By how much each pair turns at each position of a text, float64."""
        positions = torch.arange(length, dtype=torch.float64, device=self.inverse_frequencies.device)
        return torch.outer(positions, self.inverse_frequencies)

    def rotate(self, query: Tensor, key: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
        cosines, sines = self.table[:, positions]
        return Rotation.apply(query, cosines, sines), Rotation.apply(key, cosines, sines)


class ALiBi(PositionEncoding):
    """Attention with linear biases (Press, Smith, Lewis 2022): the logit loses slope * distance.

    The kernels apply the bias; it is not divided by sqrt(head_dim) (paper, footnote 10).
    """

    def __init__(self, heads: int, head_dim: int) -> None:
        super().__init__(heads, head_dim)
        self.register_buffer("slopes", alibi_slopes(heads), persistent=False)


def alibi_slopes(heads: int) -> Float[Tensor, "heads"]:
    """ALiBi's slopes for any number of heads, float32.

    For a power of two the geometric sequence whose first term and ratio are 2 ** (-8 / heads). Otherwise the
    sequence of the largest power of two below, followed by every other slope of the sequence of twice that power
    (the authors' code, ofirpress/attention_with_linear_biases).
    """

    def geometric(count: int) -> list[float]:
        return [2.0 ** (-8.0 * (index + 1) / count) for index in range(count)]

    power = 2 ** math.floor(math.log2(heads))
    slopes = geometric(power) + geometric(2 * power)[0::2][: heads - power]
    return torch.tensor(slopes, dtype=torch.float64).to(torch.float32)
