"""Tiny pretrained decoders as transformers writes them, and the lab's commands in this process."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pretrained import ROPE, SHAPE, llama_in, saved
from transformers import MistralConfig, MistralForCausalLM, SmolLM3Config, SmolLM3ForCausalLM

from lab.experiment.compose import settings_of
from lab.experiment.handing_on import hand_on
from lab.experiment.importing import import_model
from lab.experiment.settings import ExportSettings, ImportSettings
from lab.runs.imported import Imported

END = "<|endoftext|>"
VARIANTS = ("rope", "nope", "alibi", "window_rope", "window_nope", "window_alibi")


@pytest.fixture(scope="session")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return llama_in(tmp_path_factory.mktemp("llama"))


@pytest.fixture(scope="session")
def mistral(tmp_path_factory: pytest.TempPathFactory) -> Path:
    model = MistralForCausalLM(MistralConfig(**SHAPE, **ROPE, sliding_window=20))
    return saved(model, tmp_path_factory.mktemp("mistral"))


@pytest.fixture(scope="session")
def smollm3(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """None of its layers rotates."""
    model = SmolLM3ForCausalLM(SmolLM3Config(**SHAPE, no_rope_layers=[0, 0, 0], use_sliding_window=False))
    return saved(model, tmp_path_factory.mktemp("smollm3"))


@pytest.fixture
def take(tmp_path: Path) -> Callable[..., Imported]:
    """Import a model into runs/."""

    def take(source: Path, **keys: Any) -> Imported:
        given = {"end_of_document": END, "runs": str(tmp_path / "runs"), "source": str(source)} | keys
        settings = settings_of("import_model", ImportSettings, ["source=given"])
        return import_model(settings.with_values(**given), "a command")

    return take


@pytest.fixture
def give(tmp_path: Path) -> Callable[..., Path]:
    """Export a model."""

    def give(run: Path, **keys: Any) -> Path:
        to = tmp_path / "exported" / run.name
        settings = settings_of("export", ExportSettings, [f"run={run}", f"to={to}"])
        hand_on(settings.with_values(**keys))
        return to

    return give
