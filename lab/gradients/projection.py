"""Vectors of the residual stream read through the vocabulary: through the final norm and the head.

The logit lens, as Katz et al. 2024 (arXiv 2402.12865, section 4.2) read inputs and backward signals: LL(v) =
head(norm(v)). The final norm here is RMSNorm, v / rms(v) * weight. Its eps is left out: logits are then those of v's
direction alone, whatever its length, and those of -v are the negative ones, exactly; the bottom of a list is the top
of the other. A vector of zeros has no direction, and shows nothing.

A gradient step is W <- W - step * gradient: of backward signals, what stands at the *bottom* is what is written.
"""

from typing import TYPE_CHECKING, NamedTuple

from lab.gradients.capture import Matrix

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int
    from torch import Tensor

    from lab.model.decoder import Decoder

# The vectors that are of the residual stream's width: inputs of some matrices, deltas of others.
OF_WIDTH: tuple[tuple[Matrix, str], ...] = (
    ("query", "input"),
    ("output", "delta"),
    ("gate", "input"),
    ("down", "delta"),
)


class Ranked(NamedTuple):
    """Where a token stands among all.

    Attributes:
        above: tokens with a greater logit.
        ties: other tokens with the same.
    """

    above: "Int[Tensor, 'vectors']"
    ties: "Int[Tensor, 'vectors']"

    @property
    def rank(self) -> "Float[Tensor, 'vectors']":
        """0 at the top, vocabulary - 1 at the bottom; of equal logits the mean."""
        return self.above.double() + self.ties.double() / 2


def shown(vectors: "Float[Tensor, '*rest width']") -> "Bool[Tensor, '*rest']":
    """Which vectors have a direction: not all of their numbers are 0."""
    return (vectors != 0).any(dim=-1)


def project(decoder: "Decoder", vectors: "Float[Tensor, '*rest width']") -> "Float[Tensor, '*rest vocabulary']":
    """Logits of vectors, in their type; all 0 for a vector of zeros (see :func:`shown`)."""
    import torch

    with torch.no_grad():
        # Divided by the largest first: squares of the smallest backward signals would be 0.
        largest = vectors.abs().amax(dim=-1, keepdim=True)
        scaled = torch.where(largest > 0, vectors / largest, torch.zeros_like(vectors))
        length = scaled.square().mean(dim=-1, keepdim=True).sqrt()
        direction = torch.where(length > 0, scaled / length, scaled)
        return decoder.unembed(direction * decoder.norm.weight.to(direction.dtype))


def ranked(logits: "Float[Tensor, 'vectors vocabulary']", tokens: "Int[Tensor, 'vectors']") -> Ranked:
    """Where tokens stand: on logits, since probabilities far below the first are equal where logits are not."""
    own = logits.gather(1, tokens[:, None])
    return Ranked((logits > own).sum(dim=1), (logits == own).sum(dim=1) - 1)


def ends(logits: "Float[Tensor, 'vectors vocabulary']", count: int) -> tuple[list[list[int]], list[list[int]]]:
    """The tokens with the greatest logits, the greatest first, and those with the least, the least first."""
    count = min(count, logits.shape[1])
    top, bottom = (logits.topk(count, dim=1, largest=largest).indices.tolist() for largest in (True, False))
    return top, bottom
