"""A decomposition of few tokens, and vectors by it, for tests."""

from typing import Any

import torch
from measure.tiny_decoders import CONTEXT, source_of

from lab.analysis.decomposition import Decomposition
from lab.model.decoder import Decoder
from lab.observe.fold import Fold
from lab.observe.vectors import Vectors

TRAINING = (70, 20, 130, 64)


def decomposition(**keys: Any) -> Decomposition:
    given = {"longest": 4, "windows": None, "split": "train", "text": "documents", "estimator": "mean"}
    return Decomposition(**(given | {"token_effects": 6, "group": 3, "bin_tokens": 4, "seed": 0} | keys))


def vectors_of(decoder: Decoder, window: int | None = None) -> Vectors:
    study, fold = decomposition(), Fold({})
    for item in study.items(source_of(*TRAINING)):
        with torch.inference_mode():
            fold.add(item.name, study.observe(decoder, item, CONTEXT))
    return study.vectors(fold, CONTEXT, window)
