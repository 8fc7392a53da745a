"""What a decoder has answered, a line of JSON each, so that an evaluation that was stopped goes on."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lab.base.errors import UserError
from lab.base.files import refuse_link


class Answers:
    """The answers of one decoder, appended to a file as they come. A last line that is torn is left out.

    Each line is a key, an answer, and a sha256 of both and of the identity.

    Args:
        identity: of whatever decides an answer; answers of another are forgotten.

    Raises:
        UserError: the file cannot be read or written, is damaged, or was edited.
    """

    def __init__(self, path: Path, identity: str) -> None:
        refuse_link(path)
        self.path, self.identity = path, identity
        self._known: dict[str, Any] = {}
        lines = self._read()
        if lines[:1] == [{"identity": identity}]:
            for line in lines[1:]:
                if not (isinstance(line, list) and len(line) == 3 and line == self._line(*line[:2])):
                    raise UserError(f"{path} was edited; delete it, and what it held is asked again")
                self._known[line[0]] = line[1]
        else:
            lines = [{"identity": identity}]
        # Written again, so that what follows does not stand behind half a line.
        self._write("w", *lines)

    def _line(self, key: Any, answer: Any) -> list[Any]:
        told = json.dumps([self.identity, key, answer])
        return [key, answer, hashlib.sha256(told.encode()).hexdigest()[:16]]

    def _read(self) -> list[Any]:
        try:
            text = self.path.read_text(encoding="utf-8") if self.path.exists() else ""
            return [json.loads(line) for line in text.split("\n")[:-1]]
        except (OSError, ValueError, RecursionError):
            raise UserError(f"{self.path} is damaged; delete it, and what it held is asked again") from None

    def _write(self, mode: str, *lines: Any) -> None:
        try:
            with self.path.open(mode, encoding="utf-8") as file:
                file.write("".join(json.dumps(line) + "\n" for line in lines))
        except OSError as error:
            raise UserError(f"{self.path} cannot be written ({str(error.strerror).lower()})") from None

    @staticmethod
    def key(*request: Any) -> str:
        """Of what was asked."""
        return hashlib.sha256(json.dumps(request).encode()).hexdigest()[:32]

    def get(self, key: str) -> Any:
        """The answer, None if there is none."""
        return self._known.get(key)

    def add(self, found: Mapping[str, Any]) -> None:
        """Take up answers by key."""
        self._known |= found
        self._write("a", *(self._line(key, answer) for key, answer in found.items()))
