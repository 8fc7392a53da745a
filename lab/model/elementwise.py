"""Norm, rotation and loss with their gradients written out: a few passes over the elements in place of many.

What autograd makes of the plain formulas keeps float32 copies and goes over them again and again; where matrix products
are fast, that is most of a step. Each of these keeps its inputs in the type they came in, computes in at least float32,
and rounds once.
"""

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor


def accurate(x: Tensor) -> Tensor:
    """A copy in at least float32, to be changed in place."""
    return x.to(torch.promote_types(x.dtype, torch.float32), copy=True)


class RootMeanSquareNorm(torch.autograd.Function):
    """x r w with r = (mean(x^2) + eps)^(-1/2) (Zhang and Sennrich 2019, equation 4).

    With dY the gradient of the result, X = x r and n the width: dw = sum(dY X) over rows, and
    dx = r (dY w - X mean(dY X w)).
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        normed = accurate(x)
        length = torch.linalg.vector_norm(normed, dim=-1, keepdim=True)
        inverse = (length.square() / x.shape[-1] + eps).rsqrt()
        ctx.save_for_backward(x, weight, inverse)
        return normed.mul_(inverse).mul_(weight).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, inverse = ctx.saved_tensors
        normed, gradient = accurate(x).mul_(inverse), accurate(gradients[0])
        products = (gradient * normed).flatten(0, -2)
        d_weight = products.sum(0).to(weight.dtype)
        along = (products @ weight.to(products.dtype) / x.shape[-1]).view(inverse.shape)
        d_x = gradient.mul_(weight).sub_(normed.mul_(along)).mul_(inverse)
        return d_x.to(x.dtype), d_weight, None


class Rotation(torch.autograd.Function):
    """Each pair (i, i + head_dim/2) turned by its angle: (a cos - b sin, b cos + a sin). Its gradient turns back."""

    @staticmethod
    def forward(ctx: Any, vectors: Tensor, cosines: Tensor, sines: Tensor) -> Tensor:
        ctx.save_for_backward(cosines, sines)
        return turned(vectors, cosines, sines)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        cosines, sines = ctx.saved_tensors
        return turned(gradients[0], cosines, -sines), None, None


def turned(
    vectors: Float[Tensor, "*rest time head_dim"],
    cosines: Float[Tensor, "time half"],
    sines: Float[Tensor, "time half"],
) -> Float[Tensor, "*rest time head_dim"]:
    """The rotation itself; tables in at least the vectors' type."""
    exact = vectors.to(torch.promote_types(vectors.dtype, torch.float32))
    first, second = exact.chunk(2, dim=-1)
    result = exact * torch.cat((cosines, cosines), dim=-1)
    left, right = result.chunk(2, dim=-1)
    left.addcmul_(second, sines, value=-1)
    right.addcmul_(first, sines)
    return result.to(vectors.dtype)


class CrossEntropy(torch.autograd.Function):
    """-log softmax(logits)[target] for each row, in at least float32.

    Of the logits their exponentials are kept, with the largest taken off: dL / dlogits = softmax - one-hot.
    """

    @staticmethod
    def forward(
        ctx: Any, logits: Float[Tensor, "rows vocabulary"], targets: Int[Tensor, "rows"]
    ) -> Float[Tensor, "rows"]:
        exponentials = accurate(logits)
        exponentials.sub_(exponentials.amax(dim=1, keepdim=True))
        chosen = exponentials.gather(1, targets[:, None])
        total = exponentials.exp_().sum(dim=1, keepdim=True)
        ctx.save_for_backward(exponentials, total, targets)
        ctx.dtype = logits.dtype
        return (total.log() - chosen)[:, 0]

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        exponentials, total, targets = ctx.saved_tensors
        gradient = gradients[0][:, None]
        d_logits = exponentials * (gradient / total)
        d_logits.scatter_add_(1, targets[:, None], -gradient)
        return d_logits.to(ctx.dtype), None
