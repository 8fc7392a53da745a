"""What an edit did: to its facts, their paraphrases and neighbours, and to text that it is not about."""

import itertools
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch

from lab.base.errors import UserError
from lab.base.tables import Row
from lab.data.settings import EvaluationSettings
from lab.data.tokenizer import Tokenizer
from lab.evidence.interval import Interval, mean_interval
from lab.experiment.edit_facts import Fact, Tokens
from lab.experiment.edit_preparing import Prepared
from lab.experiment.edit_settings import EditSettings
from lab.gradients.answers import Answer, answers
from lab.gradients.capture import Example
from lab.model.decoder import Decoder
from lab.model.decoding import greedy
from lab.model.precision import device_of
from lab.observe.losses import losses_in_one_pass, observed, on_device
from lab.observe.measure import Item, Source
from lab.observe.score_runs import sources_of
from lab.runs.model import Model
from lab.runs.settings import RunSettings

MOMENTS = ("before", "after")
PARTS = ("fact", "paraphrase", "neighbour")
ASKED_BY = ("argmax", "likelier", "generated")


class Asked(NamedTuple):
    """One prompt that is asked before and after.

    Attributes:
        number: of its fact, from 1.
        place: among those of its part, from 1.
        other: the answer that the target is held against: the truth, or what was the likeliest token before; None where
            that is the target itself.
        generates: whether text is generated behind it.
    """

    number: int
    part: str
    place: int
    text: str
    prompt: tuple[int, ...]
    target: tuple[int, ...]
    other: tuple[int, ...] | None
    generates: bool


class Reading(NamedTuple):
    """What a decoder says behind one prompt."""

    target: Answer
    other: Answer | None
    continuation: str | None


def asked_of(
    before: Decoder, facts: Sequence[Fact], tokens: Sequence[Tokens], numbers: Sequence[int], every: int, together: int
) -> list[Asked]:
    """All prompts of facts.

    Args:
        before: the decoder that is not edited.
        numbers: of the facts, from 1.
        every: text is generated for each so-manieth of them, the first included.
        together: tokens that are read together, at most.
    """
    found = []
    for fact, own, number in zip(facts, tokens, numbers, strict=True):
        parts = {
            "fact": [(fact.prompt, own.example.prompt)],
            "paraphrase": [*zip(fact.paraphrases, own.paraphrases, strict=True)],
            "neighbour": [*zip(fact.neighbours, own.neighbours, strict=True)],
        }
        truths = {"fact": own.truth, "paraphrase": own.truth, "neighbour": own.neighbour_truth}
        generates = (number - 1) % every == 0
        found += [
            Asked(number, part, place, text, prompt, own.example.target, truths[part], generates)
            for part, prompts in parts.items()
            for place, (text, prompt) in enumerate(prompts, start=1)
        ]
    firsts = answers(before, [Example(each.prompt, each.target[:1]) for each in found], together)
    return [
        each._replace(other=None if first.first == each.target[0] else (first.first,)) if each.other is None else each
        for each, first in zip(found, firsts, strict=True)
    ]


def read(decoder: Decoder, asked: Sequence[Asked], tokenizer: Tokenizer, tokens: int, together: int) -> list[Reading]:
    """What a decoder says behind each prompt.

    Args:
        tokens: generated where text is, at most.
    """
    targets = answers(decoder, [Example(each.prompt, each.target) for each in asked], together)
    held = [number for number, each in enumerate(asked) if each.other is not None]
    others = answers(decoder, [Example(asked[each].prompt, asked[each].other or ()) for each in held], together)
    against = dict(zip(held, others, strict=True))
    device = decoder.embedding.device
    return [
        Reading(
            targets[number],
            against.get(number),
            _continued(decoder, torch.tensor([each.prompt], device=device), tokenizer, tokens)
            if each.generates
            else None,
        )
        for number, each in enumerate(asked)
    ]


def _continued(decoder: Decoder, prompt: torch.Tensor, tokenizer: Tokenizer, tokens: int) -> str:
    """The likeliest text of so many tokens, or up to the end of the document, or of what there are positions for."""
    if decoder.position.longest is not None:
        tokens = min(tokens, decoder.position.longest - prompt.shape[1] + 1)
    found = greedy(decoder, prompt, tokens)[0].tolist()
    return tokenizer.decode([*itertools.takewhile(lambda each: each != tokenizer.end_of_document, found)])


def score_rows(
    asked: Sequence[Asked], before: Sequence[Reading], after: Sequence[Reading], tokenizer: Tokenizer
) -> list[Row]:
    """A row for each prompt and moment; scores are 1 for what is wanted, 0 for what is not, None where nothing is told.

    Of a fact and a paraphrase it is wanted that the target is said: ``argmax``, each of its tokens is the likeliest;
    ``likelier``, it is likelier a token than the other answer; ``generated``, it stands in what is generated. Of a
    neighbour, that the likeliest token is that of before, that the other answer is the likelier, and that the target
    does not stand in what is generated.
    """
    rows: list[Row] = []
    for each, *readings in zip(asked, before, after, strict=True):
        target = tokenizer.decode(each.target)
        for moment, reading in zip(MOMENTS, readings, strict=True):
            rows.append(
                {
                    "number": each.number,
                    "part": each.part,
                    "place": each.place,
                    "moment": moment,
                    "prompt": each.text,
                    "target_text": target,
                    "other_text": "" if each.other is None else tokenizer.decode(each.other),
                    "answer_text": tokenizer.decode([reading.target.first]),
                    "continuation": reading.continuation or "",
                    "target_loss_nats": reading.target.loss,
                    "other_loss_nats": None if reading.other is None else reading.other.loss,
                    **_scores(each, reading, readings[0], target),
                }
            )
    return rows


def _scores(asked: Asked, reading: Reading, before: Reading, target: str) -> dict[str, int | None]:
    likelier = None if reading.other is None else int(reading.target.loss < reading.other.loss)
    said = None if reading.continuation is None else int(target.strip() in reading.continuation)
    if asked.part != "neighbour":
        return {"argmax": int(reading.target.said), "likelier": likelier, "generated": said}
    stays = int(reading.target.first == before.target.first)
    return {
        "argmax": stays,
        "likelier": None if likelier is None else 1 - likelier,
        "generated": None if said is None else 1 - said,
    }


# Text that the edit is not about.


def held_out_items(
    parent: Model, evaluation: EvaluationSettings, documents: int, length: int
) -> tuple[str, Source, list[Item]] | None:
    """What they are called, and documents that are long enough; None of an imported model, if none are named.

    Raises:
        UserError: they are not there, or all too short.
    """
    if evaluation.corpus is None and not isinstance(parent.config, RunSettings):
        print(
            f"{parent.path} is an imported model, without held-out documents of its own: what else has changed is not "
            "told; name some, such as evaluation=sotu"
        )
        return None
    ((name, source),) = sources_of([parent], evaluation)
    return name, source, [*source.long_enough(length + 1, documents)]


@torch.inference_mode()
def document_losses(decoder: Decoder, source: Source, items: Sequence[Item], length: int, moment: str) -> Iterator[Row]:
    """The mean loss over the first tokens of each document."""
    for item in items:
        losses = losses_in_one_pass(decoder, on_device(item.ids[: length + 1], decoder))
        yield {
            "document": item.name,
            "cluster": source.cluster(item.name),
            "moment": moment,
            **observed(losses),
        }


class Scorer:
    """Asks decoders for facts, and for other text, which is read once."""

    def __init__(self, ready: Prepared, settings: EditSettings) -> None:
        self.ready, self.settings = ready, settings.scores
        self.device = device_of(settings.accelerator, settings.threads)
        self.length = settings.scores.length or ready.parent.context
        if self.length > ready.parent.context and ready.parent.config.model.position.ends:
            raise UserError(
                f"scores.length is {self.length:,}, and the decoder has positions for {ready.parent.context:,}: lower "
                "it"
            )
        self.text = held_out_items(ready.parent, settings.evaluation, settings.scores.documents, self.length)
        self._before: dict[str, list[Row]] = {}

    def decoder(self) -> Decoder:
        """The parent's, in float32."""
        decoder = self.ready.parent.decoder(self.ready.step).to(self.device)
        decoder.compute_dtype = torch.float32
        return decoder

    def of_facts(self, before: Decoder, after: Decoder, numbers: Sequence[int]) -> list[Row]:
        """Rows of some facts."""
        after.compute_dtype = torch.float32
        ready, asks = self.ready, self.settings
        facts, tokens = [ready.facts[each] for each in numbers], [ready.tokens[each] for each in numbers]
        tokenizer = ready.parent.tokenizer()
        asked = asked_of(
            before, facts, tokens, [number + 1 for number in numbers], asks.generate_every, asks.batch_tokens
        )
        first, second = (read(each, asked, tokenizer, asks.generated, asks.batch_tokens) for each in (before, after))
        return score_rows(asked, first, second, tokenizer)

    def of_text(self, before: Decoder, after: Decoder, number: int) -> list[Row]:
        """Losses of other text, of an edit of one fact (its number) or of all (0)."""
        if self.text is None:
            return []
        _, source, items = self.text
        if "before" not in self._before:
            self._before["before"] = [*document_losses(before, source, items, self.length, MOMENTS[0])]
        every = [*self._before["before"], *document_losses(after, source, items, self.length, MOMENTS[1])]
        return [{"number": number, **row} for row in every]


# What of them is told.


def shares(rows: Sequence[Row], part: str, score: str, moment: str) -> list[float]:
    """Of each fact the share of its prompts of a part that have a score."""
    by_fact: dict[int, list[int]] = {}
    for row in rows:
        if (row["part"], row["moment"]) == (part, moment) and row[score] is not None:
            by_fact.setdefault(row["number"], []).append(row[score])
    return [sum(each) / len(each) for each in by_fact.values()]


def interval(values: Sequence[float]) -> Interval:
    """The mean over clusters of documents, with its interval."""
    return mean_interval(np.array([values]), [1] * len(values), over_seeds=False)


class Share(NamedTuple):
    """A mean over facts of shares between 0 and 1, with its 95 % interval; None where nothing can be told."""

    mean: float
    low: float | None
    high: float | None
    facts: int


def share(values: Sequence[float]) -> Share:
    """Of facts that are all or nothing the exact binomial interval (Clopper and Pearson 1934), of others that of a
    mean, cut off at 0 and 1."""
    count, mean = len(values), sum(values) / len(values)
    if {*values} <= {0.0, 1.0}:
        from scipy.stats import binomtest  # a second to load

        exact = binomtest(round(sum(values)), count).proportion_ci()
        return Share(mean, float(exact.low), float(exact.high), count)
    found = interval(values)
    if not found.known:
        return Share(mean, None, None, count)
    return Share(mean, max(0.0, found.low), min(1.0, found.high), count)


def drifts(rows: Sequence[Row]) -> list[float]:
    """Of each cluster of documents by how much the loss has grown, mean over its documents (and edits)."""
    losses: dict[tuple[str, str, int], dict[str, float]] = {}
    for row in rows:
        losses.setdefault((row["cluster"], row["document"], row["number"]), {})[row["moment"]] = row["loss_nats"]
    by_cluster: dict[str, list[float]] = {}
    for (cluster, *_), each in losses.items():
        by_cluster.setdefault(cluster, []).append(each["after"] - each["before"])
    return [sum(each) / len(each) for each in by_cluster.values()]


def summary(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Of each part and score before and after: mean and interval over facts."""
    found = []
    for part in PARTS:
        for score in ASKED_BY:
            for moment in MOMENTS:
                values = shares(rows, part, score, moment)
                if values:
                    found.append({"part": part, "score": score, "moment": moment, "over": share(values)})
    return found
