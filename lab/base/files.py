"""How the lab writes: a file is there whole or not at all, and an error names it."""

import errno
import glob
import hashlib
import os
import tempfile
from pathlib import Path

from lab.base.errors import UserError


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
        raise unwritable(path, error) from None


def sha256_of(path: Path) -> str:
    """sha256 of a file's content. Raises OSError if it cannot be read."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def append(path: Path, text: str) -> None:
    """Add text to the end of a file. Raises UserError as :func:`write_whole`."""
    try:
        with open(path, "a", encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        raise unwritable(path, error) from None


def writable(path: Path) -> None:
    """Raises UserError if a file cannot be made at `path`: told before the work whose result it shall hold."""
    if path.is_dir():
        raise UserError(f"{path} is a folder: name a file")
    try:
        with tempfile.NamedTemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        raise unwritable(path, error) from None


def make_folder(path: Path) -> None:
    """Make a folder, with those above it, if it is not there. Raises UserError if files cannot be made in it."""
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path):
            pass
    except FileExistsError:
        raise UserError(f"{path} is a file: name a folder") from None
    except OSError as error:
        raise unwritable(path, error) from None


def unwritable(path: Path, error: OSError) -> UserError:
    """What to tell of an error of the file system."""
    reason = (error.strerror or str(error)).lower()
    return UserError(f"{path} cannot be written: {reason}; {remedy(error)}")


def remedy(error: OSError) -> str:
    """What the user can do about an error of the file system."""
    full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    return "free space, or choose another folder" if full else "choose another folder, or make this one writable"


def matching(pattern: str) -> list[str]:
    """The paths that a path or a pattern means, sorted; none if nothing is there.

    What is there goes before a pattern, a folder on the way to it too: brackets may stand in a name.
    """
    if os.path.lexists(pattern):
        return [pattern]
    known, rest = Path(pattern), list[str]()
    while not os.path.lexists(known) and known.name:
        known, rest = known.parent, [known.name, *rest]
    if known != Path():
        pattern = os.path.join(glob.escape(str(known)), *rest)
    return sorted(glob.glob(pattern, recursive=True))
