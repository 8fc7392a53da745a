"""Keys of the extensions, and what each is abroad. No torch here."""

import math
from typing import Annotated, Literal

from pydantic import Field

from lab.base.parts import part
from lab.base.settings import Count, Positive, Text, key
from lab.extension import longrope, rope_rules  # noqa: F401  (parts)
from lab.extension.rope_rules import LARGEST
from lab.runs.extensions import ExtensionSettings


def scaling(factor: float, k: float) -> float:
    """1 + k ln s, s being an extension factor (arXiv 2404.12224, equation 4)."""
    return 1 + k * math.log(factor)


def widened(window: int, ratio: float) -> int:
    """A window of r times as many keys."""
    return round(window * ratio)


@part("extension", "lab.extension.temperature:Temperature")
class TemperatureSettings(ExtensionSettings):
    """A factor on the attention logits, before a bias is added to them."""

    name: Literal["temperature"] = "temperature"
    temperature: Positive = key("factor on the logits; 1 changes nothing")

    @property
    def logit_factor(self) -> float:
        return self.temperature


@part("extension", "lab.extension.attention_scaling:AttentionScaling")
class AttentionScalingSettings(ExtensionSettings):
    """Logits times 1 + k ln s (arXiv 2404.12224)."""

    name: Literal["attention_scaling"] = "attention_scaling"
    factor: float = key("s: contexts C that are to be reached", ge=1, le=LARGEST)
    k: Annotated[float, Field(ge=0)] | Literal["fit"] = key(
        "of 1 + k ln s, published are 0.30 to 0.40; fit: the best on validation documents of s contexts, see search"
    )

    @property
    def logit_factor(self) -> float:
        return scaling(self.factor, float(self.k))


@part("extension", "lab.extension.attention_scaling:InitialScaling")
class InitialScalingSettings(ExtensionSettings):
    """Logits with the first tokens only times 1 + k ln s (arXiv 2405.18009, table 3)."""

    name: Literal["initial_scaling"] = "initial_scaling"
    factor: float = key("s: contexts C that are to be reached", ge=1, le=LARGEST)
    k: float = key("of 1 + k ln s", ge=0)
    first: Count = key("tokens at the beginning of a text whose keys have the factor")


@part("extension", "lab.extension.window_extension:WindowExtension")
class WindowExtensionSettings(ExtensionSettings):
    """A window of W keys becomes one of r W, and logits have a factor (arXiv 2405.18009)."""

    name: Literal["window_extension"] = "window_extension"
    ratio: float = key("r: W becomes round(r W)", ge=1, le=LARGEST)
    scale: Positive = key("factor on the logits")

    @property
    def logit_factor(self) -> float:
        return self.scale

    def window_of(self, window: int | None) -> int | None:
        return None if window is None else widened(window, self.ratio)


@part("extension", "lab.extension.vector_replacement:VectorReplacement")
class VectorReplacementSettings(ExtensionSettings):
    """In one layer states get positional vectors of earlier positions (arXiv 2405.18009)."""

    name: Literal["vector_replacement"] = "vector_replacement"
    layer: Count | Literal["sweep"] = key("block behind which it is done, from 1; sweep: the best of all, see search")
    ratio: float = key("r: vectors of positions inside C are stretched so many times", ge=1, le=LARGEST)
    alpha: Positive = key("factor on the vectors that are put in")
    first: Count = key("tokens at the beginning of a text that are left as they are")
    stretch: Literal["linear", "cubic"] = key("between vectors: straight lines, or splines")
    beyond: Literal["measured", "extrapolated"] = key("what is taken off past C: measured vectors, or a line's")
    contexts: int = key("contexts C that are reached; no more than those of vectors.longest", ge=2)
    force: bool = key("for decoders with RoPE or ALiBi too, for which it is none: a negative control", decides=False)
    table_sha256: Text | None = key("of what is added to states: found, not given", default=None)

    @property
    def table(self) -> str | None:
        return self.table_sha256

    @property
    def label(self) -> str:
        """What tells one from another in tables."""
        told = [f"layer={self.layer}", f"r={self.ratio:g}", f"alpha={self.alpha:g}", f"to {self.contexts}C"]
        told += [f"first={self.first}"] * (self.first != 4)
        told += [each for each in (self.stretch, self.beyond) if each not in ("linear", "measured")]
        return f"{self.name}({', '.join(told)})"
