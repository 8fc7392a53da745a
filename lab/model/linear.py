"""A matrix whose weight is float32 and whose product is in the type of its input.

Explicit casts instead of autocast: what is computed in 16 bits can be read off the code, the optimiser sees
float32 weights and gradients, and nothing depends on a context that the caller may forget.
"""

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional


class Linear(nn.Linear):
    """x W^T without bias; torch's own class, so that hooks, adapters and quantisers find it."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs, bias=False)

    def reset_parameters(self) -> None:
        """Nothing: weights are drawn by name (lab/model/initialise.py), or loaded."""

    def forward(self, x: Float[Tensor, "*rest inputs"]) -> Float[Tensor, "*rest outputs"]:
        return functional.linear(x, self.weight.to(x.dtype))
