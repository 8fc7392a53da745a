"""Kernels of the FlashAttention family on a GPU: torch's own for windows, the package flash-attn for slopes too.

Both take (batch, time, heads, width) and count a window as the keys before the query's own: W keys are (W - 1, 0).
Keys end with the last query, which is how both align a causal mask.
"""

import functools
import inspect

import torch
from torch import Tensor

from lab.model.kernels.case import SIXTEEN_BITS, Case, constant_when_compiled


def _refusal_of_family(case: Case) -> str | None:
    if case.device != "cuda":
        return "it needs a GPU"
    if case.dtype not in SIXTEEN_BITS:
        return "it computes in 16 bits only"
    if case.documents:
        return "it does not isolate documents"
    return None


@functools.cache
def varlen_keys() -> frozenset[str]:
    """What torch's own flash kernel takes here; nothing before torch 2.10. torch's compiler is loaded with it."""
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:
        return frozenset()
    return frozenset(inspect.signature(varlen_attn).parameters)


@constant_when_compiled
def _groups_are_asked_for() -> bool:
    """Whether fewer key heads than heads must be asked for: torch 2.11 serves them unasked."""
    return "enable_gqa" in varlen_keys()


def varlen_refusal(case: Case) -> str | None:
    """Why :func:`varlen` cannot serve a case exactly, or None."""
    if case.slopes:
        return "torch's flash attention takes no slopes"
    refusal = _refusal_of_family(case)
    if refusal is None and "window_size" not in varlen_keys():
        return f"torch {torch.__version__} has no torch.nn.attention.varlen with windows; it came with 2.11"
    return refusal


def varlen(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    window: int | None,
    slopes: Tensor | None,
    scale: float,
    offset: int,
    documents: Tensor | None,
) -> Tensor:
    """Arguments and result as :func:`lab.model.kernels.attend`; torch.nn.attention.varlen.varlen_attn."""
    from torch.nn.attention.varlen import varlen_attn

    batch, heads, queries, width = query.shape
    keys = key.shape[2]

    def packed(states: Tensor) -> Tensor:
        return states.transpose(1, 2).reshape(-1, states.shape[1], width)

    def ends(length: int) -> Tensor:
        return torch.arange(0, (batch + 1) * length, length, dtype=torch.int32, device=query.device)

    grouped = {"enable_gqa": True} if heads != key.shape[1] and _groups_are_asked_for() else {}
    mixed = varlen_attn(
        packed(query),
        packed(key),
        packed(value),
        ends(queries),
        ends(keys),
        queries,
        keys,
        scale=scale,
        window_size=_window_size(window),
        **grouped,  # type: ignore[arg-type]
    )
    assert isinstance(mixed, Tensor)
    return mixed.view(batch, queries, heads, width).transpose(1, 2)


@functools.cache
def flash_missing() -> str | None:
    """Why the package flash-attn cannot be used here, or None."""
    try:
        from flash_attn import flash_attn_func
    except ImportError:
        return "the package flash-attn is not installed (pip install flash-attn --no-build-isolation)"
    if "alibi_slopes" not in inspect.signature(flash_attn_func).parameters:
        return "this flash-attn takes no slopes; it needs version 2.4 to 2.8"
    return None


def flash_refusal(case: Case) -> str | None:
    """Why :func:`flash` cannot serve a case exactly, or None."""
    return _refusal_of_family(case) or flash_missing()


def flash(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    window: int | None,
    slopes: Tensor | None,
    scale: float,
    offset: int,
    documents: Tensor | None,
) -> Tensor:
    """Arguments and result as :func:`lab.model.kernels.attend`; flash-attn 2, deterministic where torch is to be."""
    from flash_attn import flash_attn_func

    mixed: Tensor = flash_attn_func(
        query.transpose(1, 2),
        key.transpose(1, 2),
        value.transpose(1, 2),
        softmax_scale=scale,
        causal=True,
        window_size=_window_size(window),
        alibi_slopes=None if slopes is None else slopes.float().contiguous(),
        deterministic=torch.are_deterministic_algorithms_enabled(),
    )
    return mixed.transpose(1, 2)


def _window_size(window: int | None) -> tuple[int, int]:
    return (-1 if window is None else window - 1, 0)
