"""What an optimiser makes of a gradient: its first step, beside the gradient itself.

A step is W' = W - rate * U. Here U is told of the first step behind fresh moments, with rate 1 and no weight decay:

- ``sgd``: U is the gradient: of n tokens of rank n at most.
- ``adamw``: entry by entry g / (|g| + eps), for both corrected moments are of this one gradient, whatever the betas.
  That is mostly the sign, and its rank has no bound but the sides.
- ``muon``: all singular values of the gradient are brought near to one (times a factor of the sides), which alone would
  keep its rank. torch computes it in bfloat16, and what that rounds off is brought up just so: of few tokens' gradient
  much of U lies in directions that the gradient does not have. Momentum only scales the first gradient.

Katz et al. 2024 (arXiv 2402.12865) look at SGD alone. The steps are made by the optimisers of :mod:`lab.training`
themselves, on a matrix of zeros.
"""

from typing import TYPE_CHECKING, Literal, NamedTuple, get_args

from lab.gradients.capture import Factors, Matrix
from lab.gradients.whole import WRITES

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

Optimizer = Literal["sgd", "adamw", "muon"]
OPTIMIZERS: tuple[Optimizer, ...] = get_args(Optimizer)
# They cancel out in the first step, but the optimisers ask for them.
BETAS, MOMENTUM = (0.9, 0.95), 0.95


def update(gradient: "Float[Tensor, 'outputs inputs']", optimizer: Optimizer, eps: float) -> "Tensor":
    """U of a gradient, in its type.

    Args:
        eps: of AdamW.
    """
    import torch
    from torch import nn

    from lab.training import optimizers

    with torch.inference_mode(False), torch.enable_grad():
        # Named as in a decoder, where Muon takes the blocks' matrices and must have something to leave to AdamW.
        matrix, other = nn.Parameter(torch.zeros_like(gradient)), nn.Parameter(gradient.new_zeros(1))
        module = nn.ModuleDict(
            {"blocks": nn.ParameterDict({"matrix": matrix}), "rest": nn.ParameterDict({"one": other})}
        )
        made: torch.optim.Optimizer
        if optimizer == "sgd":
            made = torch.optim.SGD([matrix], lr=1.0)
        elif optimizer == "adamw":
            made = optimizers.adamw(module, 1.0, BETAS, eps, 0.0)
        else:
            made = optimizers.Muon(module, 1.0, BETAS, eps, 0.0, MOMENTUM)
        matrix.grad = gradient.clone()
        made.step()
    return -matrix.detach()


class Made(NamedTuple):
    """What an optimiser's update is, beside the gradient.

    Attributes:
        rank: singular values above ``tolerance`` times the largest.
        tolerance: max(sides) times the rounding unit of the gradient's type, as for it; of Muon that of bfloat16.
        stable_rank: the squared length over the square of the largest singular value: how many directions carry it.
        norm: its length.
        cosine: with the gradient.
        inside: the share of its squared length that is of rows and columns as the gradient has.
        vector: of a matrix that writes into the residual stream what U writes there at one token, U x; of one that
            reads what it is made to recognise there, U^T delta. As of the gradient itself, a step goes against it.
    """

    rank: int
    tolerance: float
    stable_rank: float
    norm: float
    cosine: float
    inside: float
    vector: "Float[Tensor, 'width']"


def made(factors: Factors, matrix: Matrix, optimizer: Optimizer, eps: float, token: int) -> Made | None:
    """What an optimiser makes of the gradient of some factors; None where that is zero.

    Args:
        token: at which ``vector`` is told.
    """
    import torch

    gradient = factors.gradient
    length = torch.linalg.vector_norm(gradient)
    if not length > 0:
        return None
    found = update(gradient, optimizer, eps)
    values = torch.linalg.svdvals(found.double())
    tolerance = max(gradient.shape) * torch.finfo(gradient.dtype).eps
    if optimizer == "muon":
        tolerance = torch.finfo(torch.bfloat16).eps
    norm = torch.linalg.vector_norm(found)
    columns, rows = _bases(factors)
    kept = columns.mT @ found.double() @ rows
    vector = found @ factors.inputs[token] if matrix in WRITES else found.mT @ factors.deltas[token]
    return Made(
        int((values > tolerance * values[0]).sum()),
        tolerance,
        float(values.square().sum() / values[0].square()),
        float(norm),
        float((found / norm * (gradient / length)).sum()),
        float(kept.square().sum() / norm.double().square()),
        vector,
    )


def _bases(factors: Factors) -> "tuple[Tensor, Tensor]":
    """Orthonormal bases of the columns and of the rows of the gradient, each vector a column, in float64."""
    import torch

    of_deltas, of_inputs = (torch.linalg.qr(each.double().mT) for each in (factors.deltas, factors.inputs))
    left, values, right = torch.linalg.svd(of_deltas.R @ of_inputs.R.mT, full_matrices=False)
    sides = max(factors.deltas.shape[1], factors.inputs.shape[1])
    kept = values > sides * torch.finfo(factors.deltas.dtype).eps * values[0]
    return of_deltas.Q @ left[:, kept], of_inputs.Q @ right.mT[:, kept]
