"""From settings to a decoder."""

from collections.abc import Mapping

import torch
from torch import Tensor

from lab.base.errors import UserError
from lab.base.parts import build
from lab.model.attention import Attention
from lab.model.decoder import Decoder
from lab.model.precision import DTYPES
from lab.model.settings import ModelSettings, ShapeSettings


def build_decoder(
    model: ModelSettings, scale: ShapeSettings, *, kernel: str, compute_dtype: str, seed: int | None
) -> Decoder:
    """The decoder that settings describe.

    Args:
        compute_dtype: ``float32`` or ``bfloat16``.
        seed: of the initial weights; None: they are not drawn, but to be loaded by :func:`load_weights`.

    Raises:
        UserError: a shape that does not fit together.
    """

    def attention() -> Attention:
        layer: Attention = build(
            "attention",
            model.attention,
            width=scale.width,
            heads=scale.heads,
            kv_heads=scale.kv_heads,
            head_dim=scale.head_dim,
            kernel=kernel,
        )
        return layer

    placed = {"width": scale.width, "context": scale.context} if model.position.absolute else {}
    return Decoder(
        vocabulary=scale.vocabulary,
        layers=scale.layers,
        width=scale.width,
        hidden=scale.hidden,
        position=build("position", model.position, heads=scale.heads, head_dim=scale.head_dim, **placed),
        attention=attention,
        seed=seed,
        eps=model.eps,
        tied=model.tied,
        compute_dtype=DTYPES[compute_dtype],
    )


@torch.no_grad()
def load_weights(decoder: Decoder, weights: Mapping[str, Tensor], source: str) -> None:
    """Fill a decoder's parameters.

    Args:
        source: where the weights are from, for the message.

    Raises:
        UserError: a name is missing or left over, or a shape differs; names the tensor and both shapes.
    """
    own = dict(decoder.named_parameters())
    for name in sorted(own.keys() - weights.keys()):
        raise UserError(f"{source} has no {name}, which this decoder needs: give the same tied, layers and shape")
    for name in sorted(weights.keys() - own.keys()):
        raise UserError(f"{source} has {name}, which this decoder has no place for: give the same tied and layers")
    for name, parameter in own.items():
        if weights[name].shape != parameter.shape:
            theirs, ours = tuple(weights[name].shape), tuple(parameter.shape)
            raise UserError(f"{source} has {name} of shape {theirs}, and this decoder {ours}: give the same shape")
    for name, parameter in own.items():
        parameter.copy_(weights[name])
