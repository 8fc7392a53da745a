"""Corpora and tokenizers for the tests of lab/data."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from lab.data.sources.documents import Corpus, Entry, Sotu
from lab.data.sources.file_corpus import Files
from lab.data.sources.rows import usable
from lab.data.tokenizer import Tokenizer


class Texts(Corpus):
    """Texts in memory by subset, chunk and place, an empty one being unusable; `reads` lists the documents read."""

    def __init__(self, subsets: dict[str, list[list[str]]]) -> None:
        super().__init__(on_error="skip")
        self.texts = subsets
        self.reads: list[str] = []

    def subsets(self, split: str) -> list[str]:
        return list(self.texts)

    def chunks(self, split: str, subset: str) -> int:
        return len(self.texts[subset])

    def read(self, split: str, subset: str, chunk: int, offset: int | None = None) -> Iterator[Entry]:
        documents = self.texts[subset][chunk]
        for index in range(offset or 0, len(documents)):
            name = f"{subset}/{chunk}/{index}"
            self.reads.append(name)
            yield self.entry(name, index + 1, lambda name=name, text=documents[index]: usable(text, name))

    def _contents(self) -> dict[str, Any]:
        return self.texts


@pytest.fixture(scope="session")
def texts() -> type[Texts]:
    return Texts


@pytest.fixture(scope="session")
def sotu() -> Sotu:
    return Sotu()


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    return Tokenizer("sotu_1k/tokenizer.json")


@pytest.fixture
def corpus(tmp_path: Path) -> Callable[..., Files]:
    """Make a corpus whose training split is these rows (dicts, or raw lines)."""

    def make(rows: list[dict | bytes], **settings: Any) -> Files:
        lines = [row if isinstance(row, bytes) else json.dumps(row).encode() for row in rows]
        (tmp_path / "train.jsonl").write_bytes(b"\n".join(lines) + b"\n")
        (tmp_path / "validation.txt").write_text("A text to watch the loss on.")
        (tmp_path / "test.txt").write_text("A text to measure at the end.")
        train, validation, test = (str(tmp_path / name) for name in ("train.jsonl", "validation.txt", "test.txt"))
        return Files(train, validation, test, **settings)

    return make
