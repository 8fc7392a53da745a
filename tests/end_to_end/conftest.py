"""Runs of a few seconds that several files only read: they are trained once."""

import json
import os
from pathlib import Path

import pytest
from known import DOCUMENT, VARIANTS

from lab.experiment.compose import settings_of
from lab.experiment.lifecycle import train
from lab.experiment.settings import TrainSettings
from lab.experiment.setup import Setup


def trained(folder: Path, *overrides: str) -> Path:
    """The directory of a run of float32 numbers, trained here."""
    fixed = ["experiment=smoke", "measure=none", "logger=csv", f"runs={folder}"]
    fixed += ["trainer.compute_dtype=float32", "trainer.accelerator=cpu", "trainer.validate_every=1000"]
    setup = Setup(settings_of("train", TrainSettings, [*fixed, *overrides]))
    train(setup)
    return setup.run.path


@pytest.fixture(scope="session")
def by_heart(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that has read one document, DOCUMENT, so often that it knows it to its end."""
    folder = tmp_path_factory.mktemp("by_heart")
    for split, copies in {"train": 400, "validation": 31, "test": 30}.items():
        (folder / f"{split}.jsonl").write_text((json.dumps({"text": DOCUMENT}) + "\n") * copies)
    files = [f"data.corpus.{split}={folder}/{split}.jsonl" for split in ("train", "validation", "test")]
    often = ["data=files", "data.lanes=1", *files, "scale.tokens=40960", "scale.learning_rate=0.01"]
    return trained(folder / "runs", "model=rope", *often)


@pytest.fixture(scope="session")
def seven(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The seven variants, each trained two steps long: what they say is odd, and not the same twice."""
    folder = tmp_path_factory.mktemp("seven")
    short = ["scale.tokens=2048", "scale.warmup_steps=1", "scale.learning_rate=0.02"]
    return {model: trained(folder / "runs", f"model={model}", *short) for model in VARIANTS}


@pytest.fixture(scope="session")
def path_with_lab() -> dict[str, str]:
    """An environment whose PATH has the installed command ``lab``, and whose commands take one thread."""
    import sys

    return os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "OMP_NUM_THREADS": "1"}
