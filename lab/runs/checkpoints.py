"""Checkpoints: folders that are there whole and proven, or not at all.

    checkpoints/step=00000100/weights.safetensors    float32 weights, by name
                              training.safetensors   every other tensor of the state
                              training.json          the rest of the state; {"tensor": name} stands for a tensor
                              checkpoint.json        digest of the run, bytes and sha256 of these, and of itself;
                                                     written last

A checkpoint is written into a hidden folder beside, synced, read back and compared with its checksums, and only then
renamed; older ones are deleted after that. Nothing in it is executed when it is read.
"""

import contextlib
import hashlib
import json
import logging
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from lab.base.errors import UserError
from lab.base.failpoints import point
from lab.base.files import bytes_in, discard, open_new, read_text, refuse_link, sha256_of, unwritable
from lab.base.interruption import unbroken
from lab.runs.states import pack, unpack

LOG = logging.getLogger("lab.runs.checkpoints")
FILES = ("weights.safetensors", "training.safetensors", "training.json")


@dataclass(frozen=True)
class Checkpoint:
    """One checkpoint on the disk, of ``files``; ``run`` is the digest of the run that it must be of, "" of any."""

    path: Path
    step: int
    run: str = ""
    files: tuple[str, ...] = FILES

    def weights(self) -> dict[str, Tensor]:
        """The weights, by name. Raises UserError if the file holds something else."""
        return _tensors(self.path / "weights.safetensors")

    def state(self) -> Any:
        """The rest of what was saved. Raises UserError as :meth:`weights`."""
        path = self.path / "training.json"
        tensors = _tensors(self.path / "training.safetensors")
        try:
            return unpack(json.loads(read_text(path)), tensors)
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise _unreadable(path, error) from None

    def weights_digest(self) -> str:
        """sha256 of the file of weights, as it was when it was written. Raises UserError if it is not told."""
        path = self.path / "checkpoint.json"
        try:
            return str(json.loads(read_text(path))["files"]["weights.safetensors"]["sha256"])
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            raise _unreadable(path, error) from None

    def flaw(self, verify: bool = True) -> str | None:
        """Why it cannot be used, or None. Without `verify` files are looked at, but not read."""
        try:
            places = (self.path, *(self.path / name for name in (*self.files, "checkpoint.json")))
            if linked := [each.name for each in places if each.is_symlink()]:
                return f"{linked[0]} is a link"
            listed = json.loads(read_text(self.path / "checkpoint.json"))
            if listed.pop("sha256") != _digest_of(listed) or listed["step"] != self.step:
                return "checkpoint.json is damaged"
            if self.run and listed["run"] != self.run:
                return f"it is of another run (digest {str(listed['run'])[:8]})"
            for name in self.files:
                expected = listed["files"][name]
                if (self.path / name).stat().st_size != expected["bytes"]:
                    return f"{name} has another length than it was written with"
                if verify and sha256_of(self.path / name) != expected["sha256"]:
                    return f"{name} is damaged: its sha256 differs"
        except FileNotFoundError as error:
            return f"{Path(error.filename).name} is missing"
        except OSError as error:
            return f"{error.filename} cannot be read: {(error.strerror or str(error)).lower()}"
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            return "checkpoint.json is damaged"
        return None


class Listed(NamedTuple):
    """One row of a listing."""

    step: int
    path: Path
    bytes: int
    flaw: str | None


class Checkpoints:
    """The checkpoints in a folder, which need not exist yet, of the run with the digest `run` ("": of any).

    The `keep_last` newest valid ones are kept, and those of every `keep_every`-th step. One that a signal has brought
    about, between the steps of `every`, is kept until the next: a run that was stopped ends with those of one that was
    not. If there are `weights_only`, nothing goes on from them.
    """

    def __init__(
        self,
        folder: Path,
        run: str = "",
        keep_last: int = 2,
        keep_every: int | None = None,
        weights_only: bool = False,
        every: int = 1,
    ) -> None:
        self.folder = folder
        self.run = run
        self.files = FILES[:1] if weights_only else FILES
        self.keep_last = keep_last
        self.keep_every = keep_every
        self.every = every
        self._proven: set[int] = set()  # steps whose checksums this process has compared

    def path(self, step: int) -> Path:
        """Where the checkpoint of an optimiser step is."""
        return self.folder / f"step={step:08d}"

    def checkpoint(self, step: int) -> Checkpoint:
        """That of an optimiser step, which may not be there."""
        return Checkpoint(self.path(step), step, self.run, self.files)

    def save(self, step: int, weights: Mapping[str, Tensor], state: Any) -> Path:
        """Write, prove and keep a checkpoint; then delete those that are kept no longer.

        Raises:
            UserError: it cannot be written, or reads back otherwise; then what was there before is as it was. Or an
                older one cannot be deleted.
            TypeError: the state holds what a checkpoint cannot; names the place.
        """
        with unbroken():
            return self._save(step, weights, state)

    def _save(self, step: int, weights: Mapping[str, Tensor], state: Any) -> Path:
        packed, tensors = pack(state)
        contents = {
            "weights.safetensors": lambda: save(_apart(weights)),
            "training.safetensors": lambda: save(tensors),
            "training.json": lambda: (json.dumps(packed, indent=1) + "\n").encode(),
        }
        beside = self.folder / f".step={step:08d}.writing"
        try:
            self._refuse_links()
            self.folder.mkdir(parents=True, exist_ok=True)
            self._clear()
            beside.mkdir()
            point("before-write")
            listed: dict[str, Any] = {"step": step, "run": self.run, "files": {}}
            for name in self.files:
                listed["files"][name] = _write_synced(beside / name, contents[name]())
            listed["sha256"] = _digest_of(listed)
            _write_synced(beside / "checkpoint.json", (json.dumps(listed, indent=1) + "\n").encode())
            _sync_folder(beside)
            point("before-verify")
            flaw = Checkpoint(beside, step, self.run, self.files).flaw()
            if flaw is not None:
                raise UserError(f"{beside}: {flaw} right after it was written; the disk cannot be trusted")
            point("before-rename")
            final = self.path(step)
            if not self._holds(step, listed):
                if os.path.lexists(final):
                    _set_aside(final)
                os.rename(beside, final)
                _sync_folder(self.folder)
            point("after-rename")
            self._proven.add(step)
            self._clear()
            self.retain()
        except OSError as error:
            raise unwritable(Path(error.filename or beside), error) from None
        finally:
            with contextlib.suppress(OSError):
                discard(beside)
            tensors.clear()  # else these copies live until Python next looks for cycles
        return final

    def newest(self) -> Checkpoint | None:
        """The newest valid checkpoint, None if there is none of any kind; names the broken ones it passes over.

        Raises:
            UserError: there are checkpoints and all are broken, or the only one was about to be replaced.
        """
        broken = []
        for checkpoint in reversed(self.all()):
            flaw = checkpoint.flaw()
            if flaw is None:
                return checkpoint
            LOG.warning("%s cannot be used: %s", checkpoint.path, flaw)
            broken.append(f"{checkpoint.path.name}: {flaw}")
        if broken:
            raise UserError(
                f"{self.folder} holds broken checkpoints only ({'; '.join(broken)}); restore one, or start the run"
                " again with overwrite=true"
            )
        aside = self._named(r"\.step=\d{8,}\.removing")
        if aside:
            raise UserError(
                f"{aside[0]} is all that a process left which was killed while replacing it; rename it to"
                f" {aside[0].stem[1:]}, or start the run again with overwrite=true"
            )
        return None

    def listing(self, verify: bool = True) -> list[Listed]:
        """All checkpoints by step; without `verify` only presence and lengths of their files are checked."""
        rows = []
        for each in self.all():
            flaw = each.flaw(verify)
            with contextlib.suppress(FileNotFoundError):  # the run that is training may delete it meanwhile
                each.path.lstat()
                rows.append(Listed(each.step, each.path, bytes_in(each.path), flaw))
        return rows

    def retain(self) -> None:
        """Delete checkpoints that are kept no longer, all of them older than the `keep_last` newest valid ones.

        Broken ones do not count: after a run has gone back past them, they are newer than what it saves.
        """
        self._refuse_links()
        valid = 0
        for checkpoint in reversed(self.all()):
            between = checkpoint.step % self.every != 0 and valid > 0
            if valid < self.keep_last and not between:
                valid += self._is_valid(checkpoint)
            elif between or self.keep_every is None or checkpoint.step % self.keep_every:
                _set_aside(checkpoint.path)
                point("mid-removal")
                self._clear()

    def forget_after(self, step: int) -> None:
        """Delete those of later steps, which a run that goes on after this one makes again, or does not come to."""
        self._refuse_links()
        for checkpoint in self.all():
            if checkpoint.step > step:
                _set_aside(checkpoint.path)
                self._clear()

    def _refuse_links(self) -> None:
        """Raises UserError if what is deleted here would be elsewhere."""
        refuse_link(self.folder.parent)
        refuse_link(self.folder)

    def _named(self, pattern: str) -> list[Path]:
        paths = self.folder.iterdir() if self.folder.is_dir() else ()
        found = [path for path in paths if re.fullmatch(pattern, path.name, re.ASCII)]
        return [path for path in found if path.is_dir() or path.is_symlink()]

    def all(self) -> list[Checkpoint]:
        """All checkpoints by step, broken ones too."""
        found = [self.checkpoint(int(path.name.removeprefix("step="))) for path in self._named(r"step=\d{8,}")]
        return sorted(found, key=lambda checkpoint: checkpoint.step)

    def _is_valid(self, checkpoint: Checkpoint) -> bool:
        # Reading 13 GB again at every save would cost more than writing them.
        if checkpoint.flaw(verify=checkpoint.step not in self._proven) is not None:
            return False
        self._proven.add(checkpoint.step)
        return True

    def _holds(self, step: int, listed: Mapping[str, Any]) -> bool:
        """Whether the checkpoint of a step is there already, valid and with this content."""
        present = self.checkpoint(step)
        if not present.path.is_dir() or present.flaw() is not None:
            return False
        return bool(json.loads(read_text(present.path / "checkpoint.json")) == listed)

    def _clear(self) -> None:
        """Remove what is set aside, and what a killed process has left."""
        for leftover in self._named(r"\.step=\d{8,}\.(writing|removing)"):
            discard(leftover)


def seal_weights(folder: Path, step: int, run: str) -> str:
    """Make a checkpoint of weights alone of the file weights.safetensors that stands in its folder; its sha256."""
    path = folder / "weights.safetensors"
    told = {"bytes": path.stat().st_size, "sha256": sha256_of(path)}
    listed: dict[str, Any] = {"step": step, "run": run, "files": {path.name: told}}
    listed["sha256"] = _digest_of(listed)
    _write_synced(folder / "checkpoint.json", (json.dumps(listed, indent=1) + "\n").encode())
    return str(told["sha256"])


def _set_aside(path: Path) -> None:
    # Renamed before it is deleted: a process killed midway leaves nothing that looks like a checkpoint.
    os.rename(path, path.with_name(f".{path.name}.removing"))


def _apart(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Contiguous on the CPU; what shares memory is copied, because safetensors refuses it."""
    apart, seen = {}, set()
    for name, value in weights.items():
        tensor = value.detach().cpu().contiguous()
        memory = tensor.untyped_storage().data_ptr()
        apart[name] = tensor.clone() if memory in seen else tensor
        seen.add(memory)
    return apart


def _write_synced(path: Path, content: bytes) -> dict[str, Any]:
    """Write a file to the disk itself; its length and sha256."""
    half = len(content) // 2
    try:
        with open_new(path) as file:
            file.write(memoryview(content)[:half])
            if path.name == "weights.safetensors":
                file.flush()
                point("mid-write")
            file.write(memoryview(content)[half:])
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        error.filename = str(path)  # a full disk does not say which file it was
        raise
    return {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _tensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (OSError, SafetensorError, ValueError, KeyError, TypeError, AttributeError, RuntimeError) as error:
        raise _unreadable(path, error) from None


def _unreadable(path: Path, error: Exception) -> UserError:
    reason = "it is nested too deep" if isinstance(error, RecursionError) else " ".join(str(error).split())[:200]
    return UserError(f"{path} is damaged ({reason}); restore it, or leave the run out")


def _digest_of(listed: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(listed, sort_keys=True).encode()).hexdigest()
