"""Diets on which small decoders learn to use far context: speeches with lines that belong together, far apart."""

import hashlib
import math
from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from lab.base.errors import UserError
from lab.data.sources.documents import Sotu

SHORTEST = 64  # characters of the longest stretch: the shortest has a sixteenth
Pair = Callable[[np.random.Generator, Sequence[str]], tuple[str, str]]


class Diet(Sotu):
    """sotu, of whose training documents some stretches stand between two lines; what the second says, the first tells.

    Documents of validation and test are as they are, so that losses on them compare with sotu's.

    Args:
        source: what the manifest calls it.
        recipe: keys of which the text is made; of all diets ``share`` of the stretches, between lines;
            ``longest_characters`` of a stretch, of which the shortest has a sixteenth, and lengths are even in their
            logarithm; ``seed`` of lines, stretches and which of them; each document is drawn by its name.

    Raises:
        UserError: stretches are too short.
    """

    def __init__(self, source: str, recipe: dict[str, Any], on_error: str) -> None:
        if recipe["longest_characters"] < SHORTEST:
            raise UserError(
                f"stretches of at most {recipe['longest_characters']} characters are too short to stand between lines: "
                f"give at least {SHORTEST}"
            )
        super().__init__(on_error)
        self._source, self._recipe = source, recipe
        self._training = {row["fileid"] for row in self._rows["train"]}

    @abstractmethod
    def pair(self, drawn: np.random.Generator, vocabulary: Sequence[str]) -> tuple[str, str]:
        """The lines before and after a stretch.

        Args:
            vocabulary: the document's words, as often as they are there.
        """

    def _text(self, row: dict[str, str]) -> str:
        text = super()._text(row)
        if row["fileid"] not in self._training:
            return text
        recipe = self._recipe
        return framed(text, row["fileid"], self.pair, recipe["share"], recipe["longest_characters"], recipe["seed"])

    def _contents(self) -> dict[str, Any]:
        return super()._contents() | {"source": self._source, "recipe": self._recipe}


class SotuCopy(Diet):
    """Both lines are the same: words of the document in random order.

    The second can be told from the first alone (repeated random strings are the probe for induction heads of Olsson et
    al. 2022, arXiv 2209.11895).

    Args:
        words: of a string.

    Raises:
        UserError: stretches are shorter than a string is likely to be.
    """

    def __init__(self, share: float, words: int, longest_characters: int, seed: int, on_error: str = "stop") -> None:
        if longest_characters < 16 * words:
            raise UserError(
                f"stretches of at most {longest_characters} characters are too short between strings of {words} words: "
                f"give at least 16 a word, {16 * words}"
            )
        recipe = {"share": share, "words": words, "longest_characters": longest_characters, "seed": seed}
        super().__init__("sotu_copy", recipe, on_error)

    def pair(self, drawn: np.random.Generator, vocabulary: Sequence[str]) -> tuple[str, str]:
        string = " ".join(drawn.choice(vocabulary, self._recipe["words"]).tolist())
        return string, string


class SotuRetrieval(Diet):
    """The first line tells a number of five digits, the second asks for it and gives it.

    What passkeys are asked of a pretrained decoder with (:class:`lab.measure.passkey.Passkey`), made learnable for one
    that has read nothing but speeches.

    Args:
        key_line: holds ``{key}``, in whose place the number stands.
        question: the number follows.

    Raises:
        UserError: the line has no place for a key, or the question no word.
    """

    def __init__(
        self,
        share: float,
        key_line: str,
        question: str,
        longest_characters: int,
        seed: int,
        on_error: str = "stop",
    ) -> None:
        if "{key}" not in key_line:
            raise UserError(f"key_line is {key_line!r}: it must hold {{key}}, where the number stands")
        if not question.strip():
            raise UserError(f"question is {question!r}: give a text")
        recipe = {"share": share, "longest_characters": longest_characters, "seed": seed}
        super().__init__("sotu_retrieval", recipe | {"key_line": key_line, "question": question}, on_error)

    def pair(self, drawn: np.random.Generator, vocabulary: Sequence[str]) -> tuple[str, str]:
        key = str(drawn.integers(10_000, 100_000))
        return self._recipe["key_line"].replace("{key}", key), f"{self._recipe['question']} {key}"


def framed(text: str, name: str, pair: Pair, share: float, longest_characters: int, seed: int) -> str:
    """A text of whose stretches some stand between two lines.

    Args:
        name: by which it is drawn, beside the seed.
        pair: the two lines, each time drawn anew.
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
            before, after = pair(drawn, vocabulary)
            stretch = f"\n{before}\n{stretch.strip()}\n{after}\n"
        parts.append(stretch)
        at = end
    return "".join(parts)
