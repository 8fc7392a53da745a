"""Claims: what papers say, as data, held against what was measured."""

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import yaml
from pydantic import model_validator

from lab.base.errors import UserError
from lab.base.settings import Settings, Text, key
from lab.base.tables import Row
from lab.evidence.interval import Interval, mean_interval
from lab.evidence.quantities import Quantity
from lab.evidence.weighing import Layout

Verdict = Literal["holds", "contradicted", "cannot tell", "not run"]


class Claim(Settings):
    """One claim: a quantity, and where its true value is said to lie."""

    name: Text = key("short name")
    sentence: Text = key("what is claimed")
    source: Text = key("who says so")
    variant: Text = key("whose quantity it is")
    minus: Text | None = key("variant whose quantity is taken off", default=None)
    measure: Text = key("measure of the quantity")
    length: float = key("its length in contexts C", gt=0)
    minus_length: float | None = key("length in contexts C at which the same quantity is taken off", default=None)
    above: float | None = key("the quantity lies above, in nats", default=None)
    below: float | None = key("the quantity lies below, in nats", default=None)
    within: float | None = key("the quantity lies so far from 0 at most, in nats", gt=0, default=None)

    @model_validator(mode="after")
    def _one_bound(self) -> "Claim":
        if sum(each is not None for each in (self.above, self.below, self.within)) != 1:
            raise ValueError("give one of above, below and within")
        return self

    @property
    def bounds(self) -> tuple[float, float]:
        """Where the true value is said to lie."""
        if self.within is not None:
            return -self.within, self.within
        low = -math.inf if self.above is None else self.above
        return low, math.inf if self.below is None else self.below

    @property
    def told(self) -> str:
        """The quantity and its bound in words."""
        length = f"{self.length:g}C"
        taken = [f"{self.minus}'s"] * (self.minus is not None)
        if self.minus_length is not None:
            taken.append(f"that at {self.minus_length:g}C")
        quantity = f"{self.measure} of {self.variant} at {length}" + "".join(f" minus {each}" for each in taken)
        if self.within is not None:
            return f"{quantity} within {self.within:g} nats of 0"
        return f"{quantity} {'above' if self.above is not None else 'below'} {self.above or self.below or 0:g} nats"


class Study(Settings):
    """The claims of one study."""

    study: Text = key("its name")
    conditions: Text = key(
        "of the papers, that the runs which test it do not meet; and what is not told from their text"
    )
    claims: list[Claim] = key("in the order in which they are told")


def read_claims(folder: Path) -> list[Study]:
    """The studies of a folder of .yaml files, by file name. Raises UserError, naming file and key, for a wrong one."""
    studies = []
    for path in sorted(folder.glob("*.yaml")):
        try:
            content = yaml.safe_load(path.read_text(encoding="utf-8"))
            given = content.get("claims") if isinstance(content, dict) else None
            if not isinstance(given, list):
                raise UserError("lacks the list claims")
            claims = [Claim.check(each, f"claims.{number}") for number, each in enumerate(given)]
            studies.append(Study.check({**content, "claims": claims}))
        except (OSError, ValueError, yaml.YAMLError) as error:
            raise UserError(f"{path} cannot be read ({' '.join(str(error).split())}); mend it") from None
        except UserError as error:
            raise UserError(f"{path}: {'; '.join(str(error).splitlines())}") from None
    return studies


def judge(claim: Claim, layout: Layout) -> tuple[Verdict, Interval | None]:
    """What one set of documents says of a claim.

    It holds if the whole interval lies inside its bounds, and is contradicted if the whole interval lies outside;
    without an interval over seeds nobody can tell.
    """
    values = [_values(claim.variant, claim.measure, claim.length, layout)]
    if claim.minus is not None:
        values.append(_values(claim.minus, claim.measure, claim.length, layout))
    if claim.minus_length is not None:
        values.append(_values(claim.variant, claim.measure, claim.minus_length, layout))
    tables = [each for each in values if each is not None]
    if len(tables) < len(values) or len({each.shape for each in tables}) > 1:
        return "not run", None
    table = tables[0] - sum(tables[1:])
    quantity = Quantity(claim.measure, round(claim.length * layout.context))
    interval = mean_interval(table, layout.tables[quantity].documents)
    low, high = claim.bounds
    if not (interval.known and interval.over_seeds):
        return "cannot tell", interval
    if low < interval.low and interval.high < high:
        return "holds", interval
    if interval.high < low or interval.low > high:
        return "contradicted", interval
    return "cannot tell", interval


def _values(variant: str, measure: str, length: float, layout: Layout) -> np.ndarray | None:
    table = layout.tables.get(Quantity(measure, round(length * layout.context)))
    return None if table is None else table.values.get(variant)


def verdicts(studies: Sequence[Study], documents: Sequence[Row]) -> Iterator[Row]:
    """A row for each claim and set of documents, one without a set for a claim that nothing was run for."""
    layouts = {
        evaluation: Layout([row for row in documents if row["evaluation"] == evaluation])
        for evaluation in dict.fromkeys(row["evaluation"] for row in documents)
    }
    for study in studies:
        for claim in study.claims:
            judged = {evaluation: judge(claim, layout) for evaluation, layout in layouts.items()}
            run = {evaluation: found for evaluation, found in judged.items() if found[0] != "not run"}
            for evaluation, (verdict, interval) in (run or {"": ("not run", None)}).items():
                yield {
                    "study": study.study,
                    "claim": claim.name,
                    "sentence": claim.sentence,
                    "source": claim.source,
                    "quantity": claim.told,
                    "evaluation": evaluation,
                    "verdict": verdict,
                    "mean": interval.mean if interval else None,
                    "low": interval.low if interval else None,
                    "high": interval.high if interval else None,
                    "seeds": interval.seeds if interval else None,
                    "clusters": interval.clusters if interval else None,
                    "documents": sum(interval.documents) if interval else None,
                    "over_seeds": int(interval.over_seeds) if interval else None,
                    "clusters_told": layouts[evaluation].clusters if interval else "",
                }
