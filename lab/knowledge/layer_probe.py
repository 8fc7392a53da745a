"""Layer probe: in which layer, and how early in an entry, is a fact a linear function of the state?"""

from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np

from lab.base.parts import part
from lab.base.settings import Positive, key
from lab.knowledge.probing import (
    FITTED,
    GROUPS,
    NAME,
    READ,
    TOGETHER,
    Entries,
    EntryProbe,
    observed_beside,
    observed_right,
    word_of_position,
)
from lab.observe.measure import Item, Row
from lab.observe.study import Headline, Map

if TYPE_CHECKING:
    from lab.model.decoder import Decoder
    from lab.observe.fold import Observed

POSITIONS = range(7)


@part("study")
class LayerProbe(EntryProbe):
    """Linear probes of the states behind every layer (0: what enters the first block), fitted on the entries of the
    training group and read on those of the held-out group: multinomial logistic regression, or ridge regression.

    ``people_per_class`` and ``training_right`` say how much a probe of so many people can mean: with few people of each
    value it learns these by heart.
    """

    pictures: ClassVar = (
        Map(
            title="Read from held-out people's entries, mean over attributes",
            down="layer",
            across="position",
            value="mean_right",
            labels=("layer", "position (0: the name's end; 1 to 6: before the next attribute)", "share read right"),
        ),
        Map(
            title="Read from held-out people's entries",
            down="line",
            across="position",
            value="held_out_right",
            labels=("", "position (0: the name's end; 1 to 6: before the next attribute)", "share read right"),
        ),
    )
    headline = Headline("layer", "right_at_the_name", "layer", "read at the name's end, mean over attributes")

    name: Literal["layer_probe"] = "layer_probe"
    fit: Literal["logistic", "ridge"] = key("logistic or ridge: what the probes minimise")
    penalty: Positive = key("on squared weights, of states brought to variance 1: as 1 / C of scikit-learn")

    def observe(self, decoder: "Decoder", item: Item, context: int) -> "Observed":
        from lab.observe.linear import fit_linear

        task, classes = item.details["task"], item.details["classes"]
        entries: dict[str, Entries] = item.details["entries"]
        states = {group: states_of(decoder, entries[group]) for group in GROUPS}
        found: dict[str, Any] = {}
        of_class = {FITTED: classes.training, READ: classes.held_out}
        wanted = {group: of_class[group][entries[group].person] for group in GROUPS}
        for layer in range(states[READ].shape[1]):
            right = np.zeros((len(entries[READ]), len(POSITIONS)))
            for position in POSITIONS:
                fitted = states[FITTED][:, layer, position]
                probe = fit_linear(self.fit, fitted, wanted[FITTED], classes.number, self.penalty)
                for group in GROUPS:
                    hit = (probe.read(states[group][:, layer, position]) == wanted[group]).astype(float)
                    found |= observed_right(task, group, layer, position, hit, entries[group].person)
                    if group == READ:
                        right[:, position] = hit
            found |= observed_beside(task, entries[READ], layer, right, POSITIONS)
        return found

    def rows(self, fold: Any, context: int) -> list[Row]:
        rows = super().rows(fold, context)
        for row in rows:
            at_the_name = row["position"] == NAME and row["target"] == self.targets[0]
            row["right_at_the_name"] = row["mean_right"] if at_the_name else None
        return rows

    def line(self, row: Row) -> str:
        return f"{row['attribute_text']}, {row['target']}, layer {row['layer']}"

    def where(self, layer: int, position: int, layers: int) -> list[str]:
        at = f" at {word_of_position(position)} in"
        return [f"{at} layer {layer}", *([f"{at} the middle layer"] if layer == max(layers // 2, 1) else [])]


def states_of(decoder: "Decoder", entries: Entries) -> np.ndarray:
    """States of entries [entries, layers, 7 positions, width] in float64, each entry read alone."""
    import torch

    from lab.observe import taps

    layers, device, found = taps.states(decoder), decoder.embedding.device, []
    for first in range(0, len(entries), TOGETHER):
        some = slice(first, first + TOGETHER)
        tokens = torch.from_numpy(entries.tokens[some]).to(device)
        places = torch.from_numpy(entries.places[some]).to(device)
        with taps.reading(decoder, layers) as seen:
            decoder.hidden(tokens)
        rows = torch.arange(len(tokens), device=device)[:, None]
        found.append(torch.stack([seen[layer][rows, places].double() for layer in layers], dim=1).cpu().numpy())
    return np.concatenate(found)
