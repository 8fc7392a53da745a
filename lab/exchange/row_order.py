"""The order of rows in query and key matrices, which differs between formats, and what tells a wrong one.

RoPE turns pairs of numbers. A pair is half a head apart here and in folders of Hugging Face's kind, and lies side by
side in GGUF files. A wrong order ruins RoPE; without rotations the logits are the same in either.
"""

from collections.abc import Callable
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor, nn

from lab.base.errors import UserError
from lab.data.sources.documents import Sotu
from lab.data.tokenizer import Tokenizer
from lab.model.building import build_decoder
from lab.runs.settings import ImportedSettings

TOKENS = 512  # of shipped English, on which both orders are tried
NATS = 0.5  # by which the other order must be better to be taken for the right one
PART = 32  # of whose logits there are at once
Order = Callable[[Tensor, int], Tensor]


def half_split(rows: Tensor, heads: int) -> Tensor:
    """Rows of a query or key matrix with pairs side by side, as with pairs half a head apart."""
    width = rows.shape[1]
    return rows.view(heads, -1, 2, width).transpose(1, 2).reshape(-1, width)


def side_by_side(rows: Tensor, heads: int) -> Tensor:
    """The inverse of :func:`half_split`."""
    width = rows.shape[1]
    return rows.view(heads, 2, -1, width).transpose(1, 2).reshape(-1, width)


def check_order_of_rows(path: Path, trained: ImportedSettings, tokenizer: Tokenizer, source: str) -> None:
    """With RoPE as trained the other order of rows must not be better.

    Args:
        path: a safetensors file of the lab's names. Never more than a block of it is in memory, and what is tied.
        trained: what the weights are a decoder of.
        source: what they are from, for the message.

    Raises:
        UserError: it is better by NATS nats per token.
    """
    ids = tokenizer.encode(next(entry.text for entry in Sotu().documents("validation", "") if entry.text)[:20_000])
    tokens = torch.from_numpy(ids[: TOKENS + 1].astype("int64"))[None]
    orders: list[Order | None] = [None, half_split, side_by_side]
    losses = [_loss(path, trained, tokens, order) for order in orders]
    if min(losses[1:]) < losses[0] - NATS:
        raise UserError(
            f"{source}: rows of its queries and keys lie in another order than RoPE of this format has them (loss "
            f"{losses[0]:.2f} as they are, {min(losses[1:]):.2f} in the other order, on {TOKENS} tokens of "
            "English); convert the source again"
        )


@torch.inference_mode()
def _loss(path: Path, trained: ImportedSettings, tokens: Tensor, order: Order | None) -> float:
    """Nats per token, with rows of queries and keys reordered."""
    decoder = build_decoder(trained.model, trained.scale, kernel="auto", compute_dtype="float32", seed=None).eval()
    heads = {"query": trained.scale.heads, "key": trained.scale.kv_heads}

    def fill(module: nn.Module, prefix: str) -> None:
        # Opened each time: what is mapped counts as memory until the file is closed.
        with safe_open(path, framework="pt") as held:
            for name, parameter in module.named_parameters():
                value = held.get_tensor(prefix + name)
                of = heads.get(name.split(".")[-2]) if "." in name else None
                parameter.data = value if order is None or of is None else order(value, of)

    def empty(module: nn.Module) -> None:
        for parameter in module.parameters():
            parameter.data = torch.empty(0)

    for number, block in enumerate(decoder.blocks):
        empty(block)
        block.register_forward_pre_hook(lambda module, _, prefix=f"blocks.{number}.": fill(module, prefix))
        block.register_forward_hook(lambda module, *_: empty(module))
    with safe_open(path, framework="pt") as held:
        for name, parameter in decoder.named_parameters():
            if not name.startswith("blocks."):
                parameter.data = held.get_tensor(name)
    return float(decoder.next_token_losses(decoder.hidden(tokens[:, :-1]), tokens[:, 1:], PART).mean())
