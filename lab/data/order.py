"""The order in which a run reads its data, as a function: global block g depends on nothing but
(corpus, split, tokenizer, context, seed, lanes, g).

The rule:

1. In epoch e the documents of the split are shuffled: sorted by a keyed hash of (seed, e, document index).
   A hash has no state and no version, so this order is the same with every library, for ever.
2. The shuffled documents are dealt like cards to V lanes: the document at rank r goes to lane r mod V.
3. Each lane joins its documents of epoch 0, then those of epoch 1, and so on without end, an end-of-document
   token after each, and cuts this stream into blocks of C + 1 tokens. What does not fill a block is carried
   over to the next document and the next epoch, so no token is lost or repeated.
4. Global block g is block number g div V of lane g mod V.

A lane that comes to the end of an epoch goes on to its own share of the next one, even if other lanes are
still in the last: lanes never take each other's documents. Lanes are virtual: they do not change with the
number of processes, and any process can produce any lane without asking the others.

Validation reads no such stream: its blocks are the first of the split, joined and cut in corpus order.
"""

import functools
import hashlib
import itertools
from collections.abc import Iterator

import numpy as np
from jaxtyping import UInt32

from lab.data.documents import Corpus, tokenised_documents
from lab.data.packing import Packer
from lab.data.tokenizer import Tokenizer
from lab.errors import UserError


@functools.lru_cache(maxsize=4)
def shuffled(seed: int, epoch: int, documents: int) -> tuple[int, ...]:
    """The document indices 0 to `documents` - 1 in the order of this epoch."""
    key = seed.to_bytes(8, "little") + epoch.to_bytes(8, "little")

    def rank(index: int) -> bytes:
        return hashlib.blake2b(index.to_bytes(8, "little"), key=key, digest_size=16).digest()

    return tuple(sorted(range(documents), key=rank))


class Lane:
    """One lane's endless stream of blocks, which moves forwards only.

    Where it stands is (`epoch`, `position` in its share of the epoch, the packer's remainder, and `item`, the
    number of the block cut next).
    """

    def __init__(self, stream: "BlockStream", number: int) -> None:
        self.stream = stream
        self.number = number
        self.epoch = 0
        self.position = 0
        self._share = self._share_of_epoch()
        self._tokens_of_epoch = 0
        self.packer = Packer(stream.context + 1, stream.tokenizer.end_of_document)
        self._blocks = np.empty((0, stream.context + 1), dtype=np.uint32)
        self.item = 0

    def reached(self, item: int) -> bool:
        """Whether block `item` can still be had without starting again."""
        return item >= self.item - len(self._blocks)

    def block(self, item: int) -> UInt32[np.ndarray, "block_length"]:
        """Block number `item` of this lane, which must not lie behind."""
        while item >= self.item:
            self._blocks = self.packer.add(self._next_document())
            self.item += len(self._blocks)
        # `_blocks` are those just before `self.item`, so this counts from their end.
        return self._blocks[item - self.item].copy()

    def _share_of_epoch(self) -> tuple[int, ...]:
        stream = self.stream
        return shuffled(stream.seed, self.epoch, stream.documents_per_epoch)[self.number :: stream.lanes]

    def _next_document(self) -> UInt32[np.ndarray, "tokens"]:
        stream = self.stream
        while True:
            if self.position == len(self._share):
                if self._tokens_of_epoch == 0:
                    raise UserError(
                        f"split {stream.split}: all {len(self._share)} documents of lane {self.number} were"
                        f" skipped ({len(stream.corpus.skipped)} in all); mend them or lower data.lanes"
                    )
                self.epoch, self.position, self._tokens_of_epoch = self.epoch + 1, 0, 0
                self._share = self._share_of_epoch()
            document = stream.corpus.read(stream.split, self._share[self.position])
            self.position += 1
            if document is not None:
                tokens = stream.tokenizer.encode(document["text"])
                self._tokens_of_epoch += len(tokens)
                return tokens


class BlockStream:
    """The blocks of a split in the order above, by number.

    `context` C in tokens; `seed` of the shuffle, 0 to 2**64 - 1; `lanes` V. Raises UserError if a number is
    out of range, the split has fewer documents than lanes, or fewer tokens than one block.
    """

    def __init__(
        self, corpus: Corpus, split: str, tokenizer: Tokenizer, context: int, seed: int, lanes: int = 32
    ) -> None:
        if context < 1:
            raise UserError(f"scale.context is {context}; give at least 1")
        if not 0 <= seed < 2**64:
            raise UserError(f"seed is {seed}; give 0 to 2**64 - 1")
        self.corpus, self.split, self.tokenizer = corpus, split, tokenizer
        self.context, self.seed, self.lanes = context, seed, lanes
        self.documents_per_epoch = len(corpus.names(split))
        if not 1 <= lanes <= self.documents_per_epoch:
            raise UserError(
                f"data.lanes is {lanes} but split {split} has {self.documents_per_epoch} documents;"
                " give at least 1 lane and no more lanes than documents"
            )
        # Without this a lane would fill its blocks by repeating its documents inside them.
        first_blocks(corpus, split, tokenizer, context, 1)
        self._lanes = [Lane(self, number) for number in range(lanes)]

    def block(self, g: int) -> UInt32[np.ndarray, "block_length"]:
        """Global block g: C + 1 token ids.

        Growing g costs each document once; going back makes that lane start again from its first document.
        """
        item, number = divmod(g, self.lanes)
        if not self._lanes[number].reached(item):
            self._lanes[number] = Lane(self, number)
        return self._lanes[number].block(item)

    def blocks(self, start: int = 0) -> Iterator[tuple[int, UInt32[np.ndarray, "block_length"]]]:
        """(g, block g) for g = start, start + 1, ... without end."""
        for g in itertools.count(start):
            yield g, self.block(g)


def first_blocks(
    corpus: Corpus, split: str, tokenizer: Tokenizer, context: int, count: int
) -> list[UInt32[np.ndarray, "block_length"]]:
    """The first `count` blocks of a split, its documents joined in corpus order: the same for every run.

    Raises UserError if the split holds fewer.
    """
    packer = Packer(context + 1, tokenizer.end_of_document)
    blocks: list[np.ndarray] = []
    for _, tokens in tokenised_documents(corpus, split, tokenizer):
        blocks.extend(packer.add(tokens))
        if len(blocks) >= count:
            return blocks[:count]
    raise UserError(
        f"split {split} holds {len(blocks)} blocks of {context + 1} tokens, {count} are needed;"
        " give more text or lower scale.context or scale.validation_blocks"
    )


def fingerprint(g: int, block: UInt32[np.ndarray, "block_length"]) -> int:
    """128 bits that stand for this block at this place: blake2b of g and the token ids, little-endian."""
    content = g.to_bytes(8, "little") + block.astype("<u4").tobytes()
    return int.from_bytes(hashlib.blake2b(content, digest_size=16).digest(), "little")


class Fingerprint:
    """The sum of the fingerprints of blocks, modulo 2**128.

    A sum does not depend on the order: processes may each add their own blocks, and then their `total`s.
    """

    def __init__(self, total: int = 0) -> None:
        self.total = total

    def add(self, g: int, block: UInt32[np.ndarray, "block_length"]) -> None:
        """Take in global block g."""
        self.total = (self.total + fingerprint(g, block)) % 2**128

    @property
    def hex(self) -> str:
        """The sum as 32 hexadecimal digits."""
        return f"{self.total:032x}"
