"""A tree of values as JSON and tensors, and back, to the bit."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor


def pack(state: Any) -> tuple[Any, dict[str, Tensor]]:
    """A tree of dicts, lists, tuples, plain values, tensors and numpy arrays, as JSON and named tensors.

    What JSON has no word for is an object with one key: tensor, array, scalar, tuple, items (a dict whose keys are not
    all text), float (inf and nan), bytes. Raises TypeError, naming the place, for a value of another kind.
    """
    tensors: dict[str, Tensor] = {}

    def keep(path: str, tensor: Tensor) -> str:
        # Two places may be written alike: {1: a, "1": b}, {"a/b": c, "a": {"b": d}}.
        path = path if path not in tensors else f"{path}#{len(tensors)}"
        if tensor.layout is not torch.strided:
            raise TypeError(f"{path} is a tensor of layout {tensor.layout}, which a checkpoint cannot hold")
        tensors[path] = tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
        return path

    def plain(value: Any, path: str) -> Any:
        if isinstance(value, Tensor):
            return {"tensor": keep(path, value)}
        if isinstance(value, (np.ndarray, np.generic)):
            array = np.asarray(value)
            if array.dtype.kind not in "biufcMm":
                raise TypeError(f"{path} is an array of {array.dtype}, which a checkpoint cannot hold")
            content = torch.from_numpy(np.frombuffer(array.tobytes(), dtype=np.uint8).copy())
            kind = "array" if isinstance(value, np.ndarray) else "scalar"
            return {kind: [keep(path, content), array.dtype.str, list(array.shape)]}
        if type(value) is dict:
            if all(isinstance(key, str) for key in value) and len(value) != 1:
                return {key: plain(each, f"{path}/{key}") for key, each in value.items()}
            return {"items": [[plain(key, f"{path}/key"), plain(each, f"{path}/{key}")] for key, each in value.items()]}
        if type(value) is tuple:
            return {"tuple": [plain(each, f"{path}/{index}") for index, each in enumerate(value)]}
        if type(value) is list:
            return [plain(each, f"{path}/{index}") for index, each in enumerate(value)]
        if isinstance(value, bytes):
            return {"bytes": value.hex()}
        if isinstance(value, float) and not np.isfinite(value):
            return {"float": repr(value)}
        if value is None or type(value) in (bool, int, float, str):
            return value
        raise TypeError(f"{path} is of type {type(value).__name__}, which a checkpoint cannot hold")

    return plain(state, "state"), tensors


def unpack(packed: Any, tensors: Mapping[str, Tensor]) -> Any:
    """What `pack` was given."""
    if isinstance(packed, list):
        return [unpack(each, tensors) for each in packed]
    if not isinstance(packed, dict):
        return packed
    if len(packed) == 1:
        kind, value = next(iter(packed.items()))
        if kind == "tensor":
            return tensors[value]
        if kind in ("array", "scalar"):
            name, dtype, shape = value
            array = np.frombuffer(tensors[name].numpy().tobytes(), dtype=dtype).reshape(shape).copy()
            return array if kind == "array" else array[()]
        if kind == "tuple":
            return tuple(unpack(each, tensors) for each in value)
        if kind == "items":
            return {unpack(key, tensors): unpack(each, tensors) for key, each in value}
        if kind == "float":
            return float(value)
        if kind == "bytes":
            return bytes.fromhex(value)
    return {key: unpack(each, tensors) for key, each in packed.items()}
