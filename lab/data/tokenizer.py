"""Text to token ids and back, and how the lab trains a tokenizer of its own."""

import hashlib
import json
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import tokenizers
from jaxtyping import UInt32
from tokenizers import decoders, models, pre_tokenizers, trainers

from lab.base.errors import UserError

END_OF_DOCUMENT = "<|endoftext|>"
LARGEST_VOCABULARY = 2**20  # of a tokenizer that is trained: the library takes memory for all of it at once
USUAL_ENDS = (END_OF_DOCUMENT, "</s>")


class Tokenizer:
    """A `tokenizer.json` file (https://github.com/huggingface/tokenizers) with an end-of-document token.

    A relative `path` is looked for in the current directory, then among the tokenizers that the lab ships.
    An `end_of_document` of None is the one of USUAL_ENDS that the file has.
    Attributes: `library` (the tokenizer itself), `vocabulary` (number of ids, added tokens included),
    `end_of_document` (id), `digest` (sha256 of the file). Raises UserError if the file is missing, is not a
    tokenizer, lacks the end-of-document token or leaves it open, holds another number of tokens than `vocabulary`, or
    gives a text other ids from time to time.
    """

    def __init__(self, path: str, end_of_document: str | None = END_OF_DOCUMENT, vocabulary: int | None = None) -> None:
        self.path = _find(path)
        content = self.path.read_bytes()
        try:
            self.library = tokenizers.Tokenizer.from_str(content.decode("utf-8"))
        except Exception as error:  # the library raises nothing narrower
            raise UserError(f"{self.path}: not a tokenizer.json ({error})") from error
        ids = self.library.get_vocab(with_added_tokens=True)
        self.vocabulary = len(ids)
        self.digest = hashlib.sha256(content).hexdigest()
        if end_of_document is None:
            held = [token for token in USUAL_ENDS if token in ids]
            if len(held) != 1:
                told = "both" if held else "none"
                raise UserError(
                    f"{self.path}: has {told} of {' and '.join(USUAL_ENDS)}; name its token as end_of_document"
                )
            end_of_document = held[0]
        if end_of_document not in ids:
            raise UserError(f"{self.path}: lacks the token {end_of_document!r}; name its token as end_of_document")
        self.end_of_document: int = ids[end_of_document]
        if sorted(ids.values()) != list(range(self.vocabulary)):
            raise UserError(f"{self.path}: its token ids are not 0 to {self.vocabulary - 1}; use another file")
        if vocabulary is not None and vocabulary != self.vocabulary:
            raise UserError(f"vocabulary is {vocabulary} but {self.path} has {self.vocabulary} tokens")
        # A text that spells a special token means those letters, and no file may cut or pad a document.
        self.library.encode_special_tokens = True
        self.library.no_truncation()
        self.library.no_padding()
        if getattr(self.library.model, "dropout", None):
            raise UserError(
                f"{self.path}: its model leaves merges out by chance (dropout {self.library.model.dropout}), so a text "
                "has other tokens each time; set model.dropout to null in it"
            )

    def encode(self, text: str) -> UInt32[np.ndarray, "tokens"]:
        """Token ids of `text`, without special tokens. Raises UserError for a text that it cannot spell."""
        return self.encode_batch([text])[0]

    def encode_batch(self, texts: Sequence[str]) -> list[UInt32[np.ndarray, "tokens"]]:
        """`encode` of each text, several at a time."""
        try:
            encodings = self.library.encode_batch_fast(list(texts), add_special_tokens=False)
            found = [np.array(encoding.ids, dtype=np.uint32) for encoding in encodings]
            spelled = [bool((ids == self.end_of_document).any()) for ids in found]
            return [
                self._without_end(text) if ends else ids for text, ids, ends in zip(texts, found, spelled, strict=True)
            ]
        except Exception as error:  # the library raises nothing narrower
            if isinstance(error, UserError):
                raise
            raise UserError(
                f"{self.path}: it cannot spell a text ({' '.join(str(error).split())}); take a tokenizer with an "
                "unknown token, or one of bytes"
            ) from None

    def _without_end(self, text: str) -> UInt32[np.ndarray, "tokens"]:
        """The ids of a text that spells the end of document where the library takes that for the token itself: the
        letters one by one in its place."""
        encoding = self.library.encode(text, add_special_tokens=False)
        ids: list[int] = []
        for identifier, (start, stop) in zip(encoding.ids, encoding.offsets, strict=True):
            if identifier != self.end_of_document:
                ids.append(identifier)
                continue
            for letter in text[start:stop]:
                each = self.library.encode(letter, add_special_tokens=False).ids
                ids += [one for one in each if one != self.end_of_document]
        return np.array(ids, dtype=np.uint32)

    @property
    def unknown(self) -> int | None:
        """The id that stands for what it cannot spell, if there is one."""
        token = getattr(self.library.model, "unk_token", None)
        if token is not None:
            found: int | None = self.library.token_to_id(token)
            return found
        stored = json.loads(self.library.to_str())["model"].get("unk_id")
        return None if stored is None else int(stored)

    def examine(self, texts: Sequence[str]) -> dict[str, float]:
        """What of some texts it keeps: `unknown`, the share of unknown tokens, and `lost`, the share of letters that
        are not there after decoding (their case and form aside). Raises UserError if a text has other ids when it is
        encoded again.
        """
        tokens = unknown = letters = lost = 0
        for text in texts:
            ids = self.encode(text)
            if not np.array_equal(ids, self.encode(text)):
                raise UserError(f"{self.path}: the same text has other tokens each time; take another tokenizer")
            tokens += len(ids)
            unknown += 0 if self.unknown is None else int((ids == self.unknown).sum())
            kept = ids if self.unknown is None else ids[ids != self.unknown]
            before, after = _letters(text), _letters(self.decode(kept))
            letters += before.total()
            lost += (before - after).total()
        return {"unknown": unknown / max(1, tokens), "lost": lost / max(1, letters)}

    def decode(self, ids: Iterable[int]) -> str:
        """The text of token ids, special tokens spelled out."""
        return self.library.decode([int(identifier) for identifier in ids], skip_special_tokens=False)


def _letters(text: str) -> Counter[str]:
    """How often each letter or digit is in a text, whatever its case, accents and form."""
    return Counter(filter(str.isalnum, unicodedata.normalize("NFKD", text).casefold()))


def shipped_tokenizers() -> Path:
    """The folder of tokenizers that come with the lab: in the installed package, else in the source tree."""
    package = Path(__file__).parents[1]
    installed = package / "tokenizers"
    return installed if installed.is_dir() else package.parent / "data" / "tokenizers"


def _find(path: str) -> Path:
    places = [Path(path), shipped_tokenizers() / path]
    found = next((place for place in places if path and place.exists()), None)
    if found is None:
        raise UserError(f"{path}: no such tokenizer file; it is neither here nor in {places[1].parent}")
    if found.is_dir():
        raise UserError(f"{path}: a directory; name the tokenizer.json in it")
    if found.stat().st_size == 0:
        raise UserError(f"{found}: the file is empty; name a tokenizer.json")
    return found


def train_tokenizer(
    texts: Iterable[str], vocabulary: int, end_of_document: str = END_OF_DOCUMENT
) -> tokenizers.Tokenizer:
    """Train byte-level BPE: ids are the end of document (0), the 256 bytes, then the merges.

    The same texts give the same tokenizer, on any number of threads. Raises UserError if `vocabulary` has no
    room for the bytes or is above LARGEST_VOCABULARY, or the texts are too few to fill it.
    """
    if vocabulary <= 257:
        raise UserError(f"vocabulary is {vocabulary}; give at least 258: 256 bytes, the end of document, a merge")
    if vocabulary > LARGEST_VOCABULARY:
        raise UserError(f"vocabulary is {vocabulary}; give at most {LARGEST_VOCABULARY}")
    tokenizer = tokenizers.Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[end_of_document],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    size = tokenizer.get_vocab_size()
    if size != vocabulary:
        raise UserError(f"the texts give only {size} of {vocabulary} tokens; give more text or a smaller vocabulary")
    return tokenizer


UNKNOWN = "<|unknown|>"


def word_tokenizer(texts: Iterable[str], end_of_document: str = END_OF_DOCUMENT) -> tokenizers.Tokenizer:
    """A token for each word of some texts, and one for each mark.

    Ids are the end of document (0), unknown words (1), then the words, sorted. For small vocabularies of made texts;
    decoding gives the text back, but for unknown words.
    """
    made = tokenizers.Tokenizer(models.WordLevel({end_of_document: 0, UNKNOWN: 1}, unk_token=UNKNOWN))
    # The space before a word is written as a part of it.
    spaced = pre_tokenizers.Metaspace("▁", prepend_scheme="always")
    made.pre_tokenizer = pre_tokenizers.Sequence(
        [spaced, pre_tokenizers.Split(tokenizers.Regex(r"[^\w▁]"), behavior="isolated")]
    )
    made.decoder = decoders.Metaspace("▁", prepend_scheme="always")
    words = sorted({word for text in texts for word, _ in made.pre_tokenizer.pre_tokenize_str(text)})
    vocabulary = {word: number for number, word in enumerate([end_of_document, UNKNOWN, *words])}
    made.model = models.WordLevel(vocabulary, unk_token=UNKNOWN)
    made.add_special_tokens([end_of_document])
    return made
