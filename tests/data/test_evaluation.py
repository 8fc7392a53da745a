import hashlib
import importlib.metadata
import json
import re

import pytest

from lab.data.evaluation import HubDataset, KingJames, Shakespeare
from lab.errors import UserError

PACKAGED = {KingJames: 66, Shakespeare: 38}


def made(kind, **settings):
    try:
        importlib.metadata.version(kind.PACKAGE)
    except importlib.metadata.PackageNotFoundError:
        pytest.skip(f"{kind.PACKAGE} is not installed")
    return kind(**settings)


@pytest.mark.parametrize("kind", PACKAGED)
def test_a_packaged_set_has_its_documents_under_names_of_their_own(kind):
    documents = list(made(kind).documents("test", ""))
    assert len(documents) == len({document.name for document in documents}) == PACKAGED[kind]
    assert all(document.text for document in documents)


def test_no_label_is_left_in_the_bible_and_its_books_begin_as_they_do():
    books = {book.name: book.text for book in made(KingJames).documents("test", "")}
    assert not any(re.search(r"\d", text) for text in books.values())
    assert books["kjv/01-genesis"].startswith("In the beginning God created the heavens and the earth.\nAnd the earth")
    assert books["kjv/40-matthew"].startswith("The book of the generation of Jesus Christ")
    assert books["kjv/66-revelation"].startswith("The Revelation of Jesus Christ")
    assert books["kjv/19-psalms"].count("\n") > 2400


def test_no_markdown_is_left_in_the_plays():
    plays = {play.name: play.text for play in made(Shakespeare).documents("test", "")}
    text = "".join(plays.values())
    assert not re.search(r"[*#]|^_|_$| $", text, re.MULTILINE)
    assert (
        "\nEnter RODERIGO and IAGO\n\nRODERIGO\nTush! never tell me; I take it much unkindly\n"
        in plays["shakespeare/othello"]
    )


@pytest.mark.parametrize(
    ("kind", "digest"),
    [
        (KingJames, "8199f5cbc01d30eafc7f1aa324b838b25ef230cec23dffd7c8ab1c7511e84321"),
        (Shakespeare, "d7dd8dd69a3d761980e394eb6e3733c2dc7a785397c3d52379c6916d56a8676b"),
    ],
)
def test_the_texts_are_the_ones_that_scores_were_made_with(kind, digest):
    corpus = made(kind)
    manifest = corpus.manifest()
    assert manifest["digest"] == digest
    first = next(corpus.read("test", "", 0))
    expected = {"name": first.name, "sha256": hashlib.sha256(first.text.encode()).hexdigest()}
    assert manifest["splits"]["test"][0] == expected


@pytest.mark.parametrize("kind", PACKAGED)
def test_another_version_is_refused_with_the_command_that_mends_it(kind, monkeypatch):
    made(kind)
    monkeypatch.setattr(kind, "VERSION", "9.9")
    with pytest.raises(UserError, match=rf"package {kind.PACKAGE} is .*, the evaluation set is 9\.9; pip install"):
        kind()


def test_an_evaluation_set_is_not_trained_on():
    with pytest.raises(UserError, match=r"KingJames has no split train; choose it with evaluation="):
        made(KingJames).subsets("train")


@pytest.fixture
def rows(tmp_path):
    path = tmp_path / "rows.jsonl"
    content = [
        {"text": "one", "title": "first", "meta": {"config": "arxiv"}},
        {"text": "two", "title": "second", "meta": {"config": "books"}},
        {"text": " ", "title": "third", "meta": {"config": "arxiv"}},
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in content))
    return str(path)


def test_rows_of_datasets_become_documents(rows):
    corpus = HubDataset("json", data_files=rows, split="train", name_field="title", on_error="skip")
    documents = list(corpus.documents("test", ""))
    assert [(document.name, document.text) for document in documents] == [
        ("json/train/first", "one"),
        ("json/train/second", "two"),
        ("json/train/third", None),
    ]


def test_rows_can_be_chosen_by_a_nested_field(rows):
    corpus = HubDataset("json", data_files=rows, split="train", where={"meta.config": "books"})
    assert [document.text for document in corpus.documents("test", "")] == ["two"]


def test_a_missing_field_is_named(rows):
    with pytest.raises(UserError, match="json: has no field 'content' but text, title, meta"):
        HubDataset("json", data_files=rows, split="train", text_field="content").chunks("test", "")


@pytest.mark.parametrize("revision", [None, "main", "1234"])
def test_a_data_set_of_the_hub_needs_a_commit(revision):
    with pytest.raises(UserError, match=r"revision of emozilla/pg19 is '.*': give the commit to use"):
        HubDataset("emozilla/pg19", revision=revision)


def test_a_data_set_that_cannot_be_loaded_is_one_line(tmp_path):
    corpus = HubDataset("json", data_files=str(tmp_path / "nowhere.jsonl"), split="train")
    with pytest.raises(UserError, match=r"evaluation set json: .*; check the network, or take evaluation=kjv") as error:
        corpus.chunks("test", "")
    assert "\n" not in str(error.value)
