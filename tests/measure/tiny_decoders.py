"""Decoders small enough to be scored one token at a time, and documents for them."""

from collections.abc import Callable
from functools import partial
from types import SimpleNamespace

import numpy as np
import torch
from torch import Tensor

from lab.model.attention import Attention
from lab.model.decoder import Decoder
from lab.model.position import ALiBi, NoPE, PositionEncoding, RoPE
from lab.observe.measure import Item, Measure, Row, Source

VOCABULARY = 17
CONTEXT = 8
VARIANTS = [(NoPE, None), (RoPE, None), (ALiBi, None), (RoPE, 5)]


def tiny(
    position: Callable[[int, int], PositionEncoding] = NoPE,
    window: int | None = None,
    compute_dtype: torch.dtype = torch.float64,
    kind: type[Decoder] = Decoder,
    vocabulary: int = VOCABULARY,
    kernel: str = "reference",
) -> Decoder:
    decoder = kind(
        vocabulary=vocabulary,
        layers=2,
        width=16,
        hidden=24,
        position=position(2, 8),
        attention=partial(Attention, 16, 2, 1, 8, window=window, kernel=kernel),
        seed=0,
        compute_dtype=compute_dtype,
    )
    # As initialised, all losses are close to log(vocabulary) and a wrong context would hardly show.
    with torch.no_grad():
        for parameter in decoder.parameters():
            parameter.mul_(8 if parameter.dim() > 1 else 1)
    return decoder.eval()


def document(tokens: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, VOCABULARY, tokens).astype(np.uint32)


def source_of(*lengths: int, context: int = CONTEXT, vocabulary: int = VOCABULARY) -> Source:
    """Documents of these lengths, called a, b, c, ..."""
    documents = [(chr(ord("a") + number), document(length, number)) for number, length in enumerate(lengths)]
    tokenizer = SimpleNamespace(vocabulary=vocabulary, end_of_document=0)
    return Source(lambda: iter(documents), tokenizer, context)


def rows_of(measure: Measure, decoder: Decoder, ids: np.ndarray, **details) -> list[Row]:
    with torch.inference_mode():
        return measure.score(decoder, Item("a", ids, details), CONTEXT)


def places(rows: list[Row], *columns: str) -> list[tuple]:
    return [tuple(row[column] for column in columns) for row in rows]


class Telling(Decoder):
    """Its "loss" of a target is how many tokens it has read; it notes the targets that it was asked for."""

    def __init__(self, **settings) -> None:
        super().__init__(**settings)
        self.asked: list[tuple[int, int]] = []  # target, tokens read

    def hidden(self, tokens: Tensor, documents: Tensor | None = None, cache: object = None) -> Tensor:
        return torch.arange(1.0, tokens.shape[1] + 1).expand(tokens.shape[0], -1)[..., None]

    def next_token_losses(self, hidden: Tensor, targets: Tensor, chunk: int = 4096) -> Tensor:
        self.asked += zip(targets.flatten().tolist(), map(int, hidden.flatten().tolist()), strict=True)
        return self.told(hidden[..., 0], targets)

    def told(self, read: Tensor, targets: Tensor) -> Tensor:
        return read


class TellingTargets(Telling):
    """Its "loss" is the target itself: with tokens 0, 1, 2, ... the mean tells whether each one counted once."""

    def told(self, read: Tensor, targets: Tensor) -> Tensor:
        return targets.double()
