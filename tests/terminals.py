"""A terminal for a process, to see what it draws there."""

import fcntl
import os
import pty
import struct
import termios


def terminal() -> tuple[int, int]:
    """The two ends of a terminal of 80 columns: ours and that of a process."""
    ours, its = pty.openpty()
    fcntl.ioctl(its, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    return ours, its


def read_all(descriptor: int) -> bytes:
    """What a terminal was told."""
    told = b""
    while True:
        try:
            part = os.read(descriptor, 65536)
        except OSError:  # Linux's word for the other end being closed
            return told
        if not part:
            return told
        told += part
