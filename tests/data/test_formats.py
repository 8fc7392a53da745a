import gzip
import itertools
import random
import struct
import tracemalloc
import zlib

import pyarrow
import pyarrow.parquet
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from lab.base.errors import UserError
from lab.data.sources.formats import Damage, kind_of, row_groups, rows
from lab.data.sources.storage import StoredFile, open_file


class Held(StoredFile):
    """A file in memory, given out in pieces of any size."""

    version = ""

    def __init__(self, location: str, content: bytes, piece: int = 7) -> None:
        self.location, self.content, self.size, self.piece = location, content, len(content), piece

    def read(self, start=0, stop=None):
        content = self.content[start:stop]
        for begin in range(0, len(content), self.piece):
            yield content[begin : begin + self.piece]


def packed(kind: str, text: bytes) -> bytes:
    """A file of two members or frames, where the kind has such."""
    half = len(text) // 2
    if kind == "jsonl.gz":
        return gzip.compress(text[:half], mtime=0) + gzip.compress(text[half:], mtime=0)
    if kind == "jsonl.zst":
        # With a checksum, as the command zstd writes it; without one a flipped bit may be a different text.
        compressor = zstandard.ZstdCompressor(write_checksum=True)
        return compressor.compress(text[:half]) + compressor.compress(text[half:])
    return text


LINES = ("jsonl", "jsonl.gz", "jsonl.zst")


@settings(max_examples=60, deadline=None)
@given(
    lines=st.lists(st.binary(max_size=12).map(lambda line: line.replace(b"\n", b"").replace(b"\r", b"")), min_size=1),
    ended=st.booleans(),
    piece=st.integers(1, 40),
    cuts=st.lists(st.integers(0, 400), max_size=5),
    kind=st.sampled_from(LINES),
)
def test_ranges_that_follow_one_another_give_every_line_once(lines, ended, piece, cuts, kind):
    text = b"\n".join(lines) + (b"\n" if ended else b"")
    if not text:
        return
    expected = text.split(b"\n")
    expected = expected[:-1] if expected[-1] == b"" else expected
    file = Held(f"a.{kind}", packed(kind, text), piece)
    whole = list(rows(file))
    assert [row.content for row in whole] == expected
    edges = [0, *sorted(min(cut, len(text)) for cut in cuts), len(text)]
    assert [row for start, stop in itertools.pairwise(edges) for row in rows(file, start, stop)] == whole
    for row, following in itertools.pairwise(whole):
        assert row.next_offset == following.offset
        assert text[row.offset :].startswith(row.content)


@pytest.mark.parametrize("kind", LINES)
def test_reading_from_the_next_offset_of_any_line_goes_on_with_the_next(kind):
    generator = random.Random(0)
    text = b"".join(bytes(generator.choices(b"abc", k=generator.randrange(30))) + b"\n" for _ in range(200))
    file = Held(f"a.{kind}", packed(kind, text), 64)
    whole = list(rows(file))
    for index, row in enumerate(whole):
        assert list(rows(file, row.next_offset)) == whole[index + 1 :]


@pytest.mark.parametrize("kind", ["jsonl.gz", "jsonl.zst"])
@pytest.mark.parametrize("place", ["in the first member", "between the members", "in the last bytes"])
def test_a_cut_file_gives_the_whole_lines_before_the_cut_and_then_says_so(kind, place):
    generator = random.Random(0)
    lines = [bytes(generator.choices(b"abcdefgh", k=60)) for _ in range(2000)]
    text = b"\n".join(lines) + b"\n"
    content = packed(kind, text)
    first = len(packed(kind, text)) // 2 if place != "between the members" else first_member(kind, text)
    cut = {"in the first member": first // 2, "between the members": first, "in the last bytes": len(content) - 3}[
        place
    ]
    if place == "between the members":
        # A cut exactly there leaves a whole file: nothing but its length, which a manifest knows, tells it.
        found = [row.content for row in rows(Held(f"a.{kind}", content[:cut], 1000))]
        assert found[:-1] == lines[: len(found) - 1]
        return
    found = []
    message = ""
    try:
        found.extend(row.content for row in rows(Held(f"a.{kind}", content[:cut], 1000)))
    except Damage as damage:
        message = str(damage)
    assert message.startswith(f"a.{kind}: cut short at byte {cut} (byte ")
    assert found == lines[: len(found)]


def first_member(kind: str, text: bytes) -> int:
    half = text[: len(text) // 2]
    compressor = zstandard.ZstdCompressor(write_checksum=True)
    return len(gzip.compress(half, mtime=0) if kind == "jsonl.gz" else compressor.compress(half))


@pytest.mark.parametrize("kind", ["jsonl.gz", "jsonl.zst"])
def test_a_corrupt_file_says_so_and_where(kind):
    text = b"".join(b"%d\n" % number for number in range(20000))
    content = bytearray(packed(kind, text))
    content[len(content) // 4] ^= 0xFF
    with pytest.raises(Damage, match=rf"a\.{kind}: (corrupt|cut short).* at byte \d+"):
        list(rows(Held(f"a.{kind}", bytes(content), 1000)))


@pytest.mark.parametrize("kind", ["jsonl.gz", "jsonl.zst"])
def test_what_comes_of_a_corrupt_file_does_not_depend_on_how_its_bytes_arrive(kind):
    generator = random.Random(0)
    lines = [generator.randbytes(40).hex().encode() for _ in range(30_000)]
    content = bytearray(packed(kind, b"\n".join(lines)))
    content[len(content) * 3 // 8] ^= 0xFF
    outcomes = set()
    for piece in (999, 2**16, 2**20):
        found = []
        with pytest.raises(Damage) as damage:
            found.extend(row for row in rows(Held(f"a.{kind}", bytes(content), piece)))
        outcomes.add((len(found), str(damage.value)))
    assert len(outcomes) == 1
    assert outcomes.pop()[0] > 5_000


@pytest.mark.parametrize("kind", ["jsonl.gz", "jsonl.zst"])
def test_a_line_that_packs_well_is_not_held_in_memory(kind):
    packer = zlib.compressobj(1, wbits=31) if kind == "jsonl.gz" else zstandard.ZstdCompressor(level=1).compressobj()
    text = [*itertools.repeat(b"x" * 10**6, 400), b"\nlast\n"]
    content = b"".join(map(packer.compress, text)) + packer.flush()
    tracemalloc.start()
    long, last = rows(Held(f"a.{kind}", content, 2**20), longest=2**20)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert long.error is not None
    assert (long.offset, last.offset, last.content) == (0, 400_000_001, b"last")
    assert peak < 300_000_000


@pytest.mark.parametrize("piece", [1, 3, 1000])
def test_empty_and_skippable_frames_are_passed_over_and_a_cut_one_is_told(piece):
    skippable = b"\x50\x2a\x4d\x18" + (5).to_bytes(4, "little") + b"notes"
    whole = skippable + zstandard.compress(b"a\nb") + zstandard.compress(b"") + skippable + zstandard.compress(b"c\n")
    assert [row.content for row in rows(Held("a.jsonl.zst", whole, piece))] == [b"a", b"bc"]
    with pytest.raises(Damage, match="cut short"):
        list(rows(Held("a.jsonl.zst", whole + skippable[:-1], piece)))


def test_a_text_belongs_to_the_range_that_holds_its_first_byte():
    file = Held("a.txt", b"text")
    assert [len(list(rows(file, start, stop))) for start, stop in ((0, 0), (0, 1), (1, 4))] == [0, 1, 0]


@pytest.mark.parametrize("piece", [1, 1000, 2**20])
def test_zeros_behind_a_gz_file_are_passed_over_and_other_bytes_are_not(piece):
    whole = gzip.compress(b"a\nb\n", mtime=0)
    assert [row.content for row in rows(Held("a.jsonl.gz", whole + bytes(5000), piece))] == [b"a", b"b"]
    assert len(list(rows(Held("a.jsonl.gz", whole + bytes(3000) + whole, piece)))) == 4
    with pytest.raises(Damage, match="corrupt"):
        list(rows(Held("a.jsonl.gz", whole + bytes(3000) + b"rubbish", piece)))


def test_a_wrong_checksum_of_a_gz_file_says_so():
    content = bytearray(gzip.compress(b"a\nb\n", mtime=0))
    content[-8:-4] = zlib.crc32(b"other").to_bytes(4, "little")
    with pytest.raises(Damage, match="corrupt"):
        list(rows(Held("a.jsonl.gz", bytes(content))))


def test_what_follows_the_last_frame_is_not_passed_over():
    with pytest.raises(Damage, match="corrupt"):
        list(rows(Held("a.jsonl.zst", zstandard.compress(b"a\n") + b"rubbish that is no frame", 1000)))


def test_a_line_that_is_too_long_is_named_and_the_others_come(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"first\n" + b"x" * 100_000_000 + b"\nlast\n")
    first, long, last = rows(open_file(str(path)))
    assert (first.content, last.content) == (b"first", b"last")
    assert str(long.error).startswith(f"{path}@6: a line of 100000000 bytes; ")
    assert (long.offset, long.next_offset) == (6, 100_000_007)
    assert list(rows(open_file(str(path)), long.next_offset)) == [last]


def test_a_line_of_100_megabytes_is_read_when_it_is_allowed(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"x" * 100_000_000)
    (row,) = rows(open_file(str(path)), longest=2**30)
    assert row.content == b"x" * 100_000_000


def test_half_a_last_line_and_empty_lines_come_as_they_are():
    assert [row.content for row in rows(Held("a.jsonl", b'{"text": "a"}\n\n\r\n{"te'))] == [
        b'{"text": "a"}',
        b"",
        b"",
        b'{"te',
    ]


def test_an_empty_file_is_refused():
    with pytest.raises(UserError, match=r"a\.jsonl: the file is empty"):
        list(rows(Held("a.jsonl", b"")))


def test_parquet_rows_are_read_by_number_across_groups(tmp_path):
    path = tmp_path / "a.parquet"
    texts = [f"text {number}" for number in range(1000)]
    table = pyarrow.table({"text": texts, "number": list(range(1000))})
    pyarrow.parquet.write_table(table, path, row_group_size=300)
    file = open_file(str(path))
    assert row_groups(file) == [0, 300, 600, 900, 1000]
    whole = list(rows(file, columns=["text"]))
    assert [row.content for row in whole] == [{"text": text} for text in texts]
    for start, stop in ((0, 10), (299, 301), (600, 900), (999, None)):
        assert list(rows(file, start, stop, columns=["text"])) == whole[start:stop]
    assert next(rows(file, columns=["missing"])).content == {}


def test_a_parquet_file_that_is_cut_or_corrupt_says_so(tmp_path):
    path = tmp_path / "a.parquet"
    pyarrow.parquet.write_table(
        pyarrow.table({"text": ["a" * 50 + str(n) for n in range(1000)]}), path, row_group_size=100
    )
    content = path.read_bytes()
    with pytest.raises(Damage, match=r"not a whole parquet file"):
        list(rows(Held("a.parquet", content[:-100], 1000)))
    damaged = content[:2000] + bytes(2000) + content[4000:]
    with pytest.raises(Damage, match=r"a\.parquet: corrupt after row \d+"):
        list(rows(Held("a.parquet", damaged, 1000), columns=["text"]))


def test_a_parquet_row_that_is_not_utf_8_is_named_and_the_others_come(tmp_path):
    path = tmp_path / "a.parquet"
    offsets = struct.pack("<4i", 0, 2, 4, 6)
    column = pyarrow.StringArray.from_buffers(3, pyarrow.py_buffer(offsets), pyarrow.py_buffer(b"ok\xff\xfeso"))
    pyarrow.parquet.write_table(pyarrow.table({"text": column}), path)
    first, bad, last = rows(open_file(str(path)))
    assert (first.content, last.content) == ({"text": "ok"}, {"text": "so"})
    assert str(bad.error).startswith(f"{path}:2: not UTF-8 at byte 0 of a column")
    assert [row.offset for row in (first, bad, last)] == [0, 1, 2]


def test_a_flipped_bit_in_a_parquet_page_with_a_checksum_says_so(tmp_path):
    path = tmp_path / "a.parquet"
    table = pyarrow.table({"text": ["a text of some length " * 20]})
    plain = {"compression": "none", "use_dictionary": False, "write_statistics": False}
    pyarrow.parquet.write_table(table, path, write_page_checksum=True, **plain)
    content = path.read_bytes().replace(b"some", b"same", 1)
    with pytest.raises(Damage, match="corrupt after row 0"):
        list(rows(Held("a.parquet", content)))


@pytest.mark.parametrize("kind", ["txt", "txt.gz", "txt.zst"])
def test_a_text_is_read_whole_or_told_as_too_long_and_no_further(kind):
    text = b"two\nlines " * 2000
    file = Held(f"a.{kind}", packed(kind.replace("txt", "jsonl"), text))
    (row,) = rows(file, longest=len(text))
    assert (row.content, row.error) == (text, None)
    (row,) = rows(file, longest=len(text) - 1)
    assert row.content == b""
    assert str(row.error).startswith(f"a.{kind}: more than {len(text) - 1} bytes; shorten it or raise longest_")


@pytest.mark.parametrize("kind", ["txt.gz", "txt.zst"])
def test_a_packed_text_that_is_cut_or_corrupt_says_so(kind):
    content = packed(kind.replace("txt", "jsonl"), b"two\nlines " * 2000)
    with pytest.raises(Damage, match=rf"a\.{kind}: cut short at byte \d+"):
        list(rows(Held(f"a.{kind}", content[:-3])))
    with pytest.raises(Damage, match=rf"a\.{kind}: corrupt .* at byte 0"):
        list(rows(Held(f"a.{kind}", b"xx" + content[2:])))


@pytest.mark.parametrize(
    ("location", "kind"),
    [
        ("a/b.jsonl", "jsonl"),
        ("https://host/en_head_0000.json.gz.dedup.classifier.jsonl.zst", "jsonl.zst"),
        ("https://host/a.txt?download=true#x", "txt"),
        ("hf://datasets/a/b@c/d.jsonl.gz", "jsonl.gz"),
        ("x.parquet", "parquet"),
        ("c4-train.00000-of-01024.json.gz", "jsonl.gz"),
        ("arxiv.JSON", "jsonl"),
        ("a.ndjson.zstd", "jsonl.zst"),
        ("A.Jsonl.GZIP", "jsonl.gz"),
        ("A.TXT", "txt"),
        ("speech.txt.gz", "txt.gz"),
        ("https://host/speech.txt.zst?x", "txt.zst"),
    ],
)
def test_the_kind_of_a_file_is_the_end_of_its_name(location, kind):
    assert kind_of(location) == kind


def test_another_kind_is_refused():
    with pytest.raises(UserError, match=r"table\.csv: unknown kind of file; give \.jsonl, "):
        kind_of("table.csv")
