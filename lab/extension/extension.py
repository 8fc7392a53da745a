"""What an extension is: a function from a position encoding to another one, by which the same weights reach farther.

One class a method, each with its paper's equation; its keys stand in ``lab/extension/settings.py``.
"""

from typing import Protocol

from lab.model.position import PositionEncoding


class Extension(Protocol):
    """Called with the position encoding of a decoder, gives the one that takes its place."""

    def __call__(self, position: PositionEncoding) -> PositionEncoding: ...
