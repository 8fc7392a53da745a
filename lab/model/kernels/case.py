"""What a choice of kernel may depend on."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import torch

Function = TypeVar("Function", bound=Callable[..., Any])

SIXTEEN_BITS = (torch.bfloat16, torch.float16)


@dataclass(frozen=True)
class Case:
    """An attention to be served. Without its length: one run uses one kernel at every length."""

    device: str
    dtype: torch.dtype
    window: int | None
    slopes: bool
    documents: bool = False
    causal: bool = True


def constant_when_compiled(function: Function) -> Function:
    """torch.compiler.assume_constant_result without the second that it takes to load torch's compiler."""
    function._dynamo_marked_constant = True  # type: ignore[attr-defined]
    return function
