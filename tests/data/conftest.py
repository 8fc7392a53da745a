"""Corpora and tokenizers for the tests of lab/data."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from lab.data.documents import Files, Sotu
from lab.data.tokenizer import Tokenizer


@pytest.fixture(scope="session")
def sotu() -> Sotu:
    return Sotu()


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    return Tokenizer("sotu_1k/tokenizer.json")


@pytest.fixture
def corpus(tmp_path: Path) -> Callable[..., Files]:
    """Make a corpus whose training split is these rows (dicts, or raw lines)."""

    def make(rows: list[dict | bytes], **settings: str) -> Files:
        lines = [row if isinstance(row, bytes) else json.dumps(row).encode() for row in rows]
        (tmp_path / "train.jsonl").write_bytes(b"\n".join(lines) + b"\n")
        (tmp_path / "validation.txt").write_text("A text to watch the loss on.")
        (tmp_path / "test.txt").write_text("A text to measure at the end.")
        train, validation, test = (str(tmp_path / name) for name in ("train.jsonl", "validation.txt", "test.txt"))
        return Files(train, validation, test, **settings)

    return make
