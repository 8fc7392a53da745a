"""The definition of attention: every score written out. Any type, any case, memory of length squared.

Every other kernel is tested against this one in float64, forward and backward.
"""

import math

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


def visible(
    queries: Int[Tensor, "queries"], keys: Int[Tensor, "keys"], window: int | None
) -> Bool[Tensor, "queries keys"]:
    """Which keys a query sees: none after itself, and with a window the last ``window``, its own included."""
    distance = queries[:, None] - keys[None, :]
    seen = distance >= 0
    return seen if window is None else seen & (distance < window)


def reference(
    query: Float[Tensor, "batch heads queries head_dim"],
    key: Float[Tensor, "batch kv_heads keys head_dim"],
    value: Float[Tensor, "batch kv_heads keys head_dim"],
    *,
    window: int | None,
    slopes: Float[Tensor, "heads"] | None,
    scale: float,
    offset: int,
    documents: Int[Tensor, "batch keys"] | None,
    causal: bool = True,
) -> Float[Tensor, "batch heads queries head_dim"]:
    """softmax(scale * q k^T - slope * distance) v over the visible keys; see :func:`lab.model.kernels.attend`."""
    group = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(group, dim=1), value.repeat_interleave(group, dim=1)
    # Scores are kept in at least float32, so that a bias of thousands does not swallow them.
    accurate = torch.promote_types(query.dtype, torch.float32)
    scores = (query @ key.transpose(-2, -1)).to(accurate) * scale

    queries = torch.arange(offset, offset + query.shape[2], device=query.device)
    keys = torch.arange(key.shape[2], device=query.device)
    if slopes is not None:
        distance = (queries[:, None] - keys[None, :]).to(accurate)
        scores = scores - slopes[:, None, None].to(accurate) * distance
    seen = visible(queries, keys, window) | (not causal)
    if documents is not None:
        same = documents[:, queries, None] == documents[:, None, :]
        seen = (seen & same)[:, None]
    probabilities = torch.softmax(scores.masked_fill(~seen, -math.inf), dim=-1)
    return probabilities.to(query.dtype) @ value
