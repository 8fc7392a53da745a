"""A decomposition of few tokens, for tests."""

from typing import Any

from lab.analysis.decomposition import Decomposition


def decomposition(**keys: Any) -> Decomposition:
    given = {"longest": 4, "windows": None, "split": "train", "text": "documents", "estimator": "mean"}
    return Decomposition(**(given | {"token_effects": 6, "group": 3, "bin_tokens": 4, "seed": 0} | keys))
