"""Text that comes from elsewhere, as a terminal may show it."""

import logging
import unicodedata

# Control signs (escape sequences, line breaks), directions and other invisible signs, halves of characters, line and
# paragraph separators.
UNSEEN = ("Cc", "Cf", "Cs", "Zl", "Zp")


def plain(text: object, keep: str = "") -> str:
    r"""A text whose signs that steer a terminal are spelt out, as in ``\x1b[31m``; those to ``keep`` stay."""
    told = str(text)
    if told.isprintable():
        return told
    return "".join(
        ascii(sign)[1:-1] if unicodedata.category(sign) in UNSEEN and sign not in keep else sign for sign in told
    )


class _Plain(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return plain(super().format(record), keep="\n")


def show_warnings() -> None:
    """Warnings of the lab go to stderr, and no name or value in them steers the terminal."""
    log = logging.getLogger("lab")
    if not log.handlers:
        handler = logging.StreamHandler()
        handler.setFormatter(_Plain())
        log.addHandler(handler)
