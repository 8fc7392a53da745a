"""How the report room writes: a file is there whole or not at all."""

import os
from pathlib import Path

from lab.errors import UserError


def write_whole(path: Path, content: bytes) -> None:
    """Written beside and renamed: a reader sees the old file or the new one.

    Raises:
        UserError: the folder is missing or not writable, or the disk is full.
    """
    beside = path.with_name(path.name + ".new")
    try:
        beside.write_bytes(content)
        os.replace(beside, path)
    except OSError as error:
        if beside.is_file():
            beside.unlink()
        raise UserError(f"{path} cannot be written: {error.strerror}") from None
