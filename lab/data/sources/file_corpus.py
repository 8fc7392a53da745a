"""A corpus of files, near or far: `.jsonl`, `.jsonl.zst`, `.jsonl.gz`, `.parquet`, `.txt`."""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from lab.base.errors import UserError
from lab.data.sources.documents import SPLITS, Corpus, Entry
from lab.data.sources.file_list import FileList, Given, Part, found, is_remote, listed, parts_of, read_records
from lab.data.sources.formats import Row, row_groups, rows
from lab.data.sources.rows import DocumentError, decode, json_object, usable
from lab.data.sources.storage import Network, StoredFile, sha256

MEBIBYTE = 2**20


@dataclass(frozen=True)
class Chunk:
    """The documents of a part that start in [start, stop), counted as lab/data/sources/formats.py counts offsets.

    `first` is the number of the first of them in the part, where it is known.
    """

    part: Part
    start: int
    stop: int | None
    first: int | None = None


class Files(Corpus):
    """Files on this machine, at http(s):// or at hf://datasets/OWNER/NAME@REVISION/.

    Each split is a location, a list, or a mapping from subsets to either; or a `manifest` of
    `python -m lab.prepare manifest` names them all. A subset of at most `small_bytes` (stored size) is kept in
    memory and each of its documents is a chunk. In a larger one a chunk is a range of bytes of a `.jsonl`
    (a thousandth of the subset, 64 KiB to 64 MiB), a row group of a `.parquet`, or a whole file of another kind.
    A document is named after its file as seen from the folder that all files share, and its line ("a.jsonl:17")
    or, in a large subset or the later part of a file, its offset ("a.jsonl@81920").
    Raises UserError if a split has no file, a file is missing, empty, given twice, or not what the manifest says.
    """

    chunk_word = "documents or chunks"

    def __init__(
        self,
        train: Given = None,
        validation: Given = None,
        test: Given = None,
        manifest: str | None = None,
        text_field: str = "text",
        on_error: str = "stop",
        small_bytes: int = 64 * MEBIBYTE,
        longest_document_bytes: int = 64 * MEBIBYTE,
        timeout_seconds: float = 30.0,
        deadline_seconds: float = 900.0,
    ) -> None:
        super().__init__(on_error)
        self.text_field = text_field
        self.small_bytes = small_bytes
        self.longest = longest_document_bytes
        self.network = Network(timeout_seconds, deadline_seconds)
        given = {"train": train, "validation": validation, "test": test}
        self.files: FileList = read_records(Path(manifest)) if manifest else self._found(given)
        self._chunks: dict[tuple[str, str], list[Chunk]] = {}
        self._small: dict[Part, list[Row]] = {}
        self._opened: dict[Part, StoredFile] = {}
        for part in parts_of(self.files):
            if not is_remote(part.location):
                self._file(part)  # from now on a change of the file is noticed

    def _found(self, given: dict[str, Given]) -> FileList:
        return found(listed(given), self.network)

    @classmethod
    def find_files(cls, keys: dict[str, Any]) -> FileList:
        """The files as they are now, from the configuration of a corpus. Raises UserError as `found`."""
        network = Network(keys.get("timeout_seconds", 30.0), keys.get("deadline_seconds", 900.0))
        return found(listed({split: keys.get(split) for split in SPLITS}), network)

    def subsets(self, split: str) -> list[str]:
        # Sorted, as a manifest has them: the order decides ties of the mixture, and the digest does not tell it.
        return sorted(self.files[split])

    def chunks(self, split: str, subset: str) -> int:
        return len(self._chunks_of(split, subset))

    def read(self, split: str, subset: str, chunk: int, offset: int | None = None) -> Iterator[Entry]:
        place = self._chunks_of(split, subset)[chunk]
        start = place.start if offset is None else offset
        if place.part in self._small:
            found_rows: Iterator[Row] = iter(self._small[place.part][start : place.stop])
        else:
            found_rows = self._rows(place.part, start, place.stop)
        number = place.first
        for row in found_rows:
            # Lines are counted from the start of the file, so not in a part that begins later.
            place_in_file = f"@{row.offset}" if number is None or place.part.start else f":{number + 1}"
            suffix = "" if place.part.kind == "txt" else place_in_file
            after = row.next_offset
            if number is not None:
                number = after = number + 1
            text = partial(self._text, row, place.part.kind, place.part.location + suffix)
            yield self.entry(place.part.name + suffix, after, text)

    def _file(self, part: Part) -> StoredFile:
        if part not in self._opened:
            self._opened[part] = part.open(self.network)
        return self._opened[part]

    def _rows(self, part: Part, start: int, stop: int | None) -> Iterator[Row]:
        """The rows of a file; a damaged place, after which nothing in it can be read, is the last of them."""
        columns = [self.text_field] if part.kind == "parquet" else None
        end = start
        try:
            for row in rows(self._file(part), start, stop, longest=self.longest, columns=columns):
                yield row
                end = row.next_offset
        except DocumentError as damage:
            yield Row(end, end, b"", damage)

    def _text(self, row: Row, kind: str, where: str) -> str:
        if row.error is not None:
            raise row.error
        if isinstance(row.content, bytes) and kind == "txt":
            return usable(decode(row.content, where), where)
        fields = row.content if isinstance(row.content, dict) else json_object(row.content, where)
        if self.text_field not in fields:
            raise DocumentError(f"{where}: lacks the field {self.text_field!r}; mend the row or set text_field")
        text = fields[self.text_field]
        if not isinstance(text, str):
            kind = type(text).__name__
            raise DocumentError(f"{where}: the field {self.text_field!r} is of type {kind}, not a string; mend the row")
        return usable(text, where)

    def _chunks_of(self, split: str, subset: str) -> list[Chunk]:
        if (split, subset) not in self._chunks:
            parts = self.files[split][subset]
            size = sum(part.bytes for part in parts)
            if size <= self.small_bytes:
                chunks = [chunk for part in parts for chunk in self._documents_of(part)]
            else:
                step = min(max(size // 1024, MEBIBYTE // 16), 64 * MEBIBYTE)
                chunks = [chunk for part in parts for chunk in self._cut(part, step)]
            self._chunks[split, subset] = chunks
        return self._chunks[split, subset]

    def _documents_of(self, part: Part) -> list[Chunk]:
        if part not in self._small:
            if part.digest and part.size <= self.small_bytes and sha256(self._file(part)) != part.digest:
                raise UserError(f"{part.location}: its sha256 is not that of the manifest; make the manifest again")
            self._small[part] = list(self._rows(part, part.start, part.stop))
        return [Chunk(part, index, index + 1, first=index) for index in range(len(self._small[part]))]

    def _cut(self, part: Part, step: int) -> list[Chunk]:
        if part.kind == "jsonl":
            stop = part.size if part.stop is None else part.stop
            starts = range(part.start, stop, step)
            return [Chunk(part, start, min(start + step, stop)) for start in starts]
        if part.kind == "parquet":
            try:
                edges = row_groups(self._file(part))
            except DocumentError:
                return [Chunk(part, 0, None)]  # told when it is read
            return [Chunk(part, start, stop) for start, stop in itertools.pairwise(edges)]
        return [Chunk(part, 0, None)]

    def _contents(self) -> dict[str, Any]:
        splits = {
            split: {subset: [part.record() for part in parts] for subset, parts in subsets.items()}
            for split, subsets in self.files.items()
        }
        return {"source": "files", "text_field": self.text_field, "splits": splits}


class TestFiles(Files):
    """Own files to be scored: as `Files`, with a test split only. Raises UserError as that, or for another split."""

    __test__ = False  # no test of pytest's

    def __init__(self, test: Given = None, text_field: str = "text", on_error: str = "stop") -> None:
        super().__init__(test=test, text_field=text_field, on_error=on_error)

    def _found(self, given: dict[str, Given]) -> FileList:
        return found(listed(given, ("test",), "evaluation.corpus"), self.network)

    def subsets(self, split: str) -> list[str]:
        if split != "test":
            raise UserError(f"these files have only the split test, not {split}; they are scored, not trained on")
        return super().subsets(split)
