"""The gradient lens on one prompt or on a file of them: tables, and what of them is told."""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from lab.base.errors import UserError
from lab.base.files import make_folder, read_text
from lab.base.progress import progress
from lab.base.settings import near
from lab.base.tables import Row, write_table
from lab.data.tokenizer import Tokenizer
from lab.experiment.lens_settings import LensSettings
from lab.gradients.capture import Captured, Example, NotFinite, Place, batches, capture, places_of
from lab.gradients.parts import means, parts_of, subject_tokens
from lab.gradients.projection import OF_WIDTH, ends, project, ranked, shown
from lab.gradients.ranks import Shape, bound, ranks, shape_of
from lab.model.decoder import Decoder
from lab.model.memory import is_out_of_memory
from lab.model.precision import device_of, exact_products
from lab.report.lens import print_lens, write_lens_page
from lab.runs.run import Model, open_model

DTYPES = {"float64": torch.float64, "float32": torch.float32}
KEYS = ("prompt", "target", "subject")
TOLD = 10  # wrong lines of a file, at most
VECTORS = 256  # that are projected at a time


class Fact(NamedTuple):
    """A prompt with its target, as texts and as tokens.

    Attributes:
        name: what it is called in messages.
        subject: its tokens in the prompt; None: not told.
        random: a token other than the target's, drawn.
    """

    name: str
    prompt: str
    target: str
    subject_text: str | None
    subject: range | None
    example: Example
    random: int


class Tables(NamedTuple):
    """What is written, a table a file; see docs/lens.md."""

    prompts: list[Row]
    ranks: list[Row]
    norms: list[Row]
    projections: list[Row]
    target_ranks: list[Row]


def lens(settings: LensSettings) -> Tables:
    """Look at the gradients of prompts, print what they are, and write the tables if a folder is given.

    Raises:
        UserError: the run cannot be read, a prompt or a target is missing or cannot be used, there is no such layer, or
            a gradient is not finite.
    """
    asked = _asked(settings)
    model = open_model(settings.run)
    model.check()
    step = None if settings.checkpoint == "last" else settings.checkpoint
    facts = _facts(asked, model.tokenizer(), settings)
    decoder = model.decoder(step)
    places = places_of(decoder, settings.layers, settings.matrices)
    _refuse_long(facts, decoder)
    if settings.to is not None:
        make_folder(Path(settings.to))
    decoder.to(device_of(settings.accelerator, settings.threads))
    exact_products()
    found = _observed(model, decoder, facts, places, settings)
    texts = [_token(model.tokenizer(), token) for token in facts[0].example.read]
    if settings.to is not None:
        for name, rows in found._asdict().items():
            if rows:
                write_table(Path(settings.to) / f"{name}.csv", rows)
        write_lens_page(Path(settings.to), model.path.name, found._asdict(), texts, decoder.embedding.shape[0])
    print_lens(model.path.name, found._asdict(), texts, decoder.embedding.shape[0])
    if settings.to is not None:
        names = [f"{name}.csv" for name, rows in found._asdict().items() if rows]
        print(f"tables and page: {', '.join([*names, 'report.html'])} in {settings.to}")
    return found


# What is given.


def _asked(settings: LensSettings) -> list[tuple[str, Mapping[str, str | None]]]:
    """What is asked, by its name in messages. Raises UserError for what is missing, and all wrong lines of a file."""
    alone = {name: getattr(settings, name) for name in KEYS}
    given = [name for name, value in alone.items() if value is not None]
    if settings.prompts is not None:
        if given:
            raise UserError(f"{' and '.join([*given, 'prompts'])} are both given: give one prompt, or a file of them")
        return read_facts(Path(settings.prompts))
    for name in ("prompt", "target"):
        if alone[name] is None:
            raise UserError(f"{name} must be given: add {name}=... to the command, or prompts=FILE")
    return [("", alone)]


def read_facts(path: Path) -> list[tuple[str, Mapping[str, str | None]]]:
    """The prompts of a file of JSON lines, each with where it stands; empty lines are none.

    Raises:
        UserError: it cannot be read, holds none, or a line for each of its broken lines, up to TOLD.
    """
    try:
        lines = read_text(path).removeprefix("\ufeff").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror.lower() if isinstance(error, OSError) and error.strerror else "it is not UTF-8"
        raise UserError(f"{path} cannot be read: {reason}; give a file of JSON lines") from None
    found: list[tuple[str, Mapping[str, str | None]]] = []
    wrong = []
    for number, line in enumerate(lines, start=1):
        if line.strip():
            name = f"{path} line {number}"
            try:
                found.append((name, _fact(line)))
            except ValueError as error:
                wrong.append(f"{name}: {error}")
    _refuse(wrong)
    if not found:
        raise UserError(f'{path} is empty; give JSON lines such as {{"prompt": "...", "target": "..."}}')
    return found


def _fact(line: str) -> dict[str, str | None]:
    """One line of a file. Raises ValueError for one that is broken."""
    try:
        row: Any = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"it is not JSON ({str(error).split(':')[0].lower()}); write one object a line") from None
    if not isinstance(row, dict):
        raise ValueError('it is no object; write {"prompt": "...", "target": "..."}')
    for name, value in row.items():
        if name not in KEYS:
            raise ValueError(f"{name[:40]!r} is a key that nothing reads{near(name, KEYS)}; leave it out")
        if not isinstance(value, str) and not (name == "subject" and value is None):
            raise ValueError(f"{name} is {json.dumps(value)[:40]}: give a text")
    for name in ("prompt", "target"):
        if name not in row:
            raise ValueError(f"it has no {name}; add one")
    return {name: row.get(name) for name in KEYS}


def _refuse(wrong: Sequence[str]) -> None:
    if wrong:
        more = [f"and {len(wrong) - TOLD} more lines"] if len(wrong) > TOLD else []
        raise UserError(*wrong[:TOLD], *more)


def _facts(asked: Sequence[tuple[str, Mapping[str, Any]]], tokenizer: Tokenizer, settings: LensSettings) -> list[Fact]:
    """All of them as tokens. Raises UserError, a line for each that cannot be used."""
    found, wrong = [], []
    for number, (name, texts) in enumerate(asked):
        try:
            found.append(_as_tokens(name, number, texts, tokenizer, settings))
        except UserError as error:
            wrong.append(f"{name}: {error}" if name else str(error))
    _refuse(wrong)
    return found


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
    return Fact(
        name, texts["prompt"], texts["target"], texts["subject"], subject, Example(ids["prompt"], target), random
    )


def _refuse_long(facts: Sequence[Fact], decoder: Decoder) -> None:
    """Raises UserError, a line for each text that a decoder has no positions for."""
    longest = decoder.position.longest
    wrong = [
        f"{fact.name or 'prompt'}: {len(fact.example.read):,} tokens are to be read, and the decoder has positions for "
        f"{longest:,}; shorten it"
        for fact in facts
        if longest is not None and len(fact.example.read) > longest
    ]
    _refuse(wrong)


# What is seen.


def _observed(
    model: Model, decoder: Decoder, facts: Sequence[Fact], places: Sequence[Place], settings: LensSettings
) -> Tables:
    """The tables, in the order of the prompts."""
    shape, tokenizer = shape_of(decoder), model.tokenizer()
    by_fact: dict[int, Tables] = {}
    groups = batches([fact.example for fact in facts], settings.batch_tokens, decoder.position)
    bar = progress("prompts", "prompts", total=len(facts), disable=len(facts) == 1)
    try:
        for group in groups:
            try:
                captured = capture(decoder, [facts[each].example for each in group], places, DTYPES[settings.dtype])
            except NotFinite as error:
                raise UserError(f"{facts[group[error.number]].name or model.path}: {error}") from None
            here = [facts[each] for each in group]
            tables = _tables(captured, here, [each + 1 for each in group], shape, decoder, tokenizer, settings.top)
            by_fact |= dict(zip(group, tables, strict=True))
            bar.update(len(group))
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        raise UserError("out of memory: lower batch_tokens, name fewer layers, or shorten the prompts") from None
    finally:
        bar.close()
    ordered = [by_fact[number] for number in range(len(facts))]
    return Tables(*([row for tables in ordered for row in tables[field]] for field in range(len(Tables._fields))))


def _tables(
    captured: Captured,
    facts: Sequence[Fact],
    numbers: Sequence[int],
    shape: Shape,
    decoder: Decoder,
    tokenizer: Tokenizer,
    top: int,
) -> Iterator[Tables]:
    """Of each prompt of a batch."""
    found, norms = ranks(captured), _norms(captured)
    projected = _projected(captured, facts, decoder, tokenizer, top)
    for row, (fact, number) in enumerate(zip(facts, numbers, strict=True)):
        example, loss = fact.example, float(captured.losses[row])
        prompt: Row = {
            "number": number,
            "prompt": fact.prompt,
            "subject": fact.subject_text or "",
            "target_text": fact.target,
            "prompt_tokens": len(example.prompt),
            "target_tokens": len(example.target),
            "loss_nats": loss,
            "probability": float(np.exp(-loss)),
            "answer_text": _token(tokenizer, captured.answers[row]),
        }
        rank_rows: list[Row] = [
            {
                "number": number,
                "layer": place.layer,
                "matrix": place.matrix,
                "tokens": len(example.read),
                "target_tokens": len(example.target),
                "bound": bound(shape, place, example.read, len(example.target)),
                **each[row]._asdict(),
            }
            for place, each in found.items()
        ]
        parts = parts_of(len(example.read), len(example.prompt), fact.subject)
        norm_rows: list[Row] = []
        for place, (inputs, deltas) in norms.items():
            of_inputs, of_deltas = (means(each[row][: len(parts)], parts) for each in (inputs, deltas))
            norm_rows += [
                {
                    "number": number,
                    "layer": place.layer,
                    "matrix": place.matrix,
                    "part": part,
                    "tokens": tokens,
                    "input_norm": norm,
                    "delta_norm": of_deltas[part][0],
                }
                for part, (norm, tokens) in of_inputs.items()
            ]
        projections, targets = _projection_rows(projected[row], number, parts)
        yield Tables([prompt], rank_rows, norm_rows, projections, targets)


def _norms(captured: Captured) -> dict[Place, tuple[list[list[float]], list[list[float]]]]:
    """Lengths of inputs and of backward signals, by matrix, prompt and token."""
    lengths: dict[int, list[list[float]]] = {}  # of inputs, which several matrices share
    found = {}
    for place, deltas in captured.deltas.items():
        inputs = captured.inputs[place]
        if id(inputs) not in lengths:
            lengths[id(inputs)] = torch.linalg.vector_norm(inputs, dim=-1).tolist()
        found[place] = (lengths[id(inputs)], torch.linalg.vector_norm(deltas, dim=-1).tolist())
    return found


class Projected(NamedTuple):
    """One vector through the final norm and the head; lists are empty of a vector of zeros.

    Attributes:
        kind: ``input`` or ``delta``.
        text: of the token at its position.
        top, bottom: texts of tokens.
        ranks: (of what, token, its text, rank, ties).
    """

    place: Place
    kind: str
    position: int
    norm: float
    text: str
    top: list[str]
    bottom: list[str]
    ranks: list[tuple[str, int, str, float, int]]


def _projected(
    captured: Captured, facts: Sequence[Fact], decoder: Decoder, tokenizer: Tokenizer, top: int
) -> list[list[Projected]]:
    """Of each prompt, all vectors of the residual stream's width."""
    texts: dict[int, str] = {}

    def told(token: int) -> str:
        if token not in texts:
            texts[token] = _token(tokenizer, token)
        return texts[token]

    where = [(row, position) for row, fact in enumerate(facts) for position in range(len(fact.example.read))]
    named: list[dict[str, int]] = []
    for row, position in where:
        fact = facts[row]
        behind = max(0, position - len(fact.example.prompt) + 1)
        named.append({"target": fact.example.target[behind], "answer": captured.answers[row], "random": fact.random})
    found: list[list[Projected]] = [[] for _ in facts]
    for place in captured.deltas:
        for matrix, kind in OF_WIDTH:
            if place.matrix != matrix:
                continue
            held = captured.inputs[place] if kind == "input" else captured.deltas[place]
            for start in range(0, len(where), VECTORS):
                here = where[start : start + VECTORS]
                vectors = torch.stack([held[row, position] for row, position in here])
                logits, norms = project(decoder, vectors), torch.linalg.vector_norm(vectors, dim=-1).tolist()
                highest, lowest = ends(logits, top)
                there = shown(vectors).tolist()
                standing: dict[str, tuple[list[int], list[float], list[int]]] = {}
                for what in ("target", "answer", "random"):
                    tokens = [each[what] for each in named[start : start + VECTORS]]
                    stands = ranked(logits, torch.tensor(tokens, device=logits.device))
                    standing[what] = (tokens, stands.rank.tolist(), stands.ties.tolist())
                for index, (row, position) in enumerate(here):
                    seen = there[index]
                    vector = Projected(
                        place,
                        kind,
                        position,
                        norms[index],
                        told(facts[row].example.read[position]),
                        [told(each) for each in highest[index]] if seen else [],
                        [told(each) for each in lowest[index]] if seen else [],
                        [
                            (what, tokens[index], told(tokens[index]), rank[index], ties[index])
                            for what, (tokens, rank, ties) in standing.items()
                            if seen
                        ],
                    )
                    found[row].append(vector)
    return found


def _projection_rows(projected: Sequence[Projected], number: int, parts: Sequence[str]) -> tuple[list[Row], list[Row]]:
    """The rows of one prompt for two tables: what is projected, and where the target stands in it."""
    projections: list[Row] = []
    targets: list[Row] = []
    for each in projected:
        at = {
            "number": number,
            "layer": each.place.layer,
            "matrix": each.place.matrix,
            "vector": each.kind,
            "position": each.position,
            "part": parts[each.position],
        }
        lists = {
            name: json.dumps(tokens, ensure_ascii=False)
            for name, tokens in (("top_tokens", each.top), ("bottom_tokens", each.bottom))
        }
        projections.append(at | {"token_text": each.text, "norm": each.norm, **lists})
        targets += [
            at | {"of_token": what, "token": token, "token_text": text, "rank": rank, "ties": ties}
            for what, token, text, rank, ties in each.ranks
        ]
    return projections, targets


def _token(tokenizer: Tokenizer, token: int) -> str:
    """A token's text as it is decoded alone."""
    return tokenizer.decode([token])
