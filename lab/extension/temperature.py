"""Temperature: q k^T / sqrt(head_dim) times a constant, in every layer and head. A bias such as ALiBi's stays as it is.

The simplest of extensions, and a part of others: YaRN (arXiv 2309.00071, section 3.4) multiplies logits by
(0.1 ln s + 1)^2, and arXiv 2405.18009 scales them with the length.
"""

from torch import Tensor

from lab.model.position import PositionEncoding


class Temperature:
    """softmax(temperature * q k^T / sqrt(head_dim) - slope * distance): the factor is on the product alone."""

    def __init__(self, temperature: float) -> None:
        self.temperature = temperature

    def __call__(self, position: PositionEncoding) -> PositionEncoding:
        return Scaled(position, self.temperature)


class Scaled(PositionEncoding):
    """A position encoding whose logits have a further factor."""

    def __init__(self, inner: PositionEncoding, factor: float) -> None:
        super().__init__(inner.heads, inner.head_dim)
        self.inner, self.factor = inner, factor
        self.slopes = inner.slopes
        self.depends_on_length = inner.depends_on_length

    def reach(self, length: int) -> None:
        self.inner.reach(length)

    def scale(self, length: int) -> float:
        return self.factor * self.inner.scale(length)

    def rotate(self, query: Tensor, key: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
        return self.inner.rotate(query, key, positions)
