"""Floating-point operations of a decoder, counted from its shape."""

from dataclasses import dataclass


def mean_keys(length: int, window: int | None) -> float:
    """Keys that a query sees, averaged over the ``length`` queries of a causal pass."""
    reach = length if window is None else min(window, length)
    return reach - reach * (reach - 1) / (2 * length)


@dataclass(frozen=True)
class FlopsPerToken:
    """Training operations (forward and backward) a token, a multiply-add counted as two.

    ``matrices``: 6 for each weight of a matrix product (embedding excluded, head included).
    ``attention``: 12 * layers * heads * head_dim for each visible key: exactly what the mask lets through.
    ``attention_full``: the same with every key of the context (or window) counted for every query, the
    convention "6 N + 12 L H Q T" of PaLM (Chowdhery et al. 2022, appendix B), which counts masked scores too.
    """

    matrices: float
    attention: float
    attention_full: float

    @property
    def exact(self) -> float:
        return self.matrices + self.attention

    @property
    def full(self) -> float:
        return self.matrices + self.attention_full


def training_flops(
    *,
    vocabulary: int,
    layers: int,
    width: int,
    hidden: int,
    heads: int,
    kv_heads: int,
    head_dim: int,
    context: int,
    window: int | None,
    causal: bool = True,
) -> FlopsPerToken:
    """Operations of one training token at this shape; ``window`` and ``causal`` as in attention."""
    layer = width * head_dim * (2 * heads + 2 * kv_heads) + 3 * width * hidden
    per_key = 12.0 * layers * heads * head_dim
    return FlopsPerToken(
        matrices=6.0 * (layers * layer + vocabulary * width),
        attention=per_key * (mean_keys(context, window) if causal else context),
        attention_full=per_key * (context if window is None else min(window, context)),
    )


# Dense bf16 FLOP/s of one device, by a part of its name, from the makers' data sheets; a longer part wins.
PEAKS = {
    "A100": 312e12,
    "A800": 312e12,
    "H100": 989e12,
    "H100 PCIe": 756e12,
    "H100 NVL": 835e12,
    "H200": 989e12,
    "GH200": 989e12,
    "H800": 989e12,
    "B200": 2250e12,
    "L40S": 362e12,
    "RTX 3090": 71e12,
    "RTX 4090": 165e12,
}


def peak_flops(device: str) -> float | None:
    """Dense bf16 FLOP/s of a device, None if its name is unknown: a guess would be wrong by a factor."""
    known = [name for name in PEAKS if name in device]
    return PEAKS[max(known, key=len)] if known else None
