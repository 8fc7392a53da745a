"""The page of claims: what is claimed, by whom, and what was found."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from lab.base.files import write_whole
from lab.base.tables import Row, read_table
from lab.evidence.claims import Study

HOW = """Each claim was written down, with its quantity and its bound, before the runs that test it
(conf/claim/). It **holds** if the whole 95 % interval of the quantity lies inside the bound, is **contradicted** if the
whole interval lies outside, and otherwise nobody **can tell**: so it is, too, of fewer than five seeds or six clusters
of documents. Intervals are over seeds and clusters (authors, or works of one author), as in
[the pilot](pilot.md); of a number that is of no document, over seeds. A claim of one model, which its sentence names,
has an interval over clusters alone (seeds "fixed"). These are decoders of pilot scale: what holds here holds for them.
"""


def write_claims_page(path: Path, rows: Sequence[Row], command: str, studies: Sequence[Study]) -> None:
    """Write the page whole; of one study alone it is that study's own, with its introduction and pictures.

    Args:
        rows: the verdicts on the studies' claims.

    Raises:
        UserError: it cannot be written.
    """
    alone = studies[0] if len(studies) == 1 else None
    lines = [f"# {_title(alone)}" if alone else "# Claims", ""]
    if alone and alone.introduction:
        lines += [alone.introduction.strip(), ""]
    lines += ["## Claims", ""] if alone else []
    lines += [HOW]
    for study in studies:
        lines += [] if alone else [f"## {_title(study)}", ""]
        own = [row for row in rows if row["study"] == study.study]
        lines += [study.conditions.strip(), ""]
        numbers = {claim.name: number for number, claim in enumerate(study.claims, 1)}
        lines += ["| | claim | quantity and bound | documents | effect (95 % interval) | over | verdict |"]
        lines += ["|---|---|---|---|---|---|---|"]
        lines += [_line(row, numbers[row["claim"]]) for row in own]
        lines += ["", *_sources(study)]
    if alone:
        lines += [*_tables(alone, path.parent), *_pictures(alone, path.parent)]
    lines += ["## Command", "", "```bash", command, "```", ""]
    write_whole(path, "\n".join(lines).encode())


def _title(study: Study) -> str:
    return study.study[:1].upper() + study.study[1:]


def _line(row: Row, number: int) -> str:
    sentence = f"{row['sentence']} (Given: {row['given']})" if row["given"] else row["sentence"]
    if row["mean"] is None:
        cells = (number, sentence, row["quantity"], "-", "-", "-", row["verdict"])
    else:
        between = "not known" if row["low"] != row["low"] else f"{row['low']:+z.3f} to {row['high']:+z.3f}"
        fixed = "" if row["over_seeds"] else " (fixed)"
        over = f"{row['seeds']} seed{'s' * (row['seeds'] != 1)}{fixed}"
        if row["clusters"]:
            over += f", {row['clusters']} {row['clusters_told']}"
        effect = f"{row['mean']:+z.3f} ({between})"
        cells = (number, sentence, row["quantity"], row["evaluation"], effect, over, f"**{row['verdict']}**")
    return f"| {' | '.join(str(cell).replace('|', '/') for cell in cells)} |"


def _sources(study: Study) -> list[str]:
    numbers: dict[str, list[str]] = {}
    for number, claim in enumerate(study.claims, 1):
        numbers.setdefault(claim.source, []).append(str(number))
    return ["Sources:", "", *(f"- {source}: {', '.join(each)}" for source, each in numbers.items()), ""]


def _tables(study: Study, folder: Path) -> Iterator[str]:
    """Those whose files are there: means over seeds and documents, in the measure's unit."""
    there = [table for table in study.tables if (folder / table.file).exists()]
    if there:
        yield from ("## Tables", "")
    for table in there:
        read = read_table(folder / table.file, ("evaluation", "measure", "length_tokens", "variant", "seed", "mean"))
        rows = [
            row
            for row in read
            if row["measure"] == table.measure
            and row["seed"] is None
            and str(row["evaluation"]).startswith(table.evaluation)
        ]
        means = {(row["variant"], row["length_tokens"]): row["mean"] for row in rows}
        lengths = sorted({length for _, length in means})
        yield from (table.caption.strip(), "")
        yield f"| | {' | '.join(f'{length:,}' for length in lengths)} |"
        yield "|---|" + "---:|" * len(lengths)
        for variant in dict.fromkeys(name for name, _ in means):
            cells = [means.get((variant, length)) for length in lengths]
            yield f"| {variant} | {' | '.join('-' if each is None else f'{each:z.3f}' for each in cells)} |"
        yield ""


def _pictures(study: Study, folder: Path) -> Iterator[str]:
    """Those that are there."""
    there = [picture for picture in study.pictures if (folder / picture.file).exists()]
    if there:
        yield from ("## Pictures", "")
    for picture in there:
        yield from (picture.caption.strip(), "", f"![{picture.caption.strip()}]({picture.file})", "")
