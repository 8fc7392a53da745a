"""Attention behind one function, and the table of who can serve which case.

``reference`` is the definition; ``banded`` works in chunks of queries and serves every case anywhere. On a GPU
``sdpa`` and ``varlen`` are torch's own, ``flash`` is the package flash-attn, and ``flex`` serves every case. Adding a
kernel: a function with :func:`attend`'s arguments, what it refuses, a row in ``KERNELS``, the equivalence tests.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lab.base.errors import UserError
from lab.model.kernels import flash, flex, sdpa
from lab.model.kernels.banded import banded
from lab.model.kernels.case import Case, constant_when_compiled
from lab.model.kernels.reference import reference


class Kernel(NamedTuple):
    """How to attend, why a case cannot be served exactly (None: it can), and what to make ready for a length."""

    run: Callable[..., Tensor]
    refusal: Callable[[Case], str | None] = lambda case: None
    prepare: Callable[[int, int, int | None, int, torch.device], None] = lambda *length: None


KERNELS = {
    "reference": Kernel(reference),
    "banded": Kernel(banded),
    "sdpa": Kernel(sdpa.sdpa, sdpa.refusal),
    "varlen": Kernel(flash.varlen, flash.varlen_refusal),
    "flash": Kernel(flash.flash, flash.flash_refusal),
    "flex": Kernel(flex.flex, flex.refusal, flex.prepare),
}
SETTINGS = ("auto", "matched", *KERNELS)
# On a GPU, the fastest first; the first that serves a case exactly is taken.
FASTEST_PLAIN = ("sdpa", "flex")  # full attention without slopes
FASTEST = ("varlen", "flash", "flex")
NOT_CAUSAL = ("sdpa", "reference")  # that can show a query the keys behind it, too


def choose(setting: str, case: Case) -> str:
    """The kernel that serves a case.

    ``auto`` is the fastest that is exact and deterministic: ``banded`` on a CPU (about twice torch's flash
    attention in bf16), and on a GPU the first that serves the case of ``FASTEST_PLAIN`` or ``FASTEST``. ``matched``
    is one kernel for every case, so that variants differ in nothing but what they declare: ``banded`` on a CPU,
    ``flex`` on a GPU. Attention that is not causal is ``sdpa``'s in both.

    Raises:
        UserError: no such setting, or a kernel asked for by name cannot serve the case exactly.
    """
    if setting not in SETTINGS:
        raise UserError(f"kernel {setting} does not exist; choose one of {', '.join(SETTINGS)}")
    if not case.causal:
        if setting not in ("auto", "matched", *NOT_CAUSAL):
            raise UserError(
                f"kernel {setting} shows a query no key behind it, and bidirectional attention all: choose auto, "
                f"{' or '.join(NOT_CAUSAL)}"
            )
        return "sdpa" if setting in ("auto", "matched") else setting
    if setting in ("auto", "matched") and case.device == "cpu":
        return "banded"
    if setting == "matched":
        return "flex"
    if setting == "auto":
        plain = case.window is None and not case.slopes and not case.documents
        order = FASTEST_PLAIN if plain else FASTEST
        return next(name for name in order if KERNELS[name].refusal(case) is None)
    reason = KERNELS[setting].refusal(case)
    if reason is not None:
        raise UserError(
            f"kernel {setting} cannot serve this model in {case.dtype}: {reason}; auto chooses one that can"
        )
    return setting


def prepare(kernel: str, case: Case, queries: int, offset: int, device: torch.device) -> None:
    """Make ready for :func:`attend` at a length, so that compiled code finds it ready."""
    KERNELS[choose(kernel, case)].prepare(queries, offset + queries, case.window, offset, device)


@constant_when_compiled
def _chosen(
    setting: str, device: str, dtype: torch.dtype, window: int | None, slopes: bool, documents: bool, causal: bool
) -> str:
    return choose(setting, Case(device, dtype, window, slopes, documents, causal))


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
    causal: bool = True,
) -> Float[Tensor, "batch heads queries head_dim"]:
    """Attention: softmax(scale * q k^T - slope * distance) v over the keys that a query sees.

    Args:
        query: heads is a multiple of kv_heads; query head h reads key head h // (heads / kv_heads).
        window: how many keys a query sees, its own included; ``None`` means all before it.
        slopes: float32 linear bias of each head in logits per position of distance (ALiBi).
        scale: factor on q k^T.
        offset: position of the first query among the keys; keys must end with the last query.
        documents: a number for each key's document; a query sees its own document only.
        kernel: ``auto``, ``matched`` or a kernel's name; see :func:`choose`.
        causal: False: a query sees the keys behind it, too.

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
    if not causal and (window is not None or slopes is not None or offset):
        raise ValueError("attention that is not causal has no window, no slopes and no keys before its queries")
    served = _chosen(kernel, query.device.type, query.dtype, window, slopes is not None, documents is not None, causal)
    backward = {} if causal else {"causal": False}  # which most kernels do not know
    return KERNELS[served].run(
        query, key, value, window=window, slopes=slopes, scale=scale, offset=offset, documents=documents, **backward
    )
