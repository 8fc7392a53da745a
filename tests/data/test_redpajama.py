import functools
import http.server
import itertools
import json
import threading
from collections import Counter
from fractions import Fraction

import numpy as np
import pytest
import zstandard
from oracles.redpajama_folder import FILES, make_redpajama

from lab.base.errors import UserError
from lab.data.sources.documents import SPLITS
from lab.data.sources.file_corpus import Files
from lab.data.sources.file_list import Part, manifest_of
from lab.data.sources.redpajama import SUBSETS, RedPajama, divide, locations
from lab.data.sources.storage import Network
from lab.data.stream.fingerprint import Fingerprint
from lab.data.stream.order import BlockStream, sampled_blocks
from lab.runs.manifest import write_json

# As in conf/data/redpajama.yaml.
WEIGHTS = {"common_crawl": 878, "c4": 175, "github": 59, "arxiv": 28, "stackexchange": 20, "wikipedia": 24}
KEYS = {"on_error": "stop", "timeout_seconds": 5.0, "deadline_seconds": 20.0}
MIXED = {"context": 128, "seed": 0, "lanes": 8, "weights": WEIGHTS}


@pytest.fixture(scope="session")
def urls(tmp_path_factory):
    return make_redpajama(tmp_path_factory.mktemp("redpajama"))


@pytest.fixture(scope="session")
def manifest(urls, tmp_path_factory):
    path = tmp_path_factory.mktemp("manifest") / "redpajama.json"
    write_json(path, manifest_of(RedPajama.find_files({"urls": str(urls), **KEYS})))
    return path


@pytest.fixture(scope="session")
def redpajama(urls, manifest):
    return RedPajama(str(urls), str(manifest), **KEYS)


def texts(path):
    """The texts of a file of rows."""
    content = path.read_bytes()
    if path.suffix == ".zst":
        content = zstandard.ZstdDecompressor().decompressobj().decompress(content)
    return [json.loads(line)["text"] for line in content.decode().split("\n") if line]


def test_the_manifest_names_the_files_of_the_list_by_subset_and_leaves_book_out(redpajama, urls):
    manifest = redpajama.manifest()
    for split in SPLITS:
        assert redpajama.subsets(split) == list(SUBSETS)
    for subset, names in FILES.items():
        records = manifest["splits"]["train"][subset]
        held = 2 if subset == "common_crawl" else 0
        assert [record["name"] for record in records] == sorted(names)[: len(names) - held]
        for record in records:
            assert record["bytes"] == (urls.parent / record["name"]).stat().st_size
            assert len(record["sha256"]) == 64


@pytest.mark.parametrize("small_bytes", [2**26, 0])
def test_the_splits_of_a_subset_share_all_its_documents_and_no_two_have_one_in_common(urls, manifest, small_bytes):
    files = Files(manifest=str(manifest), small_bytes=small_bytes)
    for subset, names in FILES.items():
        expected = [text for name in sorted(names) for text in texts(urls.parent / name)]
        splits = {split: list(files.documents(split, subset)) for split in SPLITS}
        assert [entry.text for split in SPLITS for entry in splits[split]] == expected
        assert len({entry.name for split in SPLITS for entry in splits[split]}) == len(expected)
        assert min(len(entries) for entries in splits.values()) >= 1
        assert len(splits["train"]) > len(expected) / 3


def test_a_hundredth_of_the_last_file_is_held_out_for_each_split_where_files_can_be_cut(urls):
    part = Part("wiki.jsonl", "wiki.jsonl", 1_000_050)
    other = Part("a.jsonl", "a.jsonl", 7)
    splits = divide("wikipedia", [other, part])
    assert splits["train"][0] == other
    edges = [(part.start, part.stop) for part in (splits["train"][1], *splits["validation"], *splits["test"])]
    assert edges == [(0, 980_050), (980_050, 990_050), (990_050, 1_000_050)]
    (huge,) = divide("wikipedia", [Part("wiki.jsonl", "wiki.jsonl", 10**11)])["test"]
    assert huge.bytes == 2**26


def test_files_that_cannot_be_cut_are_held_out_whole(urls):
    parts = [Part(f"{number}.jsonl.zst", f"{number}.jsonl.zst", 9) for number in range(4)]
    assert divide("common_crawl", parts) == {"train": parts[:2], "validation": [parts[2]], "test": [parts[3]]}
    with pytest.raises(UserError, match=r"subset common_crawl has 2 files that cannot be cut; three or more"):
        divide("common_crawl", parts[:2])


def test_tokens_are_mixed_by_weight_to_within_one_document_of_each_lane(redpajama, tokenizer):
    subset_of = {}
    for subset in SUBSETS:
        for entry in redpajama.documents("train", subset):
            assert subset_of.setdefault(tokenizer.encode(entry.text).tobytes(), subset) == subset
    longest = max(len(key) // 4 for key in subset_of) + 1
    stream = BlockStream(redpajama, "train", tokenizer, **MIXED)
    for lane in range(8):
        tokens = np.concatenate([stream.block(item * 8 + lane).tokens for item in range(400)])
        ends = np.flatnonzero(tokens == tokenizer.end_of_document)
        taken = Counter()
        for start, end in zip([0, *(ends[:-1] + 1)], ends, strict=True):
            taken[subset_of[tokens[start:end].tobytes()]] += int(end - start + 1)
            done = [Fraction(taken[subset], WEIGHTS[subset]) for subset in SUBSETS]
            assert max(done) - min(done) <= Fraction(longest, min(WEIGHTS.values()))
        for subset in SUBSETS:
            share = taken[subset] / taken.total()
            assert abs(share - WEIGHTS[subset] / sum(WEIGHTS.values())) < 0.03


def test_validation_blocks_are_mixed_from_every_subset(redpajama, tokenizer):
    blocks = sampled_blocks(redpajama, "validation", tokenizer, 128, 40, WEIGHTS)
    texts = [tokenizer.decode(block.tokens) for block in blocks]
    for subset in SUBSETS:
        whole = " ".join(entry.text for entry in redpajama.documents("validation", subset) if entry.text)
        assert any(text[20:120] in whole for text in texts)


def fingerprint(corpus, tokenizer):
    total = Fingerprint()
    for g, block in itertools.islice(BlockStream(corpus, "train", tokenizer, **MIXED).blocks(), 300):
        total.add(g, block.tokens)
    return total.hex


@pytest.fixture(scope="session")
def server(urls):
    """The folder at http://: whole files only, with the time of their last change."""

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *arguments):
            pass

    handler = functools.partial(Handler, directory=str(urls.parent))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        thread = threading.Thread(target=running.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{running.server_address[1]}"
        running.shutdown()
        thread.join()


def test_a_list_on_a_server_gives_the_blocks_of_the_local_copy(server, redpajama, urls, tmp_path, tokenizer):
    for name, content in (("relative", urls.read_text()), ("absolute", urls.read_text().replace("\n", f"\n{server}/"))):
        (urls.parent / f"{name}.txt").write_text(content.strip().removesuffix(f"{server}/"))
        address = f"{server}/{name}.txt"
        files = RedPajama.find_files({"urls": address, **KEYS})
        write_json(tmp_path / f"{name}.json", manifest_of(files))
        remote = RedPajama(address, str(tmp_path / f"{name}.json"), **KEYS)
        assert remote.subsets("train") == list(SUBSETS)
        assert all(part.version.startswith("modified:") for parts in files["train"].values() for part in parts)
        assert fingerprint(remote, tokenizer) == fingerprint(redpajama, tokenizer)


def test_a_copy_in_a_folder_of_another_subsets_name_keeps_its_subsets(tmp_path):
    folder = tmp_path / "github" / "book" / "my copy"
    folder.mkdir(parents=True)
    (folder / "urls.txt").write_text("wikipedia/wiki.jsonl\n\n  c4/c4-train.1.jsonl\nbook/book.jsonl\n")
    assert locations(str(folder / "urls.txt"), Network()) == {
        "c4": [str(folder / "c4" / "c4-train.1.jsonl")],
        "wikipedia": [str(folder / "wikipedia" / "wiki.jsonl")],
    }


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "urls.txt: the list is empty; give one URL a line"),
        (b"\n\nbook/book.jsonl\n", "urls.txt: the list is empty; give one URL a line"),
        (b"https://example.org/pile/00.jsonl\n", "https://example.org/pile/00.jsonl lies in no folder of arxiv, c4,"),
        (b"wikipedia\n", "wikipedia lies in no folder of arxiv, c4,"),
        (b"\xff", "urls.txt: not UTF-8"),
    ],
)
def test_a_list_of_no_use_is_refused(tmp_path, content, message):
    (tmp_path / "urls.txt").write_bytes(content)
    with pytest.raises(UserError) as error:
        locations(str(tmp_path / "urls.txt"), Network())
    assert message in str(error.value)


def test_a_file_of_the_list_that_is_not_there_is_named(tmp_path):
    (tmp_path / "urls.txt").write_text("wikipedia/wiki.jsonl\n")
    with pytest.raises(UserError, match=r"wikipedia/wiki\.jsonl: No such file"):
        RedPajama.find_files({"urls": str(tmp_path / "urls.txt"), **KEYS})


def test_without_its_manifest_it_says_how_to_make_it(urls, tmp_path):
    with pytest.raises(UserError, match=r"absent\.json: no such file.*make it with python -m lab\.prepare manifest"):
        RedPajama(str(urls), str(tmp_path / "absent.json"), **KEYS)
