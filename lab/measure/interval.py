"""A mean over documents with its confidence interval."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

FEWEST = 4  # documents; of three, the interval below covers only about 80 %


@dataclass(frozen=True)
class Interval:
    """Mean over ``documents`` documents; the true mean lies in [low, high] with the stated confidence."""

    mean: float
    low: float
    high: float
    documents: int


def document_interval(
    values: Sequence[float], resamples: int = 10_000, confidence: float = 0.95, seed: int = 0
) -> Interval:
    """Studentised (bootstrap-t) interval over documents (Efron and Tibshirani 1993, section 12.5).

    Each resample's deviation is measured in its own standard errors. With 11 documents and a nominal 95 %, this covers
    the true mean in about 96 % of normal samples, 94 % of exponential and 91 % of lognormal ones; a percentile interval
    in 93, 85 and 83 %.

    Args:
        values: one number a document, the mean over its segments.
        resamples: drawn, each of as many documents as there are, with replacement.

    Returns:
        low and high are nan for fewer than four documents, or if a value is not finite: the spread cannot be told.
        Documents that are all equal (two or more) give an interval of no width.
    """
    sample = np.asarray(values, dtype=np.float64)
    count, mean = len(sample), float(sample.mean())
    if count > 1 and np.ptp(sample) == 0:
        return Interval(mean, mean, mean, count)
    if count < FEWEST or not np.isfinite(sample).all():
        return Interval(mean, float("nan"), float("nan"), count)
    error = sample.std(ddof=1) / np.sqrt(count)
    drawn = sample[np.random.default_rng(seed).integers(0, count, (resamples, count))]
    errors = drawn.std(axis=1, ddof=1) / np.sqrt(count)
    # A resample of one document repeated has no spread of its own and says nothing.
    spread = np.ptp(drawn, axis=1) > 0
    deviations = (drawn.mean(axis=1)[spread] - mean) / errors[spread]
    lower, upper = np.quantile(deviations, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Interval(mean, float(mean - upper * error), float(mean - lower * error), count)
