"""What is to be told of a block, and what is shown for it."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from lab.base.errors import UserError
from lab.data.stream.module import Batch
from lab.data.tokenizer import Tokenizer


class Asked(NamedTuple):
    """A batch as the decoder is asked it.

    Attributes:
        inputs: what it reads.
        targets: what it is to say at each place.
        learned: the places whose losses are learned; None: all.
    """

    inputs: Int[Tensor, "batch time"]
    targets: Int[Tensor, "batch time"]
    learned: Bool[Tensor, "batch time"] | None


Objective = Callable[[Batch], Asked]


def next_token(batch: Batch) -> Asked:
    """The next token at every place, but in a prompt."""
    tokens, learned = batch["tokens"], batch.get("learned")
    return Asked(tokens[:, :-1], tokens[:, 1:], None if learned is None else learned[:, 1:])


class Masked:
    """Words that are hidden, for a decoder that sees what comes after (Devlin et al. 2019, arXiv 1810.04805).

    Of the words of a block the share is drawn; of a word that is drawn every token is a gap, which the tokenizer's
    unknown token stands for, or with the probability ``random`` a token drawn from all, or with ``kept`` itself. In a
    block with prompts nothing is drawn: what is no prompt is a gap, as where Physics of Language Models, Part 3.1 asks
    an encoder (arXiv 2309.14316). The draws are a function of the seed and the block's number, so that a run that is
    continued draws the same.

    Raises:
        UserError: the tokenizer has no unknown token, or the probabilities are more than 1 together.
    """

    def __init__(self, share: float, random: float, kept: float, tokenizer: Tokenizer, seed: int) -> None:
        if random + kept > 1:
            raise UserError(f"objective.random is {random} and objective.kept {kept}: together at most 1")
        self.share, self.random, self.kept = share, random, kept
        self.seed = seed
        self.gap = gap_of(tokenizer)
        self.end = tokenizer.end_of_document
        self.starts = np.array([starts_a_word(tokenizer, number) for number in range(tokenizer.vocabulary)])

    def __call__(self, batch: Batch) -> Asked:
        tokens = batch["tokens"][:, :-1]
        if "learned" in batch:
            learned = batch["learned"][:, :-1]
            return Asked(tokens.masked_fill(learned, self.gap), tokens, learned)
        drawn = [
            self._drawn(row, number) for row, number in zip(tokens.cpu().numpy(), batch["blocks"].tolist(), strict=True)
        ]
        shown, hidden = (torch.from_numpy(np.stack(each)).to(tokens.device) for each in zip(*drawn, strict=True))
        return Asked(shown, tokens, hidden)

    def _drawn(self, tokens: np.ndarray, number: int) -> tuple[np.ndarray, np.ndarray]:
        """What is shown for a block's tokens, and which of them are to be told."""
        draws = np.random.Generator(np.random.Philox(key=[self.seed, number]))
        word = np.cumsum(self.starts[tokens])  # the number of each token's word
        hidden = (draws.random(word[-1] + 1) < self.share)[word] & (tokens != self.end)
        lot = draws.random(word[-1] + 1)[word]
        others = draws.integers(len(self.starts), size=len(tokens))
        shown = np.where(lot < self.random, others, np.where(lot < self.random + self.kept, tokens, self.gap))
        return np.where(hidden, shown, tokens), hidden


def gap_of(tokenizer: Tokenizer) -> int:
    """The token that stands for what is hidden.

    Raises:
        UserError: the tokenizer has none that no text is spelled with.
    """
    if tokenizer.unknown is None:
        raise UserError(
            f"{tokenizer.path}: has no unknown token, which objective=masked puts in the place of what is hidden; take "
            "a tokenizer that has one, such as tokenizer=biographies_words"
        )
    return tokenizer.unknown


def starts_a_word(tokenizer: Tokenizer, number: int) -> bool:
    """Whether a token is a word's first: there is a space before its letters, or they are none."""
    spelled = str(tokenizer.library.id_to_token(number))
    return spelled[:1] in ("▁", "Ġ", " ") or not spelled[:1].isalnum()
