import gzip
import hashlib
import itertools
import json
import os
import shutil

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import zstandard
from oracles.block_order import lane_blocks
from oracles.fault_server import serve

from lab.base.errors import UserError
from lab.base.files import write_whole
from lab.data.sources.documents import Sotu
from lab.data.sources.file_corpus import Files, TestFiles
from lab.data.sources.file_list import manifest_of
from lab.data.stream.fingerprint import Fingerprint
from lab.data.stream.module import DataModule
from lab.data.stream.order import BlockStream, Cursor
from lab.runs.manifest import write_json


def lines(texts):
    return b"".join(json.dumps({"text": text, "meta": {"length": len(text)}}).encode() + b"\n" for text in texts)


def write(path, texts, group=8):
    """Write texts in the format that the name asks for; parquet in row groups of `group`."""
    kind = path.name.partition(".")[2]
    if kind == "parquet":
        table = pyarrow.table({"id": list(range(len(texts))), "text": texts})
        pyarrow.parquet.write_table(table, path, row_group_size=group)
    else:
        content = lines(texts)
        packed = {
            "jsonl": content,
            "jsonl.zst": zstandard.ZstdCompressor().compress(content),
            "jsonl.gz": gzip.compress(content, mtime=0),
        }
        path.write_bytes(packed[kind])
    return str(path)


FORMATS = ("jsonl", "jsonl.zst", "jsonl.gz", "parquet")
LARGE = {"small_bytes": 0}


@pytest.fixture(scope="session")
def paragraphs():
    """Texts of a few hundred letters, each of them once."""
    texts = [entry.text for chunk in range(0, 190, 4) for entry in Sotu().read("train", "", chunk)]
    return list(dict.fromkeys(paragraph for text in texts for paragraph in text.split("\n") if len(paragraph) > 40))


@pytest.fixture
def held_out(tmp_path):
    """A validation and a test split, as keys of a corpus."""
    write(tmp_path / "v.jsonl", ["A text to watch the loss on. " * 20])
    write(tmp_path / "t.jsonl", ["A text to measure at the end."])
    return {"validation": str(tmp_path / "v.jsonl"), "test": str(tmp_path / "t.jsonl")}


def entries(corpus, split="train"):
    return [entry for subset in corpus.subsets(split) for entry in corpus.documents(split, subset)]


STRANGE = ["é ö 日本 😀", "two\nlines", "\u2028 and \x85 end no line", " spaces ", "<|endoftext|>", "x" * 5000, '"{}\\']


@pytest.mark.parametrize("small_bytes", [2**20, 0])
@pytest.mark.parametrize("kind", FORMATS)
def test_every_format_gives_the_same_documents(tmp_path, held_out, paragraphs, kind, small_bytes):
    texts = [*STRANGE, *paragraphs[:50]]
    files = Files(write(tmp_path / f"train.{kind}", texts), **held_out, small_bytes=small_bytes)
    assert [entry.text for entry in entries(files)] == texts
    names = [entry.name for entry in entries(files)]
    assert len(set(names)) == len(texts)
    if small_bytes:
        assert names == [f"train.{kind}:{number}" for number in range(1, len(texts) + 1)]
        assert files.chunks("train", "") == len(texts)
    elif kind == "parquet":
        assert names == [f"train.parquet@{number}" for number in range(len(texts))]
        assert files.chunks("train", "") == 8
    else:
        edges = itertools.accumulate((len(lines([text])) for text in texts), initial=0)
        assert names == [f"train.{kind}@{edge}" for edge, _ in zip(edges, texts, strict=False)]


PACK = {"": bytes, ".gz": gzip.compress, ".zst": zstandard.ZstdCompressor().compress}


@pytest.mark.parametrize("packed", PACK)
@pytest.mark.parametrize("small_bytes", [2**20, 0])
def test_a_txt_file_is_one_document_of_its_name(tmp_path, held_out, small_bytes, packed):
    for name in ("b", "a"):
        text = f"{name}\nlines\n\nin one document, {{}}\n".encode()
        (tmp_path / f"{name}.txt{packed}").write_bytes(PACK[packed](text))
    files = Files([str(tmp_path / f"{name}.txt{packed}") for name in "ba"], **held_out, small_bytes=small_bytes)
    assert [(entry.name, entry.text) for entry in entries(files)] == [
        (f"b.txt{packed}", "b\nlines\n\nin one document, {}\n"),
        (f"a.txt{packed}", "a\nlines\n\nin one document, {}\n"),
    ]
    assert files.chunks("train", "") == 2


def test_a_folder_of_packed_texts_is_all_of_them(tmp_path):
    for number in range(30):
        end = list(PACK)[number % 3]
        (tmp_path / f"{number:02}.txt{end}").write_bytes(PACK[end](f"Text {number} of a folder.".encode()))
    files = Files(str(tmp_path))
    texts = {entry.text for split in ("train", "validation", "test") for entry in entries(files, split)}
    assert texts == {f"Text {number} of a folder." for number in range(30)}


def test_files_are_read_in_the_order_of_the_paths_and_named_from_the_folder_that_they_share(tmp_path):
    (tmp_path / "sub").mkdir()
    train = [write(tmp_path / "b.jsonl", ["one", "twö"]), write(tmp_path / "sub" / "a.jsonl.gz", ["three"])]
    held_out = {split: write(tmp_path / "sub" / f"{split}.jsonl", [split]) for split in ("validation", "test")}
    files = Files(train, **held_out)
    assert [(entry.name, entry.text) for entry in entries(files)] == [
        ("b.jsonl:1", "one"),
        ("b.jsonl:2", "twö"),
        ("sub/a.jsonl.gz:1", "three"),
    ]
    assert [entry.name for entry in entries(files, "validation")] == ["sub/validation.jsonl:1"]


def test_subsets_have_their_files_and_come_in_the_order_of_their_names(tmp_path, held_out):
    train = {"web": [write(tmp_path / "w1.jsonl", ["a", "b"]), write(tmp_path / "w2.jsonl", ["c"])]}
    train["books"] = write(tmp_path / "b.jsonl", ["d"])
    files = Files(train, **held_out)
    assert files.subsets("train") == ["books", "web"]
    assert files.subsets("validation") == [""]
    assert [entry.text for entry in files.documents("train", "web")] == ["a", "b", "c"]
    assert [entry.text for entry in files.documents("train", "books")] == ["d"]
    assert (files.chunks("train", "web"), files.chunks("train", "books")) == (3, 1)


@pytest.mark.parametrize("end", [b"", b"\n"])
@pytest.mark.parametrize("newline", [b"\n", b"\r\n"])
def test_the_chunks_of_a_large_file_hold_every_document_once_wherever_they_are_cut(
    tmp_path, held_out, paragraphs, newline, end
):
    # 64 KiB a chunk: among the documents are one that fills several chunks, and one that ends where a chunk does.
    texts = [*paragraphs[:300], "x" * 200_000, *paragraphs[300:700]]
    content = lines(texts)
    start = content.index(b"\n", 2**16 - 3000) + 1
    padding = 2**16 - start - len(lines([""]))
    texts.insert(content[:start].count(b"\n"), "y" * (padding - len(str(padding)) + 1))
    content = lines(texts)
    assert newline == b"\r\n" or content[2**16 - 1 : 2**16] == b"\n"
    (tmp_path / "train.jsonl").write_bytes(newline.join(content.splitlines()) + end)
    files = Files(str(tmp_path / "train.jsonl"), **held_out, **LARGE)
    size = (tmp_path / "train.jsonl").stat().st_size
    assert files.chunks("train", "") == -(-size // 2**16) > 8
    chunks = [list(files.read("train", "", chunk)) for chunk in range(files.chunks("train", ""))]
    assert [entry.text for chunk in chunks for entry in chunk] == texts
    assert [] in chunks
    for number, chunk in enumerate(chunks):
        for entry in chunk:
            assert number * 2**16 <= int(entry.name.partition("@")[2]) < (number + 1) * 2**16


@pytest.mark.parametrize("small_bytes", [2**20, 0])
@pytest.mark.parametrize("kind", FORMATS)
def test_a_chunk_can_be_read_on_after_each_of_its_documents(tmp_path, held_out, paragraphs, kind, small_bytes):
    files = Files(write(tmp_path / f"train.{kind}", paragraphs[:60]), **held_out, small_bytes=small_bytes)
    for chunk in range(files.chunks("train", "")):
        whole = list(files.read("train", "", chunk))
        assert whole
        for index, entry in enumerate(whole):
            assert list(files.read("train", "", chunk, entry.next_offset)) == whole[index + 1 :]


# A corpus of several subsets and formats, in chunks of all kinds.

WEIGHTS = {"web": 0.5, "code": 0.3, "essays": 0.2}
MIXED = {"context": 64, "seed": 1, "lanes": 4, "weights": WEIGHTS, "tile": 16}


def shelf(folder, paragraphs):
    """Write a corpus of three subsets; returns the keys of `Files`."""
    folder.mkdir()
    parts = [paragraphs[start:][:200] for start in range(0, 1600, 200)]
    subsets = {
        "web": [write(folder / "w.jsonl", paragraphs[:400]), write(folder / "w.jsonl.zst", parts[2])],
        "code": [write(folder / "c.parquet", parts[3], group=30), write(folder / "c.jsonl.gz", parts[4])],
        "essays": [write(folder / "e.jsonl", parts[5][:25]), write(folder / "e.jsonl.gz", parts[5][25:30])],
    }
    held_out = {
        split: {
            name: write(folder / f"{split}-{name}.jsonl", part[start : start + 60])
            for name, start in zip(subsets, (0, 60, 120), strict=True)
        }
        for split, part in (("validation", parts[6]), ("test", parts[7]))
    }
    return {"train": subsets, **held_out, "small_bytes": 30_000}


@pytest.fixture(scope="session")
def keys(tmp_path_factory, paragraphs):
    return shelf(tmp_path_factory.mktemp("files") / "shelf", paragraphs)


def first(stream, count):
    total = Fingerprint()
    blocks = []
    for g, block in itertools.islice(stream.blocks(), count):
        total.add(g, block.tokens)
        blocks.append(block)
    return blocks, total.hex


def test_the_blocks_of_a_mixture_of_files_are_the_ones_that_results_were_made_with(keys, tokenizer):
    files = Files(**keys)
    assert [files.chunks("train", subset) for subset in WEIGHTS] == [6, 8, 30]
    assert first(BlockStream(files, "train", tokenizer, **MIXED), 100)[1] == "a7da917438fe7a0bdb8256743e53ca13"
    blocks, fingerprint = first(BlockStream(files, "train", tokenizer, **MIXED), 6000)
    epochs = [[place.epoch for place in block.cursor.places] for block in blocks[-4:]]
    assert min(map(max, zip(*epochs, strict=True))) >= 1
    assert fingerprint == "9571f81bfc7f8deb40b605d9e22678e1"


def test_the_blocks_of_files_are_those_of_the_rule_in_words(keys, tokenizer):
    stream = BlockStream(Files(**keys), "train", tokenizer, **MIXED)
    for lane in range(4):
        for item, (tokens, _, _) in enumerate(lane_blocks(Files(**keys), tokenizer, 100, lane, **MIXED)):
            assert stream.block(item * 4 + lane).tokens.tolist() == tokens


def test_the_order_in_which_subsets_are_given_does_not_matter(keys, tokenizer):
    given = [keys, keys | {"train": dict(reversed(keys["train"].items()))}]
    assert Files(**given[0]).manifest()["digest"] == Files(**given[1]).manifest()["digest"]
    blocks = [first(BlockStream(Files(**each), "train", tokenizer, **MIXED), 50)[1] for each in given]
    assert blocks[0] == blocks[1]


def test_a_copy_of_the_files_elsewhere_is_the_same_corpus(keys, tmp_path, paragraphs, tokenizer):
    copy = shelf(tmp_path / "elsewhere", paragraphs)
    assert Files(**copy).manifest() == Files(**keys).manifest()
    blocks = [first(BlockStream(Files(**each), "train", tokenizer, **MIXED), 50)[1] for each in (keys, copy)]
    assert blocks[0] == blocks[1]


def test_a_corpus_of_its_manifest_file_is_the_same_corpus(keys, tmp_path, tokenizer):
    write_json(tmp_path / "manifest.json", manifest_of(Files.find_files(keys)))
    listed, read = Files(**keys), Files(manifest=str(tmp_path / "manifest.json"), small_bytes=keys["small_bytes"])
    assert read.manifest() == listed.manifest()
    assert read.files == listed.files
    blocks = [first(BlockStream(files, "train", tokenizer, **MIXED), 50)[1] for files in (listed, read)]
    assert blocks[0] == blocks[1]


def test_every_block_of_files_can_be_had_again_from_its_cursor_and_all_after_it(keys, tokenizer):
    stream = BlockStream(Files(**keys), "train", tokenizer, **MIXED)
    blocks, _ = first(stream, 1010)
    assert max(place.epoch for block in blocks[990:1000] for place in block.cursor.places) >= 1
    last = {}
    for g in range(1000):
        last[g % 4] = Cursor.of(blocks[g].cursor.record())
        if g % 7 == 0:
            stream.restore(last)
            for later in range(g, g + 9):
                block = stream.block(later)
                np.testing.assert_array_equal(block.tokens, blocks[later].tokens)
                assert str(block.cursor.record()) == str(blocks[later].cursor.record())


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
@pytest.mark.parametrize("workers", [2, 4])
def test_workers_that_share_open_files_read_the_same_blocks(keys, tokenizer, workers):
    expected = first(BlockStream(Files(**keys), "train", tokenizer, **MIXED), 200)[1]
    stream = BlockStream(Files(**keys), "train", tokenizer, **MIXED)
    first(stream, 10)  # files have been read before the processes part
    data = DataModule(
        stream.corpus,
        tokenizer,
        stream,
        context=64,
        micro_batch=4,
        micro_batches=50,
        validation_blocks=1,
        weights=WEIGHTS,
        workers=workers,
    )
    total = Fingerprint()
    for batch in itertools.islice(data.train_dataloader(), 50):
        for g, tokens in zip(batch["blocks"].tolist(), batch["tokens"].numpy(), strict=True):
            total.add(g, tokens)
    assert total.hex == expected


def test_the_manifest_of_files_follows_their_bytes_and_not_their_folder(tmp_path):
    digests = []
    for folder, text in (("x", "same"), ("y", "same"), ("z", "other")):
        (tmp_path / folder).mkdir()
        paths = [tmp_path / folder / f"{split}.txt" for split in ("train", "validation", "test")]
        for path in paths:
            path.write_text(f"{path.name} {text}")
        digests.append(Files(*map(str, paths)).manifest()["digest"])
    assert digests[0] == digests[1] != digests[2]


BAD_ROWS = {
    "not UTF-8 at byte 10": b'{"text": "\xff"}',
    "not JSON": b'{"text": "cut',
    "JSON, but not an object": b"3",
    "a JSON array; give one JSON object a line": b'["text"]',
    "lacks the field 'text'": b'{"content": "a"}',
    "of type int, not a string": b'{"text": 3}',
    "of type NoneType, not a string": b'{"text": null}',
    "the text is empty": b'{"text": " \\n"}',
    "half a surrogate pair at character 1": b'{"text": "a\\ud800"}',
    "a line of 5011 bytes; shorten it or raise": b'{"text": "' + b"x" * 4999 + b'"}',
}
PLACES = [(2**20, ":2"), (0, "@17")]
STRICT = {"longest_document_bytes": 5000}


def read_all(files):
    """The documents in chunks as they come, up to what stops them."""
    for chunk in range(files.chunks("train", "")):
        yield from files.read("train", "", chunk)


@pytest.mark.parametrize(("small_bytes", "place"), PLACES)
@pytest.mark.parametrize(("message", "row"), BAD_ROWS.items())
def test_a_bad_row_stops_with_file_and_place(corpus, message, row, small_bytes, place):
    files = corpus([{"text": "good"}, row, {"text": "good too"}], small_bytes=small_bytes, **STRICT)
    rows = read_all(files)
    assert next(rows).text == "good"
    place = "@17" if "5011" in message else place
    with pytest.raises(UserError, match=rf"train\.jsonl{place}: .*{message}") as error:
        next(rows)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("small_bytes", "place"), PLACES)
@pytest.mark.parametrize(("message", "row"), BAD_ROWS.items())
def test_a_bad_row_is_skipped_with_its_name_and_reason_when_asked(corpus, message, row, small_bytes, place):
    rows = [{"text": "good"}, row, {"text": "good too"}]
    files = corpus(rows, on_error="skip", small_bytes=small_bytes, **STRICT)
    found = list(read_all(files))
    assert [entry.text for entry in found] == ["good", None, "good too"]
    assert found[1].name == f"train.jsonl{place}"
    assert message in found[1].reason
    assert found[0].reason == found[2].reason == ""


def noisy(texts, end):
    """Lines of JSON with a byte order mark, blank lines, and integers that Python does not take."""
    rows = [json.dumps({"text": text, "n": 0}).replace(": 0", ": " + "9" * 5000) for text in texts]
    rows = ["\ufeff" + rows[0], "", *rows[1:2], " \t", "", *rows[2:], "\ufeff", ""]
    return end.join(rows).encode()


@pytest.mark.parametrize("small_bytes", [2**20, 0])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("kind", ["jsonl", "json", "NDJSON", "json.gz", "ndjson.zst", "jsonl.gzip", "JSONL.ZSTD"])
def test_harmless_noise_of_real_files_is_passed_over_and_lines_keep_their_numbers(
    tmp_path, held_out, kind, end, small_bytes
):
    content, texts = noisy(["a", "b", "c"], end), ["a", "b", "c"]
    path = tmp_path / f"train.{kind}"
    packed = {"gz": gzip.compress(content) + bytes(5000), "zs": zstandard.compress(content)}
    path.write_bytes(packed.get(kind.lower().partition(".")[2][:2], content))
    files = Files(str(path), **held_out, small_bytes=small_bytes)
    found = list(read_all(files))
    assert [entry.text for entry in found] == texts
    if small_bytes:
        assert [entry.name for entry in found] == [f"train.{kind}:{number}" for number in (1, 3, 6)]
        assert files.chunks("train", "") == 3
    for entry, after in itertools.pairwise(found):
        chunk = next(c for c in range(files.chunks("train", "")) if entry in files.read("train", "", c))
        rest = [each.text for each in files.read("train", "", chunk, entry.next_offset)]
        assert rest == ([] if small_bytes else texts[texts.index(after.text) :])


@pytest.mark.parametrize("small_bytes", [2**20, 0])
def test_a_bad_line_after_blank_ones_is_named_by_its_line(corpus, small_bytes):
    files = corpus([{"text": "good"}, b"", b"  ", {"text": 3}], small_bytes=small_bytes)
    rows = read_all(files)
    next(rows)
    with pytest.raises(UserError, match=r"train\.jsonl:4: " if small_bytes else r"train\.jsonl@21: "):
        next(rows)


@pytest.mark.parametrize("kind", ["txt", "jsonl"])
@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be"])
def test_utf_16_is_told_as_such(tmp_path, held_out, kind, encoding):
    (tmp_path / f"train.{kind}").write_bytes('{"text": "a"}\n'.encode(encoding))
    with pytest.raises(UserError, match=rf"train\.{kind}.*: UTF-16, not UTF-8; convert the file"):
        list(read_all(Files(str(tmp_path / f"train.{kind}"), **held_out)))


def test_a_byte_order_mark_is_no_part_of_a_text_file(tmp_path, held_out):
    (tmp_path / "train.txt").write_bytes(b"\xef\xbb\xbfa text")
    (entry,) = read_all(Files(str(tmp_path / "train.txt"), **held_out))
    assert entry.text == "a text"


@pytest.mark.parametrize(
    "text", [b'[{"text": "a"},\n{"text": "b"}]', b'[\n  {\n    "text": "a"}]', b' [{"text": "a"}]']
)
def test_a_json_file_that_holds_an_array_is_told_with_the_remedy(tmp_path, held_out, text):
    (tmp_path / "train.json").write_bytes(text)
    with pytest.raises(UserError, match=r"train\.json:1: a JSON array; give one JSON object a line \(jq -c '\.\[\]'"):
        list(read_all(Files(str(tmp_path / "train.json"), **held_out)))


@pytest.mark.parametrize("small_bytes", [2**20, 0])
@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_a_field_with_dots_leads_into_fields_of_fields_unless_it_is_there_itself(tmp_path, held_out, kind, small_bytes):
    nested = [{"document": {"text": "inside", "id": 1}}] * 2
    for rows, field, expected in (
        (nested, "document.text", ["inside"] * 2),
        ([{**row, "document.text": "itself"} for row in nested], "document.text", ["itself"] * 2),
        ([{"a.b": {"c.d": "deep"}}], "a.b.c.d", ["deep"]),
    ):
        path = tmp_path / f"train.{kind}"
        if kind == "parquet":
            pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
        else:
            path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        files = Files(str(path), **held_out, text_field=field, small_bytes=small_bytes)
        assert [entry.text for entry in read_all(files)] == expected
    for field, told in (("a.b", "of type dict, not a string"), ("a.x", "lacks the field 'a.x'")):
        with pytest.raises(UserError, match=told):
            list(read_all(Files(str(path), **held_out, text_field=field)))


@pytest.mark.parametrize("small_bytes", [2**20, 0])
def test_text_in_a_binary_column_of_parquet_is_text(tmp_path, held_out, small_bytes):
    table = pyarrow.table({"text": pyarrow.array(["é".encode(), b"\xff"], pyarrow.binary())})
    pyarrow.parquet.write_table(table, tmp_path / "train.parquet")
    rows = read_all(Files(str(tmp_path / "train.parquet"), **held_out, small_bytes=small_bytes))
    assert next(rows).text == "é"
    with pytest.raises(UserError, match=r"train\.parquet[:@]\d: not UTF-8 at byte 0"):
        next(rows)


def test_an_empty_row_group_is_no_chunk(tmp_path, held_out):
    with pyarrow.parquet.ParquetWriter(
        tmp_path / "train.parquet", pyarrow.schema([("text", pyarrow.string())])
    ) as file:
        for texts in (["a"], [], ["b", "c"], []):
            file.write_table(pyarrow.table({"text": pyarrow.array(texts, pyarrow.string())}))
    files = Files(str(tmp_path / "train.parquet"), **held_out, **LARGE)
    assert [[entry.text for entry in files.read("train", "", chunk)] for chunk in range(2)] == [["a"], ["b", "c"]]
    assert files.chunks("train", "") == 2


def test_chunks_inside_a_long_line_do_not_read_it(tmp_path, held_out, paragraphs, monkeypatch):
    content = lines(paragraphs[:50]) + b"x" * 8_000_000 + b"\n" + lines(paragraphs[50:100])
    (tmp_path / "train.jsonl").write_bytes(content)
    files = Files(str(tmp_path / "train.jsonl"), **held_out, **LARGE, on_error="skip", longest_document_bytes=2**20)
    assert files.chunks("train", "") > 100
    (file,) = [file for part, file in files._opened.items() if part.name == "train.jsonl"]
    read, whole = [], file.read
    file.read = lambda *places: (read.append(len(piece)) or piece for piece in whole(*places))
    found = list(read_all(files))
    assert [entry.text for entry in found] == [*paragraphs[:50], None, *paragraphs[50:100]]
    assert sum(read) < 3 * len(content)


def test_links_to_files_are_the_same_corpus_as_copies_of_them(tmp_path, paragraphs):
    # As in the hub's cache: names in one folder, bytes under other names in another.
    for folder in ("copy", "hub/blobs", "hub/snapshot"):
        (tmp_path / folder).mkdir(parents=True)
    for number, name in enumerate(("train.jsonl", "validation.jsonl", "test.jsonl")):
        write(tmp_path / "copy" / name, paragraphs[number : number + 3])
        shutil.copy(tmp_path / "copy" / name, tmp_path / "hub" / "blobs" / f"{number}.jsonl")
        (tmp_path / "hub" / "snapshot" / name).symlink_to(f"../blobs/{number}.jsonl")
    copy, linked = (
        Files(*(str(tmp_path / folder / f"{split}.jsonl") for split in ("train", "validation", "test")))
        for folder in ("copy", "hub/snapshot")
    )
    assert linked.manifest() == copy.manifest()
    assert [entry.name for entry in entries(linked)] == [entry.name for entry in entries(copy)]


def folder_of_texts(folder, count=60):
    """A folder of texts, of which one lies deeper and some are none."""
    (folder / "more").mkdir(parents=True)
    for number in range(count - 1):
        (folder / f"{number:03d}.txt").write_text(f"text {number}")
    (folder / "more" / "last.jsonl").write_text('{"text": "the last"}\n')
    (folder / ".hidden.txt").write_text("hidden")
    (folder / "empty.txt").touch()
    (folder / "picture.png").write_bytes(b"png")
    return str(folder)


def test_a_folder_is_all_files_in_it_and_says_how_many_it_passed_over(tmp_path, held_out, caplog):
    folder = folder_of_texts(tmp_path / "texts", 4)
    files = Files(folder, **held_out)
    assert [entry.name for entry in entries(files)] == [
        *(f"texts/{number:03d}.txt" for number in range(3)),
        "texts/more/last.jsonl:1",
    ]
    assert f"{folder}: 4 files are read, 3 passed over: hidden, empty or of an unknown kind" in caplog.text
    assert Files(f"{folder}/", **held_out).manifest() == files.manifest()


def test_a_pattern_is_the_files_that_it_fits_unless_a_path_is_called_so(tmp_path, held_out):
    folder = folder_of_texts(tmp_path / "te[x]ts", 4)
    assert [entry.text for entry in entries(Files(f"{folder}/*.txt", **held_out))] == ["text 0", "text 1", "text 2"]
    assert len(entries(Files(f"{folder}/**/*l*", **held_out))) == 1
    (tmp_path / "a[0].txt").write_text("in brackets")
    (tmp_path / "a0.txt").write_text("without")
    assert [entry.text for entry in entries(Files(str(tmp_path / "a[0].txt"), **held_out))] == ["in brackets"]


def test_splits_that_are_not_given_are_made_of_training_by_the_names_of_its_documents(tmp_path, caplog):
    folder = folder_of_texts(tmp_path / "texts")
    files = Files(folder)
    names = {split: [entry.name for entry in entries(files, split)] for split in ("train", "validation", "test")}
    assert [len(each) for each in names.values()] == [54, 3, 3]
    assert len(set().union(*names.values())) == 60
    told = "validation and test are made of training, 0.05 of its documents or chunks each"
    assert caplog.text.count(told) == 1
    assert files.manifest()["made_of_training"] == {
        "held_out": 0.05,
        "small_bytes": files.small_bytes,
        "splits": ["validation", "test"],
    }
    # In another order and elsewhere, the same.
    shutil.copytree(folder, tmp_path / "elsewhere" / "texts")
    paths = sorted((path for path in (tmp_path / "elsewhere").rglob("*.*") if path.stat().st_size > 3), reverse=True)
    paths = [str(path) for path in paths if path.suffix in (".txt", ".jsonl") and path.name[0] != "."]
    other = Files(paths)
    assert {split: {entry.name for entry in entries(other, split)} for split in names} == {
        split: set(each) for split, each in names.items()
    }
    more = Files(folder, held_out=0.2)
    assert [more.chunks(split, "") for split in names] == [36, 12, 12]
    assert more.manifest()["digest"] != files.manifest()["digest"]


def test_one_split_alone_can_be_made_of_training(tmp_path, held_out):
    files = Files(folder_of_texts(tmp_path / "texts"), validation=held_out["validation"])
    assert [files.chunks(split, "") for split in ("train", "validation", "test")] == [57, 1, 3]
    assert [entry.text for entry in entries(files, "validation")] == ["A text to watch the loss on. " * 20]


def test_of_a_large_corpus_the_splits_are_made_of_chunks(tmp_path, paragraphs):
    train = write(tmp_path / "train.parquet", paragraphs[:160], group=4)
    files = Files(train, **LARGE)
    assert [files.chunks(split, "") for split in ("train", "validation", "test")] == [36, 2, 2]
    texts = [entry.text for split in ("train", "validation", "test") for entry in entries(files, split)]
    assert sorted(texts) == sorted(paragraphs[:160])
    assert Files(train, small_bytes=1).manifest()["digest"] != files.manifest()["digest"]


def test_too_few_documents_to_make_splits_of_are_told(tmp_path):
    (tmp_path / "a.txt").write_text("one")
    files = Files(str(tmp_path / "a.txt"))
    with pytest.raises(UserError, match=r"split train has 1 documents or chunks: too few to make validation and"):
        files.chunks("train", "")


def test_the_manifest_of_a_folder_makes_the_same_splits(tmp_path):
    folder = folder_of_texts(tmp_path / "texts")
    write_json(tmp_path / "manifest.json", manifest_of(Files.find_files({"train": folder})))
    files = Files(manifest=str(tmp_path / "manifest.json"))
    assert files.manifest() == Files(folder).manifest()


def test_all_that_is_wrong_with_the_files_of_a_corpus_is_told_at_once(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "table.csv").write_text("a,b")
    with pytest.raises(UserError) as error:
        Files(["table.csv", "nowhere.txt"], "", "gone/*.txt")
    first, second, third, fourth = str(error.value).splitlines()
    assert first.startswith("table.csv: unknown kind of file")
    assert second.startswith("nowhere.txt: No such file")
    assert third.startswith("data.corpus.validation lacks a path")
    assert fourth.startswith("gone/*.txt: No such file")
    for name in ("a", "b", "c"):
        (tmp_path / f"{name}.txt").write_text("the same")
    with pytest.raises(UserError) as error:
        Files("a.txt", "b.txt", "c.txt")
    assert str(error.value).splitlines() == [
        f"{name}.txt: the same file as a.txt; give every file once" for name in ("b", "c")
    ]


def cut(path):
    """Take away the end of a file."""
    path.write_bytes(path.read_bytes()[:-40])


@pytest.mark.parametrize("small_bytes", [2**20, 0])
@pytest.mark.parametrize("kind", ["jsonl.zst", "jsonl.gz"])
def test_a_file_that_was_cut_stops_after_the_documents_before_the_cut(
    tmp_path, held_out, paragraphs, kind, small_bytes
):
    path = tmp_path / f"train.{kind}"
    write(path, paragraphs[:500])
    cut(path)
    keys = {"train": str(path), **held_out, "small_bytes": small_bytes}
    texts = []
    with pytest.raises(UserError, match=rf"train\.{kind}: cut short at byte \d+"):
        texts += (entry.text for entry in read_all(Files(**keys)))
    found = list(read_all(Files(**keys, on_error="skip")))
    count = len(found) - 1
    assert count > 300
    assert [entry.text for entry in found] == [*paragraphs[:count], None]
    assert "cut short" in found[-1].reason


def test_a_parquet_file_that_was_cut_is_refused(tmp_path, held_out, paragraphs):
    write(tmp_path / "train.parquet", paragraphs[:50])
    cut(tmp_path / "train.parquet")
    with pytest.raises(UserError, match=r"train\.parquet: not a whole parquet file"):
        list(read_all(Files(str(tmp_path / "train.parquet"), **held_out)))


@pytest.mark.parametrize("small_bytes", [2**20, 0])
def test_a_damaged_file_is_named_rather_than_too_few_chunks(tmp_path, held_out, tokenizer, small_bytes):
    (tmp_path / "train.parquet").write_bytes(b"no parquet at all")
    files = Files(str(tmp_path / "train.parquet"), **held_out, small_bytes=small_bytes)
    with pytest.raises(UserError, match=r"train\.parquet: not a whole parquet file .*; download it again"):
        BlockStream(files, "train", tokenizer, context=16, seed=0)


@pytest.mark.parametrize("small_bytes", [2**20, 0])
def test_a_parquet_file_without_the_text_field_is_refused(tmp_path, held_out, small_bytes):
    pyarrow.parquet.write_table(pyarrow.table({"content": ["a"]}), tmp_path / "train.parquet")
    files = Files(str(tmp_path / "train.parquet"), **held_out, small_bytes=small_bytes)
    with pytest.raises(UserError, match=r"train\.parquet[:@]\d: lacks the field 'text'"):
        list(read_all(files))
    named = Files(str(tmp_path / "train.parquet"), **held_out, small_bytes=small_bytes, text_field="content")
    assert [entry.text for entry in read_all(named)] == ["a"]


def test_blocks_of_files_with_bad_rows_and_a_cut_file_are_the_same_from_every_cursor(
    tmp_path, held_out, paragraphs, tokenizer
):
    rows = lines(paragraphs[:150]).splitlines()
    for index in range(0, 150, 9):
        rows[index] = list(BAD_ROWS.values())[index % 8]
    (tmp_path / "bad.jsonl").write_bytes(b"\n".join(rows))
    write(tmp_path / "cut.jsonl.zst", paragraphs[150:450])
    cut(tmp_path / "cut.jsonl.zst")
    train = [str(tmp_path / "bad.jsonl"), str(tmp_path / "cut.jsonl.zst")]
    stream = BlockStream(
        Files(train, **held_out, on_error="skip", small_bytes=0), "train", tokenizer, 128, seed=0, lanes=2, tile=10
    )
    blocks, _ = first(stream, 810)
    skipped = {name for block in blocks for name in block.skipped}
    assert {f"bad.jsonl@{len(b''.join(rows[:index])) + index}" for index in range(0, 150, 9)} < skipped
    assert len([name for name in skipped if name.startswith("cut.jsonl.zst@")]) == 1
    for g in range(0, 800, 3):
        stream.restore({g % 2: blocks[g].cursor})
        for later in range(g, g + 10, 2):
            block = stream.block(later)
            np.testing.assert_array_equal(block.tokens, blocks[later].tokens)
            np.testing.assert_array_equal(block.starts, blocks[later].starts)
            assert later == g or block.skipped == blocks[later].skipped


def test_another_text_field_can_be_named_and_shows_in_the_digest(corpus):
    rows = [{"text": "this", "content": "that"}]
    plain = corpus(rows)
    assert next(read_all(plain)).text == "this"
    named = corpus(rows, text_field="content")
    assert next(read_all(named)).text == "that"
    assert plain.manifest()["digest"] != named.manifest()["digest"]


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
@pytest.mark.parametrize("small_bytes", [2**20, 0])
def test_a_field_that_is_only_read_stands_before_the_text_with_a_cue_between(tmp_path, held_out, kind, small_bytes):
    rows = [
        {"meta": {"report": "A long report.\nIts end."}, "summary": "Short."},
        {"meta": {"report": "b"}, "summary": "c"},
    ]
    path = tmp_path / f"train.{kind}"
    if kind == "parquet":
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    keys = {"text_field": "summary", "prompt_field": "meta.report", "cue": "In short:", "small_bytes": small_bytes}
    rows_read = Files(str(path), **held_out, **keys)
    first, second = read_all(rows_read)
    assert (first.text[: first.prompt], first.text[first.prompt :]) == (
        "A long report.\nIts end.\nIn short:",
        " Short.",
    )
    assert second.text[second.prompt :] == " c"
    assert rows_read.whole
    shortened = Files(str(path), **held_out, **keys, longest_prompt_characters=6)
    assert next(read_all(shortened)).text == "A long\nIn short: Short."
    plain = Files(str(path), **held_out, text_field="summary", small_bytes=small_bytes)
    assert [entry.prompt for entry in read_all(plain)] == [0, 0]
    assert not plain.whole
    assert len({each.manifest()["digest"] for each in (rows_read, shortened, plain)}) == 3
    with pytest.raises(UserError, match=r"lacks the field 'title'; mend the row or set prompt_field"):
        list(read_all(Files(str(path), **held_out, text_field="summary", prompt_field="title")))


def test_a_file_that_is_one_text_has_no_field_to_be_read_before_it(tmp_path, held_out):
    (tmp_path / "a.txt").write_text("a text")
    path = str(tmp_path / "a.txt")
    with pytest.raises(UserError, match=r"a\.txt: a text without fields, and prompt_field names one"):
        list(read_all(Files(path, **held_out, prompt_field="report")))


@pytest.mark.parametrize(
    ("train", "message"),
    [
        ("nowhere.txt", "nowhere.txt: No such file or directory"),
        ("nowhere/*.txt", "nowhere/*.txt: No such file or directory"),
        ("link.txt", "link.txt: a link to nothing"),
        ("empty.jsonl", "empty.jsonl: the file is empty"),
        ("folder.txt", "folder.txt: this folder has no file that can be read (2 hidden, empty or of an unknown kind)"),
        ("table.csv", "table.csv: unknown kind of file"),
        ("", "data.corpus.train lacks a path"),
        ([], "data.corpus.train lacks a path"),
        ({}, "data.corpus.train lacks a path"),
        (None, "data.corpus.train lacks a path"),
        ({"web": []}, "data.corpus.train.web lacks a path"),
        ({"web": None}, "data.corpus.train.web lacks a path"),
        (["good.txt", ""], "data.corpus.train lacks a path"),
        (["good.txt", "./good.txt"], "./good.txt: the same file as good.txt; give every file once"),
        (["good.txt", "good.txt"], "good.txt: stands under data.corpus.train and data.corpus.train"),
        ({"a": "good.txt", "b": "good.txt"}, "good.txt: stands under data.corpus.train.a and data.corpus.train.b"),
        ("test.txt", "test.txt: stands under data.corpus.train and data.corpus.test"),
        ("copy.txt", "test.txt: the same file as copy.txt"),
        ("pipe.txt", "pipe.txt: neither a file nor a folder; give one"),
        ("/dev/zero", "/dev/zero: neither a file nor a folder; give one"),
    ],
)
def test_a_bad_path_is_refused_with_its_name(tmp_path, monkeypatch, train, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder.txt").mkdir()
    (tmp_path / "folder.txt" / "table.csv").write_text("a,b")
    (tmp_path / "folder.txt" / ".hidden.txt").write_text("hidden")
    (tmp_path / "link.txt").symlink_to("nothing.txt")
    (tmp_path / "empty.jsonl").touch()
    os.mkfifo(tmp_path / "pipe.txt")
    for name in ("good.txt", "validation.txt", "test.txt", "table.csv"):
        (tmp_path / name).write_text(name)
    shutil.copy("test.txt", "copy.txt")
    with pytest.raises(UserError) as error:
        Files(train, "validation.txt", "test.txt")
    assert message in str(error.value)


@pytest.mark.parametrize("small_bytes", [2**20, 0])
def test_a_file_that_changes_before_it_is_read_stops_even_when_skipping(corpus, tmp_path, small_bytes):
    files = corpus([{"text": "first"}, {"text": "second"}], on_error="skip", small_bytes=small_bytes)
    with (tmp_path / "train.jsonl").open("a") as file:
        file.write(json.dumps({"text": "third"}))
    with pytest.raises(UserError, match=r"train\.jsonl: the file has changed"):
        next(files.read("train", "", 0))


@pytest.fixture
def manifest(tmp_path, held_out):
    """A corpus of one training file and the path of its manifest."""
    train = write(tmp_path / "train.jsonl", ["first", "second"])
    write_json(tmp_path / "manifest.json", manifest_of(Files.find_files({"train": train, **held_out})))
    return str(tmp_path / "manifest.json")


def test_a_file_of_another_length_than_its_manifest_says_is_refused(manifest, tmp_path):
    with (tmp_path / "train.jsonl").open("a") as file:
        file.write("more")
    with pytest.raises(UserError, match=r"train\.jsonl: \d+ bytes long, the manifest says \d+"):
        Files(manifest=manifest)


def test_a_file_of_other_bytes_than_its_manifest_says_is_refused(manifest, tmp_path):
    content = (tmp_path / "train.jsonl").read_bytes()
    (tmp_path / "train.jsonl").write_bytes(content.replace(b"first", b"other"))
    with pytest.raises(UserError, match=r"train\.jsonl: its sha256 is not that of the manifest"):
        next(Files(manifest=manifest).read("train", "", 0))


RECORD = {"name": "a.txt", "location": "a.txt", "bytes": 4}


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"location": "a\0b"}, "location of a file is no text"),
        ({"location": "\ud800"}, "location of a file is no text"),
        ({"location": 3}, "location of a file is no text"),
        ({"name": "\udce9.txt"}, "name of a file is no text"),
        ({"sha256": 3}, "sha256 of a file is no text"),
        ({"bytes": "4"}, "bytes, start or stop of a.txt is no whole number"),
        ({"bytes": float("nan")}, "bytes, start or stop of a.txt is no whole number"),
        ({"start": True}, "bytes, start or stop of a.txt is no whole number"),
        ({"bytes": 10**30}, "of which 0 to"),
        ({"start": 3, "stop": 2}, "4 bytes, of which 3 to 2 cannot be read"),
        ({"stop": 5}, "4 bytes, of which 0 to 5 cannot be read"),
        ({"start": -1}, "4 bytes, of which -1 to 4 cannot be read"),
    ],
)
def test_a_record_of_a_manifest_that_cannot_be_is_told_with_the_manifest(tmp_path, monkeypatch, changes, told):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.txt").write_text("text")
    write_json(tmp_path / "m.json", {"splits": {"train": {"": [RECORD | changes]}}})
    with pytest.raises(UserError, match=rf"^m\.json: not a manifest of files .*{told}.*; make it again"):
        Files(manifest="m.json")


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("[" * 100_000, "not a manifest of files"),
        ('{"splits": {"train": {}}}', "names no file of train; make it again"),
        ('{"splits": {"train": {"web": []}}}', r"names no file of train\.web; make it again"),
    ],
)
def test_a_manifest_that_is_none_or_names_no_file_is_told(tmp_path, content, told):
    (tmp_path / "m.json").write_text(content)
    with pytest.raises(UserError, match=rf"m\.json: {told}"):
        Files(manifest=str(tmp_path / "m.json"))


@pytest.mark.parametrize("pipe", ["m.json", "a.txt"])
def test_a_pipe_as_a_manifest_or_in_one_is_not_waited_for(tmp_path, monkeypatch, pipe):
    monkeypatch.chdir(tmp_path)
    write_json(tmp_path / "m.json", {"splits": {"train": {"": [RECORD | {"bytes": 0}]}}})
    (tmp_path / pipe).unlink(missing_ok=True)
    os.mkfifo(tmp_path / pipe)
    with pytest.raises(UserError, match=f"{pipe}: it is no file"):
        Files(manifest="m.json")


def test_a_name_that_is_not_utf_8_is_told(tmp_path):
    for name in (b"a.txt", b"b.txt", b"caf\xe9.txt"):
        with open(os.fsencode(tmp_path) + b"/" + name, "w") as file:
            file.write(f"text of {name!r}")
    with pytest.raises(UserError, match=r"caf.*\.txt: its name is not UTF-8, .*; rename it"):
        Files(str(tmp_path))


def test_a_file_that_its_manifest_names_and_that_is_gone_is_refused(manifest, tmp_path):
    (tmp_path / "train.jsonl").unlink()
    with pytest.raises(UserError, match=r"train\.jsonl: No such file"):
        Files(manifest=manifest)


def test_the_parts_of_a_file_share_its_documents_and_name_them_apart(manifest, tmp_path, paragraphs):
    write(tmp_path / "train.jsonl", paragraphs[:30])
    size = (tmp_path / "train.jsonl").stat().st_size
    content = json.loads((tmp_path / "manifest.json").read_text())
    record = {key: content["splits"]["train"][""][0][key] for key in ("name", "location")} | {"bytes": size}
    edges = {"train": (0, size // 3), "validation": (size // 3, size // 2), "test": (size // 2, size)}
    content["splits"] = {
        split: {"": [record | {"start": start, "stop": stop}]} for split, (start, stop) in edges.items()
    }
    (tmp_path / "manifest.json").write_text(json.dumps(content))
    for small_bytes in (2**20, 0):
        files = Files(manifest=manifest, small_bytes=small_bytes)
        found = [entry for split in edges for entry in entries(files, split)]
        assert [entry.text for entry in found] == paragraphs[:30]
        assert len({entry.name for entry in found}) == 30
        starts = {text: len(lines(paragraphs[:index])) for index, text in enumerate(paragraphs[:30])}
        for entry in entries(files, "test"):
            assert entry.name == f"train.jsonl@{starts[entry.text]}"


@pytest.mark.parametrize(
    "content", [b"", b"[]", b"{}", b"\xff", b'{"splits": {"train": {"": [{}]}}}', b'{"splits": 3}']
)
def test_a_file_that_is_no_manifest_is_refused(tmp_path, content):
    write_whole(tmp_path / "manifest.json", content)
    with pytest.raises(UserError, match=r"manifest\.json: not a manifest of files"):
        Files(manifest=str(tmp_path / "manifest.json"))


def test_a_manifest_that_is_not_there_says_how_to_make_it(tmp_path):
    with pytest.raises(UserError, match=r"absent\.json: no such file.*make it with python -m lab\.prepare manifest"):
        Files(manifest=str(tmp_path / "absent.json"))


def test_own_files_to_be_scored_need_no_other_split(tmp_path, paragraphs):
    write(tmp_path / "own.jsonl", paragraphs[:7])
    (tmp_path / "play.txt").write_text("one document")
    own = TestFiles([str(tmp_path / "own.jsonl"), str(tmp_path / "play.txt")])
    found = [entry.text for entry in own.documents("test", "")]
    assert found == [*paragraphs[:7], "one document"]
    with pytest.raises(UserError, match="only the split test, not train"):
        own.subsets("train")
    with pytest.raises(UserError, match=r"evaluation\.corpus\.test lacks a path"):
        TestFiles()


def test_a_remote_file_of_other_bytes_than_its_manifest_says_is_refused_whatever_its_etag_claims(tmp_path, held_out):
    path = tmp_path / "served" / "train.jsonl"
    path.parent.mkdir()
    write(path, ["first", "second"])
    with serve(path.parent) as server:
        server.plan = lambda path, number, method: {"etag": '"never-changed"'}
        files = Files.find_files({"train": f"{server.url}/train.jsonl", **held_out})
        (record,) = (told := manifest_of(files))["splits"]["train"][""]
        told["splits"]["train"][""] = [record | {"sha256": hashlib.sha256(path.read_bytes()).hexdigest()}]
        write_json(tmp_path / "manifest.json", told)
        kept = Files(manifest=str(tmp_path / "manifest.json"))
        assert [entry.text for chunk in range(2) for entry in kept.read("train", "", chunk)] == ["first", "second"]
        path.write_bytes(path.read_bytes().replace(b"first", b"other"))
        with pytest.raises(UserError, match=r"train\.jsonl: its sha256 is not that of the manifest"):
            list(Files(manifest=str(tmp_path / "manifest.json")).read("train", "", 0))
