"""From bytes to text, with every reason for which a document cannot be used."""

import json
from collections.abc import Mapping
from typing import Any

from lab.base.errors import UserError

MARK = "\ufeff"  # U+FEFF, which some programs write before UTF-8; it is no part of the text


class DocumentError(UserError):
    """One document cannot be used, others may be: what `on_error: skip` passes over."""


def decode(content: bytes, where: str) -> str:
    """The text of `content`, without a byte order mark; DocumentError, naming `where`, if it is not UTF-8."""
    if _is_utf_16(content):
        raise DocumentError(f"{where}: UTF-16, not UTF-8; convert the file (iconv -f UTF-16 -t UTF-8)")
    try:
        return content.decode("utf-8").removeprefix(MARK)
    except UnicodeDecodeError as error:
        raise DocumentError(f"{where}: not UTF-8 at byte {error.start} of the document; convert it to UTF-8") from error


def _is_utf_16(content: bytes) -> bool:
    """Whether bytes begin with the mark of UTF-16, or with two letters of it without one."""
    zeros = [byte == 0 for byte in content[:4]]
    return content[:2] in (b"\xff\xfe", b"\xfe\xff") or zeros in ([False, True] * 2, [True, False] * 2)


def is_blank(line: bytes) -> bool:
    """Whether a line holds nothing, and so is no document."""
    return not line.removeprefix(MARK.encode()).strip()


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
    if line.lstrip().startswith("["):
        raise DocumentError(f"{where}: a JSON array; give one JSON object a line (jq -c '.[]' FILE makes them of it)")
    try:
        row = _parsed(line)
    except (ValueError, RecursionError) as error:
        raise DocumentError(f"{where}: not JSON ({error}); give one JSON object a line") from error
    if not isinstance(row, dict):
        raise DocumentError(f"{where}: JSON, but not an object; give one JSON object a line")
    return row


def _parsed(line: str) -> Any:
    try:
        return json.loads(line)
    except json.JSONDecodeError:
        raise
    except ValueError:  # an integer of more digits than Python takes, which a field beside the text may hold
        return json.loads(line, parse_int=float)


def value_at(fields: Mapping[str, Any], name: str) -> Any:
    """The value of a field; a name with dots that is no field itself leads into fields of fields. Raises KeyError."""
    if name in fields:
        return fields[name]
    dots = [place for place, letter in enumerate(name) if letter == "."]
    for dot in dots:
        inner = fields.get(name[:dot])
        if isinstance(inner, Mapping):
            try:
                return value_at(inner, name[dot + 1 :])
            except KeyError:
                continue
    raise KeyError(name)
