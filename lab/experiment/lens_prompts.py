"""The prompts of the gradient lens: one that a command gives, or a file of them, checked whole, as tokens."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from lab.base.errors import UserError
from lab.base.settings import near
from lab.data.tokenizer import Tokenizer
from lab.experiment.fact_files import read_rows, refuse
from lab.experiment.lens_settings import LensSettings
from lab.gradients.capture import Example
from lab.gradients.parts import subject_tokens
from lab.model.decoder import Decoder

KEYS = ("prompt", "target", "subject")


class Fact(NamedTuple):
    """A prompt with its target, as texts and as tokens.

    Attributes:
        name: what it is called in messages.
        subject: its tokens in the prompt; None: not told.
        random: a token other than the target's, drawn.
        frequent: the token other than the target's that stands most often in all prompts together; of equals the first
            by number.
    """

    name: str
    prompt: str
    target: str
    subject_text: str | None
    subject: range | None
    example: Example
    random: int
    frequent: int


def asked_of(settings: LensSettings) -> list[tuple[str, Mapping[str, str | None]]]:
    """What is asked, by its name in messages. Raises UserError for what is missing, and all wrong lines of a file."""
    alone = {name: getattr(settings, name) for name in KEYS}
    given = [name for name, value in alone.items() if value is not None]
    if settings.prompts is not None:
        if given:
            raise UserError(f"{' and '.join([*given, 'prompts'])} are both given: give one prompt, or a file of them")
        return read_rows(Path(settings.prompts), _fact)
    for name in ("prompt", "target"):
        if alone[name] is None:
            raise UserError(f"{name} must be given: add {name}=... to the command, or prompts=FILE")
    return [("", alone)]


def _fact(name: str, row: dict[str, Any]) -> tuple[str, Mapping[str, str | None]]:
    """One row of a file. Raises ValueError for one that is broken."""
    for key, value in row.items():
        if key not in KEYS:
            raise ValueError(f"{key[:40]!r} is a key that nothing reads{near(key, KEYS)}; leave it out")
        if not isinstance(value, str) and not (key == "subject" and value is None):
            raise ValueError(f"{key} is {json.dumps(value)[:40]}: give a text")
    for key in ("prompt", "target"):
        if key not in row:
            raise ValueError(f"it has no {key}; add one")
    return name, {key: row.get(key) for key in KEYS}


def facts_of(
    asked: Sequence[tuple[str, Mapping[str, Any]]], tokenizer: Tokenizer, settings: LensSettings
) -> list[Fact]:
    """All of them as tokens. Raises UserError, a line for each that cannot be used."""
    found, wrong = [], []
    for number, (name, texts) in enumerate(asked):
        try:
            found.append(_as_tokens(name, number, texts, tokenizer, settings))
        except UserError as error:
            wrong.append(f"{name}: {error}" if name else str(error))
    refuse(wrong)
    often = Counter(token for fact in found for token in fact.example.prompt)
    order = sorted(often, key=lambda token: (-often[token], token))
    return [
        fact._replace(frequent=next((each for each in order if each != fact.example.target[0]), fact.random))
        for fact in found
    ]


def _as_tokens(name: str, number: int, texts: Mapping[str, Any], tokenizer: Tokenizer, settings: LensSettings) -> Fact:
    ids = {}
    for key in ("prompt", "target"):
        text = texts[key]
        if any("\ud800" <= sign <= "\udfff" for sign in text):
            raise UserError(f"{key} is not UTF-8: convert it")
        ids[key] = tuple(tokenizer.encode(text).tolist())
        if not ids[key]:
            raise UserError(f"{key} is empty: give at least one token of text")
    target = ids["target"]
    if len(target) > 1 and settings.target_tokens == "one":
        told = ", ".join(repr(tokenizer.decode([each])) for each in target[:12]) + (", ..." if len(target) > 12 else "")
        raise UserError(
            f"target is {len(target)} tokens ({told}) and one is needed: give another, or target_tokens=first or all"
        )
    if settings.target_tokens == "first":
        target = target[:1]
    subject = None if texts["subject"] is None else subject_tokens(tokenizer, texts["prompt"], texts["subject"])
    drawn = int(np.random.default_rng([settings.seed, number]).integers(tokenizer.vocabulary - 1))
    random = drawn + (drawn >= target[0])
    example = Example(ids["prompt"], target)
    return Fact(name, texts["prompt"], texts["target"], texts["subject"], subject, example, random, random)


def refuse_long(facts: Sequence[Fact], decoder: Decoder) -> None:
    """Raises UserError, a line for each text that a decoder has no positions for."""
    longest = decoder.position.longest
    wrong = [
        f"{fact.name or 'prompt'}: {len(fact.example.read):,} tokens are to be read, and the decoder has positions for "
        f"{longest:,}; shorten it"
        for fact in facts
        if longest is not None and len(fact.example.read) > longest
    ]
    refuse(wrong)
