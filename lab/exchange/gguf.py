"""A decoder in a GGUF file of the Llama type (github.com/ggml-org/ggml, docs/gguf.md), read with the package gguf.

Weights may be quantised: they are what their blocks stand for, in float32. Such files keep rows of queries and keys in
another order, in which pairs that RoPE turns lie side by side; here they are half a head apart.
"""

from pathlib import Path
from typing import Any

import numpy as np
import tokenizers
import torch
from tokenizers import decoders, models, pre_tokenizers
from torch import Tensor

from lab.base.errors import UserError
from lab.base.files import open_stored, sha256_of
from lab.data.llama_tokenizer import Piece, tokenizer_of
from lab.exchange.pretrained import Pretrained
from lab.exchange.row_order import half_split

NAMES = {
    "token_embd.weight": "embedding",
    "blk.{}.attn_norm.weight": "blocks.{}.attention_norm.weight",
    "blk.{}.attn_q.weight": "blocks.{}.attention.query.weight",
    "blk.{}.attn_k.weight": "blocks.{}.attention.key.weight",
    "blk.{}.attn_v.weight": "blocks.{}.attention.value.weight",
    "blk.{}.attn_output.weight": "blocks.{}.attention.output.weight",
    "blk.{}.ffn_norm.weight": "blocks.{}.feed_forward_norm.weight",
    "blk.{}.ffn_gate.weight": "blocks.{}.feed_forward.gate.weight",
    "blk.{}.ffn_up.weight": "blocks.{}.feed_forward.up.weight",
    "blk.{}.ffn_down.weight": "blocks.{}.feed_forward.down.weight",
    "output_norm.weight": "norm.weight",
    "output.weight": "head.weight",
}
ABROAD = {ours: theirs for theirs, ours in NAMES.items()}
# How texts are cut before merges, by the name that files give it (llama.cpp, src/llama-vocab.cpp).
DIGITS_APART = ("smollm",)
PLAIN = ("gpt-2", "gpt2")


class GGUF(Pretrained):
    """A GGUF file.

    Raises:
        UserError: the package is missing, the file is damaged, of another architecture, or scales its RoPE.
    """

    def __init__(self, path: Path) -> None:
        try:
            from gguf import GGUFReader
        except ImportError:
            raise UserError(f"{path}: reading it needs the package gguf: pip install '.[gguf]'") from None
        self.path = path
        try:
            self._reader = GGUFReader(path)
        except (OSError, ValueError, IndexError, KeyError, TypeError) as error:
            raise UserError(f"{path}: not a whole GGUF file ({' '.join(str(error).split())[:120]})") from None
        self.keys = self._keys()
        self._tensors = self._ours()

    @property
    def files(self) -> dict[str, str]:
        return {self.path.name: sha256_of(self.path)}

    def _field(self, name: str, default: Any = None) -> Any:
        field = self._reader.get_field(name)
        return default if field is None else field.contents()

    def _list(self, name: str) -> list[Any]:
        value = self._field(name, [])
        if not isinstance(value, list):
            raise UserError(f"{self.path}: its {name} is {value!r}, which is no list; download it again")
        return value

    def _number(self, name: str, default: float | None = None) -> float:
        value = self._field(name, default)
        if value is None:
            raise UserError(f"{self.path}: lacks {name}, which a file of the Llama type has")
        if isinstance(value, list) and value and len(set(map(str, value))) == 1:
            value = value[0]  # some files say it of each layer
        if isinstance(value, list):
            raise UserError(f"{self.path}: its layers differ ({name}); all layers of a decoder of the lab are alike")
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise UserError(f"{self.path}: its {name} is {value!r}, which is no number; download it again")
        return value

    def _whole(self, name: str, default: int | None = None) -> int:
        value = self._number(name, default)
        if not 1 <= value <= 2**40 or value != int(value):
            raise UserError(f"{self.path}: its {name} is {value!r}, which is no number of such things")
        return int(value)

    def _keys(self) -> dict[str, Any]:
        architecture = self._field("general.architecture")
        if architecture != "llama":
            raise UserError(f"{self.path}: its architecture is {architecture}; of GGUF files the lab reads llama")
        scaling = self._field("llama.rope.scaling.type", "none")
        factors = [self._number(f"llama.rope.{key}", 1.0) for key in ("scale_linear", "scaling.factor")]
        if scaling != "none" or any(each not in (0.0, 1.0) for each in factors):
            told = scaling if scaling != "none" else f"by {max(factors):g}"
            raise UserError(f"{self.path}: its RoPE is scaled ({told}), which the lab does not read yet")
        if self._number("llama.expert_count", 0):
            raise UserError(f"{self.path}: has experts, which no decoder of the lab has")
        heads, width = self._whole("llama.attention.head_count"), self._whole("llama.embedding_length")
        head_dim = self._whole("llama.attention.key_length", max(1, width // heads))
        if self._whole("llama.attention.value_length", head_dim) != head_dim:
            raise UserError(f"{self.path}: its values are not as wide as its keys, as those of the lab's decoder are")
        if self._whole("llama.rope.dimension_count", head_dim) != head_dim:
            raise UserError(f"{self.path}: rotates a part of each head; the lab rotates all of it")
        shapes = {tensor.name: tensor.shape for tensor in self._reader.tensors}
        if len(shapes.get("token_embd.weight", ())) != 2:
            raise UserError(f"{self.path}: has no token_embd.weight with rows and columns; download it again")
        return {
            "model": {
                "position": {"name": "rope", "base": float(self._number("llama.rope.freq_base", 10_000.0))},
                "attention": {"name": "full", "window": None},
                "tied": "output.weight" not in shapes,
                "eps": float(f"{self._number('llama.attention.layer_norm_rms_epsilon'):.6g}"),  # kept as float32
            },
            "scale": {
                "vocabulary": int(shapes["token_embd.weight"][1]),
                "context": self._whole("llama.context_length"),
                "layers": self._whole("llama.block_count"),
                "width": width,
                "hidden": self._whole("llama.feed_forward_length"),
                "heads": heads,
                "kv_heads": self._whole("llama.attention.head_count_kv", heads),
                "head_dim": head_dim,
            },
        }

    def _ours(self) -> dict[str, Any]:
        found = {}
        for tensor in self._reader.tensors:
            parts = tensor.name.split(".")
            layer = parts[1] if parts[0] == "blk" and len(parts) > 2 and parts[1].isdigit() else ""
            pattern = ".".join(["blk", "{}", *parts[2:]]) if layer else tensor.name
            if pattern not in NAMES:
                if tensor.name.startswith("rope_freqs"):
                    raise UserError(f"{self.path}: its RoPE is scaled (rope_freqs), which the lab does not read yet")
                raise UserError(f"{self.path}: has {tensor.name}, which no decoder of the lab has")
            found[NAMES[pattern].format(layer)] = tensor
        return found

    def names(self) -> dict[str, tuple[int, ...]]:
        return {name: tuple(int(size) for size in reversed(tensor.shape)) for name, tensor in self._tensors.items()}

    @property
    def stored_as(self) -> list[str]:
        return sorted({tensor.tensor_type.name for tensor in self._tensors.values()})

    def where(self, name: str) -> str:
        return f"{self.path}: {self._tensors[name].name}"

    def called(self, name: str) -> str:
        return abroad(name)

    def tensor(self, name: str) -> Tensor:
        from gguf.quants import dequantize

        stored = self._tensors[name]
        if stored.tensor_type.name.startswith("I") and not stored.tensor_type.name.startswith("IQ"):
            raise UserError(f"{self.where(name)} is of whole numbers ({stored.tensor_type.name}), which are no weights")
        try:
            numbers = dequantize(stored.data, stored.tensor_type)
        except NotImplementedError:
            raise UserError(
                f"{self.where(name)} is quantised as {stored.tensor_type.name}, which the package gguf does not "
                "decode; take the model before it was quantised"
            ) from None
        value = torch.from_numpy(np.array(numbers, dtype=np.float32))
        value = value.reshape(self.names()[name])
        scale = self.keys["scale"]
        if name.endswith("attention.query.weight"):
            return half_split(value, scale["heads"])
        if name.endswith("attention.key.weight"):
            return half_split(value, scale["kv_heads"])
        return value

    def special(self) -> dict[str, str]:
        tokens = self._list("tokenizer.ggml.tokens")
        found = {}
        for name, key in (("bos", "bos"), ("eos", "eos"), ("pad", "padding")):
            identifier = self._field(f"tokenizer.ggml.{key}_token_id")
            if isinstance(identifier, int) and 0 <= identifier < len(tokens):
                found[name] = str(tokens[identifier])
        return found

    def tokenizer(self) -> tokenizers.Tokenizer | None:
        kind = self._field("tokenizer.ggml.model")
        if kind not in ("llama", "gpt2"):
            return None
        tokens, types = self._list("tokenizer.ggml.tokens"), self._list("tokenizer.ggml.token_type")
        if not tokens or len(types) != len(tokens) or not all(isinstance(each, str) for each in tokens):
            raise UserError(
                f"{self.path}: does not say all its tokens and of what kind each is (tokenizer.ggml.tokens, "
                "token_type); give the model's tokenizer.json as tokenizer"
            )
        if kind == "llama":
            scores = self._list("tokenizer.ggml.scores")
            if len(scores) != len(tokens) or not all(isinstance(each, int | float) for each in scores):
                raise UserError(f"{self.path}: its tokenizer.ggml.scores are not a number for each token")
            return tokenizer_of([Piece(*each) for each in zip(tokens, map(float, scores), types, strict=True)])
        cut = self._field("tokenizer.ggml.pre", "gpt-2")
        if cut not in (*DIGITS_APART, *PLAIN):
            raise UserError(
                f"{self.path}: its tokenizer cuts texts as {cut} does, which the lab cannot build from it; give the "
                "model's tokenizer.json as tokenizer"
            )
        merges = [
            (left, right)
            for left, _, right in (str(each).partition(" ") for each in self._list("tokenizer.ggml.merges"))
        ]
        try:
            made = tokenizers.Tokenizer(models.BPE(vocab={token: i for i, token in enumerate(tokens)}, merges=merges))
        except Exception as error:  # the library raises nothing narrower
            raise UserError(f"{self.path}: its tokenizer.ggml.merges are none of its tokens ({error})") from None
        level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
        apart = [pre_tokenizers.Digits(individual_digits=True)] if cut in DIGITS_APART else []
        made.pre_tokenizer = pre_tokenizers.Sequence([*apart, level])
        made.decoder = decoders.ByteLevel()
        special = [token for token, kind in zip(tokens, types, strict=True) if kind == 3]  # CONTROL
        made.add_special_tokens([tokenizers.AddedToken(token, normalized=False, special=True) for token in special])
        return made


def abroad(name: str) -> str:
    """E.g. ``blk.3.ffn_up.weight`` for ``blocks.3.feed_forward.up.weight``."""
    parts = name.split(".")
    if parts[0] != "blocks":
        return ABROAD[name]
    return ABROAD[".".join(["blocks", "{}", *parts[2:]])].format(parts[1])


def is_gguf(path: Path) -> bool:
    """Whether a file begins as GGUF files do. Raises UserError if it cannot be read."""
    try:
        with open_stored(path) as file:
            return file.read(4) == b"GGUF"
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({str(error.strerror).lower()})") from None
