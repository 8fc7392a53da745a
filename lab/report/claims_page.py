"""The page of claims: what is claimed, by whom, and what was found."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from lab.base.files import write_whole
from lab.base.tables import Row

INTRODUCTION = """Each claim was written down, with its quantity and its bound, before the runs that test it
(conf/claim/). It **holds** if the whole 95 % interval of the quantity lies inside the bound, is **contradicted** if the
whole interval lies outside, and otherwise nobody **can tell**: so it is, too, of fewer than five seeds or six clusters
of documents. Intervals are over seeds and clusters (authors, or works of one author), as in
[the pilot](pilot.md). These are decoders of pilot scale: what holds here holds for them.
"""


def write_claims_page(path: Path, rows: Sequence[Row], command: str, conditions: Mapping[str, str]) -> None:
    """Write the page whole.

    Args:
        conditions: of each study, that the papers had and the runs have not.

    Raises:
        UserError: it cannot be written.
    """
    lines = ["# Claims", "", INTRODUCTION]
    for study in dict.fromkeys(row["study"] for row in rows):
        lines += [f"## {study[:1].upper()}{study[1:]}", "", conditions[study].strip(), ""]
        lines += ["| claim | quantity and bound | documents | effect (95 % interval) | over | verdict |"]
        lines += ["|---|---|---|---|---|---|"]
        lines += [_line(row) for row in rows if row["study"] == study]
        lines += ["", *_sources([row for row in rows if row["study"] == study])]
    lines += ["## Command", "", "```bash", command, "```", ""]
    write_whole(path, "\n".join(lines).encode())


def _line(row: Row) -> str:
    if row["mean"] is None:
        cells = (row["sentence"], row["quantity"], "-", "-", "-", row["verdict"])
    else:
        between = "not known" if row["low"] != row["low"] else f"{row['low']:+z.3f} to {row['high']:+z.3f}"
        fixed = "" if row["over_seeds"] else " (fixed)"
        over = f"{row['seeds']} seeds{fixed}, {row['clusters']} {row['clusters_told']}"
        effect = f"{row['mean']:+z.3f} ({between})"
        cells = (row["sentence"], row["quantity"], row["evaluation"], effect, over, f"**{row['verdict']}**")
    return f"| {' | '.join(str(cell).replace('|', '/') for cell in cells)} |"


def _sources(rows: Sequence[Row]) -> list[str]:
    sources = dict.fromkeys((row["sentence"], row["source"]) for row in rows)
    return ["Sources:", "", *(f"- {sentence} {source}" for sentence, source in sources), ""]
