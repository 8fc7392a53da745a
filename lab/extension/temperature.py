"""Temperature: q k^T / sqrt(head_dim) times a constant, in every layer and head. A bias such as ALiBi's stays as it is.

The simplest of extensions, and a part of others: YaRN (arXiv 2309.00071, section 3.4) multiplies logits by
(0.1 ln s + 1)^2, and arXiv 2405.18009 scales them with the length.
"""

from lab.extension.extension import Scaled
from lab.model.decoder import Decoder


class Temperature:
    """softmax(temperature * q k^T / sqrt(head_dim) - slope * distance): the factor is on the product alone."""

    def __init__(self, temperature: float) -> None:
        self.temperature = temperature

    def __call__(self, decoder: Decoder) -> None:
        decoder.position = Scaled(decoder.position, self.temperature)
