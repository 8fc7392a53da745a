"""The bytes of a file, wherever it lies: on this machine, at http(s)://, at hf://."""

import hashlib
import io
import os
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from lab.base.errors import UserError
from lab.base.files import open_stored

PIECE = 2**20


@dataclass(frozen=True)
class Network:
    """How patient reading over a network is, in seconds.

    `timeout` without a byte before a read is tried again; `deadline` without progress, over all attempts;
    `first_wait` before the second attempt, doubled with every further one up to `longest_wait`. What comes slower than
    `least_bytes_per_second` is no progress. Raises UserError for a time that is not above 0.
    """

    timeout: float = 30.0
    deadline: float = 900.0
    first_wait: float = 0.5
    longest_wait: float = 30.0
    least_bytes_per_second: float = 1000.0

    def __post_init__(self) -> None:
        for key in ("timeout", "deadline"):
            seconds = getattr(self, key)
            if isinstance(seconds, bool) or not isinstance(seconds, (int, float)) or not seconds > 0:
                raise UserError(f"data.corpus.{key}_seconds is {seconds!r}: give a number of seconds above 0")


class StoredFile(ABC):
    """A file that does not change. `location` as the user wrote it; `size` in bytes; `version` what a server calls
    the file's state, "" on this machine."""

    location: str
    size: int
    version: str

    @abstractmethod
    def read(self, start: int = 0, stop: int | None = None) -> Iterator[bytes]:
        """Exactly the bytes [start, stop), in pieces.

        Raises UserError, naming location and offset, if they cannot be had or the file has changed.
        """


class LocalFile(StoredFile):
    """A file of this machine. Raises UserError if it cannot be read, or has changed since it was opened."""

    version = ""

    def __init__(self, location: str, size: int | None = None) -> None:
        self.location = location
        self._path = Path(location)
        self._state = self._state_now()
        self.size = self._state[0]
        if size is not None and size != self.size:
            raise UserError(
                f"{location}: {self.size} bytes long, the manifest says {size}; restore the file or make the manifest"
                " again with python -m lab.prepare manifest"
            )
        next(self.read(0, 1), None)  # a folder, or a file that may not be read

    def read(self, start: int = 0, stop: int | None = None) -> Iterator[bytes]:
        if self._state_now() != self._state:
            raise UserError(f"{self.location}: the file has changed since the run opened it; start the run again")
        left = (self.size if stop is None else min(stop, self.size)) - start
        try:
            with open_stored(self._path) as file:
                file.seek(start)
                while left > 0:
                    piece = file.read(min(PIECE, left))
                    if not piece:
                        raise UserError(f"{self.location}: ends at byte {self.size - left}, before its length")
                    left -= len(piece)
                    yield piece
        except OSError as error:
            raise self._unreadable(error) from None

    def _state_now(self) -> tuple[int, int]:
        """Length in bytes and time of the last change in nanoseconds."""
        try:
            status = os.stat(self._path)
        except OSError as error:
            raise self._unreadable(error) from None
        return status.st_size, status.st_mtime_ns

    def _unreadable(self, error: OSError) -> UserError:
        return UserError(f"{self.location}: {error.strerror or error}; check the paths under data.corpus")


def open_file(
    location: str, network: Network | None = None, size: int | None = None, version: str | None = None
) -> StoredFile:
    """The file at a path, http(s):// or hf://datasets/OWNER/NAME@REVISION/PATH.

    With the `size` and `version` of a manifest a remote file is not asked for its own until it is read. Raises
    UserError if the file cannot be read, or is not as these say.
    """
    if "://" not in location:
        return LocalFile(location, size)
    from lab.data.sources.remote import RemoteFile  # only who reads from a network needs its libraries

    return RemoteFile(location, network or Network(), size, version)


def sha256(file: StoredFile) -> str:
    """Of all bytes of a file."""
    digest = hashlib.sha256()
    for piece in file.read():
        digest.update(piece)
    return digest.hexdigest()


class _Raw(io.RawIOBase):
    """A file with a position, for libraries that want to seek."""

    def __init__(self, file: StoredFile) -> None:
        self.file = file
        self.position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self.position, io.SEEK_END: self.file.size}[whence]
        self.position = base + offset
        return self.position

    def tell(self) -> int:
        return self.position

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        stop = min(self.position + len(buffer), self.file.size)
        start = self.position
        for piece in self.file.read(start, stop) if stop > start else ():
            buffer[self.position - start : self.position - start + len(piece)] = piece
            self.position += len(piece)
        return self.position - start


def seekable(file: StoredFile) -> BinaryIO:
    """A file to seek in; small reads are gathered into pieces of a megabyte."""
    return io.BufferedReader(_Raw(file), PIECE)
