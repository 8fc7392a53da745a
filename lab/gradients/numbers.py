"""What claims may name of profiles of gradients: means over layers, in words."""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from lab.gradients.capture import MATRICES
from lab.gradients.parts import PARTS
from lab.gradients.profile import TOKENS, VECTORS

if TYPE_CHECKING:
    from torch import Tensor

FEED_FORWARD = slice(4, 7)  # of MATRICES
DOWN = MATRICES.index("down")
FIFTH = 5


def quarters(layers: int) -> dict[str, slice]:
    """Layers from 0, by what they are called; of fewer than four the second quarter is empty."""
    quarter = max(1, layers // 4)
    return {
        "in the first quarter": slice(0, quarter),
        "in the second quarter": slice(quarter, layers // 2),
        "in the upper quarter": slice(layers - quarter, layers),
        "below the upper quarter": slice(0, layers - quarter),
    }


def numbers_of(profile: "Mapping[str, Tensor]") -> Iterator[tuple[str, float]]:
    """The numbers of a mean profile (:mod:`lab.gradients.profile`) by their names; those that there are."""
    for name, values in _named(profile):
        kept = values[~values.isnan()]
        if len(kept):
            yield name, float(kept.mean())


def _named(profile: "Mapping[str, Tensor]") -> "Iterator[tuple[str, Tensor]]":
    layers = len(profile["rank"])
    yield "rank is the number of tokens in feed-forwards below the last", profile["full"][:-1, FEED_FORWARD].flatten()
    yield "rank is one in the last feed-forward", profile["least"][-1, FEED_FORWARD]
    yield "rank is the greatest possible", profile["greatest"].flatten()
    yield "shift of down against its delta", profile["shift"]
    apart = max(1, round(layers / FIFTH))
    if layers > 1:
        yield "cosine of down's deltas a fifth of the layers apart", profile["cosine"].diagonal(apart)
        yield "cosine of down's deltas in the first and the last layer", profile["cosine"][0, -1].reshape(1)
    above, below = quarters(layers)["in the upper quarter"], quarters(layers)["below the upper quarter"]
    for number, (matrix, kind) in enumerate(VECTORS):
        places, bottom = profile["place"][:, number], profile["bottom"][:, number]
        if kind == "principal":
            yield f"place of target in the whole gradient of {matrix}", places[:, 0]
            continue
        for column, what in enumerate(TOKENS[:2]):
            name = f"place of {what} in {matrix}'s {kind}s"
            yield name, places[:, column]
            yield f"{name} in the first quarter", places[quarters(layers)["in the first quarter"], column]
            yield f"{name} in the upper quarter", places[above, column]
        if kind == "delta":
            name = f"target at the very bottom of {matrix}'s deltas"
            yield name, bottom
            yield f"{name} in the upper quarter", bottom[above]
            yield f"{name} below the upper quarter", bottom[below]
    lengths = profile["length"][:, DOWN]
    mean = lengths[:, PARTS.index("last token")].mean()  # of the last token over layers: what all are told as parts of
    for told, chosen in quarters(layers).items():
        for number, of_part in enumerate(PARTS):
            yield f"length of down's deltas at {part_told(of_part)} {told}", lengths[chosen, number] / mean


def part_told(part: str) -> str:
    """A part of a prompt in a sentence."""
    return f"the {part}" if part == "last token" else f"part {part}"
