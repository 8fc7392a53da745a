"""What is asked about people of a biography corpus: prompts as token ids, answered or read many at a time."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from lab.base.errors import UserError
from lab.data.biographies.corpus import Biographies
from lab.data.biographies.people import Person
from lab.data.biographies.wording import Asked, Written
from lab.observe.measure import Ids, Source

if TYPE_CHECKING:
    from lab.data.tokenizer import Tokenizer
    from lab.model.decoder import Decoder

GROUPS = ("training", "held_out", "choosing")
TOGETHER = 64  # people asked or read at a time
READ = 65_536  # tokens of prompts read at a time


def biographies_of(source: Source, asked_by: str) -> Biographies:
    """The people whom the decoders were trained on.

    Raises:
        UserError: these were trained on something else.
    """
    corpus = source.trained_on() if source.trained_on is not None else None
    if not isinstance(corpus, Biographies):
        raise UserError(f"{asked_by} asks about people, and this decoder read of none: train it with data=biographies")
    return corpus


def pages(corpus: Biographies, most: int | None) -> Iterator[tuple[str, list[Person]]]:
    """The people of each group, at most so many of a group, some at a time; with celebrities these are a group too."""
    groups = {group: corpus.members(group) for group in GROUPS} | {"celebrity": corpus.celebrities}
    for group, people in groups.items():
        for first in range(0, len(people[:most]), TOGETHER):
            yield group, people[:most][first : first + TOGETHER]


class Prompt(NamedTuple):
    """A question and the answer that is right, as token ids: the end of a document before, and one after.

    ``gap``: the token that stands for what is hidden, where there is one.
    """

    ids: Ids
    answer: Ids
    gap: int | None = None


def prompt_of(tokenizer: "Tokenizer", asked: Asked) -> Prompt:
    """A question as it is asked of a decoder.

    Raises:
        UserError: the tokenizer cannot give the text back.
    """
    end = np.array([tokenizer.end_of_document], dtype=np.uint32)
    whole, prompt = tokenizer.encode(asked.prompt + asked.answer), tokenizer.encode(asked.prompt)
    if tokenizer.decode(whole) != asked.prompt + asked.answer or not np.array_equal(whole[: len(prompt)], prompt):
        raise UserError(
            f"{tokenizer.path}: it cannot give back {asked.prompt + asked.answer!r}, so that no answer could be right: "
            "take another tokenizer"
        )
    return Prompt(np.concatenate((end, prompt)), np.concatenate((whole[len(prompt) :], end)), tokenizer.unknown)


def answers(decoder: "Decoder", prompts: Sequence[Prompt], most_together: int = 256) -> list[Ids]:
    """What greedy decoding continues each prompt with, up to the first end of a document, if that comes within as many
    tokens as the longest right answer has.

    Prompts of one length are read together, with cached keys and values. A decoder that sees what comes after is shown
    as many gaps as the right answer has tokens, and says the likeliest token in each.
    """
    import torch

    from lab.model.decoding import greedy

    if not decoder.causal:
        return _filled(decoder, prompts, most_together)

    by_length: dict[int, list[int]] = defaultdict(list)
    for number, prompt in enumerate(prompts):
        by_length[len(prompt.ids)].append(number)
    found: list[Ids] = [prompt.answer for prompt in prompts]
    device = decoder.embedding.device
    most = max((len(prompt.answer) for prompt in prompts), default=0)
    for length, numbers in by_length.items():
        batch = max(1, min(most_together, READ // length))
        for first in range(0, len(numbers), batch):
            some = numbers[first : first + batch]
            tokens = torch.from_numpy(np.stack([prompts[each].ids for each in some]).astype(np.int64)).to(device)
            given = greedy(decoder, tokens, most).cpu().numpy().astype(np.uint32)
            for row, each in enumerate(some):
                ends = np.flatnonzero(given[row] == prompts[each].answer[-1])
                found[each] = given[row, : ends[0] + 1] if len(ends) else given[row]
    return found


def _filled(decoder: "Decoder", prompts: Sequence[Prompt], most_together: int) -> list[Ids]:
    """What a decoder that sees what comes after puts into the gaps behind each prompt."""
    shown = [np.concatenate((each.ids, np.full(len(each.answer), each.gap, dtype=np.uint32))) for each in prompts]
    said = filled(decoder, shown, most_together)
    return [each[len(prompt.ids) :] for each, prompt in zip(said, prompts, strict=True)]


def filled(decoder: "Decoder", texts: Sequence[Ids], most_together: int = 256) -> list[Ids]:
    """The likeliest token at each place of each text, of which those of one length are read together."""
    import torch

    found: list[Ids] = list(texts)
    by_length: dict[int, list[int]] = defaultdict(list)
    for number, text in enumerate(texts):
        by_length[len(text)].append(number)
    for length, numbers in by_length.items():
        batch = max(1, min(most_together, READ // length))
        for first in range(0, len(numbers), batch):
            some = numbers[first : first + batch]
            tokens = torch.from_numpy(np.stack([texts[each] for each in some]).astype(np.int64))
            with torch.inference_mode():
                logits = decoder.logits(decoder.hidden(tokens.to(decoder.embedding.device)))
            for each, ids in zip(some, logits.argmax(dim=-1).cpu().numpy().astype(np.uint32), strict=True):
                found[each] = ids
    return found


class Marked(NamedTuple):
    """An entry as token ids, the end of a document before it.

    ``values`` and ``name``: the places of the tokens that spell them, [first, behind last).
    """

    ids: Ids
    values: dict[str, tuple[int, int]]
    name: tuple[int, int]


def marked(tokenizer: "Tokenizer", written: Written) -> Marked:
    """An entry with the places of what it says.

    Raises:
        UserError: the tokenizer cannot give the text back, or one token spells a value and what stands beside it.
    """
    encoding = tokenizer.library.encode(written.text, add_special_tokens=False)
    ids = np.array([tokenizer.end_of_document, *encoding.ids], dtype=np.uint32)
    if tokenizer.decode(encoding.ids) != written.text:
        raise UserError(f"{tokenizer.path}: it cannot give back {written.text[:60]!r} ...: take another tokenizer")

    def place(span: tuple[int, int]) -> tuple[int, int]:
        inside = [
            number
            for number, (start, stop) in enumerate(encoding.offsets)
            if start < span[1] and stop > span[0] and written.text[max(start, span[0]) : min(stop, span[1])].strip()
        ]
        return inside[0] + 1, inside[-1] + 2  # the end of a document stands before

    return Marked(ids, {each: place(span) for each, span in written.spans.items()}, place(written.name))


def padded(entries: Sequence[Ids], end: int) -> np.ndarray:
    """Token ids [entries, longest], shorter ones filled up behind, where no earlier token sees it."""
    longest = max(map(len, entries))
    return np.stack([np.concatenate((each, np.full(longest - len(each), end, dtype=np.uint32))) for each in entries])
