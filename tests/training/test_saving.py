"""When a signal stops a run: all ranks after the same step, whenever it comes, and to whichever of them."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from lab.base.interruption import Interrupted, Interruption
from lab.cluster.ranks import Ranks
from lab.runs.checkpoints import Checkpoints
from lab.training.callbacks import Saving


class Pair:
    """Two ranks in one process: what the first asks of the second, the second has to ask of the first as well."""

    def __init__(self, folder: Path) -> None:
        self.interruptions = [Interruption(tells=False) for _ in range(2)]
        self.asked = 0
        self.after_telling: Callable[[], None] = lambda: None
        self.while_saving: Callable[[], None] = lambda: None
        self.saved: list[str] = []
        checkpoints = Checkpoints(folder)
        self.rank: Any = Saving(checkpoints, 2, 8, self.interruptions[0], self)  # type: ignore[arg-type]

    def gather(self, told: Any) -> list[Any]:
        self.asked += 1
        answers = [told, self.interruptions[1].received]
        self.after_telling()
        return answers

    one_of = Ranks.one_of

    def save_checkpoint(self, path: Path) -> None:
        self.saved.append(path.name)
        self.while_saving()

    def step(self, step: int) -> None:
        self.rank.on_step(SimpleNamespace(save_checkpoint=self.save_checkpoint), None, step)


@pytest.mark.parametrize("rank", [0, 1])
def test_a_signal_that_comes_while_a_checkpoint_is_written_stops_after_it_all_ranks(tmp_path: Path, rank: int) -> None:
    pair = Pair(tmp_path)
    pair.while_saving = lambda: setattr(pair.interruptions[rank], "received", "SIGTERM")
    with pytest.raises(Interrupted, match="SIGTERM came: saved at optimiser step 2 of 8"):
        pair.step(2)
    assert (pair.saved, pair.asked) == (["step=00000002"], 2)


def test_a_signal_that_comes_when_the_ranks_have_told_one_another_stops_none_alone_and_is_not_lost(
    tmp_path: Path,
) -> None:
    pair = Pair(tmp_path)
    times = iter(range(9))

    def come_after_the_second() -> None:
        if next(times) == 1:
            pair.interruptions[0].received = "SIGTERM"

    pair.after_telling = come_after_the_second
    pair.step(2)  # the other rank does not know
    assert pair.saved == ["step=00000002"]
    with pytest.raises(Interrupted, match="SIGTERM came: saved at optimiser step 3 of 8"):
        pair.step(3)
    assert pair.saved == ["step=00000002", "step=00000003"]


def test_ranks_without_a_signal_tell_one_another_once_a_step_and_save_when_they_should(tmp_path: Path) -> None:
    pair = Pair(tmp_path)
    for step in (1, 3):
        pair.step(step)
    assert (pair.saved, pair.asked) == ([], 2)
