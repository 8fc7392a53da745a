"""A mean with its interval: over clusters of documents, and over seeds, as crossed random effects.

A cluster is what documents are alike in, their author where one is known: its value is the mean of its documents, and
it is clusters, not documents, that are drawn. An interval over both effects speaks of other seeds and other authors;
one at fixed seeds speaks of the very runs that were made, and whoever shows it has to say so.
"""

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from scipy.special import stdtr, stdtrit  # of Student's t: scipy.stats takes a second to load

LEVEL = 0.05  # of two-sided tests; intervals are of 95 %
COVERED = 0.93  # of simulated samples that the interval covers at least, widened where it would not
FEWEST_CLUSTERS = 6
FEWEST_SEEDS = 5
SAMPLES = 4000  # simulated of each case


@dataclass(frozen=True)
class Interval:
    """A mean over clusters, and its 95 % interval [low, high], with the p-value of a true mean of 0 (two-sided).

    low, high and p_value are nan where nothing can be told. ``documents``: of each cluster; ``seeds``: runs;
    ``over_seeds``: whether the interval is over them too, or holds them fixed.
    """

    mean: float
    low: float
    high: float
    p_value: float
    documents: tuple[int, ...]
    seeds: int
    over_seeds: bool

    @property
    def clusters(self) -> int:
        return len(self.documents)

    @property
    def known(self) -> bool:
        return self.low == self.low


class Widening(NamedTuple):
    """By what factor Student's interval is widened, and what share of simulated samples it covers then."""

    factor: float
    coverage: float


def mean_interval(
    values: Float[np.ndarray, "seeds clusters"], documents: Sequence[int], over_seeds: bool | None = None
) -> Interval:
    """The mean of a table with its interval.

    Over clusters alone: Student's interval of the clusters' means over the seeds. Over both: that of a two-way layout.
    Every seed scores the same documents, so the variance of the mean is (MS_seeds + MS_clusters - MS_rest) / (seeds x
    clusters), and where the rest outweighs them, that of the larger effect alone; its degrees of freedom are
    Satterthwaite's (1946), and no fewer than the fewer of the two effects': of few clusters and much rest they would
    fall towards none. Both are widened as :func:`widening` says.

    Args:
        documents: how many each cluster has.
        over_seeds: None: over both, from FEWEST_SEEDS seeds on.

    Returns:
        low, high and p_value are nan for fewer than FEWEST_CLUSTERS clusters, fewer than FEWEST_SEEDS seeds if it is to
        be over them, or a value that is not finite. Values that are all equal give an interval of no width, and the
        p-value of a sign test.
    """
    table = np.asarray(values, dtype=np.float64)
    seeds, clusters = table.shape
    over_seeds = seeds >= FEWEST_SEEDS if over_seeds is None else over_seeds
    mean = float(table.mean())
    told = (tuple(documents), seeds, over_seeds)
    if clusters < FEWEST_CLUSTERS or (over_seeds and seeds < FEWEST_SEEDS) or not np.isfinite(table).all():
        nothing = float("nan")
        return Interval(mean, nothing, nothing, nothing, *told)
    if np.ptp(table) == 0:
        return Interval(mean, mean, mean, 1.0 if mean == 0 else 2.0 ** (1 - clusters), *told)
    error, freedom = errors(table[None] if over_seeds else table.mean(axis=0)[None, None])
    width = error[0] * widening(seeds if over_seeds else 1, tuple(sorted(documents))).factor
    if width == 0:  # seeds apart, every cluster's mean is the same
        return Interval(mean, mean, mean, 1.0 if mean == 0 else 2.0 ** (1 - clusters), *told)
    half = float(stdtrit(freedom[0], 1 - LEVEL / 2) * width)
    return Interval(mean, mean - half, mean + half, float(2 * stdtr(freedom[0], -abs(mean) / width)), *told)


def seeds_interval(values: Float[np.ndarray, "seeds"]) -> Interval:
    """The mean over seeds of a number that is of no document, with Student's interval from FEWEST_SEEDS seeds on.

    low, high and p_value are nan for fewer, or a value that is not finite; ``documents`` is empty.
    """
    mean, seeds = float(values.mean()), len(values)
    if seeds < FEWEST_SEEDS or not np.isfinite(values).all():
        return Interval(mean, float("nan"), float("nan"), float("nan"), (), seeds, True)
    low, high = students(values)
    assert low is not None
    assert high is not None
    if np.ptp(values) > 0:
        p_value = float(2 * stdtr(seeds - 1, -abs(mean) / (values.std(ddof=1) / np.sqrt(seeds))))
    else:
        p_value = float(mean == 0)
    return Interval(mean, low, high, p_value, (), seeds, True)


def students(values: Float[np.ndarray, "runs"]) -> tuple[float | None, float | None]:
    """Student's 95 % interval of the mean of runs, which supposes that they are normal: so few do not tell whether they
    are. None, None for fewer than three."""
    if len(values) < 3:
        return None, None
    half = float(stdtrit(len(values) - 1, 1 - LEVEL / 2) * values.std(ddof=1) / np.sqrt(len(values)))
    return float(values.mean()) - half, float(values.mean()) + half


def errors(
    tables: Float[np.ndarray, "samples seeds clusters"],
) -> tuple[Float[np.ndarray, "samples"], Float[np.ndarray, "samples"]]:
    """Standard error of the mean of each table, and its degrees of freedom; one seed is held fixed."""
    _, seeds, clusters = tables.shape
    by_cluster = tables.mean(axis=1)
    if seeds == 1:
        return by_cluster.std(axis=1, ddof=1) / np.sqrt(clusters), np.full(len(tables), clusters - 1.0)
    mean, by_seed = tables.mean(axis=(1, 2)), tables.mean(axis=2)
    rest = tables - by_seed[:, :, None] - by_cluster[:, None, :] + mean[:, None, None]
    freedoms = np.array([seeds - 1, clusters - 1, (seeds - 1) * (clusters - 1)])
    sums = np.stack(
        [
            clusters * ((by_seed - mean[:, None]) ** 2).sum(axis=1),
            seeds * ((by_cluster - mean[:, None]) ** 2).sum(axis=1),
            (rest**2).sum(axis=(1, 2)),
        ]
    )
    parts = sums / freedoms[:, None] / (seeds * clusters)
    variance = np.maximum(parts[0] + parts[1] - parts[2], np.maximum(parts[0], parts[1]))
    with np.errstate(divide="ignore", invalid="ignore"):
        freedom = variance**2 / (parts**2 / freedoms[:, None]).sum(axis=0)
    return np.sqrt(variance), np.maximum(np.nan_to_num(freedom, nan=freedoms.min()), freedoms.min())


@functools.cache
def widening(seeds: int, documents: tuple[int, ...]) -> Widening:
    """The widening of the interval of a design, by simulation of samples whose truth is known.

    A document's value is the sum of a seed's effect, its cluster's, its own, and what seed and cluster have in common.
    All are normal, or Student's with 3 degrees of freedom (heavy tails), or exponential (skewed); of the variance of
    documents 0, 25 or 50 % is their clusters'; seeds vary by 0, half as much or four times as much. The factor is the
    least, 1 or more, by which at least COVERED of the samples of every such case are covered. The same every time; the
    standard error of a coverage is 0.4 percentage points.
    """
    draw = np.random.default_rng([seeds, *documents])
    clusters, sizes = len(documents), np.array(documents)
    beyond = []  # of each case, the samples' deviations in half-widths of Student's interval
    for kind in ("normal", "student", "exponential"):
        for share in (0.0, 0.25, 0.5):
            for of_seeds in (0.0, 0.5, 4.0) if seeds > 1 else (0.0,):
                own = np.sqrt(1 - share) * _effects(draw, kind, (SAMPLES, 1, int(sizes.sum())))
                starts = np.concatenate(([0], np.cumsum(sizes)[:-1]))
                tables = np.add.reduceat(own, starts, axis=2) / sizes
                tables = tables + np.sqrt(share) * _effects(draw, kind, (SAMPLES, 1, clusters))
                tables = tables + np.sqrt(of_seeds) * _effects(draw, kind, (SAMPLES, seeds, 1))
                if seeds > 1:
                    tables = tables + 0.5 * _effects(draw, kind, (SAMPLES, seeds, clusters))
                error, freedom = errors(tables)
                half = stdtrit(freedom, 1 - LEVEL / 2) * error
                beyond.append(np.abs(tables.mean(axis=(1, 2))) / half)
    factor = max(1.0, *(float(np.quantile(each, COVERED)) for each in beyond))
    return Widening(factor, min(float((each <= factor).mean()) for each in beyond))


def _effects(draw: np.random.Generator, kind: str, shape: tuple[int, ...]) -> np.ndarray:
    """Draws of mean 0 and variance 1."""
    if kind == "normal":
        return draw.standard_normal(shape)
    if kind == "student":
        return draw.standard_t(3, shape) / np.sqrt(3)
    return draw.standard_exponential(shape) - 1
