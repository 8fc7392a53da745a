"""What a choice of kernel may depend on."""

from dataclasses import dataclass

import torch

SIXTEEN_BITS = (torch.bfloat16, torch.float16)


@dataclass(frozen=True)
class Case:
    """An attention to be served. Without its length: one run uses one kernel at every length."""

    device: str
    dtype: torch.dtype
    window: int | None
    slopes: bool
    documents: bool = False
