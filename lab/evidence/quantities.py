"""From observations to quantities: what is compared, one number a document; and to the points of curves."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from lab.base.tables import Row
from lab.evidence.interval import Interval, mean_interval
from lab.observe.measure import measure_of, measures

WHOLE = ""  # the cluster of a number that is of a run as a whole, and of no document
MARGIN_NATS = 0.1  # by which a loss may exceed that at context C before the context counts as too long


class Quantity(NamedTuple):
    """A measure at a length in tokens; what the length is, the measure says."""

    measure: str
    length_tokens: int

    def length_text(self, context: int) -> str:
        """Its length as it is shown."""
        measure = measure_of(self.measure)
        return measure.length_text(self.length_tokens, context) if measure else f"{self.length_tokens:,}"


@dataclass(frozen=True)
class Sample:
    """A quantity as one run shows it: of each cluster its number, the mean of its documents, and how many these are."""

    values: dict[str, float]
    documents: dict[str, int]


def per_document(rows: Iterable[Row], context: int) -> list[Row]:
    """Each document's number for each quantity, weighted over its segments; lower is better for all.

    Rows of measure, length_tokens, cluster, document, mean, weight: all that intervals are made from.
    """
    sums: dict[tuple[str, int, str, str], list[float]] = {}
    kinds = {measure.label(): measure for measure in measures()}
    for row in rows:
        measure = kinds.get(row["measure"])
        told = measure.compared(row, context) if measure else None
        if told is not None:
            place = (row["measure"], told.length_tokens, row["cluster"], row["document"])
            entry = sums.setdefault(place, [0.0, 0.0])
            entry[0] += told.weight * told.value
            entry[1] += told.weight
    names = ("measure", "length_tokens", "cluster", "document")
    return [
        dict(zip(names, place, strict=True)) | {"mean": total / weight, "weight": weight}
        for place, (total, weight) in sums.items()
    ]


def samples(documents: Iterable[Row]) -> dict[Quantity, Sample]:
    """Each quantity of one run, from rows of :func:`per_document`, by measure and length; those of studies last.

    A cluster's number is the mean of its documents'. That of a measure which is ``pooled`` weighs each token alike: see
    :func:`weighed`.
    """
    kinds = {measure.label(): measure for measure in measures()}
    found: dict[Quantity, list[tuple[str, float, float]]] = {}
    for row in documents:
        quantity = Quantity(row["measure"], int(row["length_tokens"]))
        found.setdefault(quantity, []).append((row["cluster"], row["mean"], row["weight"]))
    order = {label: number for number, label in enumerate(kinds)}
    return {
        quantity: sample(found[quantity], quantity.measure in kinds and kinds[quantity.measure].pooled)
        for quantity in sorted(found, key=lambda each: (order.get(each.measure, len(order)), each.length_tokens))
    }


def quantities(rows: Iterable[Row], context: int) -> dict[Quantity, Sample]:
    """Each quantity of one run, from the rows of its scores."""
    return samples(per_document(rows, context))


def sample(documents: Iterable[tuple[str, float, float]], pooled: bool) -> Sample:
    """From (cluster, number, weight) of each document to the clusters' numbers."""
    found: dict[str, list[tuple[float, float]]] = {}
    for cluster, value, weight in documents:
        found.setdefault(cluster, []).append((value, weight if pooled else 1.0))
    values = {
        cluster: float(np.average([value for value, _ in each], weights=[weight for _, weight in each]))
        for cluster, each in found.items()
    }
    if pooled:
        values = weighed(values, {cluster: sum(weight for _, weight in each) for cluster, each in found.items()})
    return Sample(values, {cluster: len(each) for cluster, each in found.items()})


def interval_of(one: Sample) -> Interval:
    """The mean of one run's sample, with an interval over clusters, in this very run."""
    return mean_interval(np.array([[*one.values.values()]]), [*one.documents.values()], over_seeds=False)


class Along(NamedTuple):
    """Where on a curve: measure, line, tokens."""

    measure: str
    line: str
    tokens: float


def points(rows: Iterable[Row]) -> dict[Along, Sample]:
    """Each point of each curve: of every cluster the mean over its documents and their segments."""
    sums: dict[Along, dict[tuple[str, str], list[tuple[float, float]]]] = {}
    curved = [measure for measure in measures() if measure.curve is not None]
    pooled = {measure.label(): measure.pooled for measure in curved}
    for row in rows:
        for measure in curved:
            point = measure.point(row)
            if point is not None:
                along = Along(measure.label(), point.line, point.tokens)
                place = (row["cluster"], row["document"])
                sums.setdefault(along, {}).setdefault(place, []).append((point.value, point.weight))
    return {
        along: sample(
            [
                (cluster, float(np.mean([value for value, _ in each])), each[-1][1])
                for (cluster, _), each in by_document.items()
            ],
            pooled[along.measure],
        )
        for along, by_document in sums.items()
    }


def curves(runs: Sequence[Sequence[Row]]) -> list[Row]:
    """The curves of a variant, from the rows of its runs, one a seed: measure, line, tokens, mean, low, high, seeds,
    over_seeds (1 if the interval is over seeds too, 0 if it is over clusters in these very runs).
    """
    found = [points(rows) for rows in runs]
    table: list[Row] = []
    for along in sorted(set().union(*found)):
        samples = [each[along] for each in found if along in each]
        interval = interval_over(samples)
        table.append(
            along._asdict()
            | {
                "mean": interval.mean,
                "low": interval.low,
                "high": interval.high,
                "seeds": len(samples),
                "over_seeds": int(interval.over_seeds),
            }
        )
    return table


def interval_over(samples: Sequence[Sample]) -> Interval:
    """The mean over seeds, a sample each, and over the clusters that all have: see :func:`mean_interval`."""
    common = [name for name in samples[0].values if all(name in each.values for each in samples)]
    table = np.array([[each.values[name] for name in common] for each in samples])
    return mean_interval(table, [samples[0].documents[name] for name in common])


def weighed(values: dict[str, float], weights: dict[str, float]) -> dict[str, float]:
    """Numbers whose plain mean is the weighted mean of ``values``, and whose spread is that of such a mean.

    The mean m plus (value - m) weight / (mean weight): the linearised ratio estimator (Cochran 1977, section 6.3).
    Differences of two such sets are those of their differences.
    """
    heaviness = sum(weights.values()) / len(weights)
    mean = sum(values[name] * weights[name] for name in values) / (heaviness * len(values))
    return {name: mean + (value - mean) * weights[name] / heaviness for name, value in values.items()}


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


def effective_contexts(
    found_of: Mapping[Quantity, Sample], context: int, margin: float = MARGIN_NATS
) -> dict[str, EffectiveContext]:
    """The effective context of a run by each measure that has the same targets at every length, and C among them."""
    curves_of: dict[str, dict[int, Sample]] = {}
    for quantity, found in found_of.items():
        kind = measure_of(quantity.measure)
        if kind is not None and kind.same_targets:
            curves_of.setdefault(quantity.measure, {})[quantity.length_tokens] = found
    return {name: _effective(curve, context, margin) for name, curve in curves_of.items() if context in curve}


def _effective(curve: Mapping[int, Sample], context: int, margin: float) -> EffectiveContext:
    """The longest left context up to which the loss is not worse than at context C by more than a margin in nats.

    Paired: the same targets with c and with C tokens of left context, c = C, 2 C, 4 C, ...; it ends before the first
    c that is worse.

    Args:
        curve: by left context in tokens, the loss in nats of every cluster.
    """
    reached = {"tokens": context, "low": context, "high": context}
    going = dict.fromkeys(reached, True)
    longer = sorted(length for length in curve if length > context)
    for length in longer:
        here, inside = curve[length], curve[context]
        gap = interval_of(
            Sample({name: here.values[name] - inside.values[name] for name in here.values}, here.documents)
        )
        for key, value in (("tokens", gap.mean), ("low", gap.high), ("high", gap.low)):
            # Without an interval nothing is sure: low stays, high goes on.
            within = value <= margin if value == value else key == "high"
            going[key] = going[key] and within
            if going[key]:
                reached[key] = length
    return EffectiveContext(
        **reached, longest=max([context, *longer]), documents=sum(curve[context].documents.values())
    )


def overview(rows: Sequence[Row], context: int) -> list[Row]:
    """The short table of a run: measure, unit, length_tokens, length_told, mean, low, high, documents, told.

    Perplexities are exponentials of mean losses. ``told`` is how the number is shown where it is none of these.
    """
    lines: list[Row] = []
    for quantity, found in quantities(rows, context).items():
        interval = interval_of(found)
        kind = measure_of(quantity.measure)
        assert kind is not None
        bounds = (interval.mean, interval.low, interval.high)
        if kind.curve is not None and kind.curve.perplexity:
            bounds = tuple(math.exp(min(value, 700.0)) for value in bounds)  # type: ignore[assignment]
        lines.append(_line(quantity.measure, kind.unit, quantity.length_tokens, quantity.length_text(context)))
        lines[-1] |= dict(zip(("mean", "low", "high"), bounds, strict=True)) | {"documents": sum(interval.documents)}
    for measure in measures():
        for title, length, number in measure.notes(rows):
            lines.append(_line(title, "", None, length) | {"told": number})
    for name, effective in effective_contexts(quantities(rows, context), context).items():
        tokens, least, most = effective.told
        between = least if least == most else f"{least} to {most}"
        lines.append(_line(f"effective context by {name}", "tokens", None, ""))
        lines[-1] |= {"told": tokens, "interval_told": between, "documents": effective.documents}
    return lines


def _line(measure: str, unit: str, length: int | None, text: str) -> Row:
    empty = dict.fromkeys(("mean", "low", "high", "documents"))
    return {
        "measure": measure,
        "unit": unit,
        "length_tokens": length,
        "length_told": text,
        **empty,
        "told": "",
        "interval_told": "",
    }
