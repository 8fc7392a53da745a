"""The order in which a run reads its data, as a function: global block g depends on nothing but
(corpus, split, tokenizer, context, seed, lanes, weights, tile, g).

The rule:

1. A corpus has subsets, a subset has chunks, a chunk has documents. In a small subset every document is a chunk
   of its own; in a large one a chunk is a file, a row group, or a range of bytes.
2. In epoch e the chunks of a subset are shuffled: sorted by a keyed hash of (seed, e, chunk). A hash has no
   state and no version, so this order is the same with every library, for ever.
3. The shuffled chunks are dealt like cards to V lanes: the chunk at rank r goes to lane r mod V.
4. A lane reads the documents of its chunks of epoch 0, then of epoch 1, and so on without end. Inside a chunk
   it reads `tile` documents at a time and shuffles these, again by a keyed hash.
5. A lane has one such sequence for each subset and takes its next document from the subset that is furthest
   behind its weight: the one with the fewest tokens so far divided by its weight.
6. A lane joins its documents, an end-of-document token after each, and cuts this stream into blocks of C + 1
   tokens. What does not fill a block is carried over, so no token is lost or repeated. Documents of a corpus that
   are to stay whole are not cut: see `Packer`.
7. Global block g is block number g div V of lane g mod V.

Lanes are virtual: they do not change with the number of processes, they never take each other's documents, and
any process can produce any lane without asking the others. Where a lane stands is a `Cursor`, a few kilobytes;
going on from one reads at most one tile of documents again for each subset.

Validation reads no such stream: its blocks are a sample of the split, the same for every run (`sampled_blocks`).
"""

import functools
import hashlib
import itertools
import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from jaxtyping import UInt32

from lab.base.errors import UserError
from lab.data.settings import LANES
from lab.data.sources.documents import Corpus, Entry
from lab.data.stream.packing import NO_PROMPTS, Packed, Packer
from lab.data.stream.tokenised import tokenised
from lab.data.stream.weights import furthest_behind, whole_weights
from lab.data.tokenizer import Tokenizer

LOG = logging.getLogger("lab.data")
SPREAD = 16  # blocks that are read for each that validation takes


def _keyed_order(key: bytes, count: int) -> tuple[int, ...]:
    """0 to `count` - 1 in an order that looks random and depends on the key only."""

    def rank(index: int) -> bytes:
        return hashlib.blake2b(index.to_bytes(8, "little"), key=key, digest_size=16).digest()

    return tuple(sorted(range(count), key=rank))


def _key(*numbers: int, subset: str) -> bytes:
    key = b"".join(number.to_bytes(8, "little") for number in numbers)
    return key + hashlib.blake2b(subset.encode(), digest_size=16).digest() if subset else key


@functools.lru_cache(maxsize=64)
def shuffled(seed: int, epoch: int, chunks: int, subset: str = "") -> tuple[int, ...]:
    """The chunks 0 to `chunks` - 1 of a subset in the order of this epoch."""
    return _keyed_order(_key(seed, epoch, subset=subset), chunks)


def shuffled_tile(seed: int, epoch: int, chunk: int, tile: int, documents: int, subset: str = "") -> tuple[int, ...]:
    """The documents 0 to `documents` - 1 of tile number `tile` of a chunk in the order of this epoch."""
    return _keyed_order(_key(seed, epoch, chunk, tile, subset=subset), documents)


class Place(NamedTuple):
    """Where a lane stands in one subset: before a document."""

    epoch: int = 0
    position: int = 0  # of the chunk in the lane's share of the epoch
    tile: int = 0  # number of the tile in the chunk
    offset: int | None = None  # where the tile starts in its file; None: at the start of the chunk
    rank: int = 0  # of the document in the shuffled tile


@dataclass(frozen=True)
class Cursor:
    """Where a lane stands: before a document.

    `item` is the number of the block that is cut next, `remainder` what stands before it, `places` and `tokens`
    (taken so far, ends included) follow the order of the corpus's subsets.
    """

    item: int
    remainder: Packed
    places: tuple[Place, ...]
    tokens: tuple[int, ...]

    def record(self) -> dict[str, object]:
        """As plain values and arrays, for a checkpoint."""
        prompts = self.remainder.prompts.tolist()
        return {
            "item": self.item,
            "remainder": self.remainder.tokens,
            "starts": self.remainder.starts,
            "places": [list(place) for place in self.places],
            "tokens": list(self.tokens),
        } | ({"prompts": prompts} if prompts else {})

    @classmethod
    def of(cls, record: Mapping) -> "Cursor":
        """The cursor of a `record`."""
        prompts = np.array(record.get("prompts", []), dtype=np.int32).reshape(-1, 2)
        remainder = Packed(record["remainder"], record["starts"], prompts)
        places = tuple(Place(*place) for place in record["places"])
        return cls(record["item"], remainder, places, tuple(record["tokens"]))


@dataclass(frozen=True)
class Block:
    """A block of C + 1 tokens on its way to training.

    `cursor` gives this block again and everything after it; None where blocks are read by number. `skipped` are
    the documents passed over on the way to it, name to reason.
    """

    tokens: UInt32[np.ndarray, "block_length"]
    starts: np.ndarray
    cursor: Cursor | None
    skipped: Mapping[str, str]
    prompts: np.ndarray = field(default_factory=lambda: NO_PROMPTS)


class Lane:
    """One lane's endless stream of blocks, which moves forwards only."""

    def __init__(self, stream: "BlockStream", number: int, cursor: Cursor) -> None:
        self.stream = stream
        self.number = number
        self.item = cursor.item
        end = stream.tokenizer.end_of_document
        self._packer = Packer(stream.context + 1, end, cursor.remainder, stream.corpus.whole)
        self._places = list(cursor.places)
        self._tokens = list(cursor.tokens)
        self._sources = [
            tokenised(self._documents(subset, place), stream.tokenizer) for subset, place in enumerate(cursor.places)
        ]
        self._cursor = cursor
        self._blocks: list[Packed] = []
        self._skipped: dict[str, str] = {}

    def reached(self, item: int) -> bool:
        """Whether block `item` can still be had without starting again."""
        return item >= self.item - len(self._blocks)

    def block(self, item: int) -> Block:
        """Block number `item` of this lane, which must not lie behind."""
        while item >= self.item:
            self._take_document()
        # `_blocks` are those just before `self.item`, so this counts from their end.
        packed = self._blocks[item - self.item]
        skipped, self._skipped = self._skipped, {}
        return Block(packed.tokens.copy(), packed.starts, self._cursor, skipped, packed.prompts)

    def _take_document(self) -> None:
        subset = furthest_behind(self._tokens, self.stream.weights)
        before = Cursor(self.item, self._packer.remainder, tuple(self._places), tuple(self._tokens))
        taken = next(self._sources[subset])
        self._places[subset] = taken.mark
        if taken.tokens is None:
            self._skipped[taken.entry.name] = taken.entry.reason
            return
        self._cursor = before
        self._blocks = self._packer.add(taken.tokens, taken.prompt, taken.entry.name)
        self.item += len(self._blocks)
        self._tokens[subset] += len(taken.tokens) + 1

    def _documents(self, subset: int, place: Place) -> Iterator[tuple[Entry, Place]]:
        """Each document from `place` on without end, and the place after it."""
        stream = self.stream
        name = stream.subsets[subset]
        chunks = stream.corpus.chunks(stream.split, name)
        while True:
            share = shuffled(stream.seed, place.epoch, chunks, name)[self.number :: stream.lanes]
            empty = place == Place(place.epoch)  # of an epoch entered midway it is unknown what came before
            met = False
            for position in range(place.position, len(share)):
                start = place if position == place.position else Place(place.epoch, position)
                for entry, after in self._documents_of_chunk(name, share[position], start):
                    empty, met = empty and entry.text is None, True
                    yield entry, after
            if empty:
                where = f"split {stream.split}{f', subset {name}' if name else ''}"
                held = f"({len(share)} {stream.corpus.chunk_word}); mend them or take fewer lanes"
                told = f"all documents of lane {self.number} were skipped"
                raise UserError(f"{where}: {told if met else f'no document begins in lane {self.number}'} {held}")
            place = Place(place.epoch + 1)

    def _documents_of_chunk(self, subset: str, chunk: int, place: Place) -> Iterator[tuple[Entry, Place]]:
        stream = self.stream
        entries = stream.corpus.read(stream.split, subset, chunk, place.offset)
        while documents := list(itertools.islice(entries, stream.tile)):
            order = shuffled_tile(stream.seed, place.epoch, chunk, place.tile, len(documents), subset)
            next_tile = place._replace(tile=place.tile + 1, offset=documents[-1].next_offset, rank=0)
            for rank in range(place.rank, len(documents)):
                after = place._replace(rank=rank + 1) if rank + 1 < len(documents) else next_tile
                yield documents[order[rank]], after
            place = next_tile


def fitting_lanes(corpus: Corpus) -> int:
    """The lanes that a run takes by itself: LANES, or as many as training's smallest subset has chunks, which is
    told."""
    fewest = min((corpus.chunks("train", subset) for subset in corpus.subsets("train")), default=LANES)
    lanes = max(1, min(LANES, fewest))
    if lanes != LANES:
        LOG.warning("lanes: %d, as many as training has %s (%d with more of them)", lanes, corpus.chunk_word, LANES)
    return lanes


class BlockStream:
    """The blocks of a split in the order above, by number.

    `context` C in tokens; `seed` of the shuffles, 0 to 2**64 - 1; `lanes` V; `weights` of the subsets, by name
    (None for a corpus with one subset); `tile` in documents. Raises UserError if
    a number is out of range, a subset has fewer chunks than lanes, or the split fewer tokens than one block.
    """

    def __init__(
        self,
        corpus: Corpus,
        split: str,
        tokenizer: Tokenizer,
        context: int,
        seed: int,
        lanes: int = 32,
        weights: Mapping[str, float] | None = None,
        tile: int = 128,
    ) -> None:
        self.corpus, self.split, self.tokenizer = corpus, split, tokenizer
        self.context, self.seed, self.lanes, self.tile = context, seed, lanes, tile
        self.subsets = corpus.subsets(split)
        self.weights = whole_weights(self.subsets, weights)
        for subset in self.subsets:
            chunks = corpus.chunks(split, subset)
            if not 1 <= lanes <= chunks:
                for chunk in range(chunks):  # too few because they cannot be read: that is to be told first
                    next(corpus.read(split, subset, chunk), None)
                raise UserError(
                    f"lanes is {lanes} but split {split}{f', subset {subset}' if subset else ''} has {chunks}"
                    f" {corpus.chunk_word}; give at least 1 lane and no more lanes than {corpus.chunk_word}"
                )
        # Without this a lane would fill its blocks by repeating its documents inside them.
        sampled_blocks(corpus, split, tokenizer, context, 1, weights)
        nothing = Packer(context + 1, tokenizer.end_of_document).remainder
        many = len(self.subsets)
        self._start = Cursor(0, nothing, (Place(),) * many, (0,) * many)
        self._cursors: dict[int, Cursor] = {}
        self._lanes: dict[int, Lane] = {}

    def restore(self, cursors: Mapping[int, Cursor]) -> None:
        """Let the lanes of these numbers go on from their cursors."""
        self._cursors = dict(cursors)
        self._lanes = {}

    def block(self, g: int) -> Block:
        """Global block g.

        Growing g costs each document once; going back makes that lane start again, from its restored cursor or
        from its first document.
        """
        item, number = divmod(g, self.lanes)
        if number not in self._lanes or not self._lanes[number].reached(item):
            cursor = self._cursors.get(number, self._start)
            self._lanes[number] = Lane(self, number, cursor if cursor.item <= item else self._start)
        return self._lanes[number].block(item)

    def blocks(self, start: int = 0, step: int = 1) -> Iterator[tuple[int, Block]]:
        """(g, block g) for g = start, start + step, ... without end."""
        for g in itertools.count(start, step):
            yield g, self.block(g)


def sampled_blocks(
    corpus: Corpus,
    split: str,
    tokenizer: Tokenizer,
    context: int,
    count: int,
    weights: Mapping[str, float] | None = None,
) -> list[Packed]:
    """`count` blocks from all over a split, the same for every run.

    Its chunks are shuffled (as for seed 0, epoch 0) and packed, and of the first SPREAD x `count` blocks, or of all if
    the split has fewer, every n-th is taken. Raises UserError if the split holds fewer than `count`.
    """
    blocks = list(itertools.islice(_packed(corpus, split, tokenizer, context, weights), SPREAD * count))
    if len(blocks) < count:
        raise UserError(
            f"split {split} holds {len(blocks)} blocks of {context + 1} tokens, {count} are needed;"
            " give more text, a smaller context, or fewer validation blocks"
        )
    return [blocks[number * len(blocks) // count] for number in range(count)]


def _packed(
    corpus: Corpus, split: str, tokenizer: Tokenizer, context: int, weights: Mapping[str, float] | None
) -> Iterator[Packed]:
    """The blocks of a split, its chunks shuffled, mixed by weight, until a subset that is due is at its end."""
    packer = Packer(context + 1, tokenizer.end_of_document, whole=corpus.whole)
    subsets = corpus.subsets(split)
    shares = whole_weights(subsets, weights)
    sources = [tokenised(((entry, None) for entry in _shuffled(corpus, split, each)), tokenizer) for each in subsets]
    tokens = [0] * len(subsets)
    while (taken := next(sources[subset := furthest_behind(tokens, shares)], None)) is not None:
        if taken.tokens is not None:
            tokens[subset] += len(taken.tokens) + 1
            yield from packer.add(taken.tokens, taken.prompt, taken.entry.name)


def _shuffled(corpus: Corpus, split: str, subset: str) -> Iterator[Entry]:
    for chunk in shuffled(0, 0, corpus.chunks(split, subset), subset):
        yield from corpus.read(split, subset, chunk)
