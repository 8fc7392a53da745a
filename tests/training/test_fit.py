"""Training itself: the golden curve, accumulation, what is written, and what stops it."""

import csv
from pathlib import Path
from typing import Any

import pytest
import torch

from lab.base.errors import UserError
from lab.base.files import append
from lab.base.interruption import Interrupted, Interruption
from lab.experiment.compose import settings_of
from lab.experiment.settings import TrainSettings
from lab.experiment.setup import Setup
from lab.training.fit import fit
from lab.training.module import Training

GOLDEN = Path(__file__).parent / "golden_loss.csv"


def job(folder: Path, *overrides: str) -> Setup:
    return Setup(
        settings_of(
            "train", TrainSettings, ["experiment=smoke", "logger=csv", "measure=none", f"runs={folder}", *overrides]
        )
    )


def trained(folder: Path, *overrides: str) -> tuple[Setup, Training, list[dict[str, Any]]]:
    made = job(folder, "trainer.compute_dtype=float32", "trainer.accelerator=cpu", *overrides)
    made.run.create(made.config, {"digest": made.digest, "state": "training"})
    module = fit(made.config, made.run, made.decoder, made.data, Interruption())
    with open(made.run.path / "metrics.csv", newline="") as file:
        return made, module, list(csv.DictReader(file))


def losses(rows: list[dict[str, Any]]) -> list[float]:
    return [float(row["loss_nats"]) for row in rows]


def test_a_fixed_tiny_float32_run_follows_the_stored_golden_curve(tmp_path: Path) -> None:
    _, _, rows = trained(tmp_path, "model=window_rope")
    with open(GOLDEN, newline="") as file:
        golden = list(csv.DictReader(file))
    assert [row["order_fingerprint"] for row in rows] == [row["order_fingerprint"] for row in golden]
    assert losses(rows) == pytest.approx(losses(golden), rel=1e-4)
    assert float(rows[-1]["validation_loss_nats"]) == pytest.approx(float(golden[-1]["validation_loss_nats"]), rel=1e-4)


def test_the_same_run_twice_gives_the_same_bits(tmp_path: Path) -> None:
    (_, first, rows), (_, second, again) = (trained(tmp_path / name) for name in ("a", "b"))
    assert rows == again
    states = (first.decoder.state_dict(), second.decoder.state_dict())
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_accumulated_micro_batches_train_as_one_large_batch(tmp_path: Path) -> None:
    _, _, small = trained(tmp_path, "scale.micro_batch=4")
    _, _, large = trained(tmp_path, "scale.micro_batch=16")
    assert losses(small) == pytest.approx(losses(large), rel=1e-5)
    assert [row["order_fingerprint"] for row in small] == [row["order_fingerprint"] for row in large]


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
@pytest.mark.parametrize("schedule", ["cosine", "wsd", "constant"])
def test_every_optimiser_learns_under_every_schedule(optimizer: str, schedule: str, tmp_path: Path) -> None:
    _, _, rows = trained(tmp_path, f"optimizer={optimizer}", f"schedule={schedule}", "scale.learning_rate=0.01")
    assert losses(rows)[-1] < losses(rows)[0] - 0.1


def test_a_row_is_written_every_log_step_every_validation_and_at_the_end(tmp_path: Path) -> None:
    _, module, rows = trained(tmp_path, "trainer.log_every=3", "trainer.validate_every=5")
    assert [int(row["step"]) for row in rows] == [3, 5, 6, 8]
    assert [bool(row["validation_loss_nats"]) for row in rows] == [False, True, False, True]
    assert int(rows[-1]["tokens"]) == 8192
    assert rows[-1]["order_fingerprint"] == module.fingerprint.hex


def test_clipping_bounds_the_update_and_the_norm_before_it_is_recorded(tmp_path: Path) -> None:
    _, module, rows = trained(tmp_path, "trainer.gradient_clip=0.001")
    assert float(rows[0]["gradient_norm"]) > 0.01
    # Lightning has not yet cleared the last gradients: what the optimiser saw.
    assert module.gradient_norm == float(rows[-1]["gradient_norm"])


def test_a_trained_decoder_comes_back_from_its_run_directory_exactly(tmp_path: Path) -> None:
    made, module, _ = trained(tmp_path, "model=window_rope")
    tokens = torch.arange(200).view(1, -1) % 1024
    with torch.no_grad():
        assert torch.equal(made.run.decoder()(tokens), module.decoder.cpu().eval()(tokens))


def test_a_loss_that_is_not_finite_stops_the_run_and_names_step_and_blocks(tmp_path: Path) -> None:
    made = job(tmp_path, "trainer.compute_dtype=float32", "scale.learning_rate=1e30", "schedule=constant")
    made.run.create(made.config, {"digest": made.digest, "state": "training"})
    with pytest.raises(UserError, match=r"at optimiser step \d+, blocks \d+ to \d+: stopped") as stop:
        fit(made.config, made.run, made.decoder, made.data, Interruption())
    assert "scale.learning_rate" in str(stop.value)


def test_checkpoints_stand_at_their_steps_with_float32_weights(tmp_path: Path) -> None:
    made, _, _ = trained(tmp_path, "trainer.checkpoint_every=2", "trainer.keep_every=4")
    folders = sorted(path.name for path in (made.run.path / "checkpoints").iterdir())
    assert folders == ["step=00000004", "step=00000006", "step=00000008"]
    assert all(value.dtype == torch.float32 for value in made.run.decoder(8).state_dict().values())


def test_a_run_that_is_stopped_and_continued_has_one_table_without_gaps(tmp_path: Path) -> None:
    settings = ("trainer.compute_dtype=float32", "trainer.checkpoint_every=3")
    _, _, expected = trained(tmp_path / "whole", "trainer.checkpoint_every=3")
    made = job(tmp_path, *settings)
    made.run.create(made.config, {"digest": made.digest, "state": "training"})
    stop = Interruption()
    stop.received = "SIGTERM"
    with pytest.raises(Interrupted, match="SIGTERM came: saved at optimiser step 1 of 8"):
        fit(made.config, made.run, made.decoder, made.data, stop)
    append(made.run.path / "metrics.csv", "7,rows beyond the checkpoint go\n2,half")
    again = job(tmp_path, *settings)
    fit(again.config, again.run, again.decoder, again.data, Interruption(), again.run.checkpoints.newest())
    with open(again.run.path / "metrics.csv", newline="") as file:
        assert list(csv.DictReader(file)) == expected
    with open(again.run.path / "timing.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [int(row["step"]) for row in rows] == list(range(1, 9))
    assert [float(row["seconds"]) for row in rows] == sorted(float(row["seconds"]) for row in rows)
