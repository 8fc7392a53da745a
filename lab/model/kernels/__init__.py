"""Attention behind one function, and the table of who can serve which case.

``reference`` is the definition, ``sdpa`` is torch's kernel, ``banded`` works in chunks of queries and serves every
case. Adding a kernel: a function with :func:`attend`'s arguments, a row in ``KERNELS``, the equivalence tests.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lab.errors import UserError
from lab.model.kernels.banded import banded
from lab.model.kernels.reference import reference
from lab.model.kernels.sdpa import refusal as sdpa_refusal
from lab.model.kernels.sdpa import sdpa


@dataclass(frozen=True)
class Case:
    """What a choice of kernel may depend on. Not the length: one run uses one kernel at every length."""

    device: str
    dtype: torch.dtype
    window: int | None
    slopes: bool


KERNELS: dict[str, Callable[..., Tensor]] = {"reference": reference, "sdpa": sdpa, "banded": banded}
SETTINGS = ("auto", "matched", *KERNELS)


def choose(setting: str, case: Case) -> str:
    """The kernel that serves a case.

    ``auto`` is the fastest that is exact and deterministic: ``banded`` on a CPU (about twice torch's flash
    attention in bf16) and wherever there is a window or a bias; ``sdpa`` for plain full attention on a GPU.
    ``matched`` is ``banded`` for every case, so that variants differ in nothing but what they declare.

    Raises:
        UserError: no such setting, or a kernel asked for by name cannot serve the case exactly.
    """
    if setting not in SETTINGS:
        raise UserError(f"kernel={setting} does not exist; choose one of {', '.join(SETTINGS)}")
    if setting == "matched":
        return "banded"
    if setting == "auto":
        plain = case.window is None and not case.slopes
        return "sdpa" if plain and case.device != "cpu" else "banded"
    reason = sdpa_refusal(case.dtype, case.slopes) if setting == "sdpa" else None
    if reason is not None:
        raise UserError(f"kernel={setting} cannot serve this model in {case.dtype}: {reason}; use kernel=auto")
    return setting


def attend(
    query: Float[Tensor, "batch heads queries head_dim"],
    key: Float[Tensor, "batch kv_heads keys head_dim"],
    value: Float[Tensor, "batch kv_heads keys head_dim"],
    *,
    window: int | None = None,
    slopes: Float[Tensor, "heads"] | None = None,
    scale: float,
    offset: int = 0,
    documents: Int[Tensor, "batch keys"] | None = None,
    kernel: str = "auto",
) -> Float[Tensor, "batch heads queries head_dim"]:
    """Causal attention: softmax(scale * q k^T - slope * distance) v over the keys that a query sees.

    Args:
        query: heads is a multiple of kv_heads; query head h reads key head h // (heads / kv_heads).
        window: how many keys a query sees, its own included; ``None`` means all before it.
        slopes: float32 linear bias of each head in logits per position of distance (ALiBi).
        scale: factor on q k^T.
        offset: position of the first query among the keys; keys must end with the last query.
        documents: a number for each key's document; a query sees its own document only.
        kernel: ``auto``, ``matched`` or a kernel's name; see :func:`choose`.

    Raises:
        UserError: the kernel cannot serve the case.
        ValueError: keys do not end with the last query, a window below 1, not one slope a head, or values of
            another width than the queries.
    """
    if key.shape[2] != offset + query.shape[2]:
        raise ValueError(
            f"{query.shape[2]} queries at offset {offset} need {offset + query.shape[2]} keys, not {key.shape[2]}"
        )
    if window is not None and window < 1:
        raise ValueError(f"window is {window}: a query sees itself at least")
    if slopes is not None and slopes.shape != (query.shape[1],):
        raise ValueError(f"{query.shape[1]} heads need as many slopes, not {tuple(slopes.shape)}")
    if value.shape[3] != query.shape[3]:
        raise ValueError(f"values are {value.shape[3]} wide and queries {query.shape[3]}: they must be equal")
    case = Case(query.device.type, query.dtype, window, slopes is not None)
    run = KERNELS[choose(kernel, case)]
    return run(query, key, value, window=window, slopes=slopes, scale=scale, offset=offset, documents=documents)
