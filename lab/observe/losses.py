"""Losses of tokens given what stands before them, at the least cost: the head is applied where a loss is asked for."""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from lab.model.decoder import Decoder
from lab.observe.measure import Ids


def losses_in_one_pass(decoder: Decoder, tokens: Int[Tensor, "length_plus_one"]) -> Float[Tensor, "length"]:
    """Loss in nats of each token given all before it; entry p is predicted from position p.

    The head is applied a stretch at a time: logits of all positions would be the largest tensor of all.
    """
    return decoder.next_token_losses(decoder.hidden(tokens[None, :-1]), tokens[None, 1:])[0]


def losses_of_windows(
    decoder: Decoder, tokens: Int[Tensor, "all"], starts: Sequence[int], length: int, scored: int, batch_tokens: int
) -> Float[Tensor, "windows scored"]:
    """Losses in nats of the last ``scored`` predictions of windows, each read by itself from position 0.

    The window at ``start`` reads tokens [start, start + length); its last prediction is of token start + length.

    Args:
        batch_tokens: windows are read together up to so many tokens.
    """
    losses = []
    size = max(1, batch_tokens // length)
    for first in range(0, len(starts), size):
        windows = torch.stack([tokens[start : start + length + 1] for start in starts[first : first + size]])
        hidden = decoder.hidden(windows[:, :-1])[:, length - scored :]
        losses.append(decoder.next_token_losses(hidden, windows[:, length - scored + 1 :]))
    return torch.cat(losses)


GRAIN = 8  # targets of one window differ by less than this part of its length in what they are given


def losses_with_context(
    decoder: Decoder, tokens: Int[Tensor, "all"], first: int, stop: int, given: int, batch_tokens: int
) -> Float[Tensor, "targets"]:
    """Losses in nats of the tokens [first, stop), each given more than 7/8 of ``given`` tokens before it, at most all.

    Windows of ``given`` tokens are read from position 0, so no token is predicted from a position beyond given - 1;
    of each the last eighth is scored (of fewer than 16 tokens the last position alone).

    Args:
        first: at least ``given`` minus :func:`grain` plus 1.
    """
    group = grain(given, stop - first)
    # The last window may reach back over targets that are scored already: those are left out.
    stops = [*range(first + group, stop, group), stop]
    starts = [each - 1 - given for each in stops]
    losses = losses_of_windows(decoder, tokens, starts, given, group, batch_tokens)
    fresh = (stop - first - 1) % group + 1
    return torch.cat((losses[:-1].flatten(), losses[-1, group - fresh :]))


def grain(given: int, targets: int) -> int:
    """How many of ``targets`` tokens are scored in one window of ``given`` tokens."""
    return max(1, min(targets, given // GRAIN))


def observed(losses: Float[Tensor, "tokens"]) -> dict[str, float | int]:
    """The columns ``tokens`` and ``loss_nats`` of some losses; their mean is formed in float64."""
    return {"tokens": losses.numel(), "loss_nats": losses.double().mean().item()}


def on_device(ids: Ids, decoder: Decoder) -> Int[Tensor, "tokens"]:
    """Token ids where the decoder is."""
    return torch.from_numpy(ids.astype(np.int64)).to(decoder.embedding.device)
