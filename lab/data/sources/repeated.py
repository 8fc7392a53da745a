"""A diet on which small decoders learn to use far context: speeches with strings that come twice."""

import hashlib
import math
from typing import Any

import numpy as np

from lab.base.errors import UserError
from lab.data.sources.documents import Sotu


class SotuCopy(Sotu):
    """sotu, of whose training documents some stretches stand between two copies of a string of words in random order.

    What the second copy says can be told from the first alone, at the distance of the stretch (repeated random strings
    are the probe for induction heads of Olsson et al. 2022, arXiv 2209.11895). Documents of validation and test are as
    they are, so that losses on them compare with sotu's.

    Args:
        share: of the stretches, between copies.
        words: of a string, drawn from the document's own.
        longest_characters: of a stretch; the shortest has a sixteenth, and lengths are even in their logarithm.
        seed: of strings, stretches and which of them; each document is drawn by its name.

    Raises:
        UserError: stretches are shorter than a string is likely to be.
    """

    def __init__(self, share: float, words: int, longest_characters: int, seed: int, on_error: str = "stop") -> None:
        super().__init__(on_error)
        if longest_characters < 16 * words:
            raise UserError(
                f"stretches of at most {longest_characters} characters are too short between strings of {words} words: "
                f"give at least 16 a word, {16 * words}"
            )
        self._recipe: dict[str, Any] = {
            "share": share,
            "words": words,
            "longest_characters": longest_characters,
            "seed": seed,
        }
        self._training = {row["fileid"] for row in self._rows["train"]}

    def _text(self, row: dict[str, str]) -> str:
        text = super()._text(row)
        return repeated(text, row["fileid"], **self._recipe) if row["fileid"] in self._training else text

    def _contents(self) -> dict[str, Any]:
        return super()._contents() | {"source": "sotu_copy", "recipe": self._recipe}


def repeated(text: str, name: str, share: float, words: int, longest_characters: int, seed: int) -> str:
    """A text of whose stretches some stand between two copies of a string; each copy is a line of its own.

    Args:
        name: by which it is drawn, beside the seed.
    """
    drawn = np.random.default_rng([seed, *hashlib.sha256(name.encode()).digest()])
    vocabulary = text.split()
    parts, at = [], 0
    shortest = math.log(longest_characters / 16)
    while at < len(text):
        length = round(math.exp(drawn.uniform(shortest, math.log(longest_characters))))
        end = text.find(" ", at + length)  # words stay whole
        end = len(text) if end < 0 else end
        stretch = text[at:end]
        if drawn.random() < share:
            string = " ".join(drawn.choice(vocabulary, words).tolist())
            stretch = f"\n{string}\n{stretch.strip()}\n{string}\n"
        parts.append(stretch)
        at = end
    return "".join(parts)
