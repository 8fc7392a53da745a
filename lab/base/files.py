"""How the lab reads and writes: a file is there whole or not at all, no link leads elsewhere, and an error names it."""

import contextlib
import errno
import glob
import hashlib
import os
import shutil
import stat
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from io import BufferedReader, BufferedWriter
from pathlib import Path

from lab.base.errors import UserError

LARGEST = 2**30  # bytes of a file that is read into memory


def write_whole(path: Path, content: bytes, beside: str = ".new") -> None:
    """Written beside and renamed: a reader sees the old file or the new one; where a link stood, the file stands.

    Args:
        beside: what the name of the file that is written first has more, where several processes may write `path`.

    Raises:
        UserError: the folder is missing or not writable, or the disk is full.
    """
    write_all({path: content}, beside)


def write_all(contents: Mapping[Path, bytes], beside: str = ".new") -> None:
    """Several files as :func:`write_whole` one: none is renamed before all are written."""
    firsts = {path: path.with_name(path.name + beside) for path in contents}
    at = next(iter(contents))
    try:
        for at, content in contents.items():
            with open_new(firsts[at]) as file:
                file.write(content)
        for at, first in firsts.items():
            os.replace(first, at)
    except OSError as error:
        for first in firsts.values():
            with contextlib.suppress(OSError):
                first.unlink(missing_ok=True)
        raise unwritable(at, error) from None


def open_new(path: Path) -> BufferedWriter:
    """A new file, for writing. What stood there is taken away first, never written to: it may be a link."""
    path.unlink(missing_ok=True)
    return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o666), "wb")


def open_own(path: Path, flags: int) -> int:
    """The descriptor of a file that is written to where it stands; made if it is not there.

    Raises:
        OSError: a link stands there, or what is no file, or it cannot be opened.
    """
    # Without O_NONBLOCK a pipe that stands there would be waited for.
    descriptor = os.open(path, flags | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK, 0o666)
    return _file_only(descriptor, path)


def open_stored(path: Path) -> BufferedReader:
    """A file for reading. Raises OSError for what is none, too: a pipe or a device may have no end."""
    return os.fdopen(_file_only(os.open(path, os.O_RDONLY | os.O_NONBLOCK), path), "rb")


def _file_only(descriptor: int, path: Path) -> int:
    if stat.S_ISREG(os.fstat(descriptor).st_mode):
        return descriptor
    os.close(descriptor)
    raise OSError(errno.EINVAL, "it is no file", str(path))


def read_stored(path: Path, largest: int = LARGEST) -> bytes:
    """The content of a file. Raises OSError as :func:`open_stored`, and for a larger one."""
    with open_stored(path) as file:
        whole = os.fstat(file.fileno()).st_size <= largest
        content = file.read(largest + 1) if whole else b""  # it may grow meanwhile
    if not whole or len(content) > largest:
        raise OSError(errno.EFBIG, f"it is larger than {largest:,} bytes", str(path))
    return content


def read_text(path: Path, largest: int = LARGEST) -> str:
    """The text of a UTF-8 file. Raises OSError as :func:`read_stored`, ValueError if it is not UTF-8."""
    return read_stored(path, largest).decode("utf-8")


def sha256_of(path: Path) -> str:
    """sha256 of a file's content. Raises OSError if it cannot be read."""
    with open_stored(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def append(path: Path, text: str) -> None:
    """Add text to the end of a file. Raises UserError as :func:`write_whole`, and if it is a link."""
    try:
        with os.fdopen(open_own(path, os.O_WRONLY | os.O_APPEND), "wb") as file:
            file.write(text.encode())
    except OSError as error:
        raise unwritable(path, error) from None


def discard(path: Path) -> None:
    """Delete a file, a folder with all that it holds, or a link and nothing behind it. Raises OSError."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


@contextlib.contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """An empty folder, in which something is made that is renamed when it is whole; what stays there is deleted.

    Raises:
        UserError: a link stands there, or files cannot be made there.
    """
    refuse_link(path)
    try:
        discard(path)
        path.mkdir()
    except OSError as error:
        raise unwritable(path, error) from None
    try:
        yield path
    finally:
        with contextlib.suppress(OSError):
            discard(path)


def refuse_link(path: Path) -> None:
    """Raises UserError if what is to be written, or a folder in which something is to be deleted, is a link."""
    if path.is_symlink():
        raise UserError(f"{path} is a link: nothing is written or deleted behind links; put the thing itself there")


def bytes_in(folder: Path) -> int:
    """Bytes of all files in a folder, without what links lead to, and what is deleted meanwhile."""
    total = 0
    for above, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(OSError):
                found = os.lstat(os.path.join(above, name))
                total += found.st_size if stat.S_ISREG(found.st_mode) else 0
    return total


def writable(path: Path, made: bool = False) -> None:
    """Raises UserError if a file cannot be made at `path`: told before the work whose result it shall hold.

    Nothing that a user has is lost by it but a file at `path` itself: a link, a pipe or a device there is refused, and
    a file with the name that :func:`write_whole` writes first.

    Args:
        made: folders above it that are not there will be made.
    """
    if path.is_dir() or path.name in ("", ".."):
        raise UserError(f"{path} is a folder: name a file")
    refuse_link(path)
    if os.path.lexists(path) and not path.is_file():
        raise UserError(f"{path} is no file but a pipe or a device: name a file")
    first = path.with_name(path.name + ".new")
    if os.path.lexists(first):
        raise UserError(f"{first} is in the way: {path} is written there first; move it away, or name another file")
    folder = path.parent
    if made:
        folder = next(each for each in (folder, *folder.parents) if os.path.lexists(each))
        if not folder.is_dir():
            make_folder(folder)  # which says what stands there
    try:
        os.lstat(folder / first.name)  # a name that is too long, which one beside it need not be
    except FileNotFoundError:
        pass
    except OSError as error:
        raise unwritable(path, error) from None
    try:
        with tempfile.NamedTemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise unwritable(path, error) from None


def refuse_read(path: Path, read: Iterable[Path]) -> None:
    """Raises UserError if what is to be written is a file that is read: it would be lost."""
    for each in read:
        with contextlib.suppress(OSError):
            if os.path.samefile(path, each):
                raise UserError(f"{path} is read, too: it would be lost; name another file to write")


def make_folder(path: Path) -> None:
    """Make a folder, with those above it, if it is not there; all or none.

    Raises:
        UserError: files cannot be made in it.
    """
    missing = [each for each in (path, *path.parents) if not os.path.lexists(each)]
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path):
            pass
    except OSError as error:
        for each in missing:
            with contextlib.suppress(OSError):
                each.rmdir()
        if isinstance(error, FileExistsError) and dangling(path) is None:
            raise UserError(f"{path} is a file: name a folder") from None
        raise unwritable(path, error) from None


def dangling(path: Path) -> Path | None:
    """The link to nothing that stands at a path or above it, None if there is none."""
    return next((each for each in (path, *path.parents) if each.is_symlink() and not each.exists()), None)


def unwritable(path: Path, error: OSError) -> UserError:
    """What to tell of an error of the file system."""
    link = dangling(path)
    if link is not None and error.errno != errno.ELOOP:
        return UserError(f"{link} is a link to {os.readlink(link)}, which is not there: make that, or delete the link")
    reason = "it is a link" if error.errno == errno.ELOOP else (error.strerror or str(error)).lower()
    return UserError(f"{path} cannot be written: {reason}; {remedy(error)}")


def remedy(error: OSError) -> str:
    """What the user can do about an error of the file system."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return "free space, or choose another folder"
    if error.errno == errno.ENAMETOOLONG:
        return "choose a shorter name"
    if error.errno == errno.ELOOP:
        return "delete the link"
    return "choose another folder, or make this one writable"


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
