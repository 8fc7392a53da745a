"""How much of held-out text stands in training text too: shared runs of words."""

import hashlib
import re
from collections.abc import Iterator


def runs_of_words(text: str, words: int) -> Iterator[int]:
    """Every run of `words` words of a text as a 64-bit hash; words are runs of letters and digits in lower case."""
    found = re.findall(r"\w+", text.lower())
    for start in range(len(found) - words + 1):
        run = " ".join(found[start : start + words]).encode()
        yield int.from_bytes(hashlib.blake2b(run, digest_size=8).digest())


def shared(text: str, training: set[int], words: int) -> tuple[int, int]:
    """How many runs of `words` words of a text are in `training`, and how many it has."""
    runs = list(runs_of_words(text, words))
    return sum(run in training for run in runs), len(runs)
