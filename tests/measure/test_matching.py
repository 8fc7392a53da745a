"""At which step runs are read that are compared at equal validation loss."""

from pathlib import Path

import pytest

from lab.base.errors import UserError
from lab.experiment.matching import matched_steps
from lab.runs.control import Control
from lab.runs.run import Run


class Trained(Run):
    """A run of which nothing is there but its validation losses and the steps whose weights were kept, or are there."""

    def __init__(self, name: str, losses: dict[int, float], kept: list[int], finished: bool = True) -> None:
        super().__init__(Path(name))
        self.losses, self.kept_steps, self.finished = losses, kept, finished

    def metrics(self, columns):
        rows = [{"step": step, "validation_loss_nats": loss} for step, loss in self.losses.items()]
        return [*rows, {"step": 5, "validation_loss_nats": None}]

    @property
    def manifest(self):
        return {"proof": {"weights": {f"{step}": "sha256" for step in self.kept_steps}}} if self.finished else {}

    def scorable(self):
        return [] if self.finished else self.kept_steps


def controlled(variants: dict[str, dict[int, Trained]]) -> Control:
    runs = tuple(run for by_seed in variants.values() for run in by_seed.values())
    return Control(runs, "model", variants, {}, {})


def test_each_run_is_read_where_it_first_is_as_good_as_the_worst_of_its_seed_ends():
    slow = Trained("slow", {10: 4.0, 20: 3.5, 30: 3.0}, [10, 20, 30])
    fast = Trained("fast", {10: 3.2, 20: 2.9, 30: 2.5}, [10, 20, 30])
    again = Trained("again", {10: 2.8, 20: 2.6, 30: 2.4}, [10, 20, 30])
    other = Trained("other", {10: 9.0, 20: 8.0, 30: 7.0}, [10, 20, 30])
    control = controlled({"slow": {0: slow, 1: other}, "fast": {0: fast, 1: again}})
    steps, table = matched_steps(control)
    assert steps == {slow.path: 30, fast.path: 20, other.path: 30, again.path: 10}
    assert [row["matched_nats"] for row in table] == [3.0, 3.0, 7.0, 7.0]


def test_only_kept_steps_with_a_validation_loss_count():
    slow = Trained("slow", {10: 4.0, 30: 3.0}, [30])
    fast = Trained("fast", {10: 2.9, 20: 2.7, 30: 2.5}, [1, 2, 4, 8, 20, 30])
    steps, _ = matched_steps(controlled({"slow": {0: slow}, "fast": {0: fast}}))
    assert steps == {slow.path: 30, fast.path: 20}


def test_a_run_that_kept_no_weights_is_refused_with_the_remedy():
    slow = Trained("slow", {10: 4.0, 30: 3.0}, [])
    with pytest.raises(UserError, match=r"slow kept no weights .* 3\.0000 or less; train with trainer\.keep_weights"):
        matched_steps(controlled({"slow": {0: slow}}))


def test_a_run_that_is_not_finished_is_read_where_weights_are_there():
    slow = Trained("slow", {10: 4.0, 30: 3.0}, [10, 30], finished=False)
    steps, _ = matched_steps(controlled({"slow": {0: slow}}))
    assert steps == {slow.path: 30}
