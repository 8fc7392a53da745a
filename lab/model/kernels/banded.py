"""Attention in chunks of queries, each against the band of keys that it can see.

Time and memory grow with length * window, forward and backward; full attention is the band W = T, where half of
the score matrix is never formed. Nothing but matrix products and softmax, so it runs wherever torch does, and its
sums have a fixed order, so it is deterministic. On an AMD EPYC it is about twice as fast as torch's flash attention,
because each product goes to the matrix library and each tile of scores stays near the cache.

Probabilities are kept for the backward pass while they are small, and recomputed in it (Dao et al. 2022, section 3.1)
where they are not; both give the same bits.
"""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lab.model.bands import KEPT_BYTES, Band, bands, scores_formed


@dataclass(frozen=True)
class Rule:
    """What decides the scores beside queries and keys; arguments of :func:`lab.model.kernels.attend`."""

    window: int | None
    scale: float
    offset: int

    def probabilities(
        self, query: Tensor, key: Tensor, band: Band, slopes: Tensor | None, documents: Tensor | None
    ) -> Tensor:
        """Softmax of the band's scores.

        Args:
            query: [batch * kv_heads, group * chunk, head_dim].
            key: [batch * kv_heads, keys of the band, head_dim].

        Returns:
            [batch * kv_heads, group * chunk, keys of the band], in the queries' type.
        """
        chunk, keys = band.stop - band.start, band.last - band.first
        # baddbmm scales before rounding to the output's type; scaling the queries would round them once more.
        scores = torch.baddbmm(query.new_empty(1), query, key.mT, beta=0, alpha=self.scale)
        device = query.device
        if slopes is not None:
            # Distance from the chunk's last query instead of each row's own: a constant added to a row leaves
            # its softmax unchanged, and the bias becomes one number a key. It may be thousands: never in 16 bits.
            accurate = torch.promote_types(scores.dtype, torch.float32)
            distance = torch.arange(keys - 1, -1, -1, device=device, dtype=accurate)
            bias = -slopes.view(-1, 1, 1) * distance
            by_head = scores.to(accurate)
            by_head = by_head.view(-1, slopes.numel(), chunk, keys) + bias
            scores = by_head.view(scores.shape)
        rows = torch.arange(self.offset + band.start, self.offset + band.stop, device=device)[:, None]
        columns = torch.arange(band.first, band.last, device=device)
        tiles = scores.view(query.shape[0], -1, chunk, keys)
        # Only the right edge can hold keys of the future, only the left edge keys that have left the window.
        future = self.offset + band.start + 1 - band.first
        tiles[..., future:].masked_fill_(columns[future:] > rows, -math.inf)
        if self.window is not None:
            past = max(0, band.last - self.window - band.first)
            tiles[..., :past].masked_fill_(columns[:past] <= rows - self.window, -math.inf)
        if documents is not None:
            other = documents[:, rows[:, 0], None] != documents[:, None, band.first : band.last]
            scores.view(documents.shape[0], -1, chunk, keys).masked_fill_(other[:, None], -math.inf)
        return torch.softmax(scores, dim=-1).to(query.dtype)


class BandedAttention(torch.autograd.Function):
    """The band's forward and backward pass. With P the probabilities and O = P V, and dX the gradient of X:

    dV = P^T dO,   dP = dO V^T,   dS = P * (dP - rowsum(P * dP)),   dQ = scale dS K,   dK = scale dS^T Q.
    """

    @staticmethod
    def forward(
        ctx: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        slopes: Tensor | None,
        documents: Tensor | None,
        rule: Rule,
    ) -> Tensor:
        output = torch.empty_like(query)
        kept = []
        size = query.shape[0] * query.shape[1] * scores_formed(query.shape[2], rule.offset, rule.window)
        keep = any(ctx.needs_input_grad) and size * query.element_size() <= KEPT_BYTES
        for band in bands(query.shape[2], rule.offset, rule.window):
            keys, values = cut(key, band), cut(value, band)
            weights = rule.probabilities(gather(query, key, band), keys, band, slopes, documents)
            scatter(output, weights @ values, band)
            if keep:
                kept.append(weights)
        ctx.save_for_backward(query, key, value, slopes, documents, *kept)
        ctx.rule = rule
        return output

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (output_gradient,) = gradients
        query, key, value, slopes, documents, *kept = ctx.saved_tensors
        rule: Rule = ctx.rule
        accurate = torch.promote_types(key.dtype, torch.float32)
        d_query = torch.empty_like(query)
        # Each key is in several bands: its gradient is summed in float32.
        d_key = torch.zeros(key.shape, dtype=accurate, device=key.device)
        d_value = torch.zeros_like(d_key)
        for number, band in enumerate(bands(query.shape[2], rule.offset, rule.window)):
            queries, keys, values = gather(query, key, band), cut(key, band), cut(value, band)
            weights = kept[number] if kept else rule.probabilities(queries, keys, band, slopes, documents)
            d_output = gather(output_gradient, key, band)
            d_weights = d_output @ values.mT
            d_scores = torch._softmax_backward_data(d_weights, weights, -1, weights.dtype)
            scatter(d_query, d_scores @ keys * rule.scale, band)
            span = slice(band.first, band.last)
            d_key[:, :, span] += (d_scores.mT @ queries).view(*key.shape[:2], -1, key.shape[3])
            d_value[:, :, span] += (weights.mT @ d_output).view(*value.shape[:2], -1, value.shape[3])
        return d_query, (d_key * rule.scale).to(key.dtype), d_value.to(value.dtype), None, None, None


def gather(query: Tensor, key: Tensor, band: Band) -> Tensor:
    """The band's queries as [batch * kv_heads, group * chunk, head_dim]: all that share a key head, side by side."""
    return query[:, :, band.start : band.stop].reshape(key.shape[0] * key.shape[1], -1, query.shape[3])


def scatter(output: Tensor, rows: Tensor, band: Band) -> None:
    """Put rows ordered as by :func:`gather` in their place in [batch, heads, queries, head_dim]."""
    place = output[:, :, band.start : band.stop]
    place.copy_(rows.view(place.shape))


def cut(keys: Tensor, band: Band) -> Tensor:
    """The band's keys or values as [batch * kv_heads, keys, head_dim]."""
    return keys[:, :, band.first : band.last].flatten(0, 1)


def banded(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    window: int | None,
    slopes: Tensor | None,
    scale: float,
    offset: int,
    documents: Tensor | None,
) -> Tensor:
    """Arguments and result as :func:`lab.model.kernels.attend`."""
    result: Tensor = BandedAttention.apply(
        query, key, value, slopes, documents, Rule(window=window, scale=scale, offset=offset)
    )
    return result
