"""Files are written where they are named and nowhere else: what a link leads to is never touched."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from lab.base.errors import UserError
from lab.base.files import (
    append,
    bytes_in,
    discard,
    make_folder,
    open_new,
    open_own,
    read_stored,
    refuse_read,
    sha256_of,
    writable,
    write_all,
    write_whole,
)


@pytest.fixture
def precious(tmp_path: Path) -> Path:
    """A file outside, to which links lead."""
    path = tmp_path / "outside" / "precious"
    path.parent.mkdir()
    path.write_text("years of work")
    return path


WRITERS: dict[str, Callable[[Path], object]] = {
    "write_whole": lambda path: write_whole(path, b"new"),
    "write_whole beside": lambda path: write_whole(path.with_name(path.name.removesuffix(".new")), b"new"),
    "append": lambda path: append(path, "new"),
    "open_new": lambda path: open_new(path).close(),
    "open_own": lambda path: os.ftruncate(open_own(path, os.O_RDWR), 0),
    "discard": discard,
}


@pytest.mark.parametrize("name", WRITERS)
def test_what_a_link_leads_to_is_neither_written_nor_deleted(name: str, precious: Path, tmp_path: Path) -> None:
    link = tmp_path / "file.new"
    link.symlink_to(precious)
    try:
        WRITERS[name](link)
    except (UserError, OSError):
        assert link.is_symlink()
    assert precious.read_text() == "years of work"


@pytest.mark.parametrize("name", [name for name in WRITERS if name != "discard"])
def test_no_file_is_made_where_a_link_leads_to(name: str, tmp_path: Path) -> None:
    link = tmp_path / "file.new"
    link.symlink_to(tmp_path / "target")
    try:
        WRITERS[name](link)
    except (UserError, OSError):
        assert link.is_symlink()
    assert not (tmp_path / "target").exists()


def test_an_append_to_a_link_is_one_line_that_says_what_to_do(precious: Path, tmp_path: Path) -> None:
    (tmp_path / "metrics.csv").symlink_to(precious)
    with pytest.raises(UserError, match=r"metrics\.csv cannot be written: it is a link; delete the link"):
        append(tmp_path / "metrics.csv", "1,2\n")


def test_a_folder_behind_a_link_is_not_emptied(precious: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "link").symlink_to(precious.parent)
    discard(folder)
    assert not folder.exists()
    (tmp_path / "link").symlink_to(precious.parent)
    discard(tmp_path / "link")
    assert not os.path.lexists(tmp_path / "link")
    assert precious.read_text() == "years of work"


def test_a_pipe_is_neither_read_nor_written_and_nobody_waits_for_it(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for read in (read_stored, sha256_of):
        with pytest.raises(OSError, match="it is no file"):
            read(tmp_path / "pipe")
    with pytest.raises(UserError, match="pipe cannot be written"):
        append(tmp_path / "pipe", "x")


def test_a_file_that_is_too_large_is_refused_before_it_is_read(tmp_path: Path) -> None:
    with open(tmp_path / "huge", "wb") as file:
        file.truncate(2**40)
    with pytest.raises(OSError, match="it is larger than 10 bytes"):
        read_stored(tmp_path / "huge", 10)


def test_bytes_behind_links_do_not_count(precious: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    (folder / "inside").mkdir(parents=True)
    (folder / "inside" / "file").write_bytes(b"12345")
    (folder / "link").symlink_to(precious)
    (folder / "folder").symlink_to(precious.parent)
    assert bytes_in(folder) == 5


def test_a_folder_that_cannot_be_made_leaves_none_of_those_above_it(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be written: file name too long; choose a shorter name"):
        make_folder(tmp_path / "a" / "b" / ("n" * 300))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("make", [lambda path: make_folder(path / "runs"), lambda path: writable(path / "table.csv")])
def test_a_link_to_nothing_is_told_as_one(make: Callable[[Path], None], tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("nowhere")
    with pytest.raises(UserError, match=r"/link is a link to nowhere, which is not there: make that, or delete the"):
        make(tmp_path / "link")


def test_a_name_that_is_too_long_is_told_before_the_work(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="file name too long; choose a shorter name"):
        writable(tmp_path / ("n" * 253))


IN_THE_WAY: dict[str, tuple[Callable[[Path], object], str]] = {
    "a link": (lambda path: path.symlink_to("precious"), "is a link: nothing is written or deleted behind links"),
    "a link to nothing": (lambda path: path.symlink_to("nowhere"), "is a link: nothing is written or deleted behind"),
    "a pipe": (os.mkfifo, "is no file but a pipe or a device: name a file"),
    "a file beside": (
        lambda path: path.with_name("table.csv.new").write_text("years of work"),
        r"table\.csv\.new is in the way: .*table\.csv is written there first; move it away, or name another file",
    ),
}


@pytest.mark.parametrize("made", [False, True])
@pytest.mark.parametrize("name", IN_THE_WAY)
def test_what_a_new_file_would_take_the_place_of_is_told_before_the_work(name: str, made: bool, tmp_path: Path) -> None:
    put, told = IN_THE_WAY[name]
    put(tmp_path / "table.csv")
    with pytest.raises(UserError, match=told):
        writable(tmp_path / "table.csv", made)


@pytest.mark.parametrize("path", ["", ".", "..", "/", "missing/.."])
def test_a_path_without_the_name_of_a_file_is_told(path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="is a folder: name a file"):
        writable(Path(path), made=True)


def test_folders_that_will_be_made_are_tried_and_not_made(tmp_path: Path) -> None:
    (tmp_path / "table.csv.new").write_text("of another table")
    writable(tmp_path / "a" / "b" / "table.csv", made=True)
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="file is a file: name a folder"):
        writable(tmp_path / "file" / "b" / "table.csv", made=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "table.csv.new"]


def test_a_file_that_is_read_is_not_written_by_whatever_path(tmp_path: Path) -> None:
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "a.txt").write_text("years of work")
    (tmp_path / "link").symlink_to("texts")
    refuse_read(tmp_path / "texts" / "b.txt", [tmp_path / "texts" / "a.txt", tmp_path / "missing"])
    with pytest.raises(UserError, match=r"link/a\.txt is read, too: it would be lost; name another file to write"):
        refuse_read(tmp_path / "link" / "a.txt", [tmp_path / "missing", tmp_path / "texts" / "a.txt"])


def test_of_several_files_none_is_there_if_one_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("before")
    with pytest.raises(UserError, match="nnn cannot be written: file name too long"):
        write_all({tmp_path / "a": b"after", tmp_path / "b": b"new", tmp_path / ("n" * 253): b"new"})
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"a": "before"}
