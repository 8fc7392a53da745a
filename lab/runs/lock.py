"""One process trains a run at a time.

The lock is the operating system's (flock): it dies with its holder, however that dies, so that a killed run can be
continued at once. Some network file systems do not carry it to other machines. So the holder also leaves its name in
the lock file and touches it now and then; on another machine this heartbeat decides.
"""

import contextlib
import fcntl
import json
import os
import platform
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from lab.base.errors import UserError
from lab.base.files import make_folder, open_new, open_own, open_stored, read_text, unwritable
from lab.base.shown import plain
from lab.cluster.queue import restarts_of

HEARTBEAT_SECONDS = 30.0
LARGEST = 2**16  # bytes of a lock file
MISSED = 4  # heartbeats after which the holder on another machine counts as dead


def lock_path(run: Path) -> Path:
    """Beside the run, which may not exist yet and may be deleted; of a link, beside the run that it leads to."""
    run = run.resolve() if run.is_symlink() else run
    return run.parent / f".{run.name}.lock"


@contextmanager
def hold(run: Path, heartbeat_seconds: float = HEARTBEAT_SECONDS) -> Iterator[None]:
    """Hold a run directory for this process.

    Raises:
        UserError: another process holds it (names process, host and job), or the lock file cannot be written.
    """
    path = lock_path(run)
    make_folder(run.parent)
    try:
        file = os.fdopen(open_own(path, os.O_RDWR | os.O_APPEND), "a+", encoding="utf-8")
    except OSError as error:
        raise unwritable(path, error) from None
    if os.fstat(file.fileno()).st_nlink > 1:  # emptied, it would be empty under its other name, too
        file.close()
        raise UserError(f"{path} has another name elsewhere (a hard link): delete it, if no process trains the run")

    def forget() -> None:
        # A forked child shares the lock: it would outlive a killed holder in the workers that prepare data. The number
        # stays taken, so that the child never mistakes a file that it opens later for this one.
        null = os.open(os.devnull, os.O_RDWR)
        os.dup2(null, file.fileno(), inheritable=False)
        os.close(null)

    me = {"process": os.getpid(), "host": platform.node(), "job": os.environ.get("SLURM_JOB_ID", "none")}
    me["restarts"] = _restarts()
    with file:
        try:
            if not _taken(file):
                raise UserError(f"{run} is being trained or scored by {_told(_read(path))}; wait for it or stop it")
            elsewhere = _alive_elsewhere(path, heartbeat_seconds)
            if elsewhere is not None:
                raise UserError(f"{run} is being trained or scored by {elsewhere}")
            file.truncate(0)
            os.write(file.fileno(), (json.dumps(me) + "\n").encode())
        except OSError as error:
            raise unwritable(path, error) from None
        _in_children.append(forget)
        stop = threading.Event()
        heart = threading.Thread(target=_beat, args=(path, stop, heartbeat_seconds), daemon=True)
        heart.start()
        try:
            yield
        finally:
            if os.getpid() == me["process"]:  # not a forked child that leaves by an exception
                stop.set()
                heart.join()
                _in_children.remove(forget)
                file.truncate(0)


def holder(run: Path) -> str | None:
    """Who holds a run now, or None."""
    path = lock_path(run)
    try:
        with open_stored(path) as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            return _alive_elsewhere(path, HEARTBEAT_SECONDS)
    except BlockingIOError:
        return _told(_read(path))
    except OSError:
        return None


def _taken(file: TextIO) -> bool:
    # Who asks for the holder has the lock for a moment; a holder has it for longer.
    for pause in (0.05, 0.2, 0.0):
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            time.sleep(pause)
    return False


_in_children: list = []  # what a forked child does first


def _after_fork() -> None:
    for forget in _in_children:
        forget()
    _in_children.clear()


os.register_at_fork(after_in_child=_after_fork)


def _beat(path: Path, stop: threading.Event, seconds: float) -> None:
    while not stop.wait(seconds):
        with contextlib.suppress(OSError):
            os.utime(path)


def _read(path: Path) -> dict[str, object]:
    try:
        content = json.loads(read_text(path, LARGEST))
        return content if isinstance(content, dict) else {}
    except (OSError, ValueError, RecursionError):
        return {}


def _told(content: dict[str, object]) -> str:
    told = (content.get(key, "unknown") for key in ("process", "host", "job"))
    words = [plain(each)[:80] if isinstance(each, int | str) else "unknown" for each in told]
    return "process {} on {}, job {}".format(*words)


def _alive_elsewhere(path: Path, heartbeat_seconds: float) -> str | None:
    """Who holds the run on another machine as far as the heartbeat tells, or None."""
    content = _read(path)
    if not content or content.get("host") == platform.node():
        return None
    restarts = content.get("restarts")
    if content.get("job") == os.environ.get("SLURM_JOB_ID") and isinstance(restarts, int) and restarts < _restarts():
        return None  # this job before it was requeued: SLURM has seen to its end
    age = _age(path)
    longest = MISSED * heartbeat_seconds
    if abs(age) >= longest:  # a date so far ahead is of no heart that beats now
        return None
    return f"{_told(content)}: it was alive {max(0, age):.0f} s ago; if it is dead, wait {longest - age:.0f} s"


def _restarts() -> int:
    """How often this process's SLURM job was requeued."""
    return restarts_of(os.environ)


def _age(path: Path) -> float:
    """Seconds since the file was touched, by the file system's own clock: those of two machines may differ."""
    probe = path.with_name(f"{path.name}.{os.getpid()}")
    try:
        open_new(probe).close()
        return probe.stat().st_mtime - path.stat().st_mtime
    finally:
        probe.unlink(missing_ok=True)
