"""Files to rows: `.jsonl` (`.json`, `.ndjson`) and `.txt`, packed as `.zst` or `.gz` or not, `.parquet`."""

import itertools
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from lab.base.errors import UserError
from lab.data.sources.rows import DocumentError
from lab.data.sources.storage import StoredFile, seekable

NAMES = {"jsonl": "jsonl", "json": "jsonl", "ndjson": "jsonl", "txt": "txt"}
PACKED = {"": "", ".zst": ".zst", ".zstd": ".zst", ".gz": ".gz", ".gzip": ".gz"}
# What a file is, by the end of its name in small letters.
KINDS = {f".{name}{end}": f"{kind}{packed}" for name, kind in NAMES.items() for end, packed in PACKED.items()}
KINDS[".parquet"] = "parquet"
LONGEST = 64 * 2**20
BEYOND = 2**16  # bytes behind a range that are read at first, for the end of its last line
SLICE = 2**11  # compressed bytes that are unpacked at once: at most some 70 MB of text, usually 5 kB


class Damage(DocumentError):
    """A file cannot be read beyond this place: what comes after it is out of reach."""


@dataclass(frozen=True)
class Row:
    """One row of a file.

    `offset` is where it starts: the byte (of the decompressed text), or the number of a parquet row. Reading from
    `next_offset` goes on with the row after it. `content` is a line without its end, a whole text, or the columns of
    a parquet row; if there is an `error` it is empty.
    """

    offset: int
    next_offset: int
    content: bytes | dict[str, Any]
    error: DocumentError | None = None


def kind_of(location: str) -> str:
    """parquet, jsonl or txt, with .zst or .gz behind if packed, by the end of the name. Raises UserError for others."""
    kind = known_kind(location)
    if kind is None:
        raise UserError(
            f"{location}: unknown kind of file; give .jsonl, .ndjson or .json (one object a line) or .txt, also packed"
            " (.zst, .gz), or .parquet"
        )
    return kind


def known_kind(location: str) -> str | None:
    """As `kind_of`; None for another."""
    path = (urlsplit(location).path if "://" in location else location).lower()
    return next((kind for end, kind in KINDS.items() if path.endswith(end)), None)


def rows(
    file: StoredFile,
    start: int = 0,
    stop: int | None = None,
    longest: int = LONGEST,
    columns: Sequence[str] | None = None,
) -> Iterator[Row]:
    """The rows that start in [start, stop): a line belongs to the range in which its first byte lies.

    Of a compressed file everything before `start` is decompressed and dropped. A line of more than `longest` bytes
    comes as a row with an error, as does a parquet row that is not UTF-8. Raises Damage where a file is cut or
    corrupt, after the rows before it: all that end before the slice of SLICE compressed bytes, or before the batch of
    parquet rows, that is corrupt, however the bytes arrive. Raises UserError where it is empty.
    """
    if file.size == 0:
        raise UserError(f"{file.location}: the file is empty; give a file with at least one document")
    kind = kind_of(file.location)
    if kind == "parquet":
        yield from _parquet_rows(file, start, stop, columns)
    elif is_one_text(kind):
        if start == 0 and (stop is None or stop > 0):
            yield _text_row(file, unpacked(file, kind), longest)
    elif kind == "jsonl":
        # From the byte before: if it ends a line, `start` begins one.
        first = max(start - 1, 0)
        stop = file.size if stop is None else min(stop, file.size)
        yield from _lines(file, _from(file, first, stop), first, start, stop, longest)
    else:
        yield from _lines(file, unpacked(file, kind), 0, start, stop, longest)


def is_one_text(kind: str) -> bool:
    """Whether a file of this kind is one document, and not a row each."""
    return kind.startswith("txt")


def unpacked(file: StoredFile, kind: str) -> Iterator[bytes]:
    """The text of a file of this kind. Raises Damage where it is packed and cut or corrupt."""
    if kind.endswith(".zst"):
        return decompressed_zst(file)
    return decompressed_gz(file) if kind.endswith(".gz") else file.read()


def _from(file: StoredFile, start: int, stop: int) -> Iterator[bytes]:
    """The bytes from `start` on, as far as they are asked for: those up to `stop`, then more and more at a time, for a
    line that goes on there."""
    more = BEYOND
    while start < stop:
        yield from file.read(start, stop)
        start, stop, more = stop, min(stop + more, file.size), 2 * more


def _lines(
    file: StoredFile, pieces: Iterator[bytes], position: int, start: int, stop: int | None, longest: int
) -> Iterator[Row]:
    """Rows of the lines in `pieces`, which begin at byte `position` of the text; those before `start` are dropped."""
    begin, parts, length = position, list[bytes](), 0  # of the line in hand, which may come in several pieces
    for piece in pieces:
        *ended, tail = piece.split(b"\n") if position + len(piece) > start else _last_line(piece)
        for line in ended:
            if begin >= start:
                if stop is not None and begin >= stop:
                    return
                yield _line_row(file, begin, length + len(line), 1, [*parts, line], longest)
            position += len(line) + 1
            begin, parts, length = position, [], 0
        position += len(tail)
        length += len(tail)
        # Of a line that is too long, or not wanted, only the length is kept.
        parts = [*parts, tail] if begin >= start and length <= longest else []
        if stop is not None and (begin >= stop or (begin < start and position >= stop - 1)):
            return  # no line begins before `stop` any more, though the one in hand may go on and on
    if length and begin >= start and (stop is None or begin < stop):
        yield _line_row(file, begin, length, 0, parts, longest)


def _last_line(piece: bytes) -> tuple[bytes, ...]:
    """A piece as what ends with its last line and what comes after: its other lines are not wanted."""
    before, newline, tail = piece.rpartition(b"\n")
    return (before, tail) if newline else (tail,)


def _line_row(file: StoredFile, begin: int, length: int, end: int, parts: list[bytes], longest: int) -> Row:
    if length > longest:
        error = DocumentError(
            f"{file.location}@{begin}: a line of {length} bytes; shorten it or raise longest_document_bytes"
            f" (now {longest}); one object a line is read"
        )
        return Row(begin, begin + length + end, b"", error)
    return Row(begin, begin + length + end, b"".join(parts).removesuffix(b"\r"))


def _text_row(file: StoredFile, pieces: Iterator[bytes], longest: int) -> Row:
    parts, length = list[bytes](), 0
    for piece in pieces:
        parts.append(piece)
        length += len(piece)
        if length > longest:
            told = f"more than {longest} bytes; shorten it or raise longest_document_bytes (now {longest})"
            return Row(0, file.size, b"", DocumentError(f"{file.location}: {told}"))
    return Row(0, file.size, b"".join(parts))


def _slices(pieces: Iterator[bytes]) -> Iterator[bytes]:
    """The same bytes cut at the multiples of SLICE.

    What comes of a corrupt file must not depend on how its bytes arrived.
    """
    rest = b""
    for piece in pieces:
        rest += piece
        whole = len(rest) // SLICE * SLICE
        for begin in range(0, whole, SLICE):
            yield rest[begin : begin + SLICE]
        rest = rest[whole:]
    if rest:
        yield rest


def decompressed_gz(file: StoredFile) -> Iterator[bytes]:
    """The text of a .gz file, of one member or several, with zeros behind or not. Raises Damage where it is cut or
    corrupt."""
    member, read, given = zlib.decompressobj(wbits=31), 0, 0
    for piece in _slices(file.read()):
        read += len(piece)
        while piece:
            if member.eof:
                piece = piece.lstrip(b"\0")  # some programs fill a file up with zeros
                if not piece:
                    break
                member = zlib.decompressobj(wbits=31)
            try:
                text = member.decompress(piece)
            except zlib.error as error:
                raise _damage(file, read - len(piece), given, f"corrupt ({error})") from None
            piece = member.unused_data
            given += len(text)
            if text:
                yield text
    if not member.eof:
        raise _damage(file, read, given, "cut short")


def decompressed_zst(file: StoredFile) -> Iterator[bytes]:
    """The text of a .zst file, of one frame or several. Raises Damage where it is cut or corrupt."""
    import zstandard

    # Not its stream_reader, which takes the end of a cut file for the end of the text.
    decompressor = zstandard.ZstdDecompressor(max_window_size=2**31)
    frame, read, given = decompressor.decompressobj(), 0, 0
    for piece in _slices(file.read()):
        read += len(piece)
        while piece:
            if frame.eof:
                frame = decompressor.decompressobj()
            try:
                text = frame.decompress(piece)
            except zstandard.ZstdError as error:
                raise _damage(file, read - len(piece), given, f"corrupt ({error})") from None
            piece = frame.unused_data
            given += len(text)
            if text:
                yield text
    if not frame.eof:
        raise _damage(file, read, given, "cut short")


def _damage(file: StoredFile, read: int, given: int, what: str) -> Damage:
    return Damage(f"{file.location}: {what} at byte {read} (byte {given} of its text); download it again")


def row_groups(file: StoredFile) -> list[int]:
    """Row numbers at which the groups of a parquet file start, and their total. Raises Damage if it is corrupt."""
    return _edges(file, _open_parquet(file))


def _edges(file: StoredFile, parquet: Any) -> list[int]:
    metadata = parquet.metadata
    lengths = (metadata.row_group(group).num_rows for group in range(metadata.num_row_groups))
    edges = [0, *itertools.accumulate(lengths)]
    if edges[-1] != metadata.num_rows:
        raise Damage(f"{file.location}: {metadata.num_rows} rows, but {edges[-1]} in its groups; download it again")
    return edges


def _open_parquet(file: StoredFile) -> Any:
    import pyarrow.parquet
    from pyarrow import ArrowException

    try:
        return pyarrow.parquet.ParquetFile(seekable(file), page_checksum_verification=True)
    except (ArrowException, OSError) as error:
        raise Damage(
            f"{file.location}: not a whole parquet file ({' '.join(str(error).split())}); download it again"
        ) from None


def _parquet_rows(file: StoredFile, start: int, stop: int | None, columns: Sequence[str] | None) -> Iterator[Row]:
    from pyarrow import ArrowException

    parquet = _open_parquet(file)
    edges = _edges(file, parquet)
    stop = edges[-1] if stop is None else min(stop, edges[-1])
    kept = None if columns is None else _columns(parquet, columns)
    for group, (first, end) in enumerate(itertools.pairwise(edges)):
        if end <= start or first >= stop:
            continue
        number = first
        try:
            for batch in parquet.iter_batches(batch_size=256, row_groups=[group], columns=kept):
                for row in _batch_rows(file, batch, number):
                    if start <= row.offset < stop:
                        yield row
                number += batch.num_rows
        except (ArrowException, OSError) as error:
            raise Damage(
                f"{file.location}: corrupt after row {number} ({' '.join(str(error).split())}); download it again"
            ) from None
        if number != end:
            raise Damage(
                f"{file.location}: ends at row {number} of group {group}, which tells {end}; download it again"
            )


def _columns(parquet: Any, names: Sequence[str]) -> list[str]:
    """Those of these columns that there are; a name with dots leads into a column of several fields."""
    leaves = [parquet.schema.column(number).path for number in range(len(parquet.schema))]
    return [name for name in names if any(leaf == name or leaf.startswith(f"{name}.") for leaf in leaves)]


def _batch_rows(file: StoredFile, batch: Any, first: int) -> Iterator[Row]:
    try:
        for number, content in enumerate(batch.to_pylist(), first):
            yield Row(number, number + 1, content)
    except UnicodeDecodeError as error:
        if batch.num_rows > 1:
            # One by one, for the others are not to blame.
            for index in range(batch.num_rows):
                yield from _batch_rows(file, batch.slice(index, 1), first + index)
        else:
            where = f"{file.location}:{first + 1}"
            told = DocumentError(f"{where}: not UTF-8 at byte {error.start} of a column; convert it to UTF-8")
            yield Row(first, first + 1, {}, told)
