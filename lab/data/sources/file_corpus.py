"""A corpus of files, near or far: `.jsonl` and `.txt`, packed or not, `.parquet`."""

import hashlib
import itertools
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from lab.base.errors import UserError
from lab.data.sources.documents import SPLITS, Corpus, Entry
from lab.data.sources.file_list import FileList, Given, Part, found, is_remote, listed, parts_of, read_records
from lab.data.sources.formats import Row, is_one_text, row_groups, rows
from lab.data.sources.rows import DocumentError, decode, is_blank, json_object, usable, value_at
from lab.data.sources.storage import Network, StoredFile, sha256

LOG = logging.getLogger("lab.data")
MEBIBYTE = 2**20


@dataclass(frozen=True)
class Chunk:
    """The documents of a part that start in [start, stop), counted as lab/data/sources/formats.py counts offsets.

    Of a part that is held in memory: its one document of this place there, which is number `number` of the file.
    """

    part: Part
    start: int
    stop: int | None
    number: int | None = None

    @property
    def name(self) -> str:
        """What it is called, on every machine."""
        return self.part.name + place_of(self.part, self.start, self.number)


def place_of(part: Part, offset: int, number: int | None) -> str:
    """Where in a file a document is: by its number, or its offset."""
    if is_one_text(part.kind):
        return ""
    # Lines are counted from the start of the file, so not in a part that begins later.
    return f"@{offset}" if number is None or part.start else f":{number + 1}"


class Files(Corpus):
    """Files on this machine, at http(s):// or at hf://datasets/OWNER/NAME@REVISION/.

    Each split is a location (a file, a folder, a pattern), a list, or a mapping from subsets to either; or a `manifest`
    of `python -m lab.prepare manifest` names them all. Where validation or test is not given, it is made of training:
    of each subset the share `held_out` of the chunks, those whose names have the smallest keyed hashes.
    A subset of at most `small_bytes` (stored size) is kept in memory and each of its documents is a chunk. In a larger
    one a chunk is a range of bytes of a `.jsonl` (a thousandth of the subset, 64 KiB to 64 MiB), a row group of a
    `.parquet`, or a whole file of another kind. Blank lines are no documents.
    A document is named after its file as seen from the folder that all files share, and its line ("a.jsonl:17")
    or, in a large subset or the later part of a file, its offset ("a.jsonl@81920").
    With `prompt_field` a document is that field, of which `longest_prompt_characters` are kept, a line with the `cue`,
    and the text; only the text is learned, and each document stands whole in a block.
    Raises UserError if training has no file, too few documents for what is made of it, or a file is missing, empty,
    given twice, or not what the manifest says.
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
        least_bytes_per_second: float = 1000.0,
        held_out: float = 0.05,
        prompt_field: str | None = None,
        cue: str = "",
        longest_prompt_characters: int | None = None,
    ) -> None:
        super().__init__(on_error)
        self.text_field, self.prompt_field = text_field, prompt_field
        self.cue, self.longest_prompt = cue, longest_prompt_characters
        self.whole = prompt_field is not None
        self.small_bytes = small_bytes
        self.longest = longest_document_bytes
        self.held_out = held_out
        self.network = Network(timeout_seconds, deadline_seconds, least_bytes_per_second=least_bytes_per_second)
        given = {"train": train, "validation": validation, "test": test}
        self.files: FileList = read_records(Path(manifest)) if manifest else self._found(given)
        self._chunks: dict[tuple[str, str], list[Chunk]] = {}
        self._small: dict[Part, list[tuple[int, Row]]] = {}  # with their numbers
        self._opened: dict[Part, StoredFile] = {}
        for part in parts_of(self.files):
            if not is_remote(part.location):
                self._file(part)  # from now on a change of the file is noticed
        if self._made:
            LOG.warning(
                "held_out: %s made of training, %g of its %s each",
                f"{' and '.join(self._made)} {'are' if len(self._made) > 1 else 'is'}",
                held_out,
                self.chunk_word,
            )

    def _found(self, given: dict[str, Given]) -> FileList:
        return found(listed(given, splits_of(given)), self.network)

    @classmethod
    def find_files(cls, keys: dict[str, Any]) -> FileList:
        """The files as they are now, from the configuration of a corpus. Raises UserError as `found`."""
        given = {split: keys.get(split) for split in SPLITS}
        return found(listed(given, splits_of(given)), network_of(keys))

    @property
    def _made(self) -> list[str]:
        """The splits that are made of training."""
        return [split for split in SPLITS if split not in self.files]

    def subsets(self, split: str) -> list[str]:
        # Sorted, as a manifest has them: the order decides ties of the mixture, and the digest does not tell it.
        return sorted(self.files["train" if split in self._made else split])

    def chunks(self, split: str, subset: str) -> int:
        return len(self._chunks_of(split, subset))

    def read(self, split: str, subset: str, chunk: int, offset: int | None = None) -> Iterator[Entry]:
        place = self._chunks_of(split, subset)[chunk]
        start = place.start if offset is None else offset
        small = self._small.get(place.part)
        found_rows = self._rows(place.part, start, place.stop) if small is None else small[start : place.stop]
        for number, row in found_rows:
            counted = None if small is None else number
            suffix = place_of(place.part, row.offset, counted)
            after = row.next_offset if small is None else start + 1
            read = partial(self._text, row, place.part.kind, place.part.location + suffix)
            if self.prompt_field is None:
                yield self.entry(place.part.name + suffix, after, read)
            else:
                prompt = partial(self._prompt, partial(read, self.prompt_field))
                yield self.entry(place.part.name + suffix, after, partial(_behind_space, read), prompt)

    def _file(self, part: Part) -> StoredFile:
        if part not in self._opened:
            self._opened[part] = part.open(self.network)
        return self._opened[part]

    def _rows(self, part: Part, start: int, stop: int | None) -> Iterator[tuple[int, Row]]:
        """The rows of a file that are not blank, with their numbers from `start` on; a damaged place, after which
        nothing in it can be read, is the last of them."""
        columns = None
        if part.kind == "parquet":
            columns = [each for each in (self.text_field, self.prompt_field) if each is not None]
        number, end = 0, start
        try:
            for row in rows(self._file(part), start, stop, longest=self.longest, columns=columns):
                blank = part.kind.startswith("jsonl") and row.error is None and is_blank(row.content)  # type: ignore[arg-type]
                if not blank:
                    yield number, row
                number, end = number + 1, row.next_offset
        except DocumentError as damage:
            yield number, Row(end, end, b"", damage)

    def _prompt(self, read: Callable[[], str]) -> str:
        return f"{read()[: self.longest_prompt]}\n{self.cue}"

    def _text(self, row: Row, kind: str, where: str, prompt_field: str | None = None) -> str:
        """The text of a row, or what another field of it holds."""
        if row.error is not None:
            raise row.error
        if isinstance(row.content, bytes) and is_one_text(kind):
            if self.prompt_field is not None:
                raise DocumentError(f"{where}: a text without fields, and prompt_field names one; give rows, or null")
            return usable(decode(row.content, where), where)
        fields = row.content if isinstance(row.content, dict) else json_object(row.content, where)
        name = prompt_field or self.text_field
        try:
            text = value_at(fields, name)
        except KeyError:
            key = "text_field" if prompt_field is None else "prompt_field"
            raise DocumentError(f"{where}: lacks the field {name!r}; mend the row or set {key}") from None
        if isinstance(text, bytes):  # a column of parquet without a type for text
            text = decode(text, where)
        if not isinstance(text, str):
            kind = type(text).__name__
            raise DocumentError(f"{where}: the field {name!r} is of type {kind}, not a string; mend the row")
        return usable(text, where if prompt_field is None else f"{where}, field {name!r}")

    def _chunks_of(self, split: str, subset: str) -> list[Chunk]:
        if (split, subset) not in self._chunks and split in self._made:
            self._chunks_of("train", subset)
        if (split, subset) not in self._chunks:
            parts = self.files[split][subset]
            size = sum(part.bytes for part in parts)
            if size <= self.small_bytes:
                chunks = [chunk for part in parts for chunk in self._documents_of(part)]
            else:
                step = min(max(size // 1024, MEBIBYTE // 16), 64 * MEBIBYTE)
                chunks = [chunk for part in parts for chunk in self._cut(part, step)]
            if split == "train" and self._made:
                for each, kept in self._divided(chunks, subset).items():
                    self._chunks[each, subset] = kept
            else:
                self._chunks[split, subset] = chunks
        return self._chunks[split, subset]

    def _divided(self, chunks: list[Chunk], subset: str) -> dict[str, list[Chunk]]:
        """The chunks of training as those that it keeps and those of the splits that are made of it.

        By names alone, so that neither order nor machine matters.
        """
        many = max(1, round(self.held_out * len(chunks)))
        if len(chunks) <= many * len(self._made):
            raise UserError(
                f"split train{f', subset {subset}' if subset else ''} has {len(chunks)} {self.chunk_word}: too few to"
                f" make {' and '.join(self._made)} of them; give these, or more files"
            )
        ranked = sorted(range(len(chunks)), key=lambda index: _rank(chunks[index].name))
        taken = {index: self._made[rank // many] for rank, index in enumerate(ranked[: many * len(self._made)])}
        divided: dict[str, list[Chunk]] = {split: [] for split in ("train", *self._made)}
        for index, chunk in enumerate(chunks):
            divided[taken.get(index, "train")].append(chunk)
        return divided

    def _documents_of(self, part: Part) -> list[Chunk]:
        if part not in self._small:
            if part.digest and part.size <= self.small_bytes and sha256(self._file(part)) != part.digest:
                raise UserError(f"{part.location}: its sha256 is not that of the manifest; make the manifest again")
            self._small[part] = list(self._rows(part, part.start, part.stop))
        return [Chunk(part, index, index + 1, number) for index, (number, _) in enumerate(self._small[part])]

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
            return [Chunk(part, start, stop) for start, stop in itertools.pairwise(edges) if start < stop]
        return [Chunk(part, 0, None)]

    def _contents(self) -> dict[str, Any]:
        splits = {
            split: {subset: [part.record() for part in parts] for subset, parts in subsets.items()}
            for split, subsets in self.files.items()
        }
        made = {"held_out": self.held_out, "small_bytes": self.small_bytes, "splits": self._made}
        told = {"source": "files", "text_field": self.text_field, "splits": splits}
        if self.prompt_field is not None:
            longest = self.longest_prompt
            told["prompt"] = {"field": self.prompt_field, "cue": self.cue, "longest_characters": longest}
        return told | ({"made_of_training": made} if self._made else {})


def splits_of(given: dict[str, Given]) -> list[str]:
    """The splits that are given, training always: what is not given is made of it."""
    return [split for split in SPLITS if split == "train" or given[split] is not None]


def network_of(keys: dict[str, Any]) -> Network:
    """How patient reading is, from the configuration of a corpus."""
    names = ("timeout_seconds", "deadline_seconds", "least_bytes_per_second")
    given = {name.removesuffix("_seconds"): keys[name] for name in names if name in keys}
    return Network(**given)


def _behind_space(read: Callable[[], str]) -> str:
    return f" {read()}"


def _rank(name: str) -> bytes:
    return hashlib.blake2b(name.encode(), key=b"held out", digest_size=16).digest()


class TestFiles(Files):
    """Own files to be scored: as `Files`, with a test split only. Raises UserError as that, or for another split."""

    __test__ = False  # no test of pytest's

    def __init__(self, test: Given = None, text_field: str = "text", on_error: str = "stop") -> None:
        super().__init__(test=test, text_field=text_field, on_error=on_error)

    def _found(self, given: dict[str, Given]) -> FileList:
        return found(listed(given, ("test",), "evaluation.corpus"), self.network)

    @property
    def _made(self) -> list[str]:
        return []

    def subsets(self, split: str) -> list[str]:
        if split != "test":
            raise UserError(f"these files have only the split test, not {split}; they are scored, not trained on")
        return super().subsets(split)
