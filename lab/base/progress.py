"""How far a long job is: a bar on a terminal, a line every half minute in a log."""

import re
import sys
from collections.abc import Iterable
from typing import Any, TextIO

from tqdm import tqdm

from lab.base.shown import plain

LINE_SECONDS = 30.0


def progress(label: str, unit: str, iterable: Iterable[Any] | None = None, **options: Any) -> tqdm:
    """A bar of tqdm, on stderr, with rate and time left.

    Args:
        label: what stands before it.
        unit: what is counted.
        options: further ones of tqdm.
    """
    terminal = sys.stderr.isatty()
    lines = Lines(sys.stderr)
    bar = tqdm(
        iterable,
        desc=plain(label),
        unit=f" {unit}",
        file=sys.stderr if terminal else lines,
        mininterval=0.1 if terminal else LINE_SECONDS,
        ncols=None if terminal else 100,
        dynamic_ncols=terminal,
        ascii=not terminal,
        **options,
    )
    lines.begun = True
    return bar


class Lines:
    """A file for tqdm that goes on in a new line where a bar would be drawn over, and says no count twice.

    Attributes:
        begun: until it is true nothing is said: that nothing is done yet is no news.
    """

    def __init__(self, file: TextIO) -> None:
        self.file = file
        self.begun = False
        self._last = ""

    def write(self, text: str) -> None:
        line = text.strip()
        count = re.split(r"[\[,]", line)[0]  # without rate and time
        if self.begun and line and count != self._last:
            self._last = count
            self.file.write(line + "\n")

    def flush(self) -> None:
        self.file.flush()


def say_starting() -> None:
    """On a terminal a first line at once: on a loaded machine importing torch alone takes half a minute."""
    if sys.stderr.isatty():
        print("starting", file=sys.stderr, flush=True)
