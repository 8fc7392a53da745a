"""Passkey retrieval: is a number found again that was hidden in a long filler?"""

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
from pydantic import Field, model_validator

from lab.base.errors import UserError
from lab.base.parts import part
from lab.base.settings import Count, Seed, Text, key
from lab.observe.measure import Compared, Ids, Item, Measure, Row, Source, doublings

if TYPE_CHECKING:
    from lab.data.tokenizer import Tokenizer
    from lab.model.decoder import Decoder


@part("measure")
class Passkey(Measure):
    """Share of five-digit keys that greedy decoding gives back, by length and by distance from the end.

    As in Position Interpolation (arXiv 2306.15595, section 3.3; the task is Landmark Attention's, arXiv 2305.16300):
    for each length L, ``distances`` distances k uniformly spaced in L, ``trials`` fresh keys at each. A prompt is
    instruction, filler, key line, filler, question, and holds exactly L tokens; k is the number of tokens from the key
    line's first to the end. A key counts as found if it is the first run of digits of the answer.

    Three criteria are published, see :func:`largest_distance`, :func:`accuracies`: PI's k_max (the largest k such that
    at least 20 % of the keys are found at every k' <= k), YaRN's passkey context (the largest length with at least
    80 % found), LongRoPE's accuracy at each length.
    """

    unit = "keys not found"
    difference_unit = "of the keys"
    length_is = "prompt; the number is the share of keys not found"
    reads_documents = False
    detail = "passkeys"

    name: Literal["passkey"] = "passkey"
    lengths: Annotated[list[Count], Field(min_length=1)] | None = key(
        "of the prompts, in tokens; null: C, 2 C, 4 C, ... up to the longest"
    )
    longest: Count = key("contexts C, where lengths are not given")
    distances: Count = key("places of the key in a prompt")
    trials: Count = key("keys at each place")
    seed: Seed = key("of the keys")
    instruction: Text = key("opens the prompt")
    filler: Text = key("repeated before and after the key")
    key_line: Text = key("{key} stands for the number")
    question: Text = key("ends the prompt")

    @model_validator(mode="after")
    def _words_are_there(self) -> "Passkey":
        for name in ("instruction", "filler", "key_line", "question"):
            text = getattr(self, name)
            if not text.strip():
                raise ValueError(f"{name} is {text!r}: give a text")
        if "{key}" not in self.key_line:
            raise ValueError(f"key_line is {self.key_line!r}: it must hold {{key}}")
        return self

    def lengths_of(self, context: int) -> list[int]:
        """The prompts' lengths in tokens, growing."""
        return sorted(set(self.lengths)) if self.lengths else doublings(context, self.longest)[1:]

    def fits(self, context: int) -> None:
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

    def line(self, tokenizer: "Tokenizer", key: str) -> Ids:
        """The tokens of the line that holds the key, with the line breaks before and after it."""
        return tokenizer.encode("\n" + self.key_line.replace("{key}", key) + "\n")

    def fill(self, tokenizer: "Tokenizer", tokens: int) -> Ids:
        """So many tokens of the filler, repeated as one text."""
        once = max(1, len(tokenizer.encode(self.filler)))
        wanted = 2 * tokens // once + 2
        return filled(tokenizer, self.filler, 1 << (wanted - 1).bit_length())[:tokens]

    def prompt(self, tokenizer: "Tokenizer", length: int, distance: int, key: str) -> tuple[Ids, int]:
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

    def score(self, decoder: "Decoder", item: Item, context: int) -> list[Row]:
        from lab.model.decoding import greedy
        from lab.observe.losses import on_device

        tokenizer, length = item.details["tokenizer"], item.details["length"]
        rows = []
        # One trial at a time: memory for one long prompt is what is sure to be there.
        for trial, digits in enumerate(self.keys(length, item.details["number"])):
            ids, distance = self.prompt(tokenizer, length, item.details["distance"], digits)
            new_tokens = 2 + len(tokenizer.encode(f" {digits}"))
            answer = tokenizer.decode(greedy(decoder, on_device(ids, decoder)[None], new_tokens)[0].tolist())
            found = re.search(r"\d+", answer)
            rows.append(
                {
                    "segment": trial,
                    "length_tokens": length,
                    "distance_tokens": distance,
                    "correct": int(found is not None and found.group() == digits),
                }
            )
        return rows

    @classmethod
    def compared(cls, row: Row, context: int) -> Compared | None:
        if row["measure"] != cls.label():
            return None
        return Compared(row["length_tokens"], 1.0 - row["correct"], 1)

    @classmethod
    def point(cls, row: Row) -> None:
        return None

    @classmethod
    def notes(cls, rows: Sequence[Row]) -> list[tuple[str, str, str]]:
        keys = [row for row in rows if row["measure"] == cls.label()]
        lines = []
        for length in sorted({row["length_tokens"] for row in keys}):
            lines.append(("passkey k_max (PI: 20 %)", f"{length:,}", f"{largest_distance(keys, length):,}"))
        if keys:
            lines.append(("passkey context (YaRN: 80 %)", "", f"{passkey_context(keys):,}"))
        return lines

    @classmethod
    def details(cls, rows: Sequence[Row]) -> list[Row]:
        return by_depth(rows)

    @classmethod
    def detail_map(cls) -> tuple[str, str, str, str, str, str]:
        axes = ("depth of the key (%)", "length (tokens)", "share of keys found")
        return "depth_percent", "length_tokens", "found", *axes


@lru_cache(maxsize=8)
def filled(tokenizer: "Tokenizer", filler: str, times: int) -> Ids:
    """The tokens of a text repeated ``times`` times, as one text; kept, for every prompt has some of it."""
    return tokenizer.encode(" ".join([filler] * times))


def accuracies(rows: Iterable[Row], *columns: str) -> dict[tuple[Any, ...], float]:
    """Share of keys found for each value of some columns, e.g. ``length_tokens`` (LongRoPE's criterion)."""
    found: dict[tuple[Any, ...], list[int]] = defaultdict(list)
    for row in rows:
        if row["measure"] == Passkey.label():
            found[tuple(row[column] for column in columns)].append(row["correct"])
    return {place: float(np.mean(found[place])) for place in sorted(found)}


def by_depth(rows: Iterable[Row]) -> list[Row]:
    """Share of keys found at each length and distance; depth is how much of the prompt stands before the key."""
    table = []
    for (length, name), found in accuracies(rows, "length_tokens", "document").items():
        distance = _asked(name)
        depth = round(100 * (1 - distance / length))
        table.append({"length_tokens": length, "distance_tokens": distance, "depth_percent": depth, "found": found})
    return sorted(table, key=lambda row: (row["length_tokens"], -row["distance_tokens"]))


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
