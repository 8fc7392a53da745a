"""Low-rank updates of matrices, which are trained beside weights that stay as they are."""

from collections.abc import Iterator
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.hooks import RemovableHandle

from lab.base.errors import UserError
from lab.model.decoder import Decoder
from lab.model.initialise import draw
from lab.training.adapters import counted

PLACES = {
    "query": "attention.query",
    "key": "attention.key",
    "value": "attention.value",
    "output": "attention.output",
    "gate": "feed_forward.gate",
    "up": "feed_forward.up",
    "down": "feed_forward.down",
}


class LoRA:
    """To a matrix W [outputs, inputs] is added alpha / rank B A (Hu et al. 2021, arXiv 2106.09685).

    Called with a decoder it adds to every matrix that is named ``lora_A`` [rank, inputs] and ``lora_B``
    [outputs, rank], and to the decoder, where the embedding has a rank, ``embedding_lora_A`` [rank, vocabulary] and
    ``embedding_lora_B`` [width, rank], whose product's transpose is added to the embedding (arXiv 2309.14316 trains
    query, value and embedding so). All other parameters are taken out of training. A head of its own stays as it is; a
    head that is tied to the embedding reads the very same sum, so that decoder and merged decoder are tied alike.

    All begins as the decoder was: B is 0, and A drawn by :func:`lab.model.initialise.draw` with the deviation of the
    authors' code, 1 / sqrt(3 inputs). Of the embedding, as in that code and in PEFT, it is A that is 0, a column of
    each token, and B that is drawn, with deviation 1: a token that training never reads keeps its embedding.

    Args:
        rank: of the updates of matrices.
        matrices: names of matrices of a block, of :data:`PLACES`.
        embedding_rank: of the update of the embedding; 0: none.
        alpha: the updates are multiplied by alpha / rank, that of the embedding by alpha / embedding_rank.
    """

    def __init__(self, rank: int, matrices: list[str], embedding_rank: int, alpha: float) -> None:
        self.rank, self.matrices = rank, matrices
        self.embedding_rank, self.alpha = embedding_rank, alpha
        self._handles: list[RemovableHandle] = []

    def __call__(self, decoder: Decoder, seed: int) -> None:
        """Add the factors to a decoder, drawn from ``seed``.

        Raises:
            UserError: a rank above the smaller side of its matrix; names the matrix and its shape.
        """
        for parameter in decoder.parameters():
            parameter.requires_grad_(False)
        for name, matrix in self._adapted(decoder):
            outputs, inputs = matrix.weight.shape
            _refuse_above("rank", self.rank, f"{name}.weight", matrix.weight)
            deviation = (3 * inputs) ** -0.5
            matrix.lora_A = _drawn(seed, f"{name}.lora_A", (self.rank, inputs), deviation, matrix.weight)
            matrix.lora_B = nn.Parameter(matrix.weight.new_zeros(outputs, self.rank))
            self._handles.append(matrix.register_forward_hook(self._add))
        if self.embedding_rank:
            rank, embedding = self.embedding_rank, decoder.embedding
            _refuse_above("embedding_rank", rank, "embedding", embedding)
            vocabulary, width = embedding.shape
            decoder.embedding_lora_A = nn.Parameter(embedding.new_zeros(rank, vocabulary))
            decoder.embedding_lora_B = _drawn(seed, "embedding_lora_B", (width, rank), 1.0, embedding)
            decoder.adapted = self._embedding

    def told(self, decoder: Decoder) -> str:
        """How many numbers are trained, beside how many each kind of matrix has in all blocks."""
        beside: dict[str, tuple[int, int]] = {}
        for name, matrix in self._adapted(decoder):
            kind = name.rpartition(".")[2]
            factors, own = beside.get(kind, (0, 0))
            low_rank = cast(Tensor, matrix.lora_A).numel() + cast(Tensor, matrix.lora_B).numel()
            beside[kind] = (factors + low_rank, own + matrix.weight.numel())
        if self.embedding_rank:
            beside["embedding"] = (self.embedding_rank * sum(decoder.embedding.shape), decoder.embedding.numel())
        told = ", ".join(f"{kind} {factors:,} beside {own:,}" for kind, (factors, own) in beside.items())
        return f"{counted(decoder)} ({told})"

    @staticmethod
    def constrain(decoder: Decoder) -> None:
        """Nothing: the factors may have any value."""

    @torch.no_grad()
    def merge(self, decoder: Decoder) -> None:
        """Add the updates to their matrices: a decoder as any other, which computes the same."""
        for _, matrix in self._adapted(decoder):
            update = cast(Tensor, matrix.lora_B) @ cast(Tensor, matrix.lora_A)
            matrix.weight.add_(update, alpha=self.alpha / self.rank)
            del matrix.lora_A, matrix.lora_B
        if self.embedding_rank:
            decoder.embedding.copy_(decoder.table)
            decoder.adapted = None
            del decoder.embedding_lora_A, decoder.embedding_lora_B
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        for parameter in decoder.parameters():
            parameter.requires_grad_(True)

    def _adapted(self, decoder: Decoder) -> Iterator[tuple[str, nn.Linear]]:
        """The matrices that are named, of all blocks, each with its name in the decoder."""
        for layer, block in enumerate(decoder.blocks):
            for each in self.matrices:
                yield f"blocks.{layer}.{PLACES[each]}", cast(nn.Linear, block.get_submodule(PLACES[each]))

    def _add(self, matrix: nn.Module, given: tuple[Any, ...], product: Tensor) -> Tensor:
        x: Tensor = given[0]
        low = functional.linear(x, cast(Tensor, matrix.lora_A).to(x.dtype))
        return product + self.alpha / self.rank * functional.linear(low, cast(Tensor, matrix.lora_B).to(x.dtype))

    def _embedding(self, decoder: Decoder) -> Tensor:
        """[vocabulary, width]. It is formed whole, as its gradient is when all weights are trained."""
        update = (cast(Tensor, decoder.embedding_lora_B) @ cast(Tensor, decoder.embedding_lora_A)).T
        return decoder.embedding + self.alpha / self.embedding_rank * update


def _drawn(seed: int, name: str, shape: tuple[int, int], deviation: float, like: Tensor) -> nn.Parameter:
    """A parameter by its name; on the meta device there is nothing to draw."""
    return nn.Parameter(like.new_empty(shape) if like.is_meta else draw(seed, name, shape, deviation).to(like))


def _refuse_above(key: str, rank: int, name: str, matrix: Tensor) -> None:
    if rank > min(matrix.shape):
        rows, columns = matrix.shape
        raise UserError(
            f"adapter.{key} is {rank}, above the smaller side of {name}, which is {rows} x {columns}: give "
            f"{min(matrix.shape)} or less"
        )
