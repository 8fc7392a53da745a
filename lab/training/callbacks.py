"""What happens beside the training itself: tables of metrics, the progress line, checkpoints."""

import csv
import io
import time
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import lightning

from lab.base.errors import UserError
from lab.base.files import append, read_stored, sha256_of, write_whole
from lab.base.interruption import Interruption
from lab.base.progress import progress
from lab.base.tables import FORMAT
from lab.cluster.ranks import Ranks
from lab.model.flops import FlopsPerToken
from lab.runs.checkpoints import Checkpoints
from lab.training import private
from lab.training.module import Training
from lab.training.resume import random_states, set_random_states
from lab.training.rows import number_of, rows_in

METRICS = (
    "step",
    "tokens",
    "loss_nats",
    "gradient_norm",
    "learning_rate",
    "order_fingerprint",
    "validation_loss_nats",
    "format",
)
# Utilisation: of the devices' peak, by visible keys alone, and by 6 N + 12 L H Q T; empty if the peak is not known.
TIMING = ("step", "seconds", "tokens_per_second", "utilisation_exact", "utilisation_6n_12lhqt", "format")


class StepCallback(lightning.Callback, ABC):
    """Calls ``on_step(trainer, module, step)`` once after each optimiser step, validation of that step included."""

    def __init__(self) -> None:
        self._last = 0

    def on_train_start(self, trainer: Any, module: Any) -> None:
        self._last = trainer.global_step  # not 0 in a run that is continued

    def on_train_batch_start(self, trainer: Any, module: Any, batch: Any, batch_idx: int) -> None:
        # Lightning validates after on_train_batch_end; what a step is worth is known when the next one starts.
        self._notice(trainer, module)

    def on_train_end(self, trainer: Any, module: Any) -> None:
        self._notice(trainer, module)

    def _notice(self, trainer: Any, module: Any) -> None:
        if trainer.global_step > self._last:
            self._last = trainer.global_step
            self.on_step(trainer, module, self._last)

    @abstractmethod
    def on_step(self, trainer: lightning.Trainer, module: Training, step: int) -> None: ...


class Metrics(StepCallback):
    """``metrics.csv``: what a run's numbers decide. ``timing.csv``: what the wall clock adds, never reproducible.

    A checkpoint holds the sha256 of the metrics up to its step.

    Raises:
        UserError: of a run that is continued, metrics.csv is not as it was written.
    """

    def __init__(
        self,
        folder: Path,
        every: int,
        validate_every: int,
        batch_tokens: int,
        steps: int,
        flops: FlopsPerToken,
        peak: float | None,
    ) -> None:
        super().__init__()
        self.folder, self.every, self.validate_every = folder, every, validate_every
        self.batch_tokens, self.steps = batch_tokens, steps
        self.flops, self.peak = flops, peak
        self._expected: str | None = None

    def state_dict(self) -> dict[str, Any]:
        return {"sha256": self._digest()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._expected = state_dict["sha256"]

    def _digest(self) -> str:
        return sha256_of(self.folder / "metrics.csv")

    def on_train_start(self, trainer: Any, module: Any) -> None:
        super().on_train_start(trainer, module)
        step = trainer.global_step
        path = self.folder / "metrics.csv"
        before = read_stored(path) if path.exists() else b""
        keep_rows_up_to(path, METRICS, step)
        if self._expected not in (None, self._digest()):
            write_whole(path, before)
            raise UserError(
                f"{path}: its rows up to step {step} are not those that the run has written; restore the file, or"
                " start the run again with overwrite=true"
            )
        timing = keep_rows_up_to(self.folder / "timing.csv", TIMING, step)
        now = time.perf_counter()
        self._started = now - (seconds_of(timing[-1][1], self.folder) if timing else 0.0)
        self._before = (step, now)  # step and time of the row before

    def on_step(self, trainer: lightning.Trainer, module: Training, step: int) -> None:
        validated = step % self.validate_every == 0 or step == self.steps
        if step % self.every and not validated:
            return
        peak = trainer.optimizers[0].param_groups[0]["initial_lr"]
        row: dict[str, Any] = {
            "step": step,
            "tokens": step * self.batch_tokens,
            "loss_nats": module.step_loss,
            "gradient_norm": module.gradient_norm,
            "learning_rate": peak * module.factor(step - 1),
            "order_fingerprint": module.fingerprint.hex,
            "validation_loss_nats": "",
            "format": FORMAT,
        }
        if validated:
            row["validation_loss_nats"] = float(trainer.callback_metrics["validation_loss_nats"])
        self._append("metrics.csv", [row[column] for column in METRICS])

        now = time.perf_counter()
        rate = (step - self._before[0]) * self.batch_tokens / (now - self._before[1])
        self._before = (step, now)
        counts = (self.flops.exact, self.flops.full)
        utilisation = ["" if self.peak is None else round(rate * count / self.peak, 4) for count in counts]
        self._append("timing.csv", (step, round(now - self._started, 3), round(rate, 1), *utilisation, FORMAT))
        if trainer.logger is not None:
            numbers = {name: value for name, value in row.items() if isinstance(value, float)}
            trainer.logger.log_metrics(
                numbers | {"optimiser_step": float(step), "tokens_per_second": rate}, step=row["tokens"]
            )

    def _append(self, name: str, row: Iterable[Any]) -> None:
        append(self.folder / name, lines_of([row]))


def lines_of(rows: Iterable[Iterable[Any]]) -> str:
    """Rows as the lines of a .csv file."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


def keep_rows_up_to(path: Path, columns: tuple[str, ...], step: int) -> list[list[str]]:
    """Drop the rows after `step` (the first column), which a continued run writes again; return those kept.

    A row that a killed process left half-written is one of them. Makes the file, with its header, if it is new.
    """
    kept = []
    if path.exists():
        rows = [row for row in rows_in(path) if row]
        kept = [row for row in rows if len(row) == len(columns) and 0 <= number_of(row[0]) <= step]
    write_whole(path, lines_of([columns, *kept]).encode())
    return kept


def seconds_of(text: str, folder: Path) -> float:
    """The seconds of a row of timing.csv. Raises UserError if they are no number."""
    try:
        return float(text)
    except ValueError:
        raise UserError(f"{folder / 'timing.csv'} has {text[:40]!r} as seconds; delete it") from None


class Progress(StepCallback):
    """Tokens, loss, tokens/s and time left."""

    def __init__(self, steps: int, batch_tokens: int, label: str) -> None:
        super().__init__()
        self.steps, self.batch_tokens, self.label = steps, batch_tokens, label

    def on_train_start(self, trainer: Any, module: Any) -> None:
        super().on_train_start(trainer, module)
        self.bar = progress(
            self.label,
            "tokens",
            total=self.steps * self.batch_tokens,
            initial=trainer.global_step * self.batch_tokens,
            unit_scale=True,
            bar_format="{desc} {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt}, {rate_fmt}, {remaining} left{postfix}",
        )

    def on_step(self, trainer: lightning.Trainer, module: Training, step: int) -> None:
        shown = {"loss": f"{module.step_loss:.3f}"}
        validation = trainer.callback_metrics.get("validation_loss_nats")
        if validation is not None:
            shown["validation"] = f"{float(validation):.3f}"
        self.bar.set_postfix(shown, refresh=False)
        self.bar.update(self.batch_tokens)

    def on_train_end(self, trainer: Any, module: Any) -> None:
        super().on_train_end(trainer, module)
        self.bar.close()

    def on_exception(self, trainer: Any, module: Any, exception: BaseException) -> None:
        if hasattr(self, "bar"):
            self.bar.leave = self.bar.n > self.bar.initial  # else it has nothing to tell
            self.bar.close()


class Saving(StepCallback):
    """A checkpoint every ``every`` optimiser steps, after the last, and when a signal asks the run to stop.

    Raises:
        Interrupted: after a checkpoint, if a signal has come.
    """

    def __init__(
        self, checkpoints: Checkpoints, every: int, steps: int, interruption: Interruption, ranks: Ranks
    ) -> None:
        super().__init__()
        self.checkpoints, self.every, self.steps = checkpoints, every, steps
        self.interruption, self.ranks = interruption, ranks
        self._random: dict[str, Any] | None = None

    def on_save_checkpoint(self, trainer: Any, module: Any, checkpoint: dict[str, Any]) -> None:
        checkpoint["random"] = self.ranks.gather(random_states())
        private.forget_what_is_fetched(checkpoint, trainer.global_step)

    def on_load_checkpoint(self, trainer: Any, module: Any, checkpoint: dict[str, Any]) -> None:
        private.count_micro_batches(checkpoint, checkpoint["global_step"] * trainer.accumulate_grad_batches)
        states = checkpoint["random"]
        self._random = states[min(self.ranks.rank, len(states) - 1)]

    def on_train_start(self, trainer: Any, module: Any) -> None:
        super().on_train_start(trainer, module)
        self.interruption.install()  # Lightning has taken SIGTERM for itself
        if self._random is not None:
            set_random_states(self._random)

    def on_train_batch_end(self, trainer: Any, module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if trainer.global_step == self.steps:
            trainer.should_stop = True  # so that Lightning validates after the last step, whatever the interval

    def on_step(self, trainer: lightning.Trainer, module: Training, step: int) -> None:
        last = step == self.steps
        received = self._told()
        if step % self.every == 0 or last or received:
            trainer.save_checkpoint(self.checkpoints.path(step))
            received = received or self._told()
        if received and not last:
            self.interruption.received = received
            self.interruption.check(
                f"came: saved at optimiser step {step} of {self.steps} in {self.checkpoints.folder}"
            )

    def _told(self) -> str | None:
        """The signal that a rank has got, as all have told one another: it need not have reached every rank, and none
        may stop alone. One that comes after this is told the next time."""
        return self.ranks.one_of(self.interruption.received)


class KeepingWeights(StepCallback):
    """Keeps the weights alone of the steps that ``rules`` name: ``doubling`` (1, 2, 4, ...), ``validation``, or a
    number."""

    def __init__(self, kept: Checkpoints, rules: Sequence[str | int], validate_every: int, steps: int) -> None:
        super().__init__()
        self.kept, self.rules, self.validate_every, self.steps = kept, rules, validate_every, steps

    def on_step(self, trainer: lightning.Trainer, module: Training, step: int) -> None:
        doubling = "doubling" in self.rules and step & (step - 1) == 0
        validated = "validation" in self.rules and (step % self.validate_every == 0 or step == self.steps)
        if doubling or validated or step in self.rules:
            trainer.save_checkpoint(self.kept.path(step), weights_only=True)
