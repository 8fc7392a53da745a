"""Window extension: a window of W keys becomes one of r W, and logits have a factor (arXiv 2405.18009)."""

from lab.base.errors import UserError
from lab.extension.extension import Scaled
from lab.extension.settings import widened
from lab.model.attention import Attention
from lab.model.decoder import Decoder


class WindowExtension:
    """A query sees round(r W) keys, its own included, in every layer.

    Args:
        ratio: r.
        scale: factor on the logits.
    """

    def __init__(self, ratio: float, scale: float) -> None:
        self.ratio, self.scale = ratio, scale

    def __call__(self, decoder: Decoder) -> None:
        for block in decoder.blocks:
            attention = block.attention
            assert isinstance(attention, Attention)
            if attention.window is None:
                raise UserError("extension window_extension: this decoder sees all keys, and has no window to extend")
            attention.window = widened(attention.window, self.ratio)
        decoder.position = Scaled(decoder.position, self.scale)
