"""Does a decoder hold beyond its context C? Two readings of the same held-out documents.

``loss_by_position``: one pass over 8 C tokens gives the loss at every position.

``excess``: the same target tokens, those predicted from positions 4 C to 8 C, scored twice: given the whole prefix,
and given only the last C/2 to C tokens, restarted at position 0. The difference is what the far context costs (or
gains); text that gets harder towards its end cancels out.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int, UInt32
from torch import Tensor

from lab.errors import UserError
from lab.model.decoder import Decoder

Row = dict[str, Any]
Documents = Iterable[tuple[str, UInt32[np.ndarray, "tokens"]]]
LENGTH = 8  # contexts scored in one pass
FROM = 4  # the excess is taken over positions FROM * C to LENGTH * C


def segment_starts(tokens: int, length: int, segments: int) -> list[int]:
    """Starts of at most ``segments`` stretches of ``length`` tokens, disjoint, spread from the first to the last."""
    count = min(segments, tokens // length)
    if count < 2:
        return [0] * count
    return [index * (tokens - length) // (count - 1) for index in range(count)]


def losses_in_one_pass(decoder: Decoder, tokens: Int[Tensor, "length_plus_one"]) -> Float[Tensor, "length"]:
    """Loss in nats of each token given all before it; entry p is predicted from position p.

    The head is applied a stretch at a time: logits of all 8 C positions would be the largest tensor of all.
    """
    return decoder.next_token_losses(decoder.hidden(tokens[None, :-1]), tokens[None, 1:])[0]


def losses_restarted(decoder: Decoder, tokens: Int[Tensor, "length_plus_one"], context: int) -> Float[Tensor, "scored"]:
    """Losses of the targets of positions 4 C to 8 C, each given the last C/2 + 1 to C tokens, from position 0.

    Windows of C tokens start every C/2; of each the second half is scored, so each target counts once.
    """
    half = context // 2
    starts = range(FROM * context - half, LENGTH * context - half, half)
    windows = torch.stack([tokens[start : start + context + 1] for start in starts])
    hidden = decoder.hidden(windows[:, :-1])[:, half:]
    return decoder.next_token_losses(hidden, windows[:, half + 1 :]).flatten()


@torch.inference_mode()
def score(
    decoder: Decoder,
    documents: Documents,
    context: int,
    segments: int,
    bin_tokens: int,
    count: int | None = None,
    progress: Callable[[str], None] = lambda document: None,
) -> list[Row]:
    """Rows of ``scores.csv``: measure, document, segment, start_position, stop_position, tokens, loss_nats.

    ``loss_by_position`` in bins of ``bin_tokens`` positions; ``whole_prefix``, ``restarted`` and their difference
    ``excess`` over positions [4 C, 8 C). Documents of at least 8 C + 1 tokens give up to ``segments`` segments.
    Positions count from 0, the segment's first token; that of a loss is the position of the token it is predicted
    from, and ``stop_position`` is not included.

    Args:
        documents: names, each once, and token ids.
        context: C, even.
        bin_tokens: divides C, so that no bin lies across the edge of the window.
        count: score the first so many documents that are long enough; None: all.
        progress: called with each document's name before it is scored.

    Raises:
        UserError: ``context``, ``segments`` or ``bin_tokens`` does not fit; no document is long enough (names the
            longest).
    """
    if context < 2 or context % 2:
        raise UserError(f"scale.context is {context}: the measure restarts at C / 2 and needs an even one")
    if segments < 1:
        raise UserError(f"measure.segments is {segments}: give 1 or more")
    if bin_tokens < 1 or context % bin_tokens:
        raise UserError(f"measure.bin_tokens is {bin_tokens}: it must divide scale.context = {context}")
    decoder.eval()
    device = decoder.embedding.device
    needed = LENGTH * context + 1
    rows: list[Row] = []
    for name, ids in long_enough(documents, context, count):
        progress(name)
        for number, start in enumerate(segment_starts(len(ids), needed, segments)):
            tokens = torch.from_numpy(ids[start : start + needed].astype(np.int64)).to(device)
            place = {"document": name, "segment": number}
            rows += segment_rows(decoder, tokens, context, bin_tokens, place)
    return rows


def long_enough(
    documents: Documents, context: int, count: int | None = None
) -> Iterator[tuple[str, UInt32[np.ndarray, "tokens"]]]:
    """The first ``count`` documents (None: all) with the 8 C + 1 tokens that are scored.

    Raises:
        UserError: there is none; names the longest.
    """
    needed = LENGTH * context + 1
    longest = ("none", 0)
    found = 0
    for name, tokens in documents:
        longest = max(longest, (name, len(tokens)), key=lambda entry: entry[1])
        if len(tokens) >= needed:
            yield name, tokens
            found += 1
            if found == count:
                return
    if not found:
        raise UserError(
            f"no held-out document has the {needed} tokens (8 C + 1) that are scored; the longest, {longest[0]}, has "
            f"{longest[1]}; lower scale.context, give longer documents, or set measure=none"
        )


def segment_rows(
    decoder: Decoder, tokens: Tensor, context: int, bin_tokens: int, place: dict[str, Any]
) -> Iterator[Row]:
    """The rows of one segment of 8 C + 1 tokens."""
    whole = losses_in_one_pass(decoder, tokens).cpu().double()
    for start in range(0, LENGTH * context, bin_tokens):
        yield row("loss_by_position", place, start, whole[start : start + bin_tokens])
    far = whole[FROM * context :]
    restarted = losses_restarted(decoder, tokens, context).cpu().double()
    for measure, losses in (("whole_prefix", far), ("restarted", restarted), ("excess", far - restarted)):
        yield row(measure, place, FROM * context, losses)


def row(measure: str, place: dict[str, Any], start: int, losses: Float[Tensor, "tokens"]) -> Row:
    """The mean of losses that lie side by side from position ``start`` on."""
    return {
        "measure": measure,
        **place,
        "start_position": start,
        "stop_position": start + len(losses),
        "tokens": len(losses),
        "loss_nats": losses.mean().item(),
    }
