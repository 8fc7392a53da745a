"""Attention and its gradients, one query at a time, from the definition; numpy in float64, no lab code.

For a query at position i and a key at position j <= i that it sees (i - j < window, same document):
logit = scale * q.k - slope * (i - j); weights = softmax(logits); output = weights . values.
"""

import numpy as np


def attention_loops(
    query: np.ndarray,
    key: np.ndarray,
    value: np.ndarray,
    output_gradient: np.ndarray,
    *,
    window: int | None,
    slopes: list[float] | None,
    scale: float,
    offset: int,
    documents: list[list[int]] | None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Arrays are [batch, heads, time, head_dim]; returns output and the gradients of query, key, value."""
    batch, heads, queries, _ = query.shape
    group = heads // key.shape[1]
    output, d_query = np.zeros_like(query), np.zeros_like(query)
    d_key, d_value = np.zeros_like(key), np.zeros_like(value)
    for b in range(batch):
        for h in range(heads):
            for row in range(queries):
                i, shared = offset + row, h // group
                seen = [
                    j
                    for j in range(i + 1)
                    if (window is None or i - j < window) and (documents is None or documents[b][i] == documents[b][j])
                ]
                keys, values, q = key[b, shared, seen], value[b, shared, seen], query[b, h, row]
                logits = scale * (keys @ q)
                if slopes is not None:
                    logits = logits - slopes[h] * (i - np.array(seen, dtype=np.float64))
                weights = np.exp(logits - logits.max())
                weights = weights / weights.sum()
                output[b, h, row] = weights @ values

                incoming = output_gradient[b, h, row]
                d_weights = values @ incoming
                d_logits = weights * (d_weights - weights @ d_weights)
                d_query[b, h, row] = scale * (d_logits @ keys)
                d_key[b, shared, seen] += scale * np.outer(d_logits, q)
                d_value[b, shared, seen] += np.outer(weights, incoming)
    return output, d_query, d_key, d_value
