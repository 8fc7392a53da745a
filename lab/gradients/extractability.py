"""Does the gradient at a name tell which facts about a person can be asked for?"""

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np

from lab.base.errors import UserError
from lab.base.parts import part
from lab.base.settings import Count, Positive, key
from lab.data.biographies.people import ATTRIBUTES
from lab.data.biographies.wording import Asked
from lab.gradients.capture import Example, batches, capture, places_of
from lab.gradients.concordance import concordance
from lab.gradients.foretelling import BESIDE, DIFFERENCES, FOLDS, READ, Told
from lab.gradients.projection import project, ranked
from lab.observe.measure import Item, Row, Source
from lab.observe.study import DocumentStudy, Headline, Lines, Number

if TYPE_CHECKING:
    from torch import Tensor

    from lab.data.biographies.corpus import Biographies
    from lab.data.biographies.people import Person
    from lab.data.tokenizer import Tokenizer
    from lab.model.decoder import Decoder
    from lab.observe.fold import Fold, Observed

FEATURES = ("length of down's delta", "place in down's delta", "place in the feed-forward's input")
TOGETHER = "all attributes"


@part("study")
class Extractability(DocumentStudy):
    """Of a decoder that was trained on biographies and then on questions: which facts about people whom no question was
    about are answered, told beforehand by numbers at the name alone, without a question.

    - ``the lens at the name``: the gradient of -log p(first token of the value | name): of each layer the logarithm of
      the length of down's delta at the name's last token, and where that token stands in it and in the feed-forward's
      input, read through the vocabulary (Katz et al. 2024, arXiv 2402.12865).
    - ``the lens at another's name``: the same of the same value at the name of somebody who has another. What it tells
      is of the value, not of the person: a frequent value is guessed at any name.
    - ``the biography's own loss``: minus the mean loss of the value in the person's own entries, each read alone by the
      same decoder: how well it is known by heart.
    - ``all but the lens at the name``, and ``all`` three.

    Several numbers are weighed by a logistic regression, fitted on the group ``choosing`` and four fifths of
    ``held_out`` for the last fifth. How well each tells is the area under the ROC curve over pairs of people of
    ``held_out`` within an attribute. The question is ours.
    """

    of_people: ClassVar[bool] = True
    pictures: ClassVar = (
        Lines(
            title="How well one number of one layer tells who is answered",
            by="feature",
            along="layer",
            upward="layer_auc",
            by_label="at the name's last token",
            along_label="layer",
            upward_label="area under the ROC curve (0.5: chance)",
        ),
    )
    headline = Headline("predictor", "auc", "told by", "area under the ROC curve (0.5: chance)")
    built_on = tuple(f"lab.gradients.{each}" for each in ("capture", "concordance", "foretelling", "projection"))

    name: Literal["extractability"] = "extractability"
    people: Count | None = key("of each of the two groups, at most: the first")
    entries: Count = key("read of each person, at most: the first of those trained on")
    penalty: Positive = key("of the regression's squared weights")
    batch_tokens: Count = key("tokens read together, at most; the numbers are the same", decides=False)

    def groups(self, source: Source) -> "dict[str, list[Person]]":
        """Raises UserError if the decoders read of no people, or of too few of a group."""
        from lab.observe.people import biographies_of

        corpus = biographies_of(source, f"study={self.label()}")
        found = {group: corpus.members(group)[: self.people] for group in (READ, BESIDE)}
        if len(found[READ]) < FOLDS:
            raise UserError(f"{len(found[READ])} people of the group {READ} are too few to tell apart: train with more")
        return found

    def made_of(self, source: Source) -> Mapping[str, Any]:
        return {group: [person.name for person in people] for group, people in self.groups(source).items()}

    def items(self, source: Source) -> Iterator[Item]:
        from lab.observe.people import TOGETHER as PAGE
        from lab.observe.people import biographies_of

        corpus = biographies_of(source, f"study={self.label()}")
        for group, people in self.groups(source).items():
            for first in range(0, len(people), PAGE):
                some = people[first : first + PAGE]
                others = [
                    [somebody_else(people, first + number, attribute) for attribute in ATTRIBUTES]
                    for number in range(len(some))
                ]
                ids = np.frombuffer("\n".join(person.name for person in some).encode(), np.uint8).astype(np.uint32)
                details = {"people": some, "others": others, "corpus": corpus, "tokenizer": source.tokenizer}
                yield Item(f"{group}/{first:06d}", ids, details)

    def observe(self, decoder: "Decoder", item: Item, context: int) -> "Observed":
        import torch

        people, corpus, tokenizer = (item.details[each] for each in ("people", "corpus", "tokenizer"))
        values = [[person.value(attribute) for attribute in ATTRIBUTES] for person in people]
        own = [[person.name] * len(ATTRIBUTES) for person in people]
        others = [[person.name for person in each] for each in item.details["others"]]
        loss, stated = losses_of_values(decoder, people, corpus, tokenizer, self.entries)
        return {
            f"{item.name}/lens": (lens_at_names(decoder, own, values, tokenizer, self.batch_tokens), 1),
            f"{item.name}/other": (lens_at_names(decoder, others, values, tokenizer, self.batch_tokens), 1),
            f"{item.name}/loss": (torch.from_numpy(loss), torch.from_numpy(stated)),
            f"{item.name}/right": (torch.from_numpy(answered(decoder, people, corpus, tokenizer)), 1),
        }

    def rows(self, fold: "Fold", context: int) -> list[Row]:
        told = Told.of(fold, self.penalty)
        layers = told.lens.shape[2]
        found: list[Row] = []
        empty = {"feature": "", "layer": None, "layer_auc": None}
        for predictor, scores in told.scores.items():
            for number, attribute in [*enumerate(ATTRIBUTES), (None, TOGETHER)]:
                strata = None if number is None else [number]
                each = concordance(scores, told.right, told.known, strata)
                counted = told.known if number is None else told.known[:, number]
                right = told.right if number is None else told.right[:, number]
                auc = each.share if each.pairs else None
                found.append(
                    {
                        "predictor": predictor,
                        "attribute_text": attribute.replace("_", " "),
                        "auc": auc if number is None else None,
                        "attribute_auc": auc,
                        "pairs": each.pairs,
                        "facts": int(counted.sum()),
                        "answered": float(right[counted].mean()) if counted.any() else None,
                    }
                    | empty
                )
        for number, feature in enumerate(FEATURES):
            for layer in range(layers):
                each = concordance(told.lens[:, :, layer, number], told.right, told.known)
                row = dict.fromkeys(found[0]) | {"predictor": "", "attribute_text": TOGETHER, "pairs": each.pairs}
                at = {"feature": feature, "layer": layer + 1, "layer_auc": each.share if each.pairs else None}
                found.append(row | at)
        return found

    def numbers(self, fold: "Fold", rows: Sequence[Row]) -> Iterator[Number]:
        told, names = Told.of(fold, self.penalty), fold.identity["made_of"][READ]
        for name, right in zip(names, told.right.mean(axis=1).tolist(), strict=True):
            yield Number("answered", right, name)
        by_predictor = {
            predictor: concordance(scores, told.right, told.known).pseudo for predictor, scores in told.scores.items()
        }
        differences = {
            f"{one} less that of {other}": by_predictor[one] - by_predictor[other] for one, other in DIFFERENCES
        }
        of_each = by_predictor | differences
        for what, values in of_each.items():
            if np.isfinite(values).all():
                for name, value in zip(names, values.tolist(), strict=True):
                    yield Number(f"AUC of {what}", value, name)


def somebody_else(people: "Sequence[Person]", number: int, attribute: str) -> "Person":
    """The next person who has another value; the next where all have the same."""
    after = [people[(number + step) % len(people)] for step in range(1, len(people) + 1)]
    value = people[number].value(attribute)
    return next((each for each in after if each.value(attribute) != value), after[0])


def lens_at_names(
    decoder: "Decoder",
    names: Sequence[Sequence[str]],
    values: Sequence[Sequence[str]],
    tokenizer: "Tokenizer",
    batch_tokens: int,
) -> "Tensor":
    """FEATURES of each layer, [people, attributes, layers, features], float64.

    Args:
        names, values: [people, attributes]: at which name, and what is to be said there.
    """
    import torch

    from lab.observe.people import prompt_of

    examples = []
    for of_person in zip(names, values, strict=True):
        for name, value in zip(*of_person, strict=True):
            prompt = prompt_of(tokenizer, Asked(name, f" {value}."))
            examples.append(Example(tuple(prompt.ids.tolist()), (int(prompt.answer[0]),)))
    places = places_of(decoder, None, ("gate", "down"))
    layers = len(decoder.blocks)
    found = torch.zeros(len(examples), layers, len(FEATURES), dtype=torch.float64)
    for group in batches(examples, batch_tokens, decoder.position):
        here = [examples[number] for number in group]
        captured = capture(decoder, here, places, torch.float64)
        rows = torch.arange(len(here))
        last = torch.tensor([len(each.prompt) - 1 for each in here])
        targets = torch.tensor([each.target[0] for each in here], device=decoder.embedding.device)
        for place in places:
            vectors = (captured.deltas if place.matrix == "down" else captured.inputs)[place][rows, last]
            logits = project(decoder, vectors)
            stood = ranked(logits, targets).rank.cpu() / max(logits.shape[1] - 1, 1)
            if place.matrix == "down":
                lengths = torch.linalg.vector_norm(vectors, dim=-1).double().cpu()
                found[group, place.layer - 1, 0] = lengths.clamp(min=1e-300).log()
                found[group, place.layer - 1, 1] = stood
            else:
                found[group, place.layer - 1, 2] = stood
    return found.view(len(names), -1, layers, len(FEATURES))


def losses_of_values(
    decoder: "Decoder", people: "Sequence[Person]", corpus: "Biographies", tokenizer: "Tokenizer", most: int
) -> tuple[np.ndarray, np.ndarray]:
    """The mean loss in nats of each value's tokens where the person's own entry, read alone, states it behind the name:
    summed over entries, and over how many; both [people, attributes]."""
    import torch

    from lab.observe.people import marked, padded

    total, count = np.zeros((len(people), len(ATTRIBUTES))), np.zeros((len(people), len(ATTRIBUTES)), dtype=np.int64)
    for number, person in enumerate(people):
        entries = [marked(tokenizer, written) for written in corpus.written(person)[:most]]
        ids = padded([each.ids for each in entries], tokenizer.end_of_document).astype(np.int64)
        tokens = torch.from_numpy(ids).to(decoder.embedding.device)
        with torch.no_grad():
            logits = decoder.logits(decoder.hidden(tokens[:, :-1])).double()
        losses = torch.nn.functional.cross_entropy(logits.transpose(1, 2), tokens[:, 1:], reduction="none").cpu()
        for row, entry in enumerate(entries):
            for attribute, name in enumerate(ATTRIBUTES):
                first, behind = entry.values[name]
                if first >= entry.name[0]:
                    total[number, attribute] += float(losses[row, first - 1 : behind - 1].mean())
                    count[number, attribute] += 1
    return total, count


def answered(
    decoder: "Decoder", people: "Sequence[Person]", corpus: "Biographies", tokenizer: "Tokenizer"
) -> np.ndarray:
    """1 where the greedy answer to the question is right letter by letter and ends there: [people, attributes]."""
    from lab.observe.people import answers, prompt_of

    prompts = [prompt_of(tokenizer, corpus.ask(person, attribute)) for person in people for attribute in ATTRIBUTES]
    said = answers(decoder, prompts)
    right = [np.array_equal(given, prompt.answer) for given, prompt in zip(said, prompts, strict=True)]
    return np.array(right, dtype=float).reshape(len(people), len(ATTRIBUTES))
