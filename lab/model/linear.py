"""A matrix whose weight is float32 and whose product is in the type of its input.

Explicit casts instead of autocast: what is computed in 16 bits can be read off the code, the optimiser sees
float32 weights and gradients, and nothing depends on a context that the caller may forget.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional


class Linear(nn.Module):
    """x W^T without bias."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(outputs, inputs))

    def forward(self, x: Float[Tensor, "*rest inputs"]) -> Float[Tensor, "*rest outputs"]:
        return functional.linear(x, self.weight.to(x.dtype))
