"""Text that comes from elsewhere, as a terminal may show it."""

import logging
import sys
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


class _Warnings(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        print(plain(self.format(record)), file=sys.stderr)


def show_warnings() -> None:
    """Warnings of the lab go to stderr, a line each, and no name or value in them steers the terminal."""
    log = logging.getLogger("lab")
    if not log.handlers:
        log.addHandler(_Warnings(logging.WARNING))
