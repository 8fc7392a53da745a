"""A mean over documents with its confidence interval."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

FEWEST = 4  # documents; of three, the interval below covers only about 80 %


@dataclass(frozen=True)
class Interval:
    """Mean over ``documents`` documents; the true mean lies in [low, high] with the stated confidence.

    ``p_value`` is that of a true mean of 0 (two-sided): below 1 - confidence where the interval leaves out 0, but for
    an end so near 0 that one or two resamples decide.
    """

    mean: float
    low: float
    high: float
    documents: int
    p_value: float = float("nan")


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
        low, high and p_value are nan for fewer than four documents, or if a value is not finite: the spread cannot be
        told. Documents that are all equal (two or more) give an interval of no width, and the p-value of a sign test.
    """
    sample = np.asarray(values, dtype=np.float64)
    count, mean = len(sample), float(sample.mean())
    if count > 1 and np.ptp(sample) == 0:
        return Interval(mean, mean, mean, count, sign_test(mean, count))
    if count < FEWEST or not np.isfinite(sample).all():
        return Interval(mean, float("nan"), float("nan"), count)
    error = float(sample.std(ddof=1) / np.sqrt(count))
    drawn = deviations(sample[None], np.random.default_rng(seed).integers(0, count, (resamples, count)))[0]
    drawn = drawn[np.isfinite(drawn)]
    lower, upper = np.quantile(drawn, [(1 - confidence) / 2, (1 + confidence) / 2])
    beyond = min(int((drawn >= mean / error).sum()), int((drawn <= mean / error).sum()))
    p_value = min(1.0, 2 * (beyond + 1) / (len(drawn) + 1))
    return Interval(mean, float(mean - upper * error), float(mean - lower * error), count, p_value)


def sign_test(mean: float, count: int) -> float:
    """Two-sided p-value of ``count`` equal numbers under as many chances of either sign."""
    return 1.0 if mean == 0 else min(1.0, 2.0 ** (1 - count))


def deviations(
    samples: Float[np.ndarray, "samples count"], chosen: Float[np.ndarray, "resamples count"]
) -> Float[np.ndarray, "samples resamples"]:
    """Of each resample of each sample, how far its mean is from the sample's, in the resample's standard errors.

    nan for a resample of one value repeated: it has no spread of its own and says nothing.
    """
    drawn = samples[:, chosen]
    count = samples.shape[1]
    means = drawn.mean(axis=2)
    repeated = (drawn == drawn[:, :, :1]).all(axis=2)
    drawn -= means[:, :, None]  # in place: these arrays are the largest there are
    errors = np.sqrt(np.einsum("src,src->sr", drawn, drawn) / (count - 1) / count)
    errors[repeated] = np.nan
    return (means - samples.mean(axis=1, keepdims=True)) / errors
