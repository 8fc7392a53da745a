"""LongRoPE: factors of RoPE's pairs, given or searched, in sets for texts of different lengths. No torch here."""

import itertools
from typing import Any, Literal

import numpy as np
from pydantic import model_validator

from lab.base.errors import UserError
from lab.base.parts import part
from lab.base.settings import Count, Positive, key
from lab.extension.rope_rules import ByFactor, Frequencies


@part("extension")
class LongRoPE(ByFactor):
    """Factors lambda_i that are given or searched, and n-hat first tokens that turn as before (Ding et al. 2024, arXiv
    2402.13753).

    There may be several sets of factors, for texts of different lengths: one text has one set, that of its length. A
    cache whose keys were turned by another set is read anew.
    """

    name: Literal["longrope"] = "longrope"
    search: Literal["paper", "code", "found"] | None = key(
        "search the factors: variant of the algorithm; found: those that were searched for the run before, at the "
        "lengths up_to and at the whole one; null: they are given",
        default=None,
    )
    factors: list[list[float]] = key("sets of lambda_i, one of each pair of a head's dimensions, from the fastest")
    up_to: list[Count] = key("length of the longest text of each set but the last, in tokens")
    kept: list[int] = key("n-hat of each set: positions at the beginning that turn as without an extension")
    attention_factors: list[Positive] = key("on cosine and sine, of each set; []: 1")

    @model_validator(mode="after")
    def _of_sets(self) -> "LongRoPE":
        if self.search in ("paper", "code"):
            if self.factors or self.up_to or self.kept:
                raise ValueError(
                    f"search is {self.search}, and finds factors, up_to and kept: leave them out, or give search=null"
                )
            return self
        if self.search is not None and (self.factors or self.attention_factors):
            raise ValueError("search is found, and finds factors and attention_factors: leave them out")
        if self.search is None and not self.factors:
            raise ValueError("factors is []: give a set of lambda_i, or more; or let search=paper find one")
        sets = len(self.up_to) + 1 if self.search is not None else len(self.factors)
        if len(self.up_to) != sets - 1 or self.up_to != sorted(set(self.up_to)):
            raise ValueError(f"up_to is {self.up_to}: give {sets - 1} rising lengths, all sets' but the last's")
        values: dict[str, list[Any]] = {"kept": self.kept, "attention_factors": self.attention_factors}
        for name, each in values.items():
            if len(each) not in (0, sets):
                raise ValueError(f"{name} has {len(each)} values and there are {sets} sets: give one of each")
        if any(each < 0 for each in self.kept):
            raise ValueError(f"kept is {self.kept}: give numbers of positions")
        for each in self.factors:
            if len(each) != len(self.factors[0]):
                raise ValueError(
                    f"sets of factors have {len(self.factors[0])} and {len(each)} values: give equally many"
                )
            if any(value < 1 for value in each):
                raise ValueError(f"factors has {min(each):g}: a factor below 1 turns faster than in training")
            if any(after < before for before, after in itertools.pairwise(each)):
                place = next(i for i, (before, after) in enumerate(itertools.pairwise(each)) if after < before)
                raise ValueError(
                    f"factors fall from {each[place]:g} to {each[place + 1]:g} at pair {place + 1}: slower pairs are "
                    "interpolated as much or more"
                )
        return self

    @property
    def by_length(self) -> Literal["no", "text", "position"]:
        return "text" if len(self.factors) > 1 else "no"

    def version(self, length: int) -> int:
        return sum(length > each for each in self.up_to)

    def frequencies(self, base: float, head_dim: int, length: int) -> Frequencies:
        if not self.factors:
            raise UserError("extension.factors is []: they were to be searched, and are not yet")
        chosen = self.version(length)
        factors = self.factors[chosen]
        if len(factors) != head_dim // 2:
            raise UserError(
                f"extension.factors has {len(factors)} values, and a head of {head_dim} dimensions has "
                f"{head_dim // 2} pairs: give one of each"
            )
        attention = self.attention_factors[chosen] if self.attention_factors else 1.0
        return Frequencies(np.asarray(factors, dtype=np.float64), attention, self.kept[chosen] if self.kept else 0)

    @property
    def label(self) -> str:
        told = [f"s={self.factor:g}"]
        if self.search is not None:
            told.append("searched as released" if self.search == "code" else "searched")
        if self.up_to:
            told.append(f"{len(self.up_to) + 1} sets")
        if any(self.kept) or (self.kept and self.search is not None):
            told.append(f"first={','.join(map(str, self.kept))}")
        return f"longrope({', '.join(told)})"

    def rope_abroad(self, base: float, head_dim: int) -> dict[str, Any]:
        if any(self.kept):
            raise UserError(
                f"transformers' longrope turns every position alike, and this one leaves the first "
                f"{max(self.kept)} as they were (extension.kept): it cannot be exported"
            )
        if len(self.factors) > 2 or (self.up_to and self.up_to != [self.length]):
            raise UserError(
                f"transformers' longrope has two sets of factors, up to L = {self.length} tokens and beyond; this one "
                f"has {len(self.factors)}, up to {', '.join(map(str, self.up_to))}: it cannot be exported"
            )
        if len(set(self.attention_factors)) > 1:
            raise UserError(
                "transformers' longrope has one attention factor for all lengths, and this one "
                f"{', '.join(f'{each:g}' for each in self.attention_factors)}: it cannot be exported"
            )
        found = self._as_lists(base, head_dim)  # of texts of L tokens, the first set
        last = self.frequencies(base, head_dim, self.length + 1 if self.up_to else self.length)
        return found | {"long_factor": [float(each) for each in last.divisors]}
