"""What a step does to one layer: imprint and shift after a gradient step, and the shift of a forward pass alone.

**After a step** W' = W - s Delta^T X of one matrix z = x W^T, the same inputs give at token t

    z'_t = z_t - s sum_i (x_t . x_i) delta_i,        Z' = Z - s (X X^T) Delta

(Katz et al. 2024, arXiv 2402.12865, Lemma 5.2, which has the term i = t alone; at one token it is the whole, at several
the others count, too). Of ``down`` the signals are of the residual stream, and x_t . x_t is never negative: the output
is moved against delta_t, towards what stands at the bottom of its projection: *shift*. Of ``gate`` and ``up`` the
neurons' weights are moved along the inputs, each by its own delta: *imprint*.

**SwiGLU**, a = silu(g) * u with g = x G^T and u = x U^T, o = a D^T. With all three moved by their gradients at once,

    a'_t = silu(g_t - s sum_i (x_t . x_i) delta^g_i) * (u_t - s sum_i (x_t . x_i) delta^u_i)
    o'_t = a'_t D^T - s sum_i (a'_t . a_i) delta^o_i

exactly: what ``down`` adds is weighted by the *new* activations against the old.

**Forward-pass shift** (the same, section 7) takes no gradient: D' = D + rows / |a_n|^2 * H[t]^T a_n, with a_n the input
of ``down`` at the prompt's last token and H[t] the head's row of the target (the embedding's, if the head is tied). The
output at that token is then moved by ``rows`` such rows, whatever the length of a_n, which differs by orders between
layers. Of several prompts the updates are added up.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from lab.base.errors import UserError
from lab.gradients.capture import Example, Factors, Matrix, Place, capture_inputs

if TYPE_CHECKING:
    import torch
    from jaxtyping import Float

    from lab.model.decoder import Decoder


def moved(
    factors: Factors, step: float, inputs: "Float[torch.Tensor, 'others inputs'] | None" = None
) -> "torch.Tensor":
    """By how much a matrix's outputs are moved by a step against the gradient of these factors.

    Args:
        step: s.
        inputs: rows that the moved matrix reads; None: those of the factors, one a token.
    """
    rows = factors.inputs if inputs is None else inputs
    return -step * (rows @ factors.inputs.mT) @ factors.deltas


def swiglu_after(
    decoder: "Decoder", layer: int, gate: Factors, up: Factors, down: Factors, step: float
) -> "Float[torch.Tensor, 'tokens width']":
    """Outputs of a layer's feed-forward on the same inputs after a step of all its matrices, without changing one."""
    from torch.nn import functional

    def through(matrix: Matrix, rows: "torch.Tensor") -> "torch.Tensor":
        weight = decoder.get_parameter(f"{Place(layer, matrix).module}.weight")
        return functional.linear(rows, weight.detach().to(rows.dtype))

    opened = through("gate", gate.inputs) + moved(gate, step)
    active = functional.silu(opened) * (through("up", up.inputs) + moved(up, step))
    return through("down", active) + moved(down, step, active)


def forward_shift(
    decoder: "Decoder", examples: Sequence[Example], layer: int, rows: float, dtype: "torch.dtype"
) -> "Float[torch.Tensor, 'width hidden']":
    """What is to be added to ``down`` of a layer, so that the targets' rows are added where the prompts end: by one
    forward pass, in which all examples are read together. Of a target the first token counts.

    Raises:
        UserError: there is no such layer, or the input at the end of a prompt is zero.
    """
    import torch

    if not 1 <= layer <= len(decoder.blocks):
        raise UserError(f"layer is {layer}: the decoder has layers 1 to {len(decoder.blocks)}")
    place = Place(layer, "down")
    inputs = capture_inputs(decoder, [Example(each.prompt, each.target[:1]) for each in examples], [place], dtype)[
        place
    ]
    ends = torch.stack([row[len(each.prompt) - 1] for row, each in zip(inputs, examples, strict=True)])
    length = ends.square().sum(dim=-1, keepdim=True)
    if not bool((length > 0).all()):
        raise UserError(f"the input of down in layer {layer} is zero where a prompt ends: choose another layer")
    head = (decoder.table if decoder.head is None else decoder.head.weight).detach()
    wanted = head[torch.tensor([each.target[0] for each in examples], device=head.device)].to(dtype)
    return wanted.mT @ (ends * rows / length)
