"""Curves of the gradient lens over a set of prompts: by layer a mean over them, with its interval.

A prompt counts once, whatever its length: its number is the mean over its tokens of a part. The interval is over
prompts in this very decoder (:func:`lab.evidence.interval.mean_interval`); prompts are taken to be independent, which
those about one subject are not.
"""

from collections.abc import Mapping, Sequence
from statistics import fmean

import numpy as np

from lab.base.tables import Row
from lab.evidence.interval import FEWEST_CLUSTERS, mean_interval

AT = ("quantity", "matrix", "vector", "part", "layer")


def prompt_curves(tables: Mapping[str, Sequence[Row]], vocabulary: int) -> list[Row]:
    """The curves that tables of the lens make, in the columns AT, mean, low, high, prompts, told.

    Quantities: ``place of target`` (also of ``answer``, ``random``, ``frequent``), the rank as a part of the
    vocabulary, 0 being the top and 1 the bottom, at the prompt's last token and of the principal direction;
    ``at the very bottom``, the share of prompts whose target no token is below; ``delta_norm`` and ``input_norm`` by
    part; ``rank``, the share of prompts whose gradient has the greatest rank that it can have.

    Args:
        vocabulary: number of tokens.
    """
    values: dict[tuple[str, str, str, str, int], dict[int, list[float]]] = {}

    def add(row: Row, quantity: str, vector: str, part: str, value: float) -> None:
        place = (quantity, row["matrix"], vector, part, row["layer"])
        values.setdefault(place, {}).setdefault(row["number"], []).append(value)

    for row in tables.get("target_ranks", ()):
        if row["part"] in ("last token", "all tokens"):
            share = row["rank"] / max(vocabulary - 1, 1)
            add(row, f"place of {row['of_token']}", row["vector"], row["part"], share)
            if row["of_token"] == "target":
                below = row["rank"] + row["ties"] / 2 >= vocabulary - 1
                add(row, "at the very bottom", row["vector"], row["part"], float(below))
    for row in tables["norms"]:
        add(row, "delta_norm", "delta", row["part"], row["delta_norm"])
        add(row, "input_norm", "input", row["part"], row["input_norm"])
    for row in tables["ranks"]:
        add(row, "rank", "", "all tokens", float(row["rank"] == row["bound"]))
    return [
        dict(zip(AT, place, strict=True)) | over_prompts([fmean(each) for each in by_prompt.values()])
        for place, by_prompt in values.items()
    ]


def over_prompts(values: Sequence[float]) -> Row:
    """A mean over prompts, with its interval in numbers and in words."""
    interval = mean_interval(np.array([values]), [1] * len(values), over_seeds=False)
    between = f"({interval.low:.3g} to {interval.high:.3g})"
    if not interval.known:
        few = f"{len(values)} prompt{'s' * (len(values) != 1)}; {FEWEST_CLUSTERS} are needed"
        between = f"(cannot tell: {few if len(values) < FEWEST_CLUSTERS else 'not finite'})"
    return {
        "mean": interval.mean,
        "low": interval.low if interval.known else None,
        "high": interval.high if interval.known else None,
        "prompts": len(values),
        "told": f"{interval.mean:.3g} {between}",
    }
