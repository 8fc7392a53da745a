"""The uncentred covariance of the inputs of a matrix, C = E[k k^T], over stretches of text."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from lab.gradients.capture import Example, Place, capture_inputs

if TYPE_CHECKING:
    from lab.model.decoder import Decoder
    from lab.observe.fold import Observed

KEY = "outer"


def observe_keys(decoder: "Decoder", place: Place, stretches: Sequence[Sequence[int]]) -> "Observed":
    """The sum of k k^T over all tokens of stretches of one length, formed in float64, and how many they are."""
    import torch

    # A target that nobody reads: of an example the prompt is read, and all of the target but its last token.
    examples = [Example(tuple(each), (0,)) for each in stretches]
    keys = capture_inputs(decoder, examples, [place], decoder.compute_dtype)[place].flatten(0, 1).double()
    return {KEY: (keys.mT @ keys, torch.full((keys.shape[1],), len(keys), dtype=torch.int64))}
