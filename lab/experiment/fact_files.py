"""Files of prompts and facts, which are foreign input: JSON lines or one list of JSON, checked whole."""

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

from lab.base.errors import UserError
from lab.base.files import read_text

TOLD = 10  # wrong rows of a file, at most
EXAMPLE = '{"prompt": "...", "target": "..."}'
Made = TypeVar("Made")


def read_rows(path: Path, made: Callable[[str, dict[str, Any]], Made]) -> list[Made]:
    """The rows of a file; empty lines are none.

    Args:
        made: makes one of where a row stands, for messages, and of its object; raises ValueError for a wrong one.

    Raises:
        UserError: it cannot be read, holds none, or a line for each row that is wrong, up to TOLD.
    """
    try:
        text = read_text(path).removeprefix("\ufeff")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror.lower() if isinstance(error, OSError) and error.strerror else "it is not UTF-8"
        raise UserError(f"{path} cannot be read: {reason}; give a file of JSON lines") from None
    found, wrong = [], []
    for name, row in _rows(path, text):
        try:
            told = row()
            if not isinstance(told, dict):
                raise ValueError(f"it is no object; write {EXAMPLE}")
            found.append(made(name, told))
        except ValueError as error:
            wrong.append(f"{name}: {error}")
    refuse(wrong)
    if not found:
        raise UserError(f"{path} is empty; give JSON lines such as {EXAMPLE}")
    return found


def _rows(path: Path, text: str) -> Iterator[tuple[str, Callable[[], Any]]]:
    """Where each row stands, and what gives it: of one list, or of lines. Raises UserError for a list that is none."""
    if text.lstrip().startswith("["):
        try:
            rows: list[Any] = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise UserError(f"{path} is not JSON ({str(error).split(':')[0].lower()}); restore it") from None
        for number, row in enumerate(rows, start=1):
            yield f"{path} row {number}", lambda row=row: row  # type: ignore[misc]
        return
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            yield f"{path} line {number}", lambda line=line: _parsed(line)  # type: ignore[misc]


def _parsed(line: str) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"it is not JSON ({str(error).split(':')[0].lower()}); write one object a line") from None


def refuse(wrong: Sequence[str]) -> None:
    """Raises UserError for what is wrong, a line each, up to TOLD."""
    if wrong:
        more = [f"and {len(wrong) - TOLD} more rows"] if len(wrong) > TOLD else []
        raise UserError(*wrong[:TOLD], *more)
