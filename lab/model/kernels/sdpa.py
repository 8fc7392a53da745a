"""torch's scaled_dot_product_attention: the fastest general kernel on a GPU for full attention without bias."""

import math

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

from lab.model.kernels.case import SIXTEEN_BITS, Case
from lab.model.kernels.reference import visible


def refusal(case: Case) -> str | None:
    """Why this kernel cannot serve a case exactly, or None."""
    if case.slopes and case.dtype in SIXTEEN_BITS:
        return "torch takes the bias in the queries' type, and 16 bits are off by up to 4 at distance 2,000"
    return None


def sdpa(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    window: int | None,
    slopes: Tensor | None,
    scale: float,
    offset: int,
    documents: Tensor | None,
    causal: bool = True,
) -> Tensor:
    """Arguments and result as :func:`lab.model.kernels.attend`; a mask is built unless attention is plainly causal, or
    to all keys."""
    grouped = query.shape[1] != key.shape[1]
    queries, keys = query.shape[2], key.shape[2]
    plain = window is None and slopes is None and documents is None and queries == keys
    if plain and query.device.type == "cuda":
        with sdpa_kernel(backends(query.device.index or 0), set_priority=True):
            return scaled_dot_product_attention(query, key, value, is_causal=causal, scale=scale, enable_gqa=grouped)
    if plain:
        return scaled_dot_product_attention(query, key, value, is_causal=causal, scale=scale, enable_gqa=grouped)
    rows = torch.arange(offset, offset + queries, device=query.device)
    columns = torch.arange(keys, device=query.device)
    mask = visible(rows, columns, window) | (not causal)
    if documents is not None:
        mask = (mask & (documents[:, rows, None] == documents[:, None, :]))[:, None]
    if slopes is not None:
        distance = (rows[:, None] - columns[None, :]).to(query.dtype)
        bias = -slopes[:, None, None].to(query.dtype) * distance
        mask = bias.masked_fill(~mask, -math.inf)
    return scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=scale, enable_gqa=grouped)


def backends(device: int) -> list[SDPBackend]:
    """torch's own kernels in the order in which they are tried on a GPU; each refuses what it cannot do.

    cuDNN's is about twice as fast as torch's flash attention on Hopper and slower on Ampere; it refuses where
    deterministic algorithms are asked for.
    """
    order = [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]
    hopper = torch.cuda.get_device_capability(device)[0] in (9, 10)
    return [SDPBackend.CUDNN_ATTENTION, *order] if hopper else order
