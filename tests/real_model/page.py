"""Write docs/real-model.md: where a real RoPE decoder breaks beyond its window, from what `make real-model` has scored.

    python tests/real_model/page.py runs/real_model docs

The page's text was written before the first number was known; what depends on the numbers is computed here, by the
rules that the page states.
"""

import platform
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jinja2
from scipy import stats

from lab.analysis.first_tokens import FirstTokens
from lab.base.tables import read_table, write_table
from lab.evidence.interval import LEVEL
from lab.evidence.quantities import MARGIN_NATS, curves, overview
from lab.measure.excess import Excess
from lab.observe.scoring import rows_of
from lab.report.figures import curve_figure, lines_figure
from lab.report.pictures import save
from lab.runs.finding import runs_of
from lab.runs.model import Model

TEMPLATE = Path(__file__).with_name("page.md.jinja")
SINK_LAYERS = 5  # in the table: those whose share is greatest inside the window


def main(runs: str, docs: str) -> None:
    folder = Path(docs) / "real_model"
    folder.mkdir(parents=True, exist_ok=True)
    model = max(runs_of([f"{runs}/rope-*"]), key=lambda run: run.context)
    facts = told(model, folder)
    environment = jinja2.Environment(undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    text = environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(**facts)
    (Path(docs) / "real-model.md").write_text(text, encoding="utf-8")
    print(f"{docs}/real-model.md")


def told(model: Model, folder: Path) -> dict[str, Any]:
    """What the page says of a model, its tables and pictures written to a folder."""
    measured = model.manifest["measured"]
    rows = rows_of(model, {record["setting"] for record in measured.values()})
    context = model.context
    along = [row for row in curves([rows]) if row["measure"] == Excess.label()]
    write_table(folder / "excess_by_position.csv", along)
    figure = curve_figure([{"variant": model.label} | row for row in along], Excess, [model.label], context)
    save(figure, folder / "excess")
    lines = overview(rows, context)
    write_table(folder / "summary.csv", lines)
    breaks = next((row for row in along if row["low"] > MARGIN_NATS), None)
    keys = [row for row in rows if row["measure"] == "passkey"]
    sinks = read_table(model.path / "analysis" / "first_tokens.csv")
    write_table(folder / "first_tokens.csv", sinks)
    save(lines_figure(sinks, FirstTokens.pictures[0], context), folder / "first_tokens")
    record = next(iter(measured.values()))
    whole = next(row for row in lines if row["measure"] == Excess.label())
    return {
        "context": context,
        "documents": whole["documents"],
        "along": along,
        "eighth": context // 8,
        "margin": MARGIN_NATS,
        "level": round(100 * (1 - LEVEL)),
        "breaks": breaks,
        "last": along[-1],
        "whole": whole,
        "perplexities": [row for row in lines if row["measure"] == "truncated_perplexity"],
        "passkeys": passkeys(keys),
        "sinks": sink_table(sinks, context),
        "sink_documents": sinks[0]["documents"],
        "readings": readings(folder / "readings"),
        "cpu": record["hardware"]["cpu"],
        "threads": record["hardware"]["threads"],
        "packages": record["packages"],
        "python": platform.python_version(),
        "digest": model.digest,
        "source": model.manifest["source"],
        "parameters": model.manifest["parameters"],
    }


def passkeys(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """By length: how many keys were found, of how many, and Wilson's interval of the share."""
    found = []
    for length in sorted({row["length_tokens"] for row in rows}):
        own = [row["correct"] for row in rows if row["length_tokens"] == length]
        interval = stats.binomtest(sum(own), len(own)).proportion_ci(method="wilson")
        found.append({"length": length, "found": sum(own), "of": len(own), "low": interval.low, "high": interval.high})
    return found


def sink_table(rows: Sequence[dict[str, Any]], context: int) -> list[dict[str, Any]]:
    """Of the layers with the greatest share inside the window, the share in its last eighth and in the last of all."""
    end = max(row["stop_position"] for row in rows)

    def share(layer: int, first: int, stop: int) -> float:
        own = [row for row in rows if row["layer"] == layer and first <= row["start_position"] < stop]
        return sum(row["share"] * row["tokens"] for row in own) / sum(row["tokens"] for row in own)

    eighth = context // 8
    found = [
        {"layer": layer, "inside": share(layer, context - eighth, context), "beyond": share(layer, end - eighth, end)}
        for layer in sorted({row["layer"] for row in rows})
    ]
    mean = {name: sum(row[name] for row in found) / len(found) for name in ("inside", "beyond")}
    greatest = sorted(found, key=lambda row: -row["inside"])[:SINK_LAYERS]
    return [*sorted(greatest, key=lambda row: row["layer"]), {"layer": "mean of all", **mean}]


def readings(folder: Path) -> list[dict[str, Any]]:
    """The mean loss of each reading at each length, with the interval over documents."""
    return [
        row
        for row in read_table(folder / "estimates.csv")
        if row["measure"] == "truncated_perplexity" and row["seed"] is None
    ]


if __name__ == "__main__":
    main(*sys.argv[1:])
