"""The decoder, one page: embedding, blocks of attention and feed-forward, norm, head.

As TinyLlama (github.com/jzhang38/TinyLlama, lit_gpt/model.py): pre-norm RMSNorm, SwiGLU, grouped-query attention,
no biases, untied head. It runs at any length: what happens beyond the training context is the lab's subject.

Weights are float32; activations are of ``compute_dtype`` from the embedding on. Norms, rotations, softmax and the
loss are formed in float32.
"""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from lab.model.attention import Attention
from lab.model.elementwise import CrossEntropy, RootMeanSquareNorm
from lab.model.initialise import initialise
from lab.model.linear import Linear
from lab.model.memory import LOSS_CHUNK
from lab.model.position import PositionEncoding

if TYPE_CHECKING:
    from lab.model.decoding import Cache, LayerCache


class RMSNorm(nn.Module):
    """x / sqrt(mean(x^2) + eps) * weight (Zhang and Sennrich 2019), formed in at least float32."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(width))
        self.eps = eps

    def forward(self, x: Float[Tensor, "*rest width"]) -> Float[Tensor, "*rest width"]:
        normed: Tensor = RootMeanSquareNorm.apply(x, self.weight, self.eps)
        return normed


class FeedForward(nn.Module):
    """SwiGLU: down(silu(gate(x)) * up(x)) (Shazeer 2020)."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.gate = Linear(width, hidden)
        self.up = Linear(width, hidden)
        self.down = Linear(hidden, width)

    def forward(self, x: Float[Tensor, "batch time width"]) -> Float[Tensor, "batch time width"]:
        return self.down(functional.silu(self.gate(x)) * self.up(x))


class Block(nn.Module):
    """x + attention(norm(x)), then x + feed_forward(norm(x))."""

    def __init__(self, attention: Attention, width: int, hidden: int, eps: float) -> None:
        super().__init__()
        self.attention_norm = RMSNorm(width, eps)
        self.attention = attention
        self.feed_forward_norm = RMSNorm(width, eps)
        self.feed_forward = FeedForward(width, hidden)

    def forward(
        self,
        x: Tensor,
        position: PositionEncoding,
        positions: Tensor,
        documents: Tensor | None,
        cache: "LayerCache | None" = None,
        scale: float = 1.0,
    ) -> Tensor:
        x = x + self.attention(self.attention_norm(x), position, positions, documents, cache, scale)
        return x + self.feed_forward(self.feed_forward_norm(x))


class Decoder(nn.Module):
    """Token ids in, logits out.

    Args:
        vocabulary: number of token ids.
        layers, width, hidden: number of blocks, width of the residual stream and of the feed-forward.
        position: the position encoding, shared by all layers.
        attention: makes one layer's attention; called once a layer.
        seed: of the initial weights (see :mod:`lab.model.initialise`); None: they are not drawn, but to be loaded.
        eps: of the norms (TinyLlama: 1e-5).
        tied: the head uses the embedding's matrix.
        compute_dtype: type of activations and matrix products.

    Raises:
        ValueError: a size below 1.
    """

    def __init__(
        self,
        vocabulary: int,
        layers: int,
        width: int,
        hidden: int,
        position: PositionEncoding,
        attention: Callable[[], Attention],
        seed: int | None,
        eps: float = 1e-5,
        tied: bool = False,
        compute_dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__()
        for name, size in {"layers": layers, "width": width, "hidden": hidden}.items():
            if size < 1:
                raise ValueError(f"{name} is {size}: it must be 1 or more")
        self.compute_dtype = compute_dtype
        self.position = position
        self.embedding = nn.Parameter(torch.empty(vocabulary, width))
        self.adapted: Callable[[Decoder], Tensor] | None = None  # an adapter's embedding, while it is trained
        self.blocks = nn.ModuleList(Block(attention(), width, hidden, eps) for _ in range(layers))
        self.norm = RMSNorm(width, eps)
        self.head = None if tied else Linear(width, vocabulary)
        if seed is not None:
            initialise(self, seed, width, layers)

    @property
    def causal(self) -> bool:
        """Whether no position sees what comes after it."""
        return all(cast(Attention, block.attention).causal for block in self.blocks)

    @property
    def table(self) -> Float[Tensor, "vocabulary width"]:
        """The embedding as it is read, by a tied head too: with what an adapter adds to it."""
        return self.embedding if self.adapted is None else self.adapted(self)

    def hidden(
        self,
        tokens: Int[Tensor, "batch time"],
        documents: Int[Tensor, "batch time"] | None = None,
        cache: "Cache | None" = None,
    ) -> Float[Tensor, "batch time width"]:
        """The last layer's normed states, from which :meth:`logits` reads the next token.

        With a ``cache`` the tokens follow those it was given before, and it takes them up.

        Raises:
            ValueError: documents are to be isolated and cached: a cache does not know them.
        """
        if cache is not None and documents is not None:
            raise ValueError("a cache does not keep which document a key belongs to")
        asked = tokens.shape[1]
        if cache is not None:
            tokens = cache.unread(tokens, self.position)
        x = functional.embedding(tokens, self.table).to(self.compute_dtype)
        x = self.position.embed(x, cache.length if cache is not None else 0)
        return self.continued(x, 0, documents, cache)[:, -asked:]

    def continued(
        self,
        x: Float[Tensor, "batch time width"],
        first: int,
        documents: Int[Tensor, "batch time"] | None = None,
        cache: "Cache | None" = None,
    ) -> Float[Tensor, "batch time width"]:
        """What :meth:`hidden` gives of states ``x`` that enter block ``first``, or leave the last where it is their
        number."""
        start = cache.length if cache is not None else 0
        length = start + x.shape[1]
        self.position.reach(length)
        if documents is None:
            for block in self.blocks[first:]:
                attention = cast(Attention, block.attention)
                slopes = self.position.slopes is not None
                attention.prepare(x.shape[1], start, slopes, self.compute_dtype, x.device)
        positions = torch.arange(start, length, device=x.device)
        scale = self.position.scale(length)
        layers: Sequence[LayerCache | None] = [None] * len(self.blocks) if cache is None else cache.layers
        for block, layer in zip(self.blocks[first:], layers[first:], strict=True):
            x = block(x, self.position, positions, documents, layer, scale)
        if cache is not None:
            cache.length = length
        return self.norm(x)

    def logits(self, hidden: Float[Tensor, "*rest width"]) -> Float[Tensor, "*rest vocabulary"]:
        """Scores of the next token, in at least float32."""
        logits = self.unembed(hidden)
        return logits.to(torch.promote_types(logits.dtype, torch.float32))

    def unembed(self, hidden: Float[Tensor, "*rest width"]) -> Float[Tensor, "*rest vocabulary"]:
        """The head's products, in the activations' type."""
        weight = self.table if self.head is None else self.head.weight
        return functional.linear(hidden, weight.to(hidden.dtype))

    def forward(
        self, tokens: Int[Tensor, "batch time"], documents: Int[Tensor, "batch time"] | None = None
    ) -> Float[Tensor, "batch time vocabulary"]:
        """Logits at every position; ``documents`` numbers the document of each token, to isolate them."""
        return self.logits(self.hidden(tokens, documents))

    def next_token_losses(
        self, hidden: Float[Tensor, "batch time width"], targets: Int[Tensor, "batch time"], chunk: int = LOSS_CHUNK
    ) -> Float[Tensor, "batch time"]:
        """-log p(target) in nats for each position, with the head applied to ``chunk`` positions at a time.

        Never more logits exist than those of a chunk: if there are several, a backward pass forms them again.
        """
        states, answers = hidden.flatten(0, 1).split(chunk), targets.flatten().split(chunk)
        again = len(states) > 1 and torch.is_grad_enabled()
        losses = [
            checkpoint(self._losses, *each, use_reentrant=False) if again else self._losses(*each)
            for each in zip(states, answers, strict=True)
        ]
        return torch.cat(losses).view(targets.shape)

    def _losses(self, hidden: Float[Tensor, "tokens width"], targets: Int[Tensor, "tokens"]) -> Float[Tensor, "tokens"]:
        losses: Tensor = CrossEntropy.apply(self.unembed(hidden), targets)
        return losses


def parameter_count(model: nn.Module) -> int:
    """Number of trained values; a matrix that two modules share counts once."""
    return sum(parameter.numel() for parameter in model.parameters())
