"""What comes from elsewhere is shown as text: nothing in it steers the terminal."""

import ast
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import lab
from lab.base.commandline import lines_of, run_command
from lab.base.console import Console, Table
from lab.base.errors import UserError
from lab.base.shown import plain

HOSTILE = "\x1b[31m[red]:smile:[/red]\r\nnew line\x9b2J\u202etxt.exe\ud800"


@given(st.text())
def test_a_plain_text_is_one_line_without_control_signs(text: str) -> None:
    told = plain(text)
    assert told.splitlines() in ([], [told])
    told.encode()  # no half of a character
    assert not any(ord(sign) < 32 or 127 <= ord(sign) < 160 for sign in told)


@given(st.text(st.characters(categories=["L", "N", "P", "S"])))
def test_what_can_be_read_is_shown_as_it_is(text: str) -> None:
    assert plain(text) == text


def test_a_table_shows_markup_and_escapes_as_they_are_written(capsys: pytest.CaptureFixture[str]) -> None:
    table = Table("run", title=HOSTILE.replace("\n", ""))
    table.add_row(HOSTILE)
    Console(width=200, force_terminal=False).print(table)
    told = capsys.readouterr().out
    assert r"\x1b[31m[red]:smile:[/red]\r\nnew line\x9b2J\u202etxt.exe\ud800" in told
    assert "\x1b" not in told
    assert len([line for line in told.splitlines() if line.startswith("│")]) == 1


def test_a_mistake_is_one_line_whatever_it_names_and_several_are_a_line_each(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert lines_of(UserError("a\nerror: b", "c\x1b[2J")) == [r"a\nerror: b", r"c\x1b[2J"]

    def fail() -> None:
        raise UserError(f"{HOSTILE}: no such run", "another")

    with pytest.raises(SystemExit):
        run_command(fail)
    told = capsys.readouterr().err.splitlines()
    assert [line[:9] for line in told] == ["error: \\x", "error: an"]


def test_only_one_module_knows_rich_which_reads_texts_as_markup() -> None:
    root = Path(lab.__file__).parent
    users = set()
    for path in root.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            names += [each.name for each in node.names] if isinstance(node, ast.Import) else []
            users |= {path.relative_to(root).as_posix() for name in names if name.split(".")[0] == "rich"}
    assert users == {"base/console.py"}
