"""Tables on the terminal. rich prints them; to these of its classes a text is a text, wherever it comes from."""

from typing import Any

import rich.console
import rich.table
from rich.text import Text

from lab.base.shown import plain


class Console(rich.console.Console):
    """No [markup] and no :emoji: in a text, and nothing in it steers the terminal."""

    def __init__(self, **options: Any) -> None:
        super().__init__(markup=False, emoji=False, **options)

    def render_str(self, text: str, **options: Any) -> Text:
        return super().render_str(plain(text, keep="\n"), **options)


class Table(rich.table.Table):
    """A cell is one line."""

    def add_row(self, *cells: Any, **options: Any) -> None:
        super().add_row(*(plain(cell) if isinstance(cell, str) else cell for cell in cells), **options)
