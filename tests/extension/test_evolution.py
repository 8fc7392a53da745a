"""LongRoPE's search: what it draws, what it keeps, and that it finds."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lab.extension.evolution import GRID, STARTS, Candidate, Evolution, Scored, best_of, evolve, on_grid

PUBLISHED: dict[str, Any] = {
    "population": 64,
    "mutants": 16,
    "crossovers": 16,
    "parents": 32,
    "probability": 0.3,
    "generations": 40,
    "tries": 20,
    "highest": None,
    "scale_starts": True,
    "seed": 0,
}
PAIRS, FACTOR = 16, 8.0
SECRET = np.sort(np.random.default_rng(4).uniform(1, FACTOR, PAIRS))


def loss(candidate: Candidate) -> float:
    return float(np.square(np.log(candidate.factors) - np.log(SECRET)).mean()) + 0.001 * abs(candidate.kept - 2)


def search(variant: Any = "paper", asked: list[list[Candidate]] | None = None, **keys: Any) -> list[Scored]:
    made = Evolution(**(PUBLISHED | keys))
    most = made.most(FACTOR, variant)
    seeds = [on_grid([FACTOR] * PAIRS, most), on_grid(list(FACTOR ** np.linspace(0, 1, PAIRS)), most)]

    def losses_of(generation: int, fresh: Sequence[tuple[str, Candidate]], scored: Sequence[Scored]) -> list[float]:
        if asked is not None:
            asked.append([each for _, each in fresh])
        return [loss(each) for _, each in fresh]

    return evolve(made, variant, seeds, most, made.starts(256, variant), losses_of)


@pytest.mark.parametrize("variant", ["paper", "code"])
def test_a_search_as_published_asks_for_1344_candidates_none_twice_and_all_in_order(variant: Any) -> None:
    made = search(variant)
    assert len(made) == Evolution(**PUBLISHED).evaluations == 1_344
    assert len({each.candidate for each in made}) == 1_344
    highest = {"paper": 1.25 * FACTOR, "code": 1 + FACTOR}[variant]
    for each in made:
        factors = each.candidate.factors
        assert all(low <= high for low, high in pairwise(factors))
        assert factors[0] >= 1
        assert factors[-1] <= highest
        assert all(abs(value / GRID - round(value / GRID)) < 1e-6 for value in factors)


@pytest.mark.parametrize("variant", ["paper", "code"])
def test_a_search_comes_nearer_to_what_is_best_than_where_it_began(variant: Any) -> None:
    made = search(variant)
    first = min(each.loss for each in made if each.origin == "seed")
    assert best_of(made, 1)[0].loss < 0.5 * first


def test_the_paper_searches_start_tokens_and_the_released_code_does_not() -> None:
    assert {each.candidate.kept for each in search("code")} == {0}
    assert {each.candidate.kept for each in search("paper")} > {0, 2}


def test_start_tokens_are_scaled_with_the_context_unless_they_shall_not_be() -> None:
    scaled, plain = Evolution(**PUBLISHED), Evolution(**(PUBLISHED | {"scale_starts": False}))
    assert scaled.starts(4_096, "paper") == sorted(STARTS)
    assert scaled.starts(256, "paper") == [0, 1, 2, 4, 8, 16]
    assert plain.starts(256, "paper") == sorted(STARTS)
    assert plain.starts(256, "code") == [0]


def test_a_search_goes_the_same_way_again_and_another_seed_another() -> None:
    assert search() == search()
    assert search() != search(seed=1)


def test_parents_are_the_best_of_all_that_was_scored() -> None:
    generations: list[list[Candidate]] = []
    made = search("code", generations, generations=6, mutants=0, parents=4, probability=1.0)
    before: list[Scored] = []
    crossed = 0
    for number, fresh in enumerate(generations):
        if number:
            parents = [each.candidate for each in best_of(before, 4)]
            for child in made[len(before) : len(before) + len(fresh)]:
                if child.origin == "crossover":
                    values = zip(child.candidate.steps, *(each.steps for each in parents), strict=True)
                    assert all(step in known for step, *known in values)
                    crossed += 1
        before = made[: len(before) + len(fresh)]
    assert crossed > 10


def test_with_no_probability_of_change_nothing_new_is_found_and_the_search_ends() -> None:
    made = search(probability=0.0, crossovers=0)
    assert [each.origin for each in made] == ["seed", "seed"]


@settings(max_examples=50)
@given(st.lists(st.floats(0.5, 20), min_size=1, max_size=40))
def test_factors_are_rounded_to_the_grid_within_bounds_and_in_order(factors: list[float]) -> None:
    made = on_grid(factors, 700)
    assert all(low <= high for low, high in pairwise(made.steps))
    assert 0 <= made.steps[0] <= made.steps[-1] <= 700
    if sorted(factors) == factors and factors[0] >= 1 and factors[-1] <= 8:
        assert np.abs(np.array(made.factors) - factors).max() <= GRID / 2 + 1e-9
