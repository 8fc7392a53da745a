"""From observations to quantities: what is compared, one number a document."""

import math
from collections import defaultdict
from collections.abc import Iterable
from typing import NamedTuple

from lab.measure.interval import Interval, document_interval
from lab.measure.measure import Row
from lab.measure.passkey import largest_distance, passkey_context

MARGIN_NATS = 0.1  # by which a loss may exceed that at context C before the context counts as too long


class Quantity(NamedTuple):
    """A measure at a length in tokens: see :data:`LENGTH_IS`."""

    measure: str
    length_tokens: int


# What the length of a quantity is.
LENGTH_IS = {
    "loss_by_position": "end of a range of positions: [0, C), [C, 2C), [2C, 4C), ...",
    "excess": "the whole prefix; targets are its second half",
    "truncated_perplexity": "first tokens of the document",
    "sliding_perplexity": "window",
    "context_gain": "left context",
    "copy": "distance of the copies",
    "passkey": "prompt; the number is the share of keys not found",
}


def quantities(rows: Iterable[Row], context: int) -> dict[Quantity, dict[str, float]]:
    """Each document's number for each quantity, token-weighted over its segments; lower is better for all.

    Losses in nats per token; of passkeys the share that was not found, a place in a prompt being a document. Sliding
    windows read documents of many lengths, and their mean weighs each token alike: see :func:`weighed`.
    """
    sums: dict[Quantity, dict[str, list[float]]] = defaultdict(lambda: defaultdict(lambda: [0.0, 0.0]))
    for row in rows:
        measure = row["measure"]
        if measure not in LENGTH_IS:
            continue
        if measure == "passkey":
            value, weight, length = 1.0 - row["correct"], 1, row["length_tokens"]
        else:
            value, weight = row["loss_nats"], row["tokens"]
            length = row["distance_tokens"] if measure == "copy" else row["length_tokens"]
        if measure == "loss_by_position":
            length = range_end(row["stop_position"], context, length)
        entry = sums[Quantity(measure, length)][row["document"]]
        entry[0] += weight * value
        entry[1] += weight
    order = list(LENGTH_IS)
    found = {}
    for quantity in sorted(sums, key=lambda each: (order.index(each.measure), each.length_tokens)):
        values = {name: total / weight for name, (total, weight) in sums[quantity].items()}
        if quantity.measure == "sliding_perplexity":
            values = weighed(values, {name: weight for name, (_, weight) in sums[quantity].items()})
        found[quantity] = values
    return found


def weighed(values: dict[str, float], weights: dict[str, float]) -> dict[str, float]:
    """Numbers whose plain mean is the weighted mean of ``values``, and whose spread is that of such a mean.

    The mean m plus (value - m) weight / (mean weight): the linearised ratio estimator (Cochran 1977, section 6.3).
    Differences of two such sets are those of their differences.
    """
    heaviness = sum(weights.values()) / len(weights)
    mean = sum(values[name] * weights[name] for name in values) / (heaviness * len(values))
    return {name: mean + (value - mean) * weights[name] / heaviness for name, value in values.items()}


def range_start(end: int, context: int) -> int:
    """The start of the range of positions that ends with ``end``: see :func:`range_end`."""
    start = 0
    while range_end(start + 1, context, end) < end:
        start = range_end(start + 1, context, end)
    return start


def length_text(measure: str, length: int, context: int) -> str:
    """The length of a quantity as it is shown; of positions their range."""
    return f"{range_start(length, context):,} to {length:,}" if measure == "loss_by_position" else f"{length:,}"


def range_end(stop: int, context: int, longest: int) -> int:
    """The end of the range [0, C), [C, 2C), [2C, 4C), ... that ends with ``longest`` in which a bin lies."""
    end = context
    while end < stop:
        end = min(2 * end, longest)
    return end


class EffectiveContext(NamedTuple):
    """In tokens. The curve's mean stays within the margin up to ``tokens``; the true one surely up to ``low`` and at
    most up to ``high`` (95 % intervals of each point). ``longest`` is the longest that was tried."""

    tokens: int
    low: int
    high: int
    longest: int
    documents: int

    @property
    def told(self) -> tuple[str, str, str]:
        """``tokens``, ``low`` and ``high`` as they are shown; beyond the longest that was tried nobody knows."""
        tokens, low, high = (
            f"{value:,} or more" if value == self.longest else f"{value:,}"
            for value in (self.tokens, self.low, self.high)
        )
        return tokens, low, high


def effective_context(rows: Iterable[Row], context: int, margin: float = MARGIN_NATS) -> EffectiveContext | None:
    """The longest left context up to which the loss is not worse than at context C by more than a margin in nats.

    Paired: the same targets with c and with C tokens of left context, c = C, 2 C, 4 C, ...; it ends before the first
    c that is worse. None if there are no rows of ``context_gain`` at C.
    """
    curve = {key.length_tokens: values for key, values in quantities(rows, context).items() if key[0] == "context_gain"}
    if context not in curve:
        return None
    reached = {"tokens": context, "low": context, "high": context}
    going = dict.fromkeys(reached, True)
    longer = sorted(length for length in curve if length > context)
    for length in longer:
        gap: Interval = document_interval([curve[length][name] - curve[context][name] for name in curve[length]])
        for key, value in (("tokens", gap.mean), ("low", gap.high), ("high", gap.low)):
            # Without an interval nothing is sure: low stays, high goes on.
            within = value <= margin if value == value else key == "high"
            going[key] = going[key] and within
            if going[key]:
                reached[key] = length
    return EffectiveContext(**reached, longest=max([context, *longer]), documents=len(curve[context]))


UNITS = {"passkey": "keys not found", "truncated_perplexity": "perplexity", "sliding_perplexity": "perplexity"}


def overview(rows: list[Row], context: int) -> list[tuple[str, str, str, str, str]]:
    """Lines for a table: measure and unit, length, mean, interval, documents."""
    lines = []
    for quantity, values in quantities(rows, context).items():
        interval = document_interval(list(values.values()))
        unit = UNITS.get(quantity.measure, "nats")
        bounds = (interval.mean, interval.low, interval.high)
        mean, low, high = (math.exp(min(value, 700.0)) if unit == "perplexity" else value for value in bounds)
        form = ".1f" if unit == "perplexity" else ".3f"
        between = f"{low:{form}} to {high:{form}}" if low == low else "not known"
        lines.append(
            (
                f"{quantity.measure} ({unit})",
                length_text(quantity.measure, quantity.length_tokens, context),
                f"{mean:{form}}",
                "all equal" if low == high else between,
                str(interval.documents),
            )
        )
    keys = [row for row in rows if row["measure"] == "passkey"]
    for length in sorted({row["length_tokens"] for row in keys}):
        distance = largest_distance(keys, length)
        lines.append(("passkey k_max (PI: 20 %)", f"{length:,}", f"{distance:,}", "", ""))
    if keys:
        lines.append(("passkey context (YaRN: 80 %)", "", f"{passkey_context(keys):,}", "", ""))
    effective = effective_context(rows, context)
    if effective is not None:
        tokens, least, most = effective.told
        between = least if least == most else f"{least} to {most}"
        lines.append(("effective context (tokens)", "", tokens, between, str(effective.documents)))
    return lines
