"""Each private name of Lightning that the lab leans on does what the lab takes it for; no file but one names any.

A newer Lightning that changes one fails the test of that name, with a sentence about it.
"""

import ast
import copy
import subprocess
import sys
from pathlib import Path
from typing import Any

import lightning
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

import lab
from lab.training import private

FILE = Path(private.__file__)
COUNTS = {"ready", "started", "processed", "completed"}


def changed(name: str, how: str) -> str:
    return f"Lightning {lightning.__version__}: {name} {how}; lab/training/private.py leans on it: mend it there"


class Line(lightning.LightningModule):
    """A line through a point; remembers which batches it was trained on."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))
        self.trained: list[int] = []

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        self.trained.append(batch_idx)
        return ((self.weight * batch - 1) ** 2).mean()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.01)


class SaveAt(lightning.Callback):
    """Saves as the lab does: when the batch after an optimiser step is there. ``correct`` changes what is saved."""

    def __init__(self, step: int, path: Path, correct: bool = True) -> None:
        self.step, self.path, self.correct, self.before = step, path, correct, {}

    def on_train_batch_start(self, trainer: Any, module: Any, batch: Any, batch_idx: int) -> None:
        if trainer.global_step == self.step and not self.path.exists():
            trainer.save_checkpoint(self.path)

    def on_save_checkpoint(self, trainer: Any, module: Any, checkpoint: dict[str, Any]) -> None:
        self.before = copy.deepcopy(checkpoint["loops"])
        if self.correct:
            private.forget_what_is_fetched(checkpoint, trainer.global_step)


class Loaded(lightning.Callback):
    """Counts the micro-batches behind anew, as the lab does for another number of ranks."""

    def on_load_checkpoint(self, trainer: Any, module: Any, checkpoint: dict[str, Any]) -> None:
        private.count_micro_batches(checkpoint, checkpoint["global_step"] * trainer.accumulate_grad_batches)


def trainer(steps: int, accumulate: int, *callbacks: lightning.Callback) -> lightning.Trainer:
    return lightning.Trainer(
        accelerator="cpu",
        max_steps=steps,
        max_epochs=-1,
        accumulate_grad_batches=accumulate,
        callbacks=[*callbacks],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )


def batches() -> DataLoader[float]:
    return DataLoader([float(number) for number in range(100)], batch_size=1)


@pytest.fixture
def as_it_is(tmp_path: Path) -> SaveAt:
    """A checkpoint after step 3 of 6, of two micro-batches each, as Lightning saves it."""
    saving = SaveAt(3, tmp_path / "as_it_is.ckpt", correct=False)
    trainer(6, 2, saving).fit(Line(), batches())
    return saving


@pytest.fixture
def saved(tmp_path: Path) -> SaveAt:
    """The same as the lab saves it."""
    saving = SaveAt(3, tmp_path / "step3.ckpt")
    trainer(6, 2, saving).fit(Line(), batches())
    return saving


def test_a_checkpoint_holds_the_progress_where_the_lab_looks_for_it(as_it_is: SaveAt) -> None:
    assert "fit_loop" in as_it_is.before, changed('checkpoint["loops"]["fit_loop"]', "is gone")
    loop = as_it_is.before["fit_loop"]
    progress = '"epoch_loop.batch_progress"'
    assert "epoch_loop.batch_progress" in loop, changed(progress, f"is gone; there are {', '.join(loop)}")
    for counts in ("total", "current"):
        told = changed(f"{progress}[{counts!r}]", "no longer holds " + ", ".join(sorted(COUNTS)))
        assert loop["epoch_loop.batch_progress"][counts].keys() == COUNTS, told


def test_lightning_has_counted_the_next_batch_as_ready_when_it_saves(saved: SaveAt) -> None:
    for counts in ("total", "current"):
        found = saved.before["fit_loop"]["epoch_loop.batch_progress"][counts]
        told = changed('"ready" of "epoch_loop.batch_progress"', "no longer counts the batch that is fetched")
        assert (found["ready"], found["completed"]) == (7, 6), told
        kept = torch.load(saved.path)["loops"]["fit_loop"]["epoch_loop.batch_progress"][counts]
        assert (kept["ready"], kept["completed"]) == (6, 6)


def test_a_checkpoint_holds_the_steps_of_lightnings_own_log_where_the_lab_looks_for_them(as_it_is: SaveAt) -> None:
    state = as_it_is.before["fit_loop"].get("epoch_loop.state_dict", {})
    told = changed('"_batches_that_stepped" of "epoch_loop.state_dict"', f"is gone; there are {', '.join(state)}")
    assert "_batches_that_stepped" in state, told


def test_lightning_counts_the_steps_of_its_own_log_on_from_what_is_saved(saved: SaveAt) -> None:
    assert torch.load(saved.path)["loops"]["fit_loop"]["epoch_loop.state_dict"]["_batches_that_stepped"] == 3
    fresh = trainer(6, 2)
    module = Line()
    fresh.fit(module, batches(), ckpt_path=saved.path)
    loop = fresh.fit_loop.epoch_loop
    assert getattr(loop, "_batches_that_stepped", None) == 6, changed("_batches_that_stepped", "is no longer restored")


def test_what_is_continued_trains_every_remaining_micro_batch_once(saved: SaveAt) -> None:
    module = Line()
    trainer(6, 2).fit(module, batches(), ckpt_path=saved.path)
    told = changed("epoch_loop.batch_progress", "no longer decides which micro-batch comes next")
    assert module.trained == [6, 7, 8, 9, 10, 11], told


def test_what_is_saved_as_lightning_has_it_counts_the_fetched_batch_twice(saved: SaveAt, as_it_is: SaveAt) -> None:
    for path, ready in ((saved.path, 12), (as_it_is.path, 13)):
        continued = trainer(6, 2)
        continued.fit(Line(), batches(), ckpt_path=path)
        told = changed('"ready" of "epoch_loop.batch_progress"', "need no longer be corrected, or not so")
        assert continued.fit_loop.epoch_loop.batch_progress.total.ready == ready, told


@pytest.mark.parametrize("accumulate", [1, 2, 4])
def test_another_number_of_micro_batches_to_a_step_is_counted_from_where_the_step_is(
    accumulate: int, saved: SaveAt
) -> None:
    module = Line()
    trainer(6, accumulate, Loaded()).fit(module, batches(), ckpt_path=saved.path)
    told = changed("epoch_loop.batch_progress", "no longer decides which micro-batch comes next")
    assert module.trained == [*range(3 * accumulate, 6 * accumulate)], told


# A fork of a process that has trained before may hang, so the two ranks are made in a process of their own.
RANKS = """
import sys, warnings, logging
from pathlib import Path
import lightning, torch
warnings.filterwarnings("ignore"); logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
from lab.training import private
from test_private import Line, batches
from lightning.pytorch.loops.training_epoch_loop import _TrainingEpochLoop as Loop

calls, original = [], Loop._broadcast_sigterm_tensor
def counted(loop):
    calls.append(1)
    original(loop)
Loop._broadcast_sigterm_tensor = counted

class Count(lightning.Callback):
    def __init__(self, how):
        self.how = how

    def on_train_end(self, trainer, module):
        Path(sys.argv[1], f"{self.how}{trainer.global_rank}").write_text(f"{len(calls)} {len(module.trained)}")

for how in ("loud", "silent"):
    trainer = lightning.Trainer(accelerator="cpu", devices=2, strategy="ddp_fork", max_steps=3, max_epochs=-1,
        accumulate_grad_batches=2, callbacks=[Count(how)], logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False)
    if how == "silent":
        private.silence_signals(trainer)
    trainer.fit(Line(), batches())
"""


def test_ranks_tell_each_other_of_signals_at_every_micro_batch_by_a_method_that_the_lab_silences(
    tmp_path: Path,
) -> None:
    loop = type(trainer(1, 1).fit_loop.epoch_loop)
    name = "_broadcast_sigterm_tensor"
    assert callable(getattr(loop, name, None)), changed(name, f"is gone from {loop.__name__}")
    command = [sys.executable, "-c", RANKS, str(tmp_path)]
    told = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, timeout=600, check=False)
    assert told.returncode == 0, told.stderr
    for rank in "01":
        loud, silent = ((tmp_path / f"{how}{rank}").read_text() for how in ("loud", "silent"))
        assert loud == "6 6", changed(name, f"is not called once a micro-batch: {loud}")
        assert silent == "0 6", changed(name, f"is called still: {silent}")


# No other file names one.


def sources() -> list[tuple[Path, ast.Module]]:
    files = [path for path in sorted(Path(lab.__file__).parent.rglob("*.py")) if path != FILE]
    assert len(files) > 100
    return [(path, ast.parse(path.read_text())) for path in files]


def private_name(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__")


def of_lightning(tree: ast.AST) -> bool:
    """Whether a file imports Lightning."""
    imported = [each.module or "" for each in ast.walk(tree) if isinstance(each, ast.ImportFrom)]
    imported += [alias.name for each in ast.walk(tree) if isinstance(each, ast.Import) for alias in each.names]
    return any(name.partition(".")[0] in ("lightning", "pytorch_lightning") for name in imported)


def names_of_lightning() -> set[str]:
    """The private attributes of a trainer that has trained, of its loops, strategy and connectors, and of a module."""
    used, module = trainer(1, 1), Line()
    used.fit(module, batches())
    parts: list[Any] = [used, used.fit_loop, used.fit_loop.epoch_loop, used.fit_loop.epoch_loop.val_loop, used.strategy]
    parts += [module, *(value for name, value in vars(used).items() if name.endswith("_connector"))]
    names = {name for each in parts for name in dir(each) if private_name(name)}
    return names - set(dir(nn.Module())) - {"_"}


def test_no_other_file_names_an_attribute_that_is_private_to_lightning() -> None:
    names = names_of_lightning()
    assert {"_broadcast_sigterm_tensor", "_batches_that_stepped", "_checkpoint_connector"} <= names
    found = []
    for path, tree in sources():
        for each in ast.walk(tree):
            if isinstance(each, ast.Attribute) and private_name(each.attr):
                own = isinstance(each.value, ast.Name) and each.value.id in ("self", "cls")
                if not own and (each.attr in names or of_lightning(tree)):
                    found.append(f"{path}:{each.lineno} {ast.unparse(each)}")
            if isinstance(each, ast.Constant) and each.value in names:
                found.append(f"{path}:{each.lineno} {each.value!r}")
            if isinstance(each, ast.ImportFrom) and (each.module or "").partition(".")[0] == "lightning":
                parts = [*(each.module or "").split("."), *(alias.name for alias in each.names)]
                found += [f"{path}:{each.lineno} {part}" for part in parts if private_name(part)]
    assert not found, "these belong in lab/training/private.py: " + "; ".join(found)


def test_no_other_file_reaches_into_lightnings_loops_or_what_it_saves_of_them() -> None:
    inner = {"fit_loop", "epoch_loop", "val_loop", "batch_progress", "loops", "batch_loop"}
    found = []
    for path, tree in sources():
        for each in ast.walk(tree):
            if isinstance(each, ast.Attribute) and each.attr in inner:
                found.append(f"{path}:{each.lineno} {ast.unparse(each)}")
            # As a key, or a part of one; a sentence may have the word.
            if isinstance(each, ast.Constant) and isinstance(each.value, str) and set(each.value.split(".")) & inner:
                found.append(f"{path}:{each.lineno} {each.value!r}")
    assert not found, "these belong in lab/training/private.py: " + "; ".join(found)


def test_no_attribute_of_the_labs_own_classes_hides_one_that_is_private_to_lightning() -> None:
    names = names_of_lightning()
    for path, tree in sources():
        if not of_lightning(tree):
            continue
        for each in ast.walk(tree):
            if isinstance(each, ast.Attribute) and isinstance(each.value, ast.Name) and each.value.id == "self":
                told = (
                    f"{path}:{each.lineno}: self.{each.attr} is an attribute of Lightning {lightning.__version__} too"
                )
                assert each.attr not in names, told
