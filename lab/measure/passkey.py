"""Passkey retrieval: is a number found again that was hidden in a long filler?"""

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from lab.data.tokenizer import Tokenizer
from lab.errors import UserError
from lab.measure.measure import (
    Ids,
    Item,
    Measure,
    Row,
    Source,
    check_seed,
    doublings,
    on_device,
    positive,
    positive_list,
)
from lab.model.decoder import Decoder
from lab.model.decoding import greedy


class Passkey(Measure):
    """Share of five-digit keys that greedy decoding gives back, by length and by distance from the end.

    As in Position Interpolation (arXiv 2306.15595, section 3.3; the task is Landmark Attention's, arXiv 2305.16300):
    for each length L, ``distances`` distances k uniformly spaced in L, ``trials`` fresh keys at each. A prompt is
    instruction, filler, key line, filler, question, and holds exactly L tokens; k is the number of tokens from the key
    line's first to the end. A key counts as found if it is the first run of digits of the answer.

    Three criteria are published, see :func:`largest_distance`, :func:`accuracies`: PI's k_max (the largest k such that
    at least 20 % of the keys are found at every k' <= k), YaRN's passkey context (the largest length with at least
    80 % found), LongRoPE's accuracy at each length.

    Args:
        lengths: L in tokens; None: C, 2 C, 4 C, ... up to ``longest``.
        longest: in contexts C, where ``lengths`` are not given.
        distances: distances of each length.
        trials: keys at each distance.
        seed: of the keys.
        instruction, filler, key_line, question: the wording; ``{key}`` stands for the key. To repeat a paper's figures
            give its own words.
    """

    name = "passkey"
    reads_documents = False

    def __init__(
        self,
        lengths: Sequence[int] | None,
        longest: int,
        distances: int,
        trials: int,
        seed: int,
        instruction: str,
        filler: str,
        key_line: str,
        question: str,
    ) -> None:
        positive(self.name, longest=longest, distances=distances, trials=trials)
        positive_list(self.name, lengths=lengths)
        check_seed(self.name, seed)
        words = {"instruction": instruction, "filler": filler, "key_line": key_line, "question": question}
        for key, text in words.items():
            if not isinstance(text, str) or not text.strip():
                raise UserError(f"measure.{self.name}.{key} is {text!r}: give a text")
        if "{key}" not in key_line:
            raise UserError(f"measure.{self.name}.key_line is {key_line!r}: it must hold {{key}}")
        self.lengths, self.longest, self.distances, self.trials, self.seed = lengths, longest, distances, trials, seed
        self.instruction, self.filler, self.key_line, self.question = instruction, filler, key_line, question
        self._filler: dict[str, Ids] = {}  # the longest made so far, by tokenizer

    def lengths_of(self, context: int) -> list[int]:
        """The prompts' lengths in tokens, growing."""
        return sorted(set(self.lengths)) if self.lengths else doublings(context, self.longest)[1:]

    def check(self, context: int) -> None:
        shortest = self.lengths_of(context)[0]
        if self.distances > shortest:
            raise UserError(
                f"measure.{self.name}.distances is {self.distances}, more than the shortest prompt has tokens "
                f"({shortest}); lower it"
            )

    def keys(self, length: int, number: int) -> list[str]:
        """The keys at a length's distance of this number: five digits each, the first not 0."""
        drawn = np.random.default_rng([self.seed, length, number]).integers(10_000, 100_000, self.trials)
        return [str(key) for key in drawn]

    def items(self, source: Source) -> Iterator[Item]:
        nothing = np.empty(0, dtype=np.uint32)
        for length in self.lengths_of(source.context):
            # What leaves no room is refused before anything is scored; some keys have more tokens than others.
            keys = [key for number in range(self.distances) for key in self.keys(length, number)]
            self.prompt(
                source.tokenizer, length, length, max(keys, key=lambda key: len(self.line(source.tokenizer, key)))
            )
            for number in range(self.distances):
                distance = round(length * (number + 1) / self.distances)
                details = {"length": length, "distance": distance, "number": number, "tokenizer": source.tokenizer}
                yield Item(f"length={length} distance={distance}", nothing, details)

    def line(self, tokenizer: Tokenizer, key: str) -> Ids:
        """The tokens of the line that holds the key, with the line breaks before and after it."""
        return tokenizer.encode("\n" + self.key_line.replace("{key}", key) + "\n")

    def fill(self, tokenizer: Tokenizer, tokens: int) -> Ids:
        """So many tokens of the filler, repeated as one text."""
        known = self._filler.get(tokenizer.digest)
        if known is None or len(known) < tokens:
            once = len(tokenizer.encode(self.filler))
            known = tokenizer.encode(" ".join([self.filler] * (2 * tokens // max(1, once) + 2)))
            self._filler[tokenizer.digest] = known
        return known[:tokens]

    def prompt(self, tokenizer: Tokenizer, length: int, distance: int, key: str) -> tuple[Ids, int]:
        """A prompt of exactly ``length`` tokens, and the distance of its key: the one wanted, or the nearest possible.

        Raises:
            UserError: the length leaves no room for instruction, key and question.
        """
        encode = tokenizer.encode
        instruction, question = encode(self.instruction + "\n"), encode("\n" + self.question)
        line = self.line(tokenizer, key)
        room = length - len(instruction) - len(line) - len(question)
        if room < 0:
            raise UserError(
                f"measure.{self.name}: {length} tokens leave no room for instruction, key and question, which have "
                f"{length - room} with this tokenizer; give longer lengths"
            )
        after = min(max(distance - len(line) - len(question), 0), room)
        before = self.fill(tokenizer, room - after)
        return (
            np.concatenate((instruction, before, line, self.fill(tokenizer, after), question)),
            len(line) + after + len(question),
        )

    def score(self, decoder: Decoder, item: Item, context: int) -> list[Row]:
        tokenizer, length = item.details["tokenizer"], item.details["length"]
        rows = []
        # One trial at a time: memory for one long prompt is what is sure to be there.
        for trial, key in enumerate(self.keys(length, item.details["number"])):
            ids, distance = self.prompt(tokenizer, length, item.details["distance"], key)
            new_tokens = 2 + len(tokenizer.encode(f" {key}"))
            answer = tokenizer.decode(greedy(decoder, on_device(ids, decoder)[None], new_tokens)[0].tolist())
            digits = re.search(r"\d+", answer)
            rows.append(
                {
                    "segment": trial,
                    "length_tokens": length,
                    "distance_tokens": distance,
                    "correct": int(digits is not None and digits.group() == key),
                }
            )
        return rows


def accuracies(rows: Iterable[Row], *columns: str) -> dict[tuple[Any, ...], float]:
    """Share of keys found for each value of some columns, e.g. ``length_tokens`` (LongRoPE's criterion)."""
    found: dict[tuple[Any, ...], list[int]] = defaultdict(list)
    for row in rows:
        if row["measure"] == Passkey.name:
            found[tuple(row[column] for column in columns)].append(row["correct"])
    return {place: float(np.mean(found[place])) for place in sorted(found)}


def by_depth(rows: Iterable[Row]) -> list[Row]:
    """Share of keys found at each length and depth, the share of the prompt that stands before the key."""
    table = []
    for (length, name), found in accuracies(rows, "length_tokens", "document").items():
        table.append({"length_tokens": length, "depth": 1 - _asked(name) / length, "found": found})
    return sorted(table, key=lambda row: (row["length_tokens"], row["depth"]))


def _asked(name: str) -> int:
    """The distance that was asked for, from an item's name."""
    return int(name.rpartition("=")[2])


def largest_distance(rows: Iterable[Row], length: int, share: float = 0.2) -> int:
    """PI's k_max: the largest tested distance such that at it and at all nearer ones ``share`` of the keys are found.

    0 if there is none. Trials are taken together by the distance that was asked for, which is in the item's name.
    """
    of_length = [row for row in rows if row["length_tokens"] == length]
    largest = 0
    by_distance = {_asked(name): found for (name,), found in accuracies(of_length, "document").items()}
    for distance, found in sorted(by_distance.items()):
        if found < share:
            break
        largest = distance
    return largest


def passkey_context(rows: Iterable[Row], share: float = 0.8) -> int:
    """YaRN's criterion: the largest length at which at least ``share`` of the keys are found, 0 if there is none."""
    return max((length for (length,), found in accuracies(rows, "length_tokens").items() if found >= share), default=0)
