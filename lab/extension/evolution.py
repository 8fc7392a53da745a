"""LongRoPE's search for the factors of each pair and for n-hat (Ding et al. 2024, arXiv 2402.13753, algorithm 1).

Nothing here knows decoders: candidates go out, losses come in. All draws are from one generator in one order, so that a
search that is begun again goes the same way, and asks for nothing else than before.
"""

from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

import numpy as np

from lab.base.settings import Count, Fraction, Positive, Seed, Settings, key

GRID = 0.01  # of factors
# n-hat that are tried at L = 4,096.
STARTS = (0, 1, 2, 4, 8, 12, 16, 20, 24, 28, 32, 64, 128, 256)
STARTS_LENGTH = 4_096


Variant = Literal["paper", "code"]


class Candidate(NamedTuple):
    """A set of factors.

    Attributes:
        steps: (lambda_i - 1) / 0.01 of each pair, whole numbers that do not fall.
        kept: n-hat.
    """

    steps: tuple[int, ...]
    kept: int = 0

    @property
    def factors(self) -> list[float]:
        """lambda_i."""
        return [round(1 + GRID * each, 2) for each in self.steps]


class Scored(NamedTuple):
    """A candidate, where it came from, and its loss."""

    generation: int
    origin: str
    candidate: Candidate
    loss: float


class Evolution(Settings):
    """How many candidates there are, and how they change.

    There are two variants. ``paper`` begins with PI, NTK and YaRN, has factors up to 1.25 s, and searches n-hat;
    ``code``, as it was released, begins with YaRN, has factors up to 1 + s and n-hat 0, and a child of two is the first
    of their factors that is new.
    """

    population: Count = key("P: candidates of the first generation (64)")
    mutants: int = key("N1: of each further generation (16)", ge=0)
    crossovers: int = key("N2: of each further generation (16)", ge=0)
    parents: Count = key("best candidates that are kept and drawn from (32)")
    probability: Fraction = key("p that a factor is drawn anew (0.3)")
    generations: int = key("T: after the first (40)", ge=0)
    tries: Count = key("at a crossover that keeps factors in order, before it becomes a mutation (20)")
    highest: Positive | None = key("of factors; null: 1.25 s, or 1 + s of the released code")
    scale_starts: bool = key("n-hat are scaled by L / 4,096, for which they were published")
    seed: Seed = key("of all draws")

    def most(self, factor: float, variant: Variant) -> int:
        """The greatest factor, in steps of the grid."""
        highest = self.highest or (1.25 * factor if variant == "paper" else 1 + factor)
        return max(0, round((highest - 1) / GRID))

    def starts(self, context: int, variant: Variant) -> list[int]:
        """The n-hat that are tried."""
        if variant == "code":
            return [0]
        share = context / STARTS_LENGTH if self.scale_starts else 1.0
        return sorted({round(each * share) for each in STARTS})

    @property
    def evaluations(self) -> int:
        """Candidates that are scored in all (1,344 as published)."""
        return self.population + self.generations * (self.mutants + self.crossovers)


def on_grid(factors: Sequence[float], most: int) -> Candidate:
    """The candidate nearest to factors, whose order they have."""
    steps = np.clip(np.round((np.asarray(factors, dtype=np.float64) - 1) / GRID), 0, most).astype(int)
    return Candidate(tuple(int(each) for each in np.maximum.accumulate(steps)))


def evolve(
    settings: Evolution,
    variant: Variant,
    seeds: Sequence[Candidate],
    most: int,
    starts: Sequence[int],
    losses_of: Callable[[int, Sequence[tuple[str, Candidate]], Sequence[Scored]], Sequence[float]],
) -> list[Scored]:
    """All candidates that were scored, generation by generation.

    Args:
        seeds: to begin with; the rest of the first generation are mutations of them.
        most: greatest step of a factor.
        starts: n-hat that may be.
        losses_of: given the number of a generation, its new candidates, each with its origin, and what was scored
            before: the losses of the new.
    """
    random = np.random.default_rng(settings.seed)
    seen: set[Candidate] = set()
    breeding = _Breeding(settings, variant, most, starts, random, seen)
    fresh = [("seed", each) for each in dict.fromkeys(seeds)][: settings.population]
    seen.update(each for _, each in fresh)
    begin = [each for _, each in fresh]
    while len(fresh) < settings.population and (made := breeding.mutant(begin)) is not None:
        fresh.append(("mutant", made))
    scored: list[Scored] = []
    for generation in range(settings.generations + 1):
        if not fresh:
            break  # there is no candidate that was not seen
        losses = losses_of(generation, fresh, scored)
        scored += [Scored(generation, *each, loss) for each, loss in zip(fresh, losses, strict=True)]
        parents = [each.candidate for each in best_of(scored, settings.parents)]
        fresh = []
        for origin, count in (("mutant", settings.mutants), ("crossover", settings.crossovers)):
            for _ in range(count):
                child = breeding.crossover(parents) if origin == "crossover" else None
                made = child or breeding.mutant(parents)
                if made is not None:
                    fresh.append((origin if child else "mutant", made))
    return scored


def best_of(scored: Sequence[Scored], count: int) -> list[Scored]:
    """The candidates of least loss, of equal ones the earlier."""
    return sorted(scored, key=lambda each: each.loss)[:count]


class _Breeding:
    """New candidates of old ones; none twice."""

    def __init__(
        self,
        settings: Evolution,
        variant: Variant,
        most: int,
        starts: Sequence[int],
        random: np.random.Generator,
        seen: set[Candidate],
    ) -> None:
        self.settings, self.variant, self.most, self.starts = settings, variant, most, starts
        self.random, self.seen = random, seen

    def mutant(self, parents: Sequence[Candidate]) -> Candidate | None:
        """Each factor is drawn anew with probability p, between its neighbours; so is n-hat. None if 1,000 tries bring
        nothing new."""
        parent = self._one(parents)
        for _ in range(1_000):
            steps = [*parent.steps]
            for place in range(len(steps)):
                if self.random.random() < self.settings.probability:
                    low = steps[place - 1] if place else 0
                    high = steps[place + 1] if place + 1 < len(steps) else self.most
                    steps[place] = int(self.random.integers(low, high + 1))
            kept = parent.kept
            if len(self.starts) > 1 and self.random.random() < self.settings.probability:
                kept = int(self.random.choice(self.starts))
            made = Candidate(tuple(steps), kept)
            if self._new(made):
                return made
            parent = self._one(parents)
        return None

    def _one(self, parents: Sequence[Candidate]) -> Candidate:
        return parents[int(self.random.integers(len(parents)))]

    def crossover(self, parents: Sequence[Candidate]) -> Candidate | None:
        """A child of two, None if none keeps its factors in order and is new."""
        for _ in range(self.settings.tries if len(parents) > 1 else 0):
            first, second = (parents[each] for each in self.random.choice(len(parents), 2, replace=False))
            made = self._released(first, second) if self.variant == "code" else self._uniform(first, second)
            if made is not None and self._new(made):
                return made
        return None

    def _uniform(self, first: Candidate, second: Candidate) -> Candidate | None:
        """Each factor is that of either parent, as likely."""
        chosen = self.random.random(len(first.steps)) < 0.5
        steps = tuple(b if other else a for a, b, other in zip(first.steps, second.steps, chosen, strict=True))
        kept = second.kept if self.random.random() < 0.5 else first.kept
        return Candidate(steps, kept) if list(steps) == sorted(steps) else None

    def _released(self, first: Candidate, second: Candidate) -> Candidate | None:
        """The first child that is in order and new, while factors of the second parent are put into the first."""
        steps = [*first.steps]
        for place in range(len(steps)):
            if self.random.random() < self.settings.probability and self.random.random() < 0.5:
                steps[place] = second.steps[place]
                if steps == sorted(steps) and Candidate(tuple(steps), first.kept) not in self.seen:
                    return Candidate(tuple(steps), first.kept)
        return None

    def _new(self, made: Candidate) -> bool:
        if made in self.seen:
            return False
        self.seen.add(made)
        return True
