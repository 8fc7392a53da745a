"""Which files a corpus of files is: lists by split and subset, given in the configuration or in a manifest."""

import json
import os
import posixpath
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from lab.base.errors import UserError
from lab.data.sources.documents import SPLITS
from lab.data.sources.formats import kind_of
from lab.data.sources.storage import Network, StoredFile, open_file, sha256

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

    @property
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
    """Locations by split and subset. Each split is one location, a list, or a mapping from subsets to either.

    `under` is where the configuration has them. Raises UserError if a split has none, or a location stands twice.
    """
    lists: dict[str, dict[str, list[str]]] = {}
    seen: dict[str, str] = {}
    for split in splits:
        subsets = given[split] if isinstance(given[split], Mapping) else {"": given[split]}
        lists[split] = {}
        for subset, locations in subsets.items():  # type: ignore[union-attr]
            key = f"{under}.{split}{f'.{subset}' if subset else ''}"
            several: list[Any] = list(locations) if isinstance(locations, list | tuple) else [locations]
            if not several or not all(isinstance(location, str) and location for location in several):
                raise UserError(f"{key} lacks a path; give the path or URL of at least one file")
            for location in several:
                kind_of(location)
                if location in seen:
                    raise UserError(f"{location}: stands under {seen[location]} and {key}; give every file once")
                seen[location] = key
            lists[split][subset] = several
        if not subsets:
            raise UserError(f"{under}.{split} lacks a path; give the path or URL of at least one file")
    return lists


def found(lists: dict[str, dict[str, list[str]]], network: Network) -> FileList:
    """The files of `listed` as they are now: sizes, and sha256 of local files or, of remote ones, their versions.

    Raises UserError if a file is missing, empty, a copy of another, or remote without a version.
    """
    names = common_names([location for subsets in lists.values() for each in subsets.values() for location in each])
    first: dict[str, str] = {}

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

    return {
        split: {subset: [part(location) for location in locations] for subset, locations in subsets.items()}
        for split, subsets in lists.items()
    }


def is_remote(location: str) -> bool:
    return "://" in location


def common_names(locations: Sequence[str]) -> dict[str, str]:
    """Each location as seen from the folder that all share."""
    if any(is_remote(location) for location in locations):
        paths = {
            each: urlsplit(each).path if is_remote(each) else Path(each).resolve().as_posix() for each in locations
        }
    else:
        paths = {each: Path(each).resolve().as_posix() for each in locations}
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
    """The files that a manifest names. Raises UserError if it is missing or not a manifest of files."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return {
            split: {subset: [_of(record) for record in records] for subset, records in content["splits"][split].items()}
            for split in SPLITS
        }
    except OSError as error:
        raise UserError(
            f"{path}: {(error.strerror or str(error)).lower()}; make it with python -m lab.prepare manifest"
        ) from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"{path}: not a manifest of files ({error!r}); make it again with lab.prepare manifest"
        ) from None


def _of(record: dict[str, Any]) -> Part:
    part = Part(record["name"], record["location"], record["bytes"])
    return replace(
        part,
        version=record.get("version", ""),
        digest=record.get("sha256", ""),
        start=record.get("start", 0),
        stop=record.get("stop"),
    )


def parts_of(files: FileList) -> Iterator[Part]:
    """All parts of all splits."""
    for subsets in files.values():
        for parts in subsets.values():
            yield from parts
