"""Documents to token ids, several at a time."""

import itertools
import logging
import os
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np
from jaxtyping import UInt32

from lab.base.errors import UserError
from lab.data.sources.documents import Corpus, Entry
from lab.data.tokenizer import Tokenizer

Mark = TypeVar("Mark")

# How far a stream reads ahead: enough to keep all cores busy over the lanes, little enough to start at once.
AHEAD_CHARACTERS = 2**15
AHEAD_DOCUMENTS = 64
SAMPLED_CHARACTERS = 2**15  # of each subset, that a tokenizer is examined on
LOG = logging.getLogger("lab.data")

Waiting = tuple[Entry, Mark, "Future[UInt32[np.ndarray, 'tokens']] | None"]

_pools: dict[int, ThreadPoolExecutor] = {}


def _pool() -> ThreadPoolExecutor:
    # The tokenizer leaves Python's lock alone while it works, so threads use all cores, also beside the training.
    # A forked process has none of its parent's threads.
    if os.getpid() not in _pools:
        _pools[os.getpid()] = ThreadPoolExecutor(os.cpu_count(), "tokenise")
    return _pools[os.getpid()]


@dataclass(frozen=True)
class Tokenised(Generic[Mark]):
    """A document's token ids without the end token; None if it was skipped. `mark` is whatever came with it.

    `prompt` tokens at its start are not learned.
    """

    entry: Entry
    tokens: UInt32[np.ndarray, "tokens"] | None
    mark: Mark
    prompt: int = 0


def tokenised(documents: Iterable[tuple[Entry, Mark]], tokenizer: Tokenizer) -> Iterator[Tokenised[Mark]]:
    """Each document in turn with its token ids, while those after it are being tokenised in the background.

    The first document is given before a second is read; from then on one or more are read ahead.
    """
    waiting: deque[Waiting[Mark]] = deque()
    behind = 0  # characters that wait behind the first
    started = False
    for entry, mark in documents:
        tokens = None if entry.text is None else _pool().submit(tokenizer.encode, entry.text)
        behind += len(entry.text or "") if waiting else 0
        waiting.append((entry, mark, tokens))
        while waiting and (not started or behind >= AHEAD_CHARACTERS or len(waiting) == AHEAD_DOCUMENTS):
            started = True
            yield _done(waiting.popleft(), tokenizer)
            behind -= len(waiting[0][0].text or "") if waiting else 0
    for each in waiting:
        yield _done(each, tokenizer)


def _done(waiting: Waiting[Mark], tokenizer: Tokenizer) -> Tokenised[Mark]:
    entry, mark, result = waiting
    if result is None:
        return Tokenised(entry, None, mark)
    tokens = result.result()
    return Tokenised(entry, tokens, mark, prompt_tokens(entry, tokens, tokenizer))


def prompt_tokens(entry: Entry, tokens: UInt32[np.ndarray, "tokens"], tokenizer: Tokenizer) -> int:
    """How many tokens of a document spell its prompt.

    Raises UserError if one token spells the prompt's end and what follows together.
    """
    if not entry.prompt or entry.text is None:
        return 0
    prompt = tokenizer.encode(entry.text[: entry.prompt])
    if not np.array_equal(prompt, tokens[: len(prompt)]):
        raise UserError(
            f"{tokenizer.path}: one of its tokens spells the end of a question and the beginning of its answer "
            f"({entry.name}); take a tokenizer that keeps words apart"
        )
    return len(prompt)


def examined(corpus: Corpus, tokenizer: Tokenizer) -> dict[str, float]:
    """What a tokenizer keeps of a sample of a corpus's training text: see :meth:`Tokenizer.examine`.

    More than a hundredth unknown or lost is told. Raises UserError for more than half, or if the same text has other
    tokens each time.
    """
    texts, whole = [], []
    for subset in corpus.subsets("train"):
        characters = 0
        for entry in corpus.documents("train", subset):
            texts.append((entry.text or "")[: SAMPLED_CHARACTERS - characters])
            characters += len(texts[-1])
            whole += [texts[-1]] if texts[-1] == entry.text else []
            if characters >= SAMPLED_CHARACTERS:
                break
    every = (each for each in itertools.chain(whole, corpus.everything()) if corpus.exact)
    if text := next((each for each in every if tokenizer.decode(tokenizer.encode(each)) != each), ""):
        raise UserError(
            f"{tokenizer.path}: it cannot give back the text {text[:60]!r} ..., and answers are compared letter by "
            "letter; take another tokenizer (python -m lab.prepare tokenizer --words makes one of all their words)"
        )
    found = tokenizer.examine(texts)
    if max(found.values()) > 0.01:
        told = (
            f"{tokenizer.path}: of a sample of the training text {found['unknown']:.0%} of the tokens are unknown and "
            f"{found['lost']:.0%} of the letters are lost"
        )
        if max(found.values()) > 0.5:
            raise UserError(f"{told}; take a tokenizer that can spell these texts")
        LOG.warning(told)
    return found


def held_out(corpus: Corpus, split: str, tokenizer: Tokenizer) -> Iterator[tuple[str, UInt32[np.ndarray, "tokens"]]]:
    """Every usable document of a split in corpus order: its name and its token ids, without the end token."""
    entries = ((entry, None) for subset in corpus.subsets(split) for entry in corpus.documents(split, subset))
    for document in tokenised(entries, tokenizer):
        if document.tokens is not None:
            yield document.entry.name, document.tokens
