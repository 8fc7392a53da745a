"""Losses of a decoder under many sets of RoPE's factors, divided over processes of one thread each.

A candidate's loss is the same whichever process computes it, and however many there are.
"""

import signal
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from lab.base.interruption import SIGNALS, end_with_parent
from lab.extension.longrope import LongRoPE
from lab.model.decoder import Decoder
from lab.model.precision import DTYPES
from lab.observe.losses import losses_in_one_pass, on_device
from lab.observe.measure import Ids
from lab.runs.run import open_model


class Asked(NamedTuple):
    """What candidates are scored with.

    Attributes:
        run: directory of the run.
        step: whose weights are read.
        documents: token ids, each of one more than are read.
        scored: how many of each document's last tokens count; None: all that are predicted.
        dtype: that the whole decoder computes in.
    """

    run: Path
    step: int
    device: str
    documents: Sequence[Ids]
    dtype: str
    scored: Sequence[int] | None = None


class _Scorer:
    """A decoder, loaded once, whose RoPE is turned by one candidate after the other."""

    def __init__(self, asked: Asked) -> None:
        self.asked = asked
        self.decoder: Decoder = open_model(asked.run).decoder(asked.step).to(asked.device)
        self.decoder.compute_dtype = DTYPES[asked.dtype]
        self.tokens = [on_device(each, self.decoder) for each in asked.documents]
        self.scored = asked.scored or [len(each) - 1 for each in asked.documents]

    def losses(self, rule: LongRoPE, bounds: Sequence[float] | None) -> list[float]:
        """Mean loss in nats of each document; fewer where the sum of those so far is above that of ``bounds``."""
        rule(self.decoder)  # takes the place of the one before
        found: list[float] = []
        with torch.inference_mode():
            for tokens, scored in zip(self.tokens, self.scored, strict=True):
                found.append(float(losses_in_one_pass(self.decoder, tokens)[-scored:].double().mean()))
                if bounds is not None and sum(found) > sum(bounds[: len(found)]):
                    break
        return found


_scorers: list[_Scorer] = []  # of a worker: one


def _begin(asked: Asked) -> None:
    end_with_parent(signal.SIGKILL)
    for number in SIGNALS:  # the process that asks is told, and ends this one
        signal.signal(number, signal.SIG_IGN)
    torch.set_num_threads(1)
    _scorers.append(_Scorer(asked))


def _losses(rule: LongRoPE, bounds: Sequence[float] | None) -> list[float]:
    return _scorers[0].losses(rule, bounds)


class Losses:
    """Scores candidates in some processes; in this one if they are one."""

    def __init__(self, asked: Asked, pool: ProcessPoolExecutor | None) -> None:
        self._pool = pool
        self._own = None if pool else _Scorer(asked)

    def of(self, rules: Sequence[LongRoPE], bounds: Sequence[float] | None = None) -> Iterator[list[float]]:
        """The losses of rules by document, in their order, as they come."""
        if self._pool is not None:
            yield from self._pool.map(_losses, rules, [bounds] * len(rules))
        else:
            assert self._own is not None
            for rule in rules:
                yield self._own.losses(rule, bounds)


@contextmanager
def scoring(asked: Asked, processes: int) -> Iterator[Losses]:
    """Processes that are there meanwhile."""
    if processes == 1:
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            yield Losses(asked, None)
        finally:
            torch.set_num_threads(threads)
        return
    pool = ProcessPoolExecutor(processes, get_context("spawn"), _begin, (asked,))
    try:
        yield Losses(asked, pool)
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def mean(losses: Sequence[float], documents: int) -> float:
    """Over documents; infinite where some were left out."""
    return float(np.mean(losses)) if len(losses) == documents else float("inf")
