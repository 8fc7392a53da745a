"""Facts that are to be written: read from the command or a file, and as tokens. All that is wrong is told before
anything is done.

A file holds JSON lines with the keys KEYS, or rows of CounterFact (Meng et al. 2022), a line each or as one list.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from lab.base.errors import UserError
from lab.base.settings import near
from lab.data.tokenizer import Tokenizer
from lab.experiment.fact_files import read_rows, refuse
from lab.gradients.capture import Example
from lab.gradients.edits import EditMethod, Request
from lab.gradients.parts import subject_tokens

TEXTS = ("prompt", "target", "subject", "truth", "neighbour_truth")
LISTS = ("paraphrases", "neighbours")
KEYS = (*TEXTS, *LISTS)
OPTIONAL = ("subject", "truth", "neighbour_truth")


class Fact(NamedTuple):
    """What is to be said behind a prompt, and where one looks whether it is.

    Attributes:
        name: where it stands in a file, for messages; "" of one in the command.
        subject: of the prompt, as it stands there; None: not told.
        truth: what was said before; None: whatever the decoder says.
        neighbour_truth: what is to be said behind all neighbours; None: of each what the decoder says.
        paraphrases: other prompts behind which the target is wanted.
        neighbours: prompts behind which the answer shall stay.
    """

    name: str
    prompt: str
    target: str
    subject: str | None = None
    truth: str | None = None
    neighbour_truth: str | None = None
    paraphrases: tuple[str, ...] = ()
    neighbours: tuple[str, ...] = ()

    @property
    def plain(self) -> dict[str, Any]:
        """As a line of a file."""
        told = {key: getattr(self, key) for key in TEXTS} | {key: list(getattr(self, key)) for key in LISTS}
        return {key: value for key, value in told.items() if value not in (None, [])}


class Tokens(NamedTuple):
    """A fact as token ids.

    Attributes:
        request: what the method is given.
        truth, neighbour_truth: as the target, of which the first token alone may count; None where it is not told.
        paraphrases, neighbours: the prompts.
    """

    request: Request
    truth: tuple[int, ...] | None
    neighbour_truth: tuple[int, ...] | None
    paraphrases: list[tuple[int, ...]]
    neighbours: list[tuple[int, ...]]

    @property
    def example(self) -> Example:
        return self.request.example

    @property
    def longest(self) -> int:
        """Tokens of its longest text that are read."""
        behind = max(map(len, (self.example.target, self.truth or (), self.neighbour_truth or ())))
        about = [] if self.request.essence is None else [self.request.essence[0]]
        return max(map(len, [self.example.prompt, *about, *self.paraphrases, *self.neighbours])) + behind - 1


def facts_digest(facts: Sequence[Fact]) -> str:
    """sha256 of facts, wherever they stand."""
    return hashlib.sha256(json.dumps([each.plain for each in facts], sort_keys=True).encode()).hexdigest()


# What is given.


def asked_facts(alone: Mapping[str, str | None], file: str | None) -> list[Fact]:
    """The fact of a command, or those of a file.

    Args:
        alone: ``prompt``, ``target`` and ``subject`` of the command.

    Raises:
        UserError: both or neither are given, or a line for each row of the file that is broken, up to TOLD.
    """
    given = [name for name, value in alone.items() if value is not None]
    if file is not None:
        if given:
            raise UserError(f"{' and '.join([*given, 'facts'])} are both given: give one fact, or a file of them")
        return read_rows(Path(file), _fact)
    for name in ("prompt", "target"):
        if alone[name] is None:
            raise UserError(f"{name} must be given: add {name}=... to the command, or facts=FILE")
    return [Fact("", str(alone["prompt"]), str(alone["target"]), alone["subject"])]


def _fact(name: str, row: dict[str, Any]) -> Fact:
    """One row. Raises ValueError for one that is broken."""
    if "requested_rewrite" in row:
        row = _of_counterfact(row)
    for key, value in row.items():
        if key not in KEYS:
            raise ValueError(f"{key[:40]!r} is a key that nothing reads{near(key, KEYS)}; leave it out")
        if key in LISTS and not (isinstance(value, list) and all(isinstance(each, str) for each in value)):
            raise ValueError(f"{key} is {json.dumps(value)[:40]}: give a list of texts")
        if key in TEXTS and not isinstance(value, str) and not (key in OPTIONAL and value is None):
            raise ValueError(f"{key} is {json.dumps(value)[:40]}: give a text")
    for key in ("prompt", "target"):
        if key not in row:
            raise ValueError(f"it has no {key}; add one")
    lists = {key: tuple(row.get(key, ())) for key in LISTS}
    return Fact(name, *(row.get(key) for key in TEXTS), **lists)  # type: ignore[arg-type]


def _of_counterfact(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row of CounterFact as one of the lab's: its prompt has ``{}`` where the subject stands, its targets lack the
    blank before them. Raises ValueError for one that is broken."""
    asked = row["requested_rewrite"]
    if not isinstance(asked, dict):
        raise ValueError("requested_rewrite is no object; restore it")
    subject, prompt = asked.get("subject"), asked.get("prompt")
    if not isinstance(subject, str) or not subject:
        raise ValueError("requested_rewrite has no subject; add one, or leave the row out")
    if not isinstance(prompt, str) or prompt.count("{}") != 1:
        raise ValueError("requested_rewrite has no prompt with {} in the subject's place; restore it")
    answers = {}
    for key, where in (("target", "target_new"), ("truth", "target_true")):
        told = asked.get(where)
        text = told.get("str") if isinstance(told, dict) else None
        if not isinstance(text, str) or not text:
            raise ValueError(f"requested_rewrite has no {where}.str; add one, or leave the row out")
        answers[key] = f" {text}"
    lists = {
        ours: row.get(theirs, [])
        for ours, theirs in (("paraphrases", "paraphrase_prompts"), ("neighbours", "neighborhood_prompts"))
    }
    # Its neighbours are of other subjects with the same truth.
    answers["neighbour_truth"] = answers["truth"]
    return {"prompt": prompt.replace("{}", subject), "subject": subject, **answers, **lists}


# As tokens.


def as_tokens(
    facts: Sequence[Fact], tokenizer: Tokenizer, method: EditMethod, target_tokens: str, longest: int | None
) -> list[Tokens]:
    """All facts as tokens.

    Args:
        target_tokens: ``one``, ``first`` or ``all`` of a target.
        longest: tokens that the decoder has positions for; None: any number.

    Raises:
        UserError: a line for each that cannot be used.
    """
    found, wrong = [], []
    for fact in facts:
        try:
            tokens = _as_tokens(fact, tokenizer, method, target_tokens)
            if longest is not None and tokens.longest > longest:
                raise UserError(
                    f"{tokens.longest:,} tokens are to be read, and the decoder has positions for {longest:,}; shorten "
                    "it"
                )
            found.append(tokens)
        except UserError as error:
            wrong.append(f"{fact.name}: {error}" if fact.name else str(error))
    refuse(wrong)
    return found


def _as_tokens(fact: Fact, tokenizer: Tokenizer, method: EditMethod, target_tokens: str) -> Tokens:
    prompt, target = (_encoded(tokenizer, key, getattr(fact, key)) for key in ("prompt", "target"))
    if len(target) > 1 and target_tokens == "one":
        told = ", ".join(repr(tokenizer.decode([each])) for each in target[:12]) + (", ..." if len(target) > 12 else "")
        choice = "first" if method.one_token else "first or all"
        raise UserError(
            f"target is {len(target)} tokens ({told}) and one is needed: give another, or target_tokens={choice}"
        )
    truths = {key: getattr(fact, key) for key in ("truth", "neighbour_truth")}
    others = {key: None if text is None else _encoded(tokenizer, key, text) for key, text in truths.items()}
    if target_tokens != "all":
        target, others = target[:1], {key: ids and ids[:1] for key, ids in others.items()}
    for key, ids in others.items():
        if ids == target:
            raise UserError(f"{key} and target begin with the same token: give a target that can be told from it")
    if fact.subject is None and method.needs_subject:
        raise UserError(f"it has no subject, at which {method.name} writes: add one")
    subject = None if fact.subject is None else subject_tokens(tokenizer, fact.prompt, fact.subject)
    essence = None
    if fact.subject is not None and method.about is not None:
        about = method.about.replace("{}", fact.subject)
        essence = (_encoded(tokenizer, "essence", about), subject_tokens(tokenizer, about, fact.subject))
    lists = {key: [_encoded(tokenizer, f"one of {key}", text) for text in getattr(fact, key)] for key in LISTS}
    request = Request(fact.name, Example(prompt, target), subject, essence)
    return Tokens(request, others["truth"], others["neighbour_truth"], lists["paraphrases"], lists["neighbours"])


def _encoded(tokenizer: Tokenizer, key: str, text: str) -> tuple[int, ...]:
    if any("\ud800" <= sign <= "\udfff" for sign in text):
        raise UserError(f"{key} is not UTF-8: convert it")
    ids = tuple(int(each) for each in tokenizer.encode(text))
    if not ids:
        raise UserError(f"{key} is empty: give at least one token of text")
    return ids
