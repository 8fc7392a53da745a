"""RoPE with other frequencies: one class a method, with its keys and its equation. No torch here.

RoPE turns pair i of a head's d dimensions by t * b^(-2i/d) at position t, b being the base. A rule divides these
frequencies by factors lambda_i (1: as they were; more: interpolated), multiplies cosine and sine by an attention
factor, and so the logits by its square, and may have both depend on the length of a text. L is the context that the
frequencies were trained at, s = L'/L how many times as long the texts are that a rule is for.
"""

import math
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple

import numpy as np
from jaxtyping import Float
from pydantic import model_validator

from lab.base.errors import UserError
from lab.base.parts import part
from lab.base.settings import Count, Positive, key
from lab.runs.extensions import ExtensionSettings

if TYPE_CHECKING:
    from lab.model.decoder import Decoder

Factors = Float[np.ndarray, "half"]
LARGEST = 1e6  # contexts; published extensions reach 512
FACTOR = "s = L'/L: how many times as long as the context L texts may be"
CONTEXT = "L, the context that the frequencies are of; null: that of the run, or of the first of its parents"


class Frequencies(NamedTuple):
    """How positions of a text turn.

    Attributes:
        divisors: lambda_i, of each of the d/2 pairs.
        attention_factor: on cosine and sine; logits have its square.
        kept: positions at the beginning that turn as without a rule (LongRoPE's n-hat).
    """

    divisors: Factors
    attention_factor: float = 1.0
    kept: int = 0


class RopeRule(ExtensionSettings):
    """A rule, which is its own settings.

    It takes the place of another that a decoder has by training: factors are those of the plain frequencies always.
    """

    published: ClassVar[dict[str, Any]] = {}  # values that labels pass over in silence

    context: Count | None = key(CONTEXT, default=None)

    @property
    def length(self) -> int:
        """L. Raises UserError if it was not filled in."""
        if self.context is None:
            raise UserError(f"extension.context of {self.name} must be given: {CONTEXT.partition(';')[0]}")
        return self.context

    @property
    def by_length(self) -> Literal["no", "text", "position"]:
        """Whether it depends on the length of a text; and if so, that of the whole text at hand has one set of
        frequencies, or each position has those of the text that ends with it."""
        return "no"

    def version(self, length: int) -> int:
        """Texts of lengths that have the same are turned alike."""
        return 0

    def frequencies(self, base: float, head_dim: int, length: int) -> Frequencies:
        """Those of a text of ``length`` tokens. Raises UserError if they cannot be those of such a head."""
        raise NotImplementedError

    @property
    def turns(self) -> bool:
        return True

    def boundaries(self, base: float, head_dim: int) -> dict[str, float]:
        """Indices of pairs between which it does something else than outside of them, by what they are."""
        return {}

    def rope_abroad(self, base: float, head_dim: int) -> dict[str, Any]:
        return self._as_lists(base, head_dim)

    def _as_lists(self, base: float, head_dim: int) -> dict[str, Any]:
        """As type ``longrope``, with the same factors for all lengths."""
        found = self.frequencies(base, head_dim, self.length)
        factors = [float(each) for each in found.divisors]
        return {
            "rope_type": "longrope",
            "rope_theta": base,
            "factor": self.reached / self.length,
            "original_max_position_embeddings": self.length,
            "short_factor": factors,
            "long_factor": factors,
            "attention_factor": found.attention_factor,
            "max_position_embeddings": self.reached,
        }

    @property
    def reached(self) -> int:
        """L', the length that it is for."""
        return self.length

    @property
    def label(self) -> str:
        """Its factor, and what it has otherwise than is published."""
        told = [
            f"{'s' if name == 'factor' else name}={value:g}" if isinstance(value, float) else f"{name}={value}"
            for name, value in self.arguments().items()
            if (name != "context" and self.published.get(name, value) != value) or name == "factor"
        ]
        return f"{self.name}({', '.join(told)})"

    def __call__(self, decoder: "Decoder") -> None:
        from lab.extension.extended_rope import extend

        extend(decoder, self)


class ByFactor(RopeRule):
    """A rule for texts of s times the context."""

    factor: float = key(FACTOR, gt=1, le=LARGEST)

    @property
    def reached(self) -> int:
        return round(self.factor * self.length)


def plain_frequencies(base: float, head_dim: int) -> Factors:
    """b^(-2i/d), radians a position (Su et al. 2021, arXiv 2104.09864)."""
    return np.asarray(float(base) ** -(np.arange(0, head_dim, 2, dtype=np.float64) / head_dim))


def rotations(base: float, head_dim: int, context: int) -> Factors:
    """r_i, turns of each pair within a context (arXiv 2309.00071)."""
    return context * plain_frequencies(base, head_dim) / (2 * math.pi)


def ntk_divisors(factor: float, head_dim: int) -> Factors:
    """s^(2i/(d-2)): those of the base b s^(d/(d-2)), which leave the fastest pair and divide the slowest by s.

    Raises:
        UserError: a head of two dimensions, for which there is no such base.
    """
    if head_dim <= 2:
        raise UserError(
            f"head_dim is {head_dim}: of one pair there is no fastest and slowest; ntk has no meaning for it"
        )
    return np.asarray(factor ** (np.arange(0, head_dim, 2, dtype=np.float64) / (head_dim - 2)))


def ntk_base(base: float, factor: float, head_dim: int) -> float:
    """b s^(d/(d-2)) (arXiv 2309.00071)."""
    return float(base * factor ** (head_dim / (head_dim - 2)))


@part("extension")
class PositionInterpolation(ByFactor):
    """Positions divided by s: lambda_i = s (Chen et al. 2023, arXiv 2306.15595)."""

    name: Literal["position_interpolation"] = "position_interpolation"

    def frequencies(self, base: float, head_dim: int, length: int) -> Frequencies:
        return Frequencies(np.full(head_dim // 2, float(self.factor)))

    def rope_abroad(self, base: float, head_dim: int) -> dict[str, Any]:
        reached = {"max_position_embeddings": self.reached}
        return {"rope_type": "linear", "rope_theta": base, "factor": float(self.factor)} | reached


@part("extension")
class NTK(ByFactor):
    """The base b s^(d/(d-2)): lambda_i = s^(2i/(d-2)) (NTK-aware scaling; arXiv 2309.00071).

    Some pairs turn farther than in training, so that s has to be greater than L'/L.
    """

    name: Literal["ntk"] = "ntk"

    def frequencies(self, base: float, head_dim: int, length: int) -> Frequencies:
        return Frequencies(ntk_divisors(self.factor, head_dim))

    def rope_abroad(self, base: float, head_dim: int) -> dict[str, Any]:
        ntk_divisors(self.factor, head_dim)
        other = ntk_base(base, self.factor, head_dim)
        return {"rope_type": "default", "rope_theta": other, "max_position_embeddings": self.reached}


@part("extension")
class DynamicNTK(RopeRule):
    """NTK with the s of the text at hand: s = max(1, a n/L - (a - 1)) for n tokens.

    a = 1 is arXiv 2309.00071; transformers has a as its ``factor``, whose text of a L tokens has then
    s = a^2 - a + 1. With ``per=position`` each token is read as when the text ended with it, which is what a cache of
    unrotated keys computes; with ``per=text`` a whole text has the s of its length, as transformers computes it and
    perplexities are published.
    """

    name: Literal["dynamic_ntk"] = "dynamic_ntk"
    factor: float = key("a of s = a n/L - (a - 1); 1: s = n/L", ge=1, le=LARGEST)
    per: Literal["position", "text"] = key(
        "position: each token has the s of the text that ends with it; text: all have that of the whole text"
    )

    @property
    def by_length(self) -> Literal["no", "text", "position"]:
        return self.per

    def version(self, length: int) -> int:
        return max(length, self.length)

    def scaling(self, length: int) -> float:
        """s of a text."""
        return max(1.0, self.factor * length / self.length - (self.factor - 1))

    def frequencies(self, base: float, head_dim: int, length: int) -> Frequencies:
        return Frequencies(ntk_divisors(self.scaling(length), head_dim))

    def rope_abroad(self, base: float, head_dim: int) -> dict[str, Any]:
        if self.per == "position":
            raise UserError(
                "transformers turns a whole text with the s of its length, and this one each position with its own: "
                "only dynamic_ntk with extension.per=text can be exported"
            )
        # transformers takes max_position_embeddings for L.
        given = {"factor": float(self.factor), "max_position_embeddings": self.length}
        return {"rope_type": "dynamic", "rope_theta": base} | given

    @property
    def label(self) -> str:
        return f"dynamic_ntk({', '.join([f'a={self.factor:g}'] * (self.factor != 1) + [f'per {self.per}'])})"


def ramp_of(turns: Factors, slow: float, fast: float) -> Factors:
    """gamma: 0 for pairs that turn less than ``slow`` times within L, 1 for more than ``fast``, straight in the number
    of turns between (arXiv 2309.00071)."""
    return np.clip((turns - slow) / (fast - slow), 0.0, 1.0)


def index_of(turns: float, base: float, head_dim: int, context: int) -> float:
    """The index i, as a real number, of a pair that turns so many times within L."""
    return head_dim * math.log(context / (turns * 2 * math.pi)) / (2 * math.log(base))


class ByParts(ByFactor):
    """h_i = (1 - gamma_i) theta_i / s + gamma_i theta_i: slow pairs interpolated, fast ones left as they are."""

    published: ClassVar[dict[str, Any]] = {"ramp": "code", "beta_fast": 32, "beta_slow": 1, "temperature": None}

    ramp: Literal["paper", "code"] = key(
        "gamma is straight in a pair's turns within L (paper), or in its index between whole ones (code)"
    )
    beta_fast: Positive = key("turns within L from which a pair is left as it is")
    beta_slow: Positive = key("turns within L below which a pair is interpolated by s")

    @model_validator(mode="after")
    def _in_order(self) -> "ByParts":
        if self.beta_slow >= self.beta_fast:
            raise ValueError(f"beta_slow is {self.beta_slow:g} and beta_fast {self.beta_fast:g}: give less and more")
        return self

    def boundaries(self, base: float, head_dim: int) -> dict[str, float]:
        found = {
            "beta_fast": index_of(self.beta_fast, base, head_dim, self.length),
            "beta_slow": index_of(self.beta_slow, base, head_dim, self.length),
        }
        if self.ramp == "paper":
            return found
        return {
            "beta_fast": float(max(0, math.floor(found["beta_fast"]))),
            "beta_slow": float(min(head_dim - 1, math.ceil(found["beta_slow"]))),
        }

    def kept_share(self, base: float, head_dim: int) -> Factors:
        """gamma_i."""
        if self.ramp == "paper":
            return ramp_of(rotations(base, head_dim, self.length), self.beta_slow, self.beta_fast)
        low, high = self.boundaries(base, head_dim).values()
        # As transformers: indices that are one have a ramp of a thousandth.
        return 1 - np.clip((np.arange(head_dim // 2) - low) / (high - low or 0.001), 0.0, 1.0)

    def frequencies(self, base: float, head_dim: int, length: int) -> Frequencies:
        gamma = self.kept_share(base, head_dim)
        return Frequencies(1 / ((1 - gamma) / self.factor + gamma), self.attention_factor)

    @property
    def attention_factor(self) -> float:
        return 1.0

    def rope_abroad(self, base: float, head_dim: int) -> dict[str, Any]:
        if self.ramp == "paper":
            return self._as_lists(base, head_dim)
        return {
            "rope_type": "yarn",
            "rope_theta": base,
            "factor": float(self.factor),
            "original_max_position_embeddings": self.length,
            "beta_fast": float(self.beta_fast),
            "beta_slow": float(self.beta_slow),
            "attention_factor": self.attention_factor,
            "truncate": True,
            "max_position_embeddings": self.reached,
        }


@part("extension")
class NTKByParts(ByParts):
    """NTK-by-parts interpolation (Peng et al. 2023, arXiv 2309.00071)."""

    name: Literal["ntk_by_parts"] = "ntk_by_parts"


@part("extension")
class YaRN(ByParts):
    """NTK-by-parts, and logits times (0.1 ln s + 1)^2 (Peng et al. 2023, arXiv 2309.00071).

    ``ramp=code`` is that of the authors' code and of transformers, ``ramp=paper`` that of the paper's text.
    """

    name: Literal["yarn"] = "yarn"
    temperature: Positive | None = key("on cosine and sine in place of 0.1 ln s + 1; null: that", default=None)

    @property
    def attention_factor(self) -> float:
        return 0.1 * math.log(self.factor) + 1 if self.temperature is None else float(self.temperature)


@part("extension")
class Llama3(ByFactor):
    """Llama 3.1's: gamma is straight in a pair's turns within L, between low_freq_factor and high_freq_factor.

    As transformers' ``llama3``; the published numbers are s = 8, L = 8,192, 1 and 4.
    """

    published: ClassVar[dict[str, Any]] = {"low_freq_factor": 1, "high_freq_factor": 4}

    name: Literal["llama3"] = "llama3"
    low_freq_factor: Positive = key("turns within L below which a pair is interpolated by s")
    high_freq_factor: Positive = key("turns within L from which a pair is left as it is")

    @model_validator(mode="after")
    def _in_order(self) -> "Llama3":
        if self.low_freq_factor >= self.high_freq_factor:
            raise ValueError(
                f"low_freq_factor is {self.low_freq_factor:g} and high_freq_factor {self.high_freq_factor:g}: give "
                "less and more"
            )
        return self

    def boundaries(self, base: float, head_dim: int) -> dict[str, float]:
        turns = {"high_freq_factor": self.high_freq_factor, "low_freq_factor": self.low_freq_factor}
        return {name: index_of(each, base, head_dim, self.length) for name, each in turns.items()}

    def frequencies(self, base: float, head_dim: int, length: int) -> Frequencies:
        gamma = ramp_of(rotations(base, head_dim, self.length), self.low_freq_factor, self.high_freq_factor)
        return Frequencies(1 / ((1 - gamma) / self.factor + gamma))

    def rope_abroad(self, base: float, head_dim: int) -> dict[str, Any]:
        return {
            "rope_type": "llama3",
            "rope_theta": base,
            "factor": float(self.factor),
            "original_max_position_embeddings": self.length,
            "low_freq_factor": float(self.low_freq_factor),
            "high_freq_factor": float(self.high_freq_factor),
            "max_position_embeddings": self.reached,
        }


def rope_rule(extensions: list[ExtensionSettings]) -> RopeRule | None:
    """The rule by which a decoder's RoPE turns, if it has one: the last."""
    return next((each for each in reversed(extensions) if isinstance(each, RopeRule)), None)
