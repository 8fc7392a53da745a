"""From bytes to text, with every reason for which a document cannot be used."""

import json
from typing import Any

from lab.base.errors import UserError


class DocumentError(UserError):
    """One document cannot be used, others may be: what `on_error: skip` passes over."""


def decode(content: bytes, where: str) -> str:
    """The text of `content`; DocumentError, naming `where`, if it is not UTF-8."""
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise DocumentError(f"{where}: not UTF-8 at byte {error.start} of the document; convert it to UTF-8") from error


def usable(text: str, where: str) -> str:
    """The text itself; DocumentError if it is blank or holds half a surrogate pair."""
    if not text.strip():
        raise DocumentError(f"{where}: the text is empty; remove the document")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise DocumentError(f"{where}: half a surrogate pair at character {error.start}; mend the text") from error
    return text


def json_object(content: bytes, where: str) -> dict[str, Any]:
    """The JSON object of one line; DocumentError if there is none."""
    line = decode(content, where)
    if not line.strip():
        raise DocumentError(f"{where}: an empty line; remove it")
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise DocumentError(f"{where}: not JSON ({error}); give one JSON object a line") from error
    if not isinstance(row, dict):
        raise DocumentError(f"{where}: JSON, but not an object; give one JSON object a line")
    return row
