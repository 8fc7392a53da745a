"""What an edit did, on the terminal."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from lab.base.console import Console, Table
from lab.evidence.interval import FEWEST_CLUSTERS, Interval

ASKED = {
    "fact": "facts: the target is the answer",
    "paraphrase": "paraphrases: the target is the answer",
    "neighbour": "neighbours: the answer stays",
}
HOW = {"argmax": "likeliest token", "likelier": "the likelier of two", "generated": "free generation"}


def print_edit(title: str, summary: Sequence[Mapping[str, Any]], drift: Interval | None) -> None:
    """A table with a row for each part and way to ask, and what became of other text.

    Args:
        summary: means with intervals over facts, by ``part``, ``score`` and ``moment``.
        drift: of the loss on held-out text in nats a token, over clusters of documents; None: not told.
    """
    table = Table("asked", title=title, title_justify="left", title_style="bold")
    for name in ("by", "facts", "before", "after"):
        table.add_column(name, justify="left" if name == "by" else "right")
    told = {(each["part"], each["score"], each["moment"]): each["over"] for each in summary}
    for part, score in dict.fromkeys((part, score) for part, score, _ in told):
        before, after = (told[part, score, moment] for moment in ("before", "after"))
        table.add_row(ASKED[part], HOW[score], str(after.facts), _share(before), _share(after))
    Console(width=max(80, Console(width=2000).measure(table).maximum)).print(table)
    if any(each["over"].low is None for each in summary):
        print(f"no interval of shares of prompts over fewer than {FEWEST_CLUSTERS} facts")
    if drift is not None:
        within = f" [{drift.low:+.4f}, {drift.high:+.4f}]" if drift.known else ""
        print(
            f"loss on other text {drift.mean:+.4f}{within} nats a token: perplexity times {math.exp(drift.mean):.4f}, "
            f"over {drift.clusters} {'cluster' if drift.clusters == 1 else 'clusters'} of documents"
        )


def _share(over: Any) -> str:
    """``90% [80, 97]``."""
    return f"{over.mean:.0%}" + ("" if over.low is None else f" [{100 * over.low:.0f}, {100 * over.high:.0f}]")
