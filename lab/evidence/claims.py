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
from lab.evidence.interval import Interval, mean_interval, seeds_interval
from lab.evidence.quantities import Quantity
from lab.evidence.weighing import Layout
from lab.runs.control import Seed

Verdict = Literal["holds", "contradicted", "cannot tell", "not run"]


class Claim(Settings):
    """One claim: a quantity, and where its true value is said to lie."""

    name: Text = key("short name")
    sentence: Text = key("what is claimed")
    source: Text = key("who says so")
    variant: Text = key("whose quantity it is")
    minus: Text | None = key("variant whose quantity is taken off", default=None)
    measure: Text = key("measure of the quantity")
    length: float = key("its length in contexts C; of a study 1", gt=0, default=1.0)
    minus_measure: Text | None = key("measure that is taken off, of the same variant and length", default=None)
    minus_length: float | None = key("length in contexts C at which the same quantity is taken off", default=None)
    above: float | None = key("the quantity lies above", default=None)
    below: float | None = key("the quantity lies below", default=None)
    within: float | None = key("the quantity lies so far from 0 at most", gt=0, default=None)
    unit: str = key("of the quantity", default="nats")
    one_model: bool = key(
        "the claim is of the model that was run, which its sentence names, and not of other seeds: its interval holds "
        "seeds fixed",
        default=False,
    )
    given: Text | None = key(
        "name of a claim before it: where that does not hold, there is nothing to tell", default=None
    )

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
        length = "" if ": " in self.measure else f" at {self.length:g}C"  # a study's quantity says itself what it is of
        taken = [f"{self.minus}'s"] * (self.minus is not None)
        if self.minus_measure is not None:
            taken.append(self.minus_measure)
        if self.minus_length is not None:
            taken.append(f"that at {self.minus_length:g}C")
        quantity = f"{self.measure} of {self.variant}{length}" + "".join(f" minus {each}" for each in taken)
        unit = f" {self.unit}" if self.unit else ""
        if self.within is not None:
            return f"{quantity} within {self.within:g}{unit} of 0"
        return f"{quantity} {'above' if self.above is not None else 'below'} {self.above or self.below or 0:g}{unit}"


class Picture(Settings):
    """A picture on a study's page."""

    file: Text = key("where it lies, beside the page")
    caption: Text = key("what it shows")


class PageTable(Settings):
    """A table on a study's page, of a comparison's estimates: a row a variant, a column a length."""

    file: Text = key("where it lies, beside the page")
    caption: Text = key("what it shows")
    measure: Text = key("whose means are shown")
    evaluation: Text = key("which documents: what their name begins with", default="")


class Study(Settings):
    """The claims of one study."""

    study: Text = key("its name")
    introduction: str = key("what its own page begins with, Markdown", default="")
    pictures: list[Picture] = key("on its own page", default=[])
    tables: list[PageTable] = key("on its own page", default=[])
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
            _check_names(claims)
            studies.append(Study.check({**content, "claims": claims}))
        except (OSError, ValueError, yaml.YAMLError) as error:
            raise UserError(f"{path} cannot be read ({' '.join(str(error).split())}); mend it") from None
        except UserError as error:
            raise UserError(f"{path}: {'; '.join(str(error).splitlines())}") from None
    return studies


def _check_names(claims: Sequence[Claim]) -> None:
    seen: set[str] = set()
    for claim in claims:
        if claim.name in seen:
            raise UserError(f"two claims are called {claim.name}: give each a name of its own")
        if claim.given is not None and claim.given not in seen:
            raise UserError(f"given of {claim.name} is {claim.given!r}: name a claim before it")
        seen.add(claim.name)


def judge(claim: Claim, layout: Layout) -> tuple[Verdict, Interval | None]:
    """What one set of documents says of a claim.

    It holds if the whole interval lies inside its bounds, and is contradicted if the whole interval lies outside;
    without an interval over seeds nobody can tell, unless the claim is of one model.
    """
    values = [_values(claim.variant, claim.measure, claim.length, layout)]
    if claim.minus is not None:
        values.append(_values(claim.minus, claim.measure, claim.length, layout))
    if claim.minus_measure is not None:
        values.append(_values(claim.variant, claim.minus_measure, claim.length, layout))
    if claim.minus_length is not None:
        values.append(_values(claim.variant, claim.measure, claim.minus_length, layout))
    tables = [each for each in values if each is not None]
    names = [claim.variant, *([claim.minus] if claim.minus is not None else [])]
    seeds = [list(layout.variants.get(name, ())) for name in names]
    common = [seed for seed in seeds[0] if all(seed in each for each in seeds)]
    if len(tables) < len(values) or not common:
        return "not run", None
    if len(set(map(tuple, seeds))) > 1:  # of comparisons of which one has more seeds
        tables = [
            table[[own.index(seed) for seed in common]]
            for table, own in zip(tables, _seeds_of(claim, seeds), strict=True)
        ]
    if len({each.shape for each in tables}) > 1:
        return "not run", None
    table = tables[0] - sum(tables[1:])
    quantity = Quantity(claim.measure, round(claim.length * layout.context))
    documents = layout.tables[quantity].documents
    over_seeds = False if claim.one_model else None
    interval = mean_interval(table, documents, over_seeds) if documents else seeds_interval(table[:, 0])
    low, high = claim.bounds
    if not (interval.known and (interval.over_seeds or claim.one_model)):
        return "cannot tell", interval
    if low < interval.low and interval.high < high:
        return "holds", interval
    if interval.high < low or interval.low > high:
        return "contradicted", interval
    return "cannot tell", interval


def _seeds_of(claim: Claim, seeds: list[list[Seed]]) -> list[list[Seed]]:
    """The seeds of each table that :func:`judge` takes, in its order: all are the variant's own but that of minus."""
    order = [seeds[0], *([seeds[1]] if claim.minus is not None else [])]
    return order + [seeds[0]] * ((claim.minus_measure is not None) + (claim.minus_length is not None))


def _values(variant: str, measure: str, length: float, layout: Layout) -> np.ndarray | None:
    table = layout.tables.get(Quantity(measure, round(length * layout.context)))
    values = None if table is None else table.values.get(variant)
    return values if values is not None and values.size else None


def verdicts(studies: Sequence[Study], documents: Sequence[Row]) -> Iterator[Row]:
    """A row for each claim and set of documents, one without a set for a claim that nothing was run for."""
    layouts = {
        evaluation: Layout([row for row in documents if row["evaluation"] == evaluation])
        for evaluation in dict.fromkeys(row["evaluation"] for row in documents)
    }
    for study in studies:
        held: dict[str, bool] = {}
        for claim in study.claims:
            judged = {evaluation: judge(claim, layout) for evaluation, layout in layouts.items()}
            run = {evaluation: found for evaluation, found in judged.items() if found[0] != "not run"}
            held[claim.name] = bool(run) and all(verdict == "holds" for verdict, _ in run.values())
            for evaluation, (verdict, interval) in (run or {"": ("not run", None)}).items():
                if verdict != "not run" and claim.given is not None and not held[claim.given]:
                    verdict = "cannot tell"
                yield {
                    "study": study.study,
                    "claim": claim.name,
                    "sentence": claim.sentence,
                    "source": claim.source,
                    "quantity": claim.told,
                    "given": next((each.sentence for each in study.claims if each.name == claim.given), ""),
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
