"""When a signal stops a run: no rank alone, whenever the signal comes."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from lab.base.interruption import Interrupted, Interruption
from lab.runs.checkpoints import Checkpoints
from lab.training.callbacks import Saving


class Ranks:
    """Two of them; the other has had no signal. ``then`` happens once both have told what they know."""

    def __init__(self, then: Any = None) -> None:
        self.then = then

    def gather(self, told: Any) -> list[Any]:
        if self.then:
            self.then()
        return [told, None]


def saving(folder: Path, ranks: Ranks) -> tuple[Saving, Interruption]:
    interruption = Interruption(tells=False)
    made: Any = Saving(Checkpoints(folder), every=2, steps=8, interruption=interruption, ranks=ranks)  # type: ignore[arg-type]
    return made, interruption


def test_a_signal_that_comes_while_a_checkpoint_is_written_stops_no_rank_before_all_know(tmp_path: Path) -> None:
    made, interruption = saving(tmp_path, Ranks())
    saved = []

    def save(path: Path) -> None:
        saved.append(path.name)
        if len(saved) == 1:
            interruption.received = "SIGTERM"  # on this rank, after both have said that there is none

    trainer: Any = SimpleNamespace(save_checkpoint=save)
    made.on_step(trainer, None, 2)  # type: ignore[arg-type]
    assert saved == ["step=00000002"]
    with pytest.raises(Interrupted, match="saved at optimiser step 3 of 8"):
        made.on_step(trainer, None, 3)  # type: ignore[arg-type]
    assert saved == ["step=00000002", "step=00000003"]


def test_a_signal_that_comes_just_when_the_ranks_have_told_one_another_is_not_lost(tmp_path: Path) -> None:
    ranks = Ranks()
    made, interruption = saving(tmp_path, ranks)

    def come() -> None:
        ranks.then = None
        interruption.received = "SIGTERM"

    ranks.then = come
    trainer: Any = SimpleNamespace(save_checkpoint=lambda path: None)
    made.on_step(trainer, None, 1)  # type: ignore[arg-type]
    with pytest.raises(Interrupted, match="SIGTERM came: saved at optimiser step 2"):
        made.on_step(trainer, None, 2)  # type: ignore[arg-type]
