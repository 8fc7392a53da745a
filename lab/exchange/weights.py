"""Files of pretrained weights, a tensor at a time: safetensors, sharded or not, and pickles that hold tensors only."""

import json
import struct
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from lab.base.errors import UserError
from lab.base.files import open_new, read_text

INDEXED = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
WHOLE = ("model.safetensors", "pytorch_model.bin")
SPELLED = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}  # torch's words


class Weights:
    """The tensors of a folder, by the names that they have there; read when asked for.

    Args:
        folder: with one of INDEXED and the files that it lists, or one of WHOLE.

    Attributes:
        files: those that hold them, by name of the tensor.

    Raises:
        UserError: there are none, one of several files is missing, or a file cannot be read as what it is called.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._open: dict[Path, Any] = {}
        index = next((folder / name for name in INDEXED if (folder / name).is_file()), None)
        whole = next((folder / name for name in WHOLE if (folder / name).is_file()), None)
        if whole is not None and whole.suffix == ".safetensors":
            index = None
        if index is not None:
            self.files = self._listed(index)
        elif whole is not None:
            self.files = dict.fromkeys(self._names(whole), whole)
        else:
            raise UserError(
                f"{folder}: no weights there; it needs {' or '.join(WHOLE)}, or shards with {' or '.join(INDEXED)}"
            )

    def _listed(self, index: Path) -> dict[str, Path]:
        try:
            listed = json.loads(read_text(index))["weight_map"]
            files = {str(name): self.folder / Path(file).name for name, file in listed.items()}
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise UserError(f"{index} cannot be read ({error}); restore it") from None
        for path in sorted(set(files.values())):
            if not path.is_file():
                raise UserError(f"{path}: missing; {index.name} lists it: download the whole folder")
        for path in sorted(set(files.values())):
            held = set(self._names(path))
            lacking = sorted(name for name, file in files.items() if file == path and name not in held)
            if lacking:
                raise UserError(f"{path}: has no {lacking[0]}, which {index.name} says it has; download it again")
        return files

    def _names(self, path: Path) -> list[str]:
        opened = self._opened(path)
        return list(opened.keys())

    def _opened(self, path: Path) -> Any:
        if path not in self._open:
            self._open[path] = _open_safetensors(path) if path.suffix == ".safetensors" else _open_pickle(path)
        return self._open[path]

    def __iter__(self) -> Iterator[str]:
        return iter(self.files)

    def shape(self, name: str) -> tuple[int, ...]:
        """Without reading the tensor."""
        opened = self._opened(self.files[name])
        return tuple(opened[name].shape) if isinstance(opened, Mapping) else tuple(opened.get_slice(name).get_shape())

    def dtype(self, name: str) -> str:
        """E.g. ``bfloat16``, without reading the tensor."""
        opened = self._opened(self.files[name])
        if isinstance(opened, Mapping):
            return str(opened[name].dtype).removeprefix("torch.")
        stored = str(opened.get_slice(name).get_dtype())
        return SPELLED.get(stored, stored)

    def __getitem__(self, name: str) -> Tensor:
        path = self.files[name]
        opened = self._opened(path)
        try:
            found: Tensor = opened[name] if isinstance(opened, Mapping) else opened.get_tensor(name)
        except SafetensorError as error:
            raise UserError(f"{path}: {name} cannot be read ({error}); download it again") from None
        return found


def _open_safetensors(path: Path) -> Any:
    try:
        return safe_open(path, framework="pt")
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({str(error.strerror or error).lower()})") from None
    except SafetensorError as error:
        raise UserError(f"{path}: not a whole safetensors file ({error}); download it again") from None


def _open_pickle(path: Path) -> Mapping[str, Tensor]:
    """A .bin of tensors by name. Nothing else in a pickle is unpickled."""
    try:
        # Files of before torch 1.6 are no archives, and cannot be mapped.
        held = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except Exception as error:  # pickle raises anything
        reason = " ".join(str(error).split())[:120]
        raise UserError(
            f"{path}: refused, as it holds more than tensors or is damaged ({reason}); take a folder with safetensors"
        ) from None
    plain = isinstance(held, Mapping) and all(
        isinstance(name, str) and isinstance(each, Tensor) and each.layout is torch.strided
        for name, each in held.items()
    )
    if not plain:
        raise UserError(f"{path}: holds no mapping from names to tensors; take a folder with safetensors")
    return {name: each.detach() for name, each in held.items()}


def write_tensors(
    path: Path,
    shapes: Mapping[str, tuple[int, ...]],
    tensor: Callable[[str], Tensor],
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Write a safetensors file of float32 tensors, one after the other, so that never more than one is in memory.

    The format: 8 bytes with the length of the header, the header (JSON: of each name type, shape, and place), the
    numbers (github.com/huggingface/safetensors).

    Args:
        tensor: gives that of a name.

    Raises:
        UserError: a tensor has another shape than was told, or the file cannot be written.
    """
    header: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    at = 0
    for name, shape in shapes.items():
        bytes_ = 4 * torch.Size(shape).numel()
        header[name] = {"dtype": "F32", "shape": list(shape), "data_offsets": [at, at + bytes_]}
        at += bytes_
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # numbers begin at a multiple of 8 bytes
    with open_new(path) as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for name, shape in shapes.items():
            value = tensor(name)
            if tuple(value.shape) != tuple(shape):
                raise UserError(f"{name} has shape {tuple(value.shape)}, and {tuple(shape)} was told")
            file.write(value.detach().to("cpu", torch.float32).contiguous().numpy().data)
