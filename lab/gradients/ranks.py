"""The rank of each matrix's gradient against the number of tokens: what it can be at most, and what it is.

Delta^T X of n tokens has at most rank n (Katz et al. 2024, arXiv 2402.12865, Lemma 4.1). What follows is of this
decoder, whose blocks are causal, one behind the other, and pre-norm. Of L layers, counted from 1, let a prompt of n
tokens (with all of the target but its last token) be read, the last m of which have a loss; let W be the window, all
keys being seen without one.

**Which tokens take part.** The loss stands at the last m tokens, and each attention above carries gradient back by
W - 1 tokens at most. So delta_i of ``gate``, ``up``, ``down``, ``output`` and ``query`` in layer l can differ from 0
at the last

    q = min(n, m + sum over layers j > l of (W_j - 1))

tokens, that of ``key`` and ``value`` at the last k = min(n, m + sum over j >= l of (W_j - 1)): the layer's own
attention comes in. Without a window q = k = n, but in the last layer q = m: for one target token the gradients of the
last layer's ``gate``, ``up``, ``down``, ``output`` and ``query`` have rank 1.

**Attention.** With P the weights of one head, dS = P * (dP - rowsum(P * dP)) and scale 1 where it is left out:

- ``query``: delta_i = sum_t dS_it k_t. A softmax over one key is constant, so dS_00 = 0: the first token's is 0, and
  the rank is at most n - 1 where all n take part. With W = 1 it is 0 for ``query`` and ``key``.
- ``value``: delta_t = sum_i P_it do_i for each query head, added up over the heads that share it: a sum of q outer
  products for each of H query heads. The rank is at most min(k, H q): in the last layer H times the target tokens.
- ``key``: delta_t = sum_i dS_it q_i, of those q' of the q queries whose dS is not 0. Where keys are not rotated it is
  the same sum of H q' outer products, and rows of dS add up to 0, so that sum_t delta_t = 0: the rank is at most
  min(k - 1, H q'). Where they are, each delta_t is turned back by its own angles, which breaks both: at most k, in the
  last layer, too.

**Equal tokens**, unless the position encoding adds something to the embedding. The first layer's ``query``, ``key`` and
``value`` read the normed embedding, so equal tokens have equal inputs there, and the rank is at most the number of
*different* tokens that take part. A text that *begins* with a token r times has one and the same state at all of
them, in every layer, since whatever the weights of attention are, they mix equal values: they count once, and dS of
these r queries is 0, as dP is the same for all their keys.

Nothing exceeds the sides of the matrix. Tokens whose delta_i or x_i happen to be linearly dependent lower the rank
further. A gradient that is 0 but for rounding has the rank of what was rounded, which says nothing.

**How it is found.** With QR decompositions X^T = Q R and Delta^T = Q' R' the gradient is Q' (R' R^T) Q^T, so that its
singular values are those of the small R' R^T: the gradient itself is never formed. They are formed in float64; those
count that exceed max(sides) * eps * the largest, eps being that of the type that the factors were computed in (the
rule of numpy's and torch's matrix_rank).
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple, cast

from lab.gradients.capture import READS, Captured, Place

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

    from lab.model.attention import Attention
    from lab.model.decoder import Decoder, FeedForward


class Shape(NamedTuple):
    """What of a decoder the bounds depend on.

    Attributes:
        windows: keys that a query sees in each layer, its own included; None: all before it.
        heads, kv_heads, head_dim: of attention.
        width, hidden: of the residual stream and of the feed-forward.
        turned: keys are rotated by their position.
        placed: something is added to the embedding that tells positions.
    """

    windows: tuple[int | None, ...]
    heads: int
    kv_heads: int
    head_dim: int
    width: int
    hidden: int
    turned: bool
    placed: bool


def shape_of(decoder: "Decoder") -> Shape:
    """The shape of a decoder; what its position encoding does is found by trying."""
    import torch

    position = decoder.position
    attentions = [cast("Attention", block.attention) for block in decoder.blocks]
    first, feed = attentions[0], cast("FeedForward", decoder.blocks[0].feed_forward)
    device, width = decoder.embedding.device, decoder.embedding.shape[1]
    turned = position.turns_keys
    with torch.no_grad():
        position.reach(2)
        if not turned:
            ones = torch.ones(1, 1, 2, first.head_dim, device=device)
            turned = not torch.equal(position.rotate(ones, ones, torch.arange(2, device=device))[1], ones)
        placed = bool(position.embed(torch.zeros(1, 2, width, device=device), 0).any())
    hidden = feed.gate.weight.shape[0]
    windows = tuple(each.window for each in attentions)
    return Shape(windows, first.heads, first.kv_heads, first.head_dim, width, hidden, turned, placed)


def sides(shape: Shape, place: Place) -> tuple[int, int]:
    """Outputs and inputs of a matrix."""
    queries, keys = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    return {
        "query": (queries, shape.width),
        "key": (keys, shape.width),
        "value": (keys, shape.width),
        "output": (shape.width, queries),
        "gate": (shape.hidden, shape.width),
        "up": (shape.hidden, shape.width),
        "down": (shape.width, shape.hidden),
    }[place.matrix]


def bound(shape: Shape, place: Place, read: Sequence[int], targets: int) -> int:
    """The greatest rank that the gradient of a matrix can have; see above.

    Args:
        read: the tokens that the decoder reads.
        targets: m, how many of the last have a loss.
    """
    tokens, window = len(read), shape.windows[place.layer - 1]

    def first_of(windows: Sequence[int | None]) -> int:
        """The first token that takes part."""
        if None in windows:
            return 0
        return max(0, tokens - targets - sum(each - 1 for each in windows if each))

    asks, asked = (first_of(shape.windows[place.layer - own :]) for own in (0, 1))
    alike = 1 if shape.placed else next((each for each in range(1, tokens) if read[each] != read[0]), tokens)
    queries = 0 if window == 1 else tokens - max(asks, alike)  # whose dS is not 0
    first = {"query": tokens - queries, "key": asked, "value": asked}.get(place.matrix, asks)
    most = tokens - max(first, alike - 1)
    if place.layer == 1 and READS.get(place.matrix) == "query" and not shape.placed:
        most = len(set(read[first:]))
    if place.matrix == "key":
        most = 0 if not queries else most if shape.turned else min(most - 1, shape.heads * queries)
    if place.matrix == "value":
        most = min(most, shape.heads * (tokens - asks))
    return min(most, *sides(shape, place))


class Rank(NamedTuple):
    """The rank of a gradient, and how plain it is.

    Attributes:
        tolerance: a singular value counts that exceeds it, as a part of the largest.
        least_counted, greatest_left: of the singular values, as parts of the largest; 0 if there is none.
    """

    rank: int
    tolerance: float
    least_counted: float
    greatest_left: float


def singular_values(
    inputs: "Float[Tensor, 'batch time inputs']", deltas: "Float[Tensor, 'batch time outputs']"
) -> "Float[Tensor, 'batch values']":
    """Those of Delta^T X of each prompt, the largest first, as many as the shortest of tokens and sides.

    Padding may stand in the inputs, if the deltas are zero there.
    """
    return _values(_triangle(inputs), _triangle(deltas))


def _triangle(rows: "Float[Tensor, 'batch time width']") -> "Float[Tensor, 'batch side time']":
    """R of the QR decomposition of the transposed, in float64."""
    import torch

    return torch.linalg.qr(rows.double().mT, mode="r").R


def _values(inputs: "Tensor", deltas: "Tensor") -> "Tensor":
    import torch

    return torch.linalg.svdvals(deltas @ inputs.mT)


def ranks(captured: Captured) -> dict[Place, list[Rank]]:
    """The rank of each matrix's gradient, for each prompt of a batch."""
    import torch

    found: dict[Place, list[Rank]] = {}
    triangles: dict[int, Tensor] = {}  # of inputs, which several matrices share
    for place, deltas in captured.deltas.items():
        inputs = captured.inputs[place]
        if id(inputs) not in triangles:
            triangles[id(inputs)] = _triangle(inputs)
        values = _values(triangles[id(inputs)], _triangle(deltas))
        tolerance = max(inputs.shape[-1], deltas.shape[-1]) * torch.finfo(deltas.dtype).eps
        largest = values[:, :1]
        relative = torch.where(largest > 0, values / largest, torch.zeros_like(values))
        found[place] = [_rank(each, tolerance) for each in relative.tolist()]
    return found


def _rank(relative: Sequence[float], tolerance: float) -> Rank:
    counted = [each for each in relative if each > tolerance]
    left = relative[len(counted) :]
    return Rank(len(counted), tolerance, counted[-1] if counted else 0.0, left[0] if left else 0.0)
