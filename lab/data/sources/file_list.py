"""Which files a corpus of files is: lists by split and subset, given in the configuration or in a manifest."""

import json
import logging
import os
import posixpath
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from lab.base.errors import UserError
from lab.base.files import matching, read_text
from lab.data.sources.documents import SPLITS
from lab.data.sources.formats import kind_of, known_kind
from lab.data.sources.storage import Network, StoredFile, open_file, sha256

LOG = logging.getLogger("lab.data")
WHAT_TO_GIVE = "give the path or URL of at least one file"
TOLD = 10  # wrong files that are named in one message
Given = str | Sequence[str] | Mapping[str, str | Sequence[str]] | None


@dataclass(frozen=True)
class Part:
    """A file of a subset, or the range of bytes [start, stop) of one.

    `name` is the same on every machine. Of `digest` (sha256) and `version` (what a server calls the file's state)
    at least one is known, or the file is read through to know the first.
    """

    name: str
    location: str
    size: int
    version: str = ""
    digest: str = ""
    start: int = 0
    stop: int | None = None

    def open(self, network: Network) -> StoredFile:
        """The file, which must be as this part says. Raises UserError if it is found not to be."""
        return open_file(self.location, network, self.size, self.version or None)

    @cached_property
    def kind(self) -> str:
        return kind_of(self.location)

    @property
    def bytes(self) -> int:
        return (self.size if self.stop is None else self.stop) - self.start

    def record(self) -> dict[str, Any]:
        """For a manifest, without its location."""
        told = {"name": self.name, "bytes": self.size}
        if self.digest:
            told["sha256"] = self.digest
        elif self.version:
            told["version"] = self.version
        if self.start or self.stop is not None:
            told |= {"start": self.start, "stop": self.stop}
        return told


FileList = dict[str, dict[str, list[Part]]]


def listed(
    given: Mapping[str, Given], splits: Sequence[str] = SPLITS, under: str = "data.corpus"
) -> dict[str, dict[str, list[str]]]:
    """Files by split and subset. Each split is one location, a list, or a mapping from subsets to either.

    A location is a file, a folder or a pattern (`files_at`). `under` is where the configuration has them. Raises
    UserError, with a line for each mistake, if a split has none, one is not there, or a file stands twice.
    """
    lists: dict[str, dict[str, list[str]]] = {}
    seen: dict[str, str] = {}
    mistakes: list[str] = []

    def add(location: str, key: str, files: list[str]) -> None:
        try:
            expanded = files_at(location, under)
        except UserError as error:
            mistakes.append(str(error))
            return
        for each in expanded:
            if not is_utf8(each):
                mistakes.append(f"{each}: its name is not UTF-8, and documents are called by it; rename it")
            if each in seen:
                mistakes.append(f"{each}: stands under {seen[each]} and {key}; give every file once")
            seen[each] = key
        files += expanded

    for split in splits:
        subsets = given[split] if isinstance(given[split], Mapping) else {"": given[split]}
        lists[split] = {}
        if not subsets:
            mistakes.append(f"{under}.{split} lacks a path; {WHAT_TO_GIVE}")
        for subset, locations in subsets.items():  # type: ignore[union-attr]
            key = f"{under}.{split}{f'.{subset}' if subset else ''}"
            several: list[Any] = list(locations) if isinstance(locations, list | tuple) else [locations]
            lists[split][subset] = []
            if not several or not all(isinstance(location, str) and location for location in several):
                mistakes.append(f"{key} lacks a path; {WHAT_TO_GIVE}")
                continue
            for location in several:
                add(location, key, lists[split][subset])
    refuse(mistakes)
    return lists


def refuse(mistakes: Sequence[str]) -> None:
    """Raises UserError if there are any: a line for each, of very many for the first."""
    left = len(mistakes) - TOLD
    if mistakes:
        raise UserError(*mistakes[:TOLD], *([f"and {left} more of this kind"] if left > 0 else []))


def files_at(location: str, under: str = "data.corpus") -> list[str]:
    """The files that a location means: a file or address itself, of a folder or a pattern all in it, sorted.

    A path that is there goes before a pattern. In folders (and those in them), hidden files, empty ones and those of
    another kind are passed over, which is told. Raises UserError if nothing is there or nothing is left.
    """
    if is_remote(location) or os.path.isfile(location):
        kind_of(location)
        return [location]
    is_folder = os.path.isdir(location)
    found = matching(location)
    if not found or (os.path.islink(location) and not is_folder):
        reason = "a link to nothing" if found else "No such file or directory"
        raise UserError(f"{location}: {reason}; check the paths under {under}")
    if found == [location] and not is_folder:
        raise UserError(f"{location}: neither a file nor a folder; give one")
    files = sorted(dict.fromkeys(each for path in found for each in (inside(path) if os.path.isdir(path) else [path])))
    kept = [each for each in files if is_text(each)]
    passed = len(files) - len(kept)
    if not kept:
        what = "folder" if is_folder else "pattern"
        raise UserError(
            f"{location}: this {what} has no file that can be read ({passed} hidden, empty or of an unknown kind); put"
            " .txt, .jsonl or .parquet files there"
        )
    if passed:
        LOG.warning(
            "%s: %d files are read, %d passed over: hidden, empty or of an unknown kind", location, len(kept), passed
        )
    return kept


def inside(folder: str) -> list[str]:
    """All files of a folder and of the folders in it that are not hidden."""

    def unreadable(error: OSError) -> None:
        raise UserError(
            f"{error.filename}: {error.strerror}; make it readable, or give the files beside it by a pattern"
        )

    found = []
    for place, folders, names in os.walk(folder, onerror=unreadable):
        folders[:] = [each for each in folders if not each.startswith(".")]
        found += [os.path.join(place, name) for name in names]
    return found


def is_text(path: str) -> bool:
    """Whether a file that was found, not named, is one to read."""
    hidden = os.path.basename(path).startswith(".")
    return not hidden and known_kind(path) is not None and not (os.path.exists(path) and not os.path.getsize(path))


def found(lists: dict[str, dict[str, list[str]]], network: Network) -> FileList:
    """The files of `listed` as they are now: sizes, and sha256 of local files or, of remote ones, their versions.

    Raises UserError, with a line for each local one, if a file cannot be read, is empty, a copy of another, or remote
    without a version.
    """
    names = common_names([location for subsets in lists.values() for each in subsets.values() for location in each])
    first: dict[str, str] = {}
    mistakes: list[str] = []

    def parts(locations: list[str]) -> Iterator[Part]:
        for location in locations:
            try:
                yield part(location)
            except UserError as error:
                mistakes.append(str(error))
                if is_remote(location):
                    refuse(mistakes)  # the next is not tried: each may take as long as the deadline

    def part(location: str) -> Part:
        file = open_file(location, network)
        if file.size == 0:
            raise UserError(f"{location}: the file is empty; give a file with at least one document")
        digest = "" if is_remote(location) else sha256(file)
        if not digest and not file.version:
            raise UserError(
                f"{location}: the server gives neither ETag nor Last-Modified; download it and use the copy"
            )
        if digest in first and digest:
            raise UserError(f"{location}: the same file as {first[digest]}; give every file once")
        first[digest] = location
        return Part(names[location], location, file.size, file.version, digest)

    files = {
        split: {subset: list(parts(locations)) for subset, locations in subsets.items()}
        for split, subsets in lists.items()
    }
    refuse(mistakes)
    return files


def is_utf8(name: str) -> bool:
    """Whether a name can be written down: Linux takes any bytes for one, JSON any halves of characters."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def is_remote(location: str) -> bool:
    return "://" in location


def common_names(locations: Sequence[str]) -> dict[str, str]:
    """Each location as seen from the folder that all share.

    Links are not followed: a file is called as it is given, wherever its bytes lie, as in the hub's cache.
    """
    paths = {each: urlsplit(each).path if is_remote(each) else os.path.abspath(each) for each in locations}
    folder = os.path.commonpath([posixpath.dirname(path) for path in paths.values()])
    return {location: posixpath.relpath(path, folder) for location, path in paths.items()}


def manifest_of(files: FileList) -> dict[str, Any]:
    """The content of a manifest file."""
    splits = {
        split: {
            subset: [part.record() | {"location": part.location} for part in parts] for subset, parts in subsets.items()
        }
        for split, subsets in files.items()
    }
    return {"splits": splits}


def read_records(path: Path) -> FileList:
    """The files that a manifest names, of training at least. Raises UserError if it is missing or no such manifest."""
    try:
        content = json.loads(read_text(path))
        splits = content["splits"]
        files = {
            split: {subset: [_of(record) for record in records] for subset, records in splits[split].items()}
            for split in SPLITS
            if split == "train" or split in splits
        }
    except OSError as error:
        raise UserError(
            f"{path}: {(error.strerror or str(error)).lower()}; make it with python -m lab.prepare manifest"
        ) from None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(
            f"{path}: not a manifest of files ({error!r}); make it again with lab.prepare manifest"
        ) from None
    for split, subsets in files.items():
        for subset, parts in subsets.items() or [("", [])]:
            if not parts:
                name = f"{split}.{subset}" if subset else split
                raise UserError(f"{path}: names no file of {name}; make it again with lab.prepare manifest")
    return files


def _of(record: dict[str, Any]) -> Part:
    """Raises ValueError, KeyError or AttributeError for a record that is none."""
    part = Part(record["name"], record["location"], record["bytes"])
    part = replace(
        part,
        version=record.get("version", ""),
        digest=record.get("sha256", ""),
        start=record.get("start", 0),
        stop=record.get("stop"),
    )
    for name in ("name", "location", "version", "digest"):
        text = getattr(part, name)
        if not isinstance(text, str) or "\0" in text or not is_utf8(text):
            raise ValueError(f"{'sha256' if name == 'digest' else name} of a file is no text that can be one")
    stop = part.size if part.stop is None else part.stop
    if not all(type(each) is int for each in (part.size, part.start, stop)):
        raise ValueError(f"bytes, start or stop of {part.name} is no whole number")
    if not 0 <= part.start <= stop <= part.size < 2**63:
        raise ValueError(f"{part.name} has {part.size} bytes, of which {part.start} to {stop} cannot be read")
    return part


def parts_of(files: FileList) -> Iterator[Part]:
    """All parts of all splits."""
    for subsets in files.values():
        for parts in subsets.values():
            yield from parts
