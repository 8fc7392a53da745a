"""A gradient as a whole, against the tokens' vectors that it is made of: its principal direction, its neurons.

Of a matrix that reads the residual stream (``query``, ``key``, ``value``, ``gate``, ``up``) a row of Delta^T X belongs
to each neuron, sum_i delta_i[j] x_i: the inputs x_i span them. Of one that writes there (``output``, ``down``) it is a
column, sum_i x_i[j] delta_i: the signals delta_i do. Both can be read through the vocabulary
(:mod:`lab.gradients.projection`).

**Principal direction.** With Delta^T X = sum_k s_k u_k v_k^T, s_1 the largest, it is v_1 of a matrix that reads and u_1
of one that writes. A singular vector has no sign of its own: v_1 is turned towards sum_i |delta_i| x_i, and u_1 towards
sum_i |x_i| delta_i, so that it is read as inputs and signals are.

**Neurons against spanning vectors** (Katz et al. 2024, arXiv 2402.12865, appendix C): the cosine, and the overlap of
the TOKENS first tokens of both as they are read through the vocabulary; where the opposite of the neuron fits better
the overlap is negative.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from lab.gradients.capture import Factors, Matrix
from lab.gradients.projection import ends, project, shown

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

    from lab.model.decoder import Decoder

TOKENS = 100  # whose overlap is told, or half of a smaller vocabulary
WRITES: tuple[Matrix, ...] = ("output", "down")


def kind_of(matrix: Matrix) -> str:
    """Of which kind a matrix's vectors in the residual stream are: ``input`` or ``delta``."""
    return "delta" if matrix in WRITES else "input"


class Principal(NamedTuple):
    """Of each prompt the direction in which most of a gradient lies, in the residual stream.

    Attributes:
        vectors: of length 1; zeros where the gradient is 0.
        shares: of the gradient's squared length that it has, 0 to 1.
    """

    vectors: "Float[Tensor, 'batch width']"
    shares: "Float[Tensor, 'batch']"


def principal(
    inputs: "Float[Tensor, 'batch time inputs']", deltas: "Float[Tensor, 'batch time outputs']", matrix: Matrix
) -> Principal:
    """The principal direction of Delta^T X of each prompt, in float64, without forming it.

    Padding may stand in the inputs, if the deltas are zero there.
    """
    import torch

    read, signals = inputs.double(), deltas.double()
    writes = matrix in WRITES
    of_inputs, of_deltas = torch.linalg.qr(read.mT), torch.linalg.qr(signals.mT)
    left, values, right = torch.linalg.svd(of_deltas.R @ of_inputs.R.mT)
    within, basis = (left, of_deltas.Q) if writes else (right.mT, of_inputs.Q)
    vectors = (basis @ within[..., :1])[..., 0]
    spanning, others = (signals, read) if writes else (read, signals)
    towards = (torch.linalg.vector_norm(others, dim=-1, keepdim=True) * spanning).sum(dim=1)
    sign = torch.where((vectors * towards).sum(dim=-1, keepdim=True) < 0, -1.0, 1.0)
    there = values[:, :1] > 0
    # Squares of small values would be 0.
    relative = torch.where(there, values / values[:, :1], torch.zeros_like(values))
    shares = torch.where(there[:, 0], 1 / relative.square().sum(dim=-1).clamp(min=1.0), 0.0)
    return Principal(torch.where(there, sign * vectors, torch.zeros_like(vectors)), shares)


class Alike(NamedTuple):
    """A neuron of a gradient beside the vectors that span it.

    Attributes:
        neuron: its number, from 0.
        norm: its length.
        positions: of the tokens whose vectors are not zero.
        cosines, overlaps: with the vector of each of these, -1 to 1.
    """

    neuron: int
    norm: float
    positions: list[int]
    cosines: list[float]
    overlaps: list[float]


def alike(decoder: "Decoder", factors: Factors, matrix: Matrix, count: int) -> list[Alike]:
    """The ``count`` longest neurons of a gradient, the longest first, each beside the vectors that span it."""
    import torch

    spanning, weights = (factors.deltas, factors.inputs) if matrix in WRITES else (factors.inputs, factors.deltas)
    neurons = weights.mT @ spanning
    lengths = torch.linalg.vector_norm(neurons, dim=-1)
    chosen = [each for each in lengths.argsort(descending=True, stable=True)[:count].tolist() if lengths[each] > 0]
    positions = shown(spanning).nonzero().flatten().tolist()
    if not chosen or not positions:
        return []
    of_neurons, of_spanning = neurons[chosen], spanning[positions]
    cosines = unit(of_neurons) @ unit(of_spanning).mT
    tokens = min(TOKENS, decoder.embedding.shape[0] // 2)
    top, bottom = ends(project(decoder, of_neurons), tokens)
    first = [set(each) for each in ends(project(decoder, of_spanning), tokens)[0]]
    return [
        Alike(neuron, float(lengths[neuron]), positions, cosines[row].tolist(), _overlaps(top[row], bottom[row], first))
        for row, neuron in enumerate(chosen)
    ]


def _overlaps(top: Sequence[int], bottom: Sequence[int], spanning: Sequence[set[int]]) -> list[float]:
    found = []
    for first in spanning:
        same, opposite = (len(first.intersection(each)) / len(top) for each in (top, bottom))
        found.append(same if same >= opposite else -opposite)
    return found


def unit(vectors: "Float[Tensor, '*rest width']") -> "Float[Tensor, '*rest width']":
    """Vectors of length 1; those of zeros stay."""
    import torch

    largest = vectors.abs().amax(dim=-1, keepdim=True)
    scaled = torch.where(largest > 0, vectors / largest, torch.zeros_like(vectors))
    length = torch.linalg.vector_norm(scaled, dim=-1, keepdim=True)
    return torch.where(length > 0, scaled / length, scaled)
