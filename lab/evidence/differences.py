"""Is a difference between two variants real? Paired differences, corrected for their number, in one sentence."""

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from scipy import stats

from lab.base.errors import UserError
from lab.evidence.interval import FEWEST, Interval, deviations, document_interval, sign_test

LEVEL = 0.05


@dataclass(frozen=True)
class Difference:
    """Mean of variant minus reference over ``documents`` documents, with a 95 % interval and a two-sided p-value.

    Interval and p-value are nan where they cannot be told. ``seeds``: runs of each of the two.
    """

    mean: float
    low: float
    high: float
    p_value: float
    documents: int
    seeds: int = 1


def document_difference(
    variant: Mapping[str, float], reference: Mapping[str, float], resamples: int = 10_000
) -> Difference:
    """Paired over the same documents: the interval of :func:`lab.evidence.interval.document_interval`.

    Raises:
        UserError: the two were scored on different documents; names one.
    """
    other = variant.keys() ^ reference.keys()
    if other:
        raise UserError(f"{min(other)} was scored for one of two variants only; score both on the same documents")
    names = sorted(variant)
    interval: Interval = document_interval([variant[name] - reference[name] for name in names], resamples)
    return Difference(interval.mean, interval.low, interval.high, interval.p_value, interval.documents)


def hierarchical_difference(
    variant: Float[np.ndarray, "seeds documents"], reference: Float[np.ndarray, "seeds documents"]
) -> Difference:
    """Paired by seed and document, for other seeds and other documents: Student's interval of a two-way layout.

    Every seed scores the same documents: seeds and documents are crossed random effects. The variance of the mean is
    (MS_seeds + MS_documents - MS_rest) / (seeds x documents), and where the rest outweighs them, that of the larger
    effect alone; its degrees of freedom are Satterthwaite's (1946), and no fewer than the fewer of the two effects': of
    few documents and much rest they would fall towards none, and the interval hold everything. With 5 seeds, 40
    documents and a nominal 95 % it covers the true mean in 94 to 95 % of normal samples, whichever effect is the larger
    (98 % if neither outweighs the rest), in 93 % with exponential documents, and in 88 % where exponential seeds
    outweigh all else.

    Raises:
        ValueError: fewer than two seeds or documents, or two shapes.
    """
    if variant.shape != reference.shape or variant.ndim != 2 or min(variant.shape) < 2:
        raise ValueError(f"shapes {variant.shape} and {reference.shape}: two equal ones of 2 x 2 or more are needed")
    table = np.asarray(variant, dtype=np.float64) - np.asarray(reference, dtype=np.float64)
    seeds, documents = table.shape
    mean = float(table.mean())
    if np.ptp(table) == 0:
        return Difference(mean, mean, mean, sign_test(mean, documents), documents, seeds)
    if not np.isfinite(table).all():
        return Difference(mean, float("nan"), float("nan"), float("nan"), documents, seeds)
    by_seed, by_document = table.mean(axis=1), table.mean(axis=0)
    rest = table - by_seed[:, None] - by_document[None, :] + mean
    freedoms = np.array([seeds - 1, documents - 1, (seeds - 1) * (documents - 1)])
    sums = np.array(
        [documents * ((by_seed - mean) ** 2).sum(), seeds * ((by_document - mean) ** 2).sum(), (rest**2).sum()]
    )
    parts = sums / freedoms / table.size
    variance = max(parts[0] + parts[1] - parts[2], parts[0], parts[1])
    freedom = max(variance**2 / (parts**2 / freedoms).sum(), freedoms.min())
    error = np.sqrt(variance)
    half = float(stats.t.ppf(1 - LEVEL / 2, freedom) * error)
    p_value = float(2 * stats.t.sf(abs(mean) / error, freedom))
    return Difference(mean, mean - half, mean + half, p_value, documents, seeds)


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values corrected for a family (Holm 1979): the k-th smallest of m times m - k + 1, none below one before it.

    What is nan stays nan and does not count in the family.
    """
    known = sorted((p_value, index) for index, p_value in enumerate(p_values) if p_value == p_value)
    corrected = [float("nan")] * len(p_values)
    largest = 0.0
    for rank, (p_value, index) in enumerate(known):
        largest = max(largest, min(1.0, p_value * (len(known) - rank)))
        corrected[index] = largest
    return corrected


def verdict(difference: Difference, p_holm: float, name: str, reference: str, unit: str = "nats") -> str:
    """One sentence: better, worse, no difference larger than x, or too few documents to tell. Lower is better.

    Better or worse needs a corrected p-value below 0.05 and an interval without 0; otherwise x is the far end of the
    interval. Documents that are all equal say so. Fewer than four tell nothing, however equal they are and however many
    the seeds.
    """
    low, high, mean = difference.low, difference.high, difference.mean
    if difference.documents < FEWEST or not np.isfinite([low, high, p_holm]).all():
        return f"{name} and {reference}: too few documents to tell ({difference.documents})"
    if low == high == 0:  # which bounds no difference: of eight keys that nobody finds there is none
        return f"{name} and {reference}: equal in each of {difference.documents} documents"
    if p_holm < LEVEL and low * high > 0:
        what = "better" if mean < 0 else "worse"
        nearest, farthest = sorted((abs(low), abs(high)))
        return f"{name} is {what} than {reference} by {abs(mean):.3f} {unit} ({nearest:.3f} to {farthest:.3f})"
    return f"{name} and {reference}: no difference larger than {max(abs(low), abs(high)):.3f} {unit}"


@dataclass(frozen=True)
class NoiseFloor:
    """How far runs of one variant lie apart that differ in their seed alone: means over documents."""

    largest: float
    mean: float
    deviation: float


def noise_floor(values: Float[np.ndarray, "seeds documents"]) -> NoiseFloor:
    """Largest and mean difference of two seeds, and the standard deviation over seeds; nan for one seed."""
    means = values.mean(axis=1)
    first, second = np.triu_indices(len(means), k=1)
    gaps = np.abs(means[first] - means[second])
    if not gaps.size:
        return NoiseFloor(*[float("nan")] * 3)
    return NoiseFloor(float(gaps.max()), float(gaps.mean()), float(means.std(ddof=1)))


@functools.cache
def coverage(documents: int, samples: int = 1000, resamples: int = 1000) -> float:
    """How often :func:`document_interval` covers the true mean at this number of documents; its nominal is 95 %.

    Measured on synthetic samples with known truth, normal and exponential; the lower of the two. The same every time;
    its own standard error is below 0.9 percentage points.
    """
    draw = np.random.default_rng(documents)
    chosen = draw.integers(0, documents, (resamples, documents))
    found = []
    for values, truth in (
        (draw.standard_normal((samples, documents)), 0.0),
        (draw.standard_exponential((samples, documents)), 1.0),
    ):
        covered = 0
        for part in np.array_split(values, 20):  # memory for a part at a time
            drawn = deviations(part, chosen)
            lower, upper = np.nanquantile(drawn, [LEVEL / 2, 1 - LEVEL / 2], axis=1)
            means, errors = part.mean(axis=1), part.std(axis=1, ddof=1) / np.sqrt(documents)
            covered += int(((means - upper * errors <= truth) & (truth <= means - lower * errors)).sum())
        found.append(covered / samples)
    return min(found)
