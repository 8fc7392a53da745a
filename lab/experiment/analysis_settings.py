"""Keys of lab.analyze; by themselves, because studies have no part in training. No torch here."""

from typing import Literal

from lab.base.parts import one_of
from lab.base.settings import Count, Settings, Text, key
from lab.data.settings import EvaluationSettings
from lab.experiment.settings import THREADS, Accelerator, Paths


class AnalyzeSettings(Settings):
    """lab.analyze."""

    evaluation: EvaluationSettings
    study: one_of("study")  # type: ignore[valid-type]
    runs: Paths = key("run directories or patterns: runs=[runs/a,runs/b] or runs='runs/*'")
    checkpoint: Count | Literal["last", "kept"] = key(
        "last of a finished run, the number of an optimiser step, or kept: all whose weights were kept, and the last"
    )
    output: Text = key("folder for the table and picture of several runs together")
    accelerator: Accelerator = key("auto, cpu or gpu")
    threads: Count | None = key(THREADS)
