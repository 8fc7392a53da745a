"""What the gradients of a prompt say of a decoder in numbers that can be averaged over prompts.

Of L layers and the seven matrices, in the order of MATRICES; nan where there is nothing (a vector of zeros, a part that
a prompt does not have):

- ``rank`` [L, 7], and whether it is the number of tokens read (``full``), that of the target's (``least``), the
  greatest that it can be (``greatest``);
- ``length`` [L, 7, parts]: mean length of delta_i by part of the prompt, in the order of PARTS;
- ``share`` [L, 7]: of the gradient that its principal direction has;
- ``place`` [L, 11, 4]: where target, answer, a random and a frequent token stand, as a part of the vocabulary, 0 at the
  top and 1 at the bottom: in the prompt's last token's vectors of OF_WIDTH, then in the seven principal directions;
- ``bottom`` [L, 11]: whether the target is at the very bottom there, no token being below it;
- ``cosine`` [L, L]: of the last token's delta of ``down`` in two layers;
- ``shift`` [L]: the cosine of what a step of ``down`` adds to its output at the last token, with the terms of all
  tokens (:mod:`lab.gradients.steps`), and minus the delta there.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from lab.gradients.capture import MATRICES, Captured, Place
from lab.gradients.parts import PARTS
from lab.gradients.projection import OF_WIDTH, project, ranked, shown
from lab.gradients.ranks import Shape, bound, ranks
from lab.gradients.steps import moved
from lab.gradients.whole import principal, unit

if TYPE_CHECKING:
    from torch import Tensor

    from lab.model.decoder import Decoder

TOKENS = ("target", "answer", "random", "frequent")
# What ``place`` is of: the matrix, and which of its vectors.
VECTORS = (*OF_WIDTH, *((matrix, "principal") for matrix in MATRICES))
Profile = dict[str, "Tensor"]


def profiles(
    decoder: "Decoder",
    shape: Shape,
    captured: Captured,
    parts: Sequence[Sequence[str]],
    others: Sequence[Mapping[str, int]],
) -> list[Profile]:
    """The profile of each prompt of a batch, of which all matrices were captured; float64, on the CPU.

    Args:
        parts: of each prompt, the part of each token that is read.
        others: of each prompt the tokens ``random`` and ``frequent``.
    """
    import torch

    count, layers = len(captured.examples), len(decoder.blocks)

    def empty(*sides: int) -> "Tensor":
        return torch.full((count, layers, *sides), float("nan"), dtype=torch.float64)

    found = {name: empty(len(MATRICES)) for name in ("rank", "full", "least", "greatest", "share")}
    found["length"] = empty(len(MATRICES), len(PARTS))
    found["place"], found["bottom"] = empty(len(VECTORS), len(TOKENS)), empty(len(VECTORS))
    found["shift"] = empty()
    device = decoder.embedding.device
    last = torch.tensor([len(example.prompt) - 1 for example in captured.examples], device=device)
    rows = torch.arange(count, device=device)
    tokens = [
        {"target": example.target[0], "answer": answer, **other}
        for example, answer, other in zip(captured.examples, captured.answers, others, strict=True)
    ]
    asked = {what: torch.tensor([each[what] for each in tokens], device=device) for what in TOKENS}

    read: dict[
        int, dict[int, Tensor]
    ] = {}  # by layer the vectors that are read through the vocabulary, by their number

    of_ranks = ranks(captured)
    for place, deltas in captured.deltas.items():
        layer, column = place.layer - 1, MATRICES.index(place.matrix)
        for row, example in enumerate(captured.examples):
            rank = of_ranks[place][row].rank
            found["rank"][row, layer, column] = rank
            found["full"][row, layer, column] = rank == len(example.read)
            found["least"][row, layer, column] = rank == len(example.target)
            greatest = bound(shape, place, example.read, len(example.target))
            found["greatest"][row, layer, column] = rank == greatest
        lengths = torch.linalg.vector_norm(deltas, dim=-1).double().cpu()
        for row, own in enumerate(parts):
            for part in dict.fromkeys(own):
                chosen = [number for number, each in enumerate(own) if each == part]
                found["length"][row, layer, column, PARTS.index(part)] = lengths[row, chosen].mean()
        whole = principal(captured.inputs[place], deltas, place.matrix)
        found["share"][:, layer, column] = whole.shares.cpu()
        of_layer = read.setdefault(layer, {})
        of_layer[VECTORS.index((place.matrix, "principal"))] = whole.vectors.to(deltas.dtype)
        for number, (matrix, kind) in enumerate(OF_WIDTH):
            if matrix == place.matrix:
                held = captured.inputs[place] if kind == "input" else deltas
                of_layer[number] = held[rows, last]
        if place.matrix == "down":
            for row in range(count):
                factors, at = captured.factors(row, place), int(last[row])
                added = moved(factors, 1.0, factors.inputs[at : at + 1])
                found["shift"][row, layer] = -(unit(added) * unit(factors.deltas[at])).sum()
    for layer, by_number in read.items():
        # Together, since a head of another type is cast for each product.
        vectors = torch.cat([*by_number.values()])
        logits, there = project(decoder, vectors), shown(vectors).view(-1, count).cpu()
        highest = logits.shape[1] - 1
        for column, what in enumerate(TOKENS):
            stood = ranked(logits, asked[what].repeat(len(by_number)))
            places = (stood.rank / max(highest, 1)).view(-1, count).cpu()
            bottom = (stood.above + stood.ties == highest).double().view(-1, count).cpu()
            for index, number in enumerate(by_number):
                seen = there[index]
                found["place"][seen, layer, number, column] = places[index, seen]
                if what == "target":
                    found["bottom"][seen, layer, number] = bottom[index, seen]
    downs = [unit(captured.deltas[Place(layer, "down")][rows, last]).double().cpu() for layer in range(1, layers + 1)]
    directions = torch.stack(downs, dim=1)
    found["cosine"] = directions @ directions.mT
    return [{name: values[row] for name, values in found.items()} for row in range(count)]
