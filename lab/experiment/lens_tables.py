"""The tables of the gradient lens: rows of what the factors of some prompts' gradients say."""

import json
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from lab.base.tables import Row
from lab.data.tokenizer import Tokenizer
from lab.experiment.lens_prompts import Fact
from lab.experiment.lens_settings import LensSettings
from lab.gradients.capture import Captured, Matrix, Place
from lab.gradients.parts import means, parts_of
from lab.gradients.projection import OF_WIDTH, ends, project, ranked, shown
from lab.gradients.ranks import Shape, bound, ranks
from lab.gradients.updates import made
from lab.gradients.whole import alike, kind_of, principal, unit
from lab.model.decoder import Decoder

VECTORS = 256  # that are projected at a time
TOKENS = ("target", "answer", "random", "frequent")  # whose ranks are told
WHOLE = "all tokens"  # the part of what is of a gradient as a whole


class Tables(NamedTuple):
    """What is written, a table a file; see docs/lens.md."""

    prompts: list[Row]
    ranks: list[Row]
    norms: list[Row]
    projections: list[Row]
    target_ranks: list[Row]
    cosines: list[Row]
    neurons: list[Row]
    updates: list[Row]
    curves: list[Row]


class Telling:
    """Makes the tables.

    Args:
        settings: ``top``, ``neurons``, ``updates`` and ``adamw_eps`` of them.
    """

    def __init__(self, decoder: Decoder, shape: Shape, tokenizer: Tokenizer, settings: LensSettings) -> None:
        self.decoder, self.shape, self.tokenizer, self.settings = decoder, shape, tokenizer, settings
        self._texts: dict[int, str] = {}

    def text(self, token: int) -> str:
        """A token's text as it is decoded alone."""
        if token not in self._texts:
            self._texts[token] = self.tokenizer.decode([token])
        return self._texts[token]

    def tables(self, captured: Captured, facts: Sequence[Fact], numbers: Sequence[int]) -> Iterator[Tables]:
        """Of each prompt of a batch, in its order.

        Args:
            numbers: what the prompts are called in the tables.
        """
        found, norms = ranks(captured), _norms(captured)
        projected = self._projected(captured, facts)
        for row, (fact, number) in enumerate(zip(facts, numbers, strict=True)):
            parts = parts_of(len(fact.example.read), len(fact.example.prompt), fact.subject)
            rank_rows: list[Row] = [
                {
                    "number": number,
                    "layer": place.layer,
                    "matrix": place.matrix,
                    "tokens": len(fact.example.read),
                    "target_tokens": len(fact.example.target),
                    "bound": bound(self.shape, place, fact.example.read, len(fact.example.target)),
                    **each[row]._asdict(),
                }
                for place, each in found.items()
            ]
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
            yield Tables(
                [self._prompt(captured, row, fact, number)],
                rank_rows,
                norm_rows,
                *_projection_rows(projected[row], number, parts),
                _cosine_rows(captured, row, number, parts),
                self._neuron_rows(captured, row, fact, number),
                self._update_rows(captured, row, fact, number),
                [],
            )

    def _prompt(self, captured: Captured, row: int, fact: Fact, number: int) -> Row:
        loss = float(captured.losses[row])
        return {
            "number": number,
            "prompt": fact.prompt,
            "subject": fact.subject_text or "",
            "target_text": fact.target,
            "prompt_tokens": len(fact.example.prompt),
            "target_tokens": len(fact.example.target),
            "loss_nats": loss,
            "probability": float(np.exp(-loss)),
            "answer_text": self.text(captured.answers[row]),
        }

    def _projected(self, captured: Captured, facts: Sequence[Fact]) -> "list[list[Projected]]":
        """Of each prompt all vectors of the residual stream's width, and each gradient's principal direction."""
        where = [(row, position) for row, fact in enumerate(facts) for position in range(len(fact.example.read))]
        found: list[list[Projected]] = [[] for _ in facts]
        for place in captured.deltas:
            for matrix, kind in OF_WIDTH:
                if place.matrix == matrix:
                    held = captured.inputs[place] if kind == "input" else captured.deltas[place]
                    for start in range(0, len(where), VECTORS):
                        here = where[start : start + VECTORS]
                        vectors = torch.stack([held[row, position] for row, position in here])
                        self._read(captured, facts, place, kind, here, vectors, found)
            whole = principal(captured.inputs[place], captured.deltas[place], place.matrix)
            for start in range(0, len(facts), VECTORS):
                vectors, shares = (each[start : start + VECTORS] for each in whole)
                those = [(row, None) for row in range(start, start + len(vectors))]
                self._read(captured, facts, place, "principal", those, vectors, found, shares.tolist())
        return found

    def _read(
        self,
        captured: Captured,
        facts: Sequence[Fact],
        place: Place,
        kind: str,
        here: "Sequence[tuple[int, int | None]]",
        vectors: Tensor,
        found: "list[list[Projected]]",
        shares: Sequence[float] | None = None,
    ) -> None:
        """Read vectors of prompts, each at a position or as a whole, through the vocabulary."""
        logits, norms = project(self.decoder, vectors), torch.linalg.vector_norm(vectors, dim=-1).tolist()
        highest, lowest = ends(logits, self.settings.top)
        there = shown(vectors).tolist()
        standing: dict[str, tuple[list[int], list[float], list[int]]] = {}
        for what in TOKENS:
            tokens = [_named(captured, facts, row, position)[what] for row, position in here]
            stands = ranked(logits, torch.tensor(tokens, device=logits.device))
            standing[what] = (tokens, stands.rank.tolist(), stands.ties.tolist())
        for index, (row, position) in enumerate(here):
            seen = there[index]
            found[row].append(
                Projected(
                    place,
                    kind,
                    position,
                    norms[index],
                    None if shares is None else shares[index],
                    "" if position is None else self.text(facts[row].example.read[position]),
                    [self.text(each) for each in highest[index]] if seen else [],
                    [self.text(each) for each in lowest[index]] if seen else [],
                    [
                        (what, tokens[index], self.text(tokens[index]), rank[index], ties[index])
                        for what, (tokens, rank, ties) in standing.items()
                        if seen
                    ],
                )
            )

    def _neuron_rows(self, captured: Captured, row: int, fact: Fact, number: int) -> list[Row]:
        if not self.settings.neurons:
            return []
        return [
            {
                "number": number,
                "layer": place.layer,
                "matrix": place.matrix,
                "neuron": each.neuron,
                "norm": each.norm,
                "position": position,
                "token_text": self.text(fact.example.read[position]),
                "cosine": cosine,
                "overlap": overlap,
            }
            for place in captured.deltas
            for each in alike(self.decoder, captured.factors(row, place), place.matrix, self.settings.neurons)
            for position, cosine, overlap in zip(each.positions, each.cosines, each.overlaps, strict=True)
        ]

    def _update_rows(self, captured: Captured, row: int, fact: Fact, number: int) -> list[Row]:
        rows: list[Row] = []
        last = len(fact.example.prompt) - 1
        named = _named(captured, [fact], 0, last) | {"answer": captured.answers[row]}
        for place in captured.deltas if self.settings.updates else ():
            factors = captured.factors(row, place)
            for optimizer in self.settings.updates:
                each = made(factors, place.matrix, optimizer, self.settings.adamw_eps, last)
                if each is None:
                    continue
                logits = project(self.decoder, each.vector[None])
                (highest,), (lowest,) = ends(logits, self.settings.top)
                seen = bool(shown(each.vector))
                rows.append(
                    {
                        "number": number,
                        "layer": place.layer,
                        "matrix": place.matrix,
                        "optimizer": optimizer,
                        **{key: value for key, value in each._asdict().items() if key != "vector"},
                        "vector": kind_of(place.matrix),
                        "top_tokens": _listed([self.text(token) for token in highest] if seen else []),
                        "bottom_tokens": _listed([self.text(token) for token in lowest] if seen else []),
                        **{
                            f"{what}_rank": float(ranked(logits, torch.tensor([named[what]])).rank) if seen else None
                            for what in TOKENS
                        },
                    }
                )
        return rows


class Projected(NamedTuple):
    """One vector through the final norm and the head; lists are empty of a vector of zeros.

    Attributes:
        kind: ``input``, ``delta`` or ``principal``.
        position: None: of the gradient as a whole.
        share: of the gradient that a principal direction has.
        text: of the token at its position.
        top, bottom: texts of tokens.
        ranks: (of what, token, its text, rank, ties).
    """

    place: Place
    kind: str
    position: int | None
    norm: float
    share: float | None
    text: str
    top: list[str]
    bottom: list[str]
    ranks: list[tuple[str, int, str, float, int]]


def _named(captured: Captured, facts: Sequence[Fact], row: int, position: int | None) -> dict[str, int]:
    """The tokens whose ranks are told at a position of a prompt, or of its gradient as a whole."""
    fact = facts[row]
    behind = 0 if position is None else max(0, position - len(fact.example.prompt) + 1)
    return {
        "target": fact.example.target[behind],
        "answer": captured.answers[row],
        "random": fact.random,
        "frequent": fact.frequent,
    }


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
            "part": WHOLE if each.position is None else parts[each.position],
        }
        projections.append(
            at
            | {"token_text": each.text, "norm": each.norm, "share": each.share}
            | {"top_tokens": _listed(each.top), "bottom_tokens": _listed(each.bottom)}
        )
        targets += [
            at | {"of_token": what, "token": token, "token_text": text, "rank": rank, "ties": ties}
            for what, token, text, rank, ties in each.ranks
        ]
    return projections, targets


def _cosine_rows(captured: Captured, row: int, number: int, parts: Sequence[str]) -> list[Row]:
    """How alike a token's vectors are in two layers: the mean over the tokens of a part that have both."""
    rows: list[Row] = []
    for matrix, kind in OF_WIDTH:
        layers = sorted(place.layer for place in captured.deltas if place.matrix == matrix)
        if len(layers) < 2:
            continue
        vectors = torch.stack([_vectors(captured, row, layer, matrix, kind) for layer in layers])
        there = shown(vectors)
        units = unit(vectors)
        for one, layer in enumerate(layers):
            for two in range(one + 1, len(layers)):
                both = (there[one] & there[two]).tolist()
                cosines = (units[one] * units[two]).sum(dim=-1).tolist()
                kept = [position for position, each in enumerate(both) if each]
                of_parts = means([cosines[each] for each in kept], [parts[each] for each in kept])
                rows += [
                    {
                        "number": number,
                        "matrix": matrix,
                        "vector": kind,
                        "layer": layer,
                        "other_layer": layers[two],
                        "part": part,
                        "tokens": tokens,
                        "cosine": cosine,
                    }
                    for part, (cosine, tokens) in of_parts.items()
                ]
    return rows


def _vectors(captured: Captured, row: int, layer: int, matrix: Matrix, kind: str) -> Tensor:
    factors = captured.factors(row, Place(layer, matrix))
    return factors.inputs if kind == "input" else factors.deltas


def _listed(texts: Sequence[str]) -> str:
    return json.dumps(texts, ensure_ascii=False)
