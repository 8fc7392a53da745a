"""Trainings beside a decoder: torch's own AdamW, taken up again with the same bits."""

from collections import Counter
from pathlib import Path

import pytest
import torch
from torch import nn

from lab.base.errors import UserError
from lab.observe.trained import Training, drawn


class Stop(Exception):
    pass


def training(steps: int = 12, learning_rate: float = 0.05) -> Training:
    """Of a batch norm and a linear function, on batches that are drawn."""
    torch.manual_seed(0)
    module = nn.Sequential(nn.BatchNorm1d(4), nn.Linear(4, 3))
    given, wanted = torch.randn(20, 4), torch.randint(3, (20,))

    def loss(step: int) -> torch.Tensor:
        module.train()
        some = torch.from_numpy(drawn(5, "a probe", 20, 6, step))
        return nn.functional.cross_entropy(module(given[some]), wanted[some])

    def observed() -> dict[str, tuple[torch.Tensor, int]]:
        return {"scores": (module.eval()(given).double(), 1)}

    return Training(module, loss, observed, steps=steps, learning_rate=learning_rate, eps=1e-6, weight_decay=0.3)


def test_the_rate_falls_linearly_to_zero_and_each_step_is_one_of_torch() -> None:
    found = training().run()["scores"][0]
    again = training()
    optimizer = torch.optim.AdamW(again.module.parameters(), lr=0.05, eps=1e-6, weight_decay=0.3, foreach=False)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / 12)
    for step in range(12):
        optimizer.zero_grad()
        again.loss(step).backward()
        optimizer.step()
        schedule.step()
    torch.testing.assert_close(found, again.observed()["scores"][0].detach(), rtol=0, atol=1e-6)


@pytest.mark.parametrize("stopped", [1, 7, 11])
def test_one_that_is_stopped_goes_on_and_ends_with_the_same_bits(stopped: int, tmp_path: Path) -> None:
    whole, steps = training().run(), []
    left = iter([None] * stopped)

    def check() -> None:
        if next(left, Stop) is Stop:
            raise Stop

    path = tmp_path / "kept"
    with pytest.raises(Stop):
        training().run(path, {"of": 1}, check, steps.append)
    assert sum(steps) == stopped
    again: list[int] = []
    found = training().run(path, {"of": 1}, stepped=again.append)
    assert again[0] == stopped
    assert sum(again) == 12
    assert torch.equal(found["scores"][0], whole["scores"][0])
    taken_up = training()
    taken_up.run(path, {"of": 1}, stepped=again.append)  # nothing is left to do
    assert again[-1] == 12


def test_what_is_kept_is_told_if_it_is_damaged_or_of_something_else(tmp_path: Path) -> None:
    path = tmp_path / "kept"
    training().run(path, {"of": 1})
    with pytest.raises(UserError, match="made with other settings"):
        training().run(path, {"of": 2})
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)
    with pytest.raises(UserError, match="is damaged"):
        training().run(path, {"of": 1})
    path.write_bytes(content[:40])
    with pytest.raises(UserError, match="is damaged"):
        training().run(path, {"of": 1})


def test_one_that_diverges_is_refused() -> None:
    with pytest.raises(UserError, match="diverged: lower its learning_rate"):
        training(learning_rate=1e30).run()


def test_what_is_drawn_goes_through_all_again_and_again_and_depends_on_its_arguments_alone() -> None:
    for among, size in ((10, 4), (7, 7), (3, 8), (5, 1)):
        read = [each for step in range(35) for each in drawn(1, "name", among, size, step).tolist()]
        for first in range(0, len(read) - among, among):
            assert sorted(read[first : first + among]) == list(range(among))
        assert set(map(len, (drawn(1, "name", among, size, step) for step in range(35)))) == {min(size, among)}
    assert drawn(1, "name", 50, 20, 3).tolist() == drawn(1, "name", 50, 20, 3).tolist()
    others = {tuple(drawn(seed, name, 50, 50, step)) for seed in (1, 2) for name in "ab" for step in (0, 1)}
    assert len(others) == 8
    assert Counter(drawn(1, "name", 50, 20, 3).tolist()).most_common(1)[0][1] == 1
