"""Attention scaling: logits times 1 + k ln s, in every layer and head, or of the first tokens' keys only.

Without positions attention spreads over more keys as a text grows; a factor above 1 gathers it again (Wang et al. 2024,
arXiv 2404.12224, section 3.1, who fit k = 0.30 to 0.40; arXiv 2405.18009 compares with it). Scaling the
logits of the first tokens alone ("initial scaling", ibid., table 3) keeps what an attention sink takes.
"""

from torch import Tensor

from lab.extension.extension import Around, Scaled
from lab.extension.settings import scaling
from lab.model.decoder import Decoder
from lab.model.position import PositionEncoding


class AttentionScaling:
    """softmax((1 + k ln s) q k^T / sqrt(head_dim) - slope * distance), whatever the length of a text.

    Args:
        factor: s, how many contexts C are to be reached.
    """

    def __init__(self, factor: float, k: float) -> None:
        self.logit_factor = scaling(factor, k)

    def __call__(self, decoder: Decoder) -> None:
        decoder.position = Scaled(decoder.position, self.logit_factor)


class InitialScaling:
    """The same factor on the logits of the keys of the first tokens only.

    Args:
        first: how many.
    """

    def __init__(self, factor: float, k: float, first: int) -> None:
        self.logit_factor, self.first = scaling(factor, k), first

    def __call__(self, decoder: Decoder) -> None:
        decoder.position = FirstKeysScaled(decoder.position, self.logit_factor, self.first)


class FirstKeysScaled(Around):
    """The keys of the first tokens have a factor, and so have the logits of all queries with them."""

    def __init__(self, inner: PositionEncoding, factor: float, first: int) -> None:
        super().__init__(inner)
        self.factor, self.first = factor, first

    def rotate(self, query: Tensor, key: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
        query, key = self.inner.rotate(query, key, positions)
        factors = key.new_ones(len(positions)).masked_fill(positions < self.first, self.factor)
        return query, key * factors[:, None]
