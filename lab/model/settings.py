"""Keys of the decoder: position encodings, attentions, shape. No torch here."""

from typing import ClassVar, Literal

from pydantic import model_validator

from lab.base.parts import one_of, part
from lab.base.settings import Count, Positive, Settings, key


class PositionSettings(Settings):
    """What every position encoding has.

    ``slopes``: whether it biases logits by distance. ``absolute``: whether it adds to the embedding, and so is made for
    a width and a context. ``ends``: whether it has no positions beyond that context.
    """

    slopes: ClassVar[bool] = False
    absolute: ClassVar[bool] = False
    ends: ClassVar[bool] = False


@part("position", "lab.model.position:NoPE")
class NoPESettings(PositionSettings):
    """No position encoding: order is known from the causal mask alone."""

    name: Literal["nope"] = "nope"


@part("position", "lab.model.position:RoPE")
class RoPESettings(PositionSettings):
    """Rotary position embedding."""

    name: Literal["rope"] = "rope"
    base: Positive = key("wavelength base (TinyLlama: 10,000)")


@part("position", "lab.model.position:ALiBi")
class ALiBiSettings(PositionSettings):
    """Attention with linear biases; slopes follow from the number of heads."""

    slopes = True

    name: Literal["alibi"] = "alibi"


@part("position", "lab.model.position:Sinusoidal")
class SinusoidalSettings(PositionSettings):
    """Fixed sines and cosines, added to the embedding."""

    absolute = True

    name: Literal["sinusoidal"] = "sinusoidal"


@part("position", "lab.model.position:Learned")
class LearnedSettings(PositionSettings):
    """A trained vector for each position of C, added to the embedding; there is none beyond."""

    absolute = True
    ends = True

    name: Literal["learned"] = "learned"


class AttentionSettings(Settings):
    """What every attention has.

    ``causal``: whether a query sees nothing behind itself, as who foretells the next token must.
    """

    causal: ClassVar[bool] = True


@part("attention", "lab.model.attention:Attention")
class FullAttentionSettings(AttentionSettings):
    """Every query sees all keys before it."""

    name: Literal["full"] = "full"
    window: None = key("null: all keys")


@part("attention", "lab.model.attention:Attention")
class WindowedAttentionSettings(AttentionSettings):
    """Every query sees the last keys only."""

    name: Literal["window"] = "window"
    window: Count = key("keys that a query sees, its own included")


@part("attention", "lab.model.attention:bidirectional")
class BidirectionalAttentionSettings(AttentionSettings):
    """Every query sees all keys, those behind it too; trained with objective=masked."""

    causal = False

    name: Literal["bidirectional"] = "bidirectional"
    window: None = key("null: all keys")


class ModelSettings(Settings):
    """What variants differ in: position encoding x attention."""

    position: one_of("position")  # type: ignore[valid-type]
    attention: one_of("attention")  # type: ignore[valid-type]
    tied: bool = key("true: the head uses the embedding's matrix")
    eps: Positive = key("of the norms (TinyLlama: 1e-5)")

    @model_validator(mode="after")
    def _order_is_told(self) -> "ModelSettings":
        if not self.attention.causal and (self.position.slopes or self.position.name == "nope"):
            why = "biases by the distance to keys before" if self.position.slopes else "knows order by the causal mask"
            raise ValueError(
                f"position is {self.position.name}, which {why}, and attention is {self.attention.name}: take rope"
            )
        return self


class ShapeSettings(Settings):
    """Shape and context of a decoder."""

    vocabulary: Count = key("token ids of embedding and head; the tokenizer's")
    context: int = key("C, in tokens: a block is C + 1", ge=2)
    layers: Count = key("blocks of attention and feed-forward")
    width: Count = key("of the residual stream")
    hidden: Count = key("width of the feed-forward (SwiGLU)")
    heads: Count = key("query heads")
    kv_heads: Count = key("key and value heads; divides heads")
    head_dim: Count = key("width of one head")

    @model_validator(mode="after")
    def _heads_divide(self) -> "ShapeSettings":
        if self.heads % self.kv_heads:
            raise ValueError(
                f"heads is {self.heads} and kv_heads is {self.kv_heads}: each key head serves heads / "
                "kv_heads query heads; choose kv_heads that divides heads"
            )
        return self


class ScaleSettings(ShapeSettings):
    """Shape, context, windows, budget and batch of a run."""

    window: Count = key("keys that a query of a windowed variant sees, itself included")
    narrow_window: Count = key("keys that a query of the narrow window sees")
    tokens: Count = key("budget of the run: tokens trained on")
    batch_tokens: Count = key("tokens of one optimiser step, of all ranks together")
    micro_batch: Count = key("blocks computed at a time; batch_tokens is reached by accumulation")
    learning_rate: Positive = key("peak")
    warmup_steps: int = key("optimiser steps of linear warm-up", ge=0)
    validation_blocks: Count = key("blocks of the validation loss")
