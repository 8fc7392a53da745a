"""A fold: a statistic over many items, as a positional vector is a mean over documents. It can be stopped and merged.

Sums are kept in float64 with what rounding took from them, and with the names of the items they are over:

- the same items in the same order and parts give the same bytes, whenever it was stopped, killed and taken up again;
- any other order or partition gives each number within 1e-12 of itself, unless its terms cancel to less than 1e-16 of
  their size. Plain float64 sums do so only while little cancels, and hidden states have both signs.
"""

import hashlib
import json
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save
from torch import Tensor

from lab.base.errors import UserError
from lab.base.files import write_whole

FORMAT = 1
TYPES = {"sum": np.float64, "lost": np.float64, "count": np.int64}
Observed = Mapping[str, tuple[Tensor, int | Tensor]]
Entry = tuple[np.ndarray, np.ndarray, np.ndarray]  # sum, what rounding took from it, count


class Named(Protocol):
    """An item: whatever has a name that no other has, such as a :class:`lab.observe.measure.Item`."""

    @property
    def name(self) -> str: ...


Thing = TypeVar("Thing", bound=Named)


class Fold:
    """Sums and counts by key, over items.

    Args:
        identity: what it is made with and over (decoder, settings, documents), in words of JSON.

    Attributes:
        done: the names of its items, in the order in which they came.

    Raises:
        TypeError, ValueError: JSON has no word for something in the identity.
    """

    def __init__(self, identity: Mapping[str, Any]) -> None:
        self.identity: dict[str, Any] = json.loads(_json(identity))
        self.done: dict[str, None] = {}
        self._entries: dict[str, Entry] = {}

    @property
    def keys(self) -> list[str]:
        return sorted(self._entries)

    def add(self, item: str, observed: Observed) -> None:
        """Take up an item, wholly or not at all.

        Args:
            item: its name.
            observed: by key a sum over the item, best formed in float64, and how many it is over: a whole number, or
                those of the sum's first dimensions, as ``count[position]`` for ``sum[position, width]``. A second
                moment is a key of its own, with the squares' sum.

        Raises:
            UserError: the item is done, or a sum is not finite.
            ValueError: a sum or count has another shape than before, or a count is no whole number from 0 on.
        """
        entries: dict[str, Entry] = {}
        for key, (total, count) in observed.items():
            added = total.detach().to("cpu", torch.float64).contiguous().numpy()
            counts = np.asarray(count.detach().cpu().numpy() if isinstance(count, Tensor) else count)
            if counts.dtype.kind not in "iu" or (counts < 0).any():
                raise ValueError(f"the count of {key} is not made of whole numbers from 0 on")
            entries[key] = (added, np.zeros_like(added), counts.astype(np.int64))
        self._take({item: None}, entries)

    def merge(self, other: "Fold") -> None:
        """Take up the items of another fold behind those of this one; the other stays as it is.

        Raises:
            UserError: an item is in both, the other has another identity, or a sum is not finite.
            ValueError: a key has different shapes.
        """
        if _json(other.identity) != _json(self.identity):
            differing = _differing(self.identity, other.identity)
            raise UserError(f"a fold of another {differing} cannot be merged; make both alike")
        self._take(other.done, other._entries)

    def _take(self, done: Mapping[str, None], entries: Mapping[str, Entry]) -> None:
        for item in done:
            if item in self.done:
                raise UserError(f"{_short(item)} is in the fold already: each item counts once; give every item once")
        taken = {}
        for key, (added, lost, counts) in entries.items():
            total, before, count = self._entries.get(key, (np.zeros_like(added), np.zeros_like(lost), 0 * counts))
            if (total.shape, count.shape) != (added.shape, counts.shape) or added.shape[: counts.ndim] != counts.shape:
                raise ValueError(
                    f"{key} has sums of {added.shape} over counts of {counts.shape}, not of {total.shape} over "
                    f"{count.shape}: counts are of a sum's first dimensions, and shapes are the same for all items"
                )
            with np.errstate(all="ignore"):
                # Knuth's TwoSum: new + error is total + added exactly.
                new = np.asarray(total + added)
                part = new - total
                error = (total - (new - part)) + (added - part)
                lost = np.asarray(before + lost + error)
            if not (np.isfinite(new).all() and np.isfinite(lost).all()):
                raise UserError(f"{key} is not finite in {_short(list(done))}: no mean can be formed with it")
            taken[key] = (new, lost, np.asarray(count + counts))
        self._entries |= taken
        self.done |= done

    def total(self, key: str) -> Tensor:
        """The sum in float64. Raises KeyError for a key that no item had."""
        total, lost, _ = self._entries[key]
        return torch.from_numpy(np.asarray(total + lost))

    def count(self, key: str) -> Tensor:
        """How many the sum is over, int64, of the sum's first dimensions. Raises KeyError as :meth:`total`."""
        return torch.from_numpy(self._entries[key][2].copy())

    def mean(self, key: str) -> Tensor:
        """Sum / count in float64; nan where the count is 0. Raises KeyError as :meth:`total`."""
        total, count = self.total(key), self.count(key)
        return total / count.view(count.shape + (1,) * (total.dim() - count.dim()))

    def save(self, path: Path) -> None:
        """Written whole or not at all; equal folds are equal bytes. Raises UserError if it cannot be written."""
        tensors = {
            f"{part}/{key}": array
            for key, entry in self._entries.items()
            for part, array in zip(TYPES, entry, strict=True)
        }
        header = {"format": FORMAT, "identity": self.identity, "done": list(self.done)}
        header["sha256"] = _seal(header, tensors)
        # One key, as the order of several is not always the same.
        write_whole(path, save(tensors, metadata={"fold": _json(header)}))

    @classmethod
    def load(cls, path: Path, identity: Mapping[str, Any]) -> "Fold":
        """The fold that was saved at a path.

        Raises:
            UserError: there is none, it is damaged or of another format, or it was made with another identity.
        """
        fold = cls(identity)
        again = "delete it and run the same command again"
        try:
            path.open("rb").close()  # its errors say more
            with safe_open(path, framework="np") as file:
                header = json.loads((file.metadata() or {})["fold"])
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 it is no dict
            if header["format"] != FORMAT:
                number = _short(header["format"])
                raise UserError(f"{path} is a fold of format {number}, and this version reads {FORMAT}; {again}")
            if header["sha256"] != _seal(header, tensors):
                raise ValueError("its sha256 differs")
            found, done = header["identity"], header["done"]
            if not isinstance(found, dict) or not isinstance(done, list):
                raise ValueError("its header is of another form")
            fold.done = dict.fromkeys(done)
            if len(fold.done) != len(done) or any(type(name) is not str for name in done):
                raise ValueError("its items have no names of their own")
            fold._entries = _entries(tensors)
            if _json(found) != _json(fold.identity):
                differing = _differing(fold.identity, found)
                raise UserError(f"{path} was made with another {differing}; delete it, or choose another file")
        except OSError as error:
            reason = (error.strerror or str(error)).lower()
            raise UserError(f"{path} cannot be read: {reason}; name a file that a fold was saved in") from None
        except (SafetensorError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
            raise UserError(f"{path} is damaged ({_short(str(error))}); {again}") from None
        return fold


def run_fold(
    fold: Fold,
    items: Iterable[Thing],
    observe: Callable[[Thing], Observed],
    path: Path,
    check: Callable[[], object] = lambda: None,
    write_seconds: float = 10.0,
) -> None:
    """Take up the items that the fold has not, in their order, and keep it at a path: killed, it goes on from there.

    Args:
        fold: a new one, or what was loaded from the path.
        observe: what :meth:`Fold.add` is to be given of an item.
        check: called before each item; what it raises to stop is let through once the fold is written.
        write_seconds: it is written so often, but at most a tenth of the time is spent on that; and at the end.

    Raises:
        UserError: two items have one name; the fold holds an item that there is not; as :meth:`Fold.add` and
            :meth:`Fold.save`.
    """
    seen: set[str] = set()
    unsaved = False
    due = time.monotonic() + write_seconds
    for item in items:
        if item.name in seen:
            raise UserError(f"two items are called {_short(item.name)}: each counts once; give every item once")
        seen.add(item.name)
        if item.name in fold.done:
            continue
        try:
            check()
            observed = observe(item)
        except BaseException:
            if unsaved:
                fold.save(path)
            raise
        fold.add(item.name, observed)
        unsaved = True
        if (began := time.monotonic()) >= due:
            fold.save(path)
            unsaved = False
            now = time.monotonic()
            due = now + max(write_seconds, 9 * (now - began))
    for name in fold.done:
        if name not in seen:
            raise UserError(f"{path} holds {_short(name)}, which is no longer an item; delete it, or name another file")
    fold.save(path)


def _json(value: Any) -> str:
    return json.dumps(value, sort_keys=True, allow_nan=False)


def _short(value: Any) -> str:
    """A value of unknown origin on one line."""
    text = json.dumps(value, sort_keys=True)
    return text if len(text) <= 100 else text[:97] + "..."


def _differing(wanted: Mapping[str, Any], found: Mapping[str, Any]) -> str:
    """The first key whose values differ, with both."""
    for key in sorted({*wanted, *found}):
        here, there = ([each[key]] if key in each else [] for each in (wanted, found))
        if _json(here) != _json(there):
            return f"{_short(key)}: {_short(*there or [None])} instead of {_short(*here or [None])}"
    raise ValueError("they do not differ")


def _seal(header: Mapping[str, Any], tensors: Mapping[str, np.ndarray]) -> str:
    """The sha256 of a file's content, whatever the way it is laid out."""
    names = sorted(tensors)
    layout = [[name, tensors[name].dtype.str, tensors[name].shape] for name in names]
    seal = hashlib.sha256(_json([{key: header[key] for key in header if key != "sha256"}, layout]).encode())
    for name in names:
        seal.update(tensors[name].tobytes())
    return seal.hexdigest()


def _entries(tensors: Mapping[str, np.ndarray]) -> dict[str, Entry]:
    """The sums and counts of a file. Raises ValueError or KeyError if they are not what a fold has."""
    entries = {}
    for key in sorted({name.partition("/")[2] for name in tensors}):
        total, lost, count = (tensors[f"{part}/{key}"] for part in TYPES)
        for array, kind in zip((total, lost, count), TYPES.values(), strict=True):
            if array.dtype != kind:
                raise ValueError("a tensor is of another type")
        if total.shape != lost.shape or total.shape[: count.ndim] != count.shape or (count < 0).any():
            raise ValueError("its counts do not belong to its sums")
        if not (np.isfinite(total).all() and np.isfinite(lost).all()):
            raise ValueError("a sum is not finite")
        entries[key] = (total, lost, count)
    if len(tensors) != len(TYPES) * len(entries):
        raise ValueError("a tensor has no place in it")
    return entries
