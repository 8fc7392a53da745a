"""Documents whose first line tells a key that their last asks for: what LongRoPE2 judges factors by."""

import numpy as np

from lab.base.errors import UserError
from lab.data.tokenizer import Tokenizer
from lab.experiment.extend_settings import NeedleSettings
from lab.observe.measure import Ids


def with_needle(document: Ids, tokenizer: Tokenizer, needle: NeedleSettings, number: int) -> tuple[Ids, int]:
    """A document of as many tokens, with a needle; and how many tokens the answer has, with which it ends.

    The key line stands at the start and the question at the end, between them the document's beginning: a loss of the
    answer alone sees whether the farthest text is still read (needle-driven perplexity, LongRoPE2, arXiv 2502.20082).

    Args:
        number: of the document, by which its key is drawn: five digits, the first not 0.

    Raises:
        UserError: it is too short for line, question and answer; or the tokenizer cannot give line or answer back.
    """
    key = str(np.random.default_rng(number).integers(10_000, 100_000))
    line = tokenizer.encode(needle.key_line.replace("{key}", key) + "\n")
    question, whole = (tokenizer.encode(f"\n{needle.question}{end}") for end in ("", f" {key}"))
    answer = whole[len(question) :]
    if not np.array_equal(whole[: len(question)], question) or key not in tokenizer.decode(answer):
        raise UserError(f"{tokenizer.path}: it cannot give back {key!r} behind search.needle.question: ask otherwise")
    if key not in tokenizer.decode(line):
        raise UserError(f"{tokenizer.path}: it cannot give back {key!r} in search.needle.key_line: tell it otherwise")
    room = len(document) - len(line) - len(whole)
    if room < 0:
        raise UserError(
            f"search.length leaves no room for the needle: {len(document) - 1} tokens are read, and line, question and "
            f"answer have {len(document) - room}; give a greater length"
        )
    return np.concatenate((line, document[:room], whole)), len(answer)
