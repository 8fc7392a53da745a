"""One file of a local corpus: where its documents start, and which bytes they are."""

import hashlib
import os
from pathlib import Path
from typing import BinaryIO

from lab.errors import UserError


class LocalFile:
    """A `.jsonl` file (one document a line) or a `.txt` file (one document).

    Read through once here for `sha256` and the byte offset at which each document starts; afterwards single
    documents are read by their offsets. Raises UserError if the file is missing, empty, a directory, of
    another kind, or has changed since.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        if path.suffix not in (".jsonl", ".txt"):
            raise UserError(f"{path}: unknown kind of file; give .jsonl (one object a line) or .txt")
        self.has_lines = path.suffix == ".jsonl"
        self._state = self._current_state()
        digest = hashlib.sha256()
        starts, offset = [], 0
        with self._open() as file:
            for line in file:
                if self.has_lines or offset == 0:
                    starts.append(offset)
                offset += len(line)
                digest.update(line)
        if not starts:
            raise UserError(f"{path}: the file is empty; give a file with at least one document")
        self.sha256 = digest.hexdigest()
        self._edges = [*starts, offset]

    def __len__(self) -> int:
        """The number of documents."""
        return len(self._edges) - 1

    def read(self, index: int) -> bytes:
        """The bytes of one document, without the end of the line."""
        if self._current_state() != self._state:
            raise UserError(f"{self.path}: the file has changed since the run opened it; start the run again")
        start, end = self._edges[index], self._edges[index + 1]
        with self._open() as file:
            file.seek(start)
            content = file.read(end - start)
        return content.removesuffix(b"\n") if self.has_lines else content

    def _open(self) -> BinaryIO:
        try:
            return self.path.open("rb")
        except OSError as error:
            raise UserError(f"{self.path}: {error.strerror}; check the paths under data.corpus") from error

    def _current_state(self) -> tuple[int, int]:
        """Length in bytes and time of the last change in nanoseconds."""
        try:
            status = os.stat(self.path)
        except OSError as error:
            raise UserError(f"{self.path}: {error.strerror}; check the paths under data.corpus") from error
        return status.st_size, status.st_mtime_ns
