"""A SentencePiece BPE model, as Llama and Mistral ship it, to a `tokenizer.json`.

The model file is one protobuf message (github.com/google/sentencepiece, src/sentencepiece_model.proto): its
field 1, repeated, is a piece {1: text, 2: score, 3: type}. A piece's place is its id. SentencePiece merges,
of all adjacent pairs whose union is a piece, the pair with the best score; so the merges of the
`tokenizer.json` are all ways to cut a piece in two, best score first. A character that is no piece falls back
to its UTF-8 bytes.
"""

import math
import struct
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import tokenizers
from tokenizers import decoders, models, normalizers

from lab.base.errors import UserError
from lab.base.files import read_stored

NORMAL, UNKNOWN, CONTROL, BYTE = 1, 2, 3, 6
LONGEST = 1024  # bytes of a piece: its merges are searched for by all ways to cut it in two


@dataclass(frozen=True)
class Piece:
    """One token of a SentencePiece model; `kind` is one of NORMAL, UNKNOWN, CONTROL, BYTE."""

    text: str
    score: float
    kind: int


def convert(path: Path) -> tokenizers.Tokenizer:
    """The tokenizer of a SentencePiece BPE model with byte fallback; UserError if the file is not one."""
    try:
        pieces = read_pieces(read_stored(path))
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}; give a SentencePiece model") from error
    except (IndexError, ValueError, struct.error) as error:
        raise UserError(f"{path}: not a SentencePiece model ({error})") from error
    if [piece.text for piece in pieces[:3]] != ["<unk>", "<s>", "</s>"]:
        raise UserError(f"{path}: its first tokens are not <unk>, <s>, </s>; give a Llama-type model")
    if sorted(piece.text for piece in pieces if piece.kind == BYTE) != sorted(f"<0x{byte:02X}>" for byte in range(256)):
        raise UserError(f"{path}: lacks the 256 byte tokens; give a Llama-type model")
    text, times = Counter(piece.text for piece in pieces).most_common(1)[0]
    if times > 1:
        raise UserError(f"{path}: has the token {text[:40]!r} {times} times; give a model that has each once")
    return tokenizer_of(pieces)


def tokenizer_of(pieces: list[Piece]) -> tokenizers.Tokenizer:
    """The tokenizer of the pieces of a Llama-type model, by their ids."""
    model = models.BPE(
        vocab={piece.text: identifier for identifier, piece in enumerate(pieces)},
        merges=merges(pieces),
        unk_token="<unk>",
        fuse_unk=True,
        byte_fallback=True,
    )
    tokenizer = tokenizers.Tokenizer(model)
    # SentencePiece puts one space before the text and writes every space as U+2581.
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    special = [piece.text for piece in pieces if piece.kind in (UNKNOWN, CONTROL)]
    tokenizer.add_special_tokens([tokenizers.AddedToken(text, normalized=False, special=True) for text in special])
    return tokenizer


def merges(pieces: list[Piece]) -> list[tuple[str, str]]:
    """All (left, right) whose union is a normal piece, best score of the union first, then by ids."""
    ids = {piece.text: identifier for identifier, piece in enumerate(pieces) if piece.kind == NORMAL}
    ranked = []
    for piece in pieces:
        if piece.kind == NORMAL:
            for cut in range(1, len(piece.text)):
                left, right = piece.text[:cut], piece.text[cut:]
                if left in ids and right in ids:
                    ranked.append((-piece.score, ids[left], ids[right], (left, right)))
    return [pair for *_, pair in sorted(ranked)]


def read_pieces(message: bytes) -> list[Piece]:
    """The pieces of a ModelProto in the order of their ids. Raises ValueError if the message is cut short."""
    pieces = []
    for number, value in fields(message):
        if number == 1 and isinstance(value, bytes):
            piece = dict(fields(value))
            text, score = piece.get(1, b""), piece.get(2, b"\0\0\0\0")
            if not isinstance(text, bytes) or not isinstance(score, bytes):
                raise ValueError("a piece has fields of other types")
            (best,) = struct.unpack("<f", score)
            if not math.isfinite(best) or len(text) > LONGEST:
                raise ValueError(f"a piece of score {best} and {len(text):,} bytes")
            pieces.append(Piece(text.decode("utf-8"), best, int(piece.get(3, NORMAL))))
    return pieces


def fields(message: bytes) -> Iterator[tuple[int, int | bytes]]:
    """(field number, value) of a protobuf message; see protobuf.dev/programming-guides/encoding."""
    at = 0

    def varint() -> int:
        nonlocal at
        value, shift = 0, 0
        while True:
            byte = message[at]
            at += 1
            value |= (byte & 127) << shift
            shift += 7
            if shift > 70:
                raise ValueError("a number of more than 64 bits")
            if byte < 128:
                return value

    while at < len(message):
        number, wire = divmod(varint(), 8)
        if wire == 0:
            yield number, varint()
            continue
        if wire not in (1, 2, 5):
            raise ValueError(f"wire type {wire}")
        length = varint() if wire == 2 else {1: 8, 5: 4}[wire]
        if at + length > len(message):
            raise ValueError("the file is cut short")
        yield number, message[at : at + length]
        at += length
