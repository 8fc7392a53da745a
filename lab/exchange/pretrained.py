"""A pretrained decoder as it lies in a folder: what it is, its tensors under our names, its tokenizer."""

import json
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tokenizers
import torch
from torch import Tensor

from lab.base.errors import UserError
from lab.base.files import read_text, sha256_of
from lab.data.llama_tokenizer import convert
from lab.exchange.architectures import read_architecture
from lab.exchange.names import abroad, here
from lab.exchange.weights import Weights

FLOATS = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
ROTATIONS = "rotary_emb.inv_freq"  # a table that old files hold and nobody reads


class Pretrained(ABC):
    """Weights from elsewhere.

    Attributes:
        path: folder or file.
        keys: those of ``model`` and ``scale`` that it stands for.
        files: sha256 of each file that was read, by name.
    """

    path: Path
    keys: dict[str, Any]

    @property
    @abstractmethod
    def files(self) -> dict[str, str]: ...

    @abstractmethod
    def names(self) -> dict[str, tuple[int, ...]]:
        """The shapes of all its tensors, by our names. Raises UserError for one that no decoder of the lab has."""

    @property
    @abstractmethod
    def stored_as(self) -> list[str]:
        """The types of number that its tensors have, such as ``bfloat16`` or ``Q4_1``."""

    @abstractmethod
    def where(self, name: str) -> str:
        """The file that holds one of our names, and what it is called there."""

    @abstractmethod
    def called(self, name: str) -> str:
        """What its format calls one of our names."""

    @abstractmethod
    def tensor(self, name: str) -> Tensor:
        """The tensor of one of our names, float32."""

    @abstractmethod
    def tokenizer(self) -> tokenizers.Tokenizer | None:
        """Its tokenizer, None if it brings none."""

    @abstractmethod
    def special(self) -> dict[str, str]:
        """What its special tokens ``bos``, ``eos``, ``pad`` are, as far as it says."""


class Folder(Pretrained):
    """A folder of Hugging Face's kind: config.json, weights, a tokenizer.

    Raises:
        UserError: something is missing, or cannot be a decoder of the lab; named.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config = _mapping(path / "config.json", f"{path} is no model: it has no config.json")
        self.keys = read_architecture(self.config, str(path / "config.json"))
        self.weights = Weights(path)
        self._names = self._ours()

    @property
    def files(self) -> dict[str, str]:
        read = {self.path / "config.json", *self.weights.files.values()}
        read |= {self.path / name for name in ("tokenizer.json", "tokenizer.model") if (self.path / name).is_file()}
        return {path.name: sha256_of(path) for path in sorted(read)}

    def _ours(self) -> dict[str, str]:
        """Their names by ours."""
        found = {}
        for theirs in self.weights:
            ours = here(theirs)
            if ours is not None:
                found[ours] = theirs
            elif theirs.endswith(".bias"):
                raise UserError(f"{self.weights.files[theirs]}: has a bias ({theirs}), which no decoder of the lab has")
            elif not theirs.endswith(ROTATIONS):
                raise UserError(f"{self.weights.files[theirs]}: has {theirs}, which no decoder of the lab has")
        if self.keys["model"]["tied"] and "head.weight" in found:
            # Tied, says the configuration; if the files say otherwise transformers believes them.
            if torch.equal(self.weights[found["head.weight"]], self.weights[found["embedding"]]):
                del found["head.weight"]
            else:
                self.keys["model"]["tied"] = False
        return found

    def names(self) -> dict[str, tuple[int, ...]]:
        return {ours: self.weights.shape(theirs) for ours, theirs in self._names.items()}

    @property
    def stored_as(self) -> list[str]:
        return sorted({self.weights.dtype(theirs) for theirs in self._names.values()})

    def where(self, name: str) -> str:
        return f"{self.weights.files[self._names[name]]}: {self._names[name]}"

    def called(self, name: str) -> str:
        return abroad(name)

    def tensor(self, name: str) -> Tensor:
        theirs = self._names[name]
        value = self.weights[theirs]
        if value.dtype not in FLOATS:
            raise UserError(
                f"{self.where(name)} is of {str(value.dtype).removeprefix('torch.')}; the lab reads floats of 16, 32 "
                "and 64 bits: take the model before it was quantised"
            )
        return value.to(torch.float32)

    def tokenizer(self) -> tokenizers.Tokenizer | None:
        path = self.path / "tokenizer.json"
        if path.is_file():
            return read_tokenizer(path)
        path = self.path / "tokenizer.model"
        return convert(path) if path.is_file() else None

    def special(self) -> dict[str, str]:
        path = self.path / "tokenizer_config.json"
        told = _mapping(path, "") if path.is_file() else {}
        found = {}
        for name in ("bos", "eos", "pad"):
            token = told.get(f"{name}_token")
            if isinstance(token, Mapping):
                token = token.get("content")
            if isinstance(token, str):
                found[name] = token
        return self._by_number() | found

    def _by_number(self) -> dict[str, str]:
        """Special tokens as config.json, or before it generation_config.json, names them: by their ids."""
        made, found = self.tokenizer(), {}
        path = self.path / "generation_config.json"
        for told in (self.config, _mapping(path, "") if path.is_file() else {}):
            for name in ("bos", "eos", "pad"):
                number = told.get(f"{name}_token_id")
                if isinstance(number, list) and number:
                    number = number[0]
                if made is not None and type(number) is int and number >= 0:
                    token = made.id_to_token(number)
                    if token is not None:
                        found[name] = token
        return found


def read_tokenizer(path: Path) -> tokenizers.Tokenizer:
    """That of a tokenizer.json. Raises UserError if the file cannot be read or is none."""
    try:
        return tokenizers.Tokenizer.from_str(read_text(path))
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read ({_line(error)}); name a tokenizer.json") from None
    except Exception as error:  # the library raises nothing narrower
        raise UserError(f"{path}: not a tokenizer.json ({_line(error)})") from None


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:120]


def _mapping(path: Path, absent: str) -> dict[str, Any]:
    try:
        content = json.loads(read_text(path))
    except FileNotFoundError:
        raise UserError(absent) from None
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path} cannot be read ({_line(error)}); restore it") from None
    if not isinstance(content, dict):
        raise UserError(f"{path} holds no mapping; restore it")
    return content


def check_shapes(source: Pretrained, wanted: Mapping[str, tuple[int, ...]]) -> None:
    """Raises UserError if tensors are missing or left over, or one has another shape than its decoder's."""
    held = source.names()
    for name in sorted(wanted.keys() - held.keys()):
        raise UserError(
            f"{source.path}: has no {source.called(name)}, which its configuration asks for; download it again"
        )
    for name in sorted(held.keys() - wanted.keys()):
        raise UserError(f"{source.where(name)} is there, for which the configuration has no place")
    for name, shape in wanted.items():
        if tuple(held[name]) != tuple(shape):
            raise UserError(
                f"{source.where(name)} has shape {tuple(held[name])}, and the configuration says {tuple(shape)}"
            )
