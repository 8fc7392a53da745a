"""Grouped-query attention, full, windowed or bidirectional. The scores are computed by one of ``lab.model.kernels``."""

import math
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from lab.model import kernels
from lab.model.kernels.case import Case
from lab.model.kernels.turning import attend_turning
from lab.model.linear import Linear
from lab.model.position import PositionEncoding

if TYPE_CHECKING:
    from lab.model.decoding import LayerCache


class Attention(nn.Module):
    """Grouped-query attention without biases (Ainslie et al. 2023; shapes as in TinyLlama).

    Args:
        width: width of the residual stream.
        heads: query heads.
        kv_heads: key and value heads; each serves heads / kv_heads query heads.
        head_dim: width of one head.
        window: how many keys a query sees, its own included; ``None`` means all before it.
        kernel: ``auto``, ``matched`` or a kernel's name; see :func:`lab.model.kernels.choose`.
        causal: whether a query sees nothing behind itself.

    Raises:
        ValueError: heads do not divide, or ``window`` is below 1.
    """

    def __init__(
        self, width: int, heads: int, kv_heads: int, head_dim: int, window: int | None, kernel: str, causal: bool = True
    ) -> None:
        super().__init__()
        if kv_heads < 1 or heads % kv_heads:
            raise ValueError(f"{kv_heads} key heads do not divide {heads} query heads")
        if window is not None and window < 1:
            raise ValueError(f"window is {window}: a query sees itself at least")
        self.heads, self.kv_heads, self.head_dim = heads, kv_heads, head_dim
        self.window = window
        self.kernel = kernel
        self.causal = causal
        self.query = Linear(width, heads * head_dim)
        self.key = Linear(width, kv_heads * head_dim)
        self.value = Linear(width, kv_heads * head_dim)
        self.output = Linear(heads * head_dim, width)

    def prepare(self, queries: int, offset: int, slopes: bool, dtype: torch.dtype, device: torch.device) -> None:
        """Make ready for queries from a position on; the decoder calls this once a pass, outside compiled code."""
        case = Case(device.type, dtype, self.window, slopes, causal=self.causal)
        kernels.prepare(self.kernel, case, queries, offset, device)

    def forward(
        self,
        x: Float[Tensor, "batch time width"],
        position: PositionEncoding,
        positions: Int[Tensor, "time"],
        documents: Int[Tensor, "batch time"] | None,
        cache: "LayerCache | None" = None,
        scale: float = 1.0,
    ) -> Float[Tensor, "batch time width"]:
        """``scale`` is a factor on the logits beside 1 / sqrt(head_dim): the position encoding's."""
        batch, time, _ = x.shape
        query = self.query(x).view(batch, time, self.heads, self.head_dim).transpose(1, 2)
        key = self.key(x).view(batch, time, self.kv_heads, self.head_dim).transpose(1, 2)
        value = self.value(x).view(batch, time, self.kv_heads, self.head_dim).transpose(1, 2)
        if not position.turns_keys:
            query, key = position.rotate(query, key, positions)
        if cache is not None:
            key, value = cache.extend(key, value)
        scale, offset = scale / math.sqrt(self.head_dim), key.shape[2] - time
        if position.turns_keys:
            mixed = attend_turning(
                query,
                key,
                value,
                position,
                int(positions[0]),
                window=self.window,
                scale=scale,
                documents=documents,
                kernel=self.kernel,
            )
        else:
            mixed = kernels.attend(
                query,
                key,
                value,
                window=self.window,
                slopes=position.slopes,
                scale=scale,
                offset=offset,
                documents=documents,
                kernel=self.kernel,
                causal=self.causal,
            )
        return self.output(mixed.transpose(1, 2).reshape(batch, time, -1))


def bidirectional(**shape: Any) -> Attention:
    """Attention to all keys of a text, whatever their place. Arguments and errors as of :class:`Attention`."""
    return Attention(**shape, causal=False)
