"""The loss measures as their definitions say: one target at a time, and for each a whole pass over what it is given."""

import numpy as np
import torch


@torch.no_grad()
def loss_of(decoder, read, target) -> float:
    """Read tokens from position 0 on, ask for the next one."""
    logits = decoder(torch.tensor([[int(token) for token in read]]))[0, -1]
    return -torch.log_softmax(logits, dim=0)[int(target)].item()


def given_all(decoder, ids, stop=None) -> list[float]:
    """The loss of each token but the first, given every one before it: of the first ``stop`` ones."""
    stop = len(ids) - 1 if stop is None else stop
    return [loss_of(decoder, ids[:target], ids[target]) for target in range(1, stop + 1)]


def restarted(decoder, ids, context: int, less: int = 0) -> list[float]:
    """The loss of the second half's tokens given the last 7C/8 + 1 to C before, counted from a multiple of C/8.

    ``less`` tokens fewer, if asked for.
    """
    eighth, losses = context // 8, []
    for target in range((len(ids) - 1) // 2 + 1, len(ids)):
        # The latest multiple of C/8 that leaves more than 7C/8 tokens.
        begin = max(start for start in range(0, len(ids), eighth) if target - start > context - eighth) + less
        assert context - eighth + 1 <= target - begin + less <= context
        losses.append(loss_of(decoder, ids[begin:target], ids[target]))
    return losses


def sliding_reads(span: int, length: int, stride: int) -> list[tuple[int, int]]:
    """For targets 1 to ``span``: the first token that is read, and how many are."""
    reads = []
    end = min(length, span)
    for target in range(1, span + 1):
        if target > end:
            end = min(end + stride, span)
        begin = max(0, end - length)
        reads.append((begin, target - begin))
    return reads


def sliding(decoder, ids, length: int, stride: int) -> list[float]:
    """The loss of each token but the first in windows of L moved on by S; the last one ends with the text."""
    reads = sliding_reads(len(ids) - 1, length, stride)
    return [
        loss_of(decoder, ids[begin : begin + count], ids[target])
        for target, (begin, count) in enumerate(reads, start=1)
    ]


def left_context(targets: int, most: int) -> list[int]:
    """How many tokens each target is given: a group of neighbours shares a first one; the group's last is given all."""
    group = min(targets, max(1, most // 8))
    counts = []
    for number in range(targets):
        place = number % group
        if number >= targets - targets % group:  # the last group is short: its window is as long as the others'
            place += group - targets % group
        counts.append(most - group + 1 + place)
    return counts


def context_gain(decoder, ids, targets: int, most: int) -> list[float]:
    """The loss of the last ``targets`` tokens given more than 7/8 of so many before each, and at most all of them."""
    counts = left_context(targets, most)
    assert all(7 * most / 8 < count <= most for count in counts)
    places = range(len(ids) - targets, len(ids))
    return [
        loss_of(decoder, ids[target - count : target], ids[target])
        for target, count in zip(places, counts, strict=True)
    ]


def copies(decoder, string, between) -> tuple[list[float], list[float]]:
    """The losses of a string's second copy and of its first, but for the first token of each."""
    ids = np.concatenate((string, between, string))
    second = len(string) + len(between)

    def losses(begin: int) -> list[float]:
        return [loss_of(decoder, ids[:target], ids[target]) for target in range(begin + 1, begin + len(string))]

    return losses(second), losses(0)
