"""What the gradient lens found, as tables on the terminal and as a page."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, median
from typing import Any

from lab.base.console import Console, Table
from lab.base.shown import plain
from lab.base.tables import Row
from lab.gradients.capture import MATRICES
from lab.gradients.parts import PARTS
from lab.gradients.projection import OF_WIDTH
from lab.report.page import PageTable, Section, write_page

TOKENS = 12  # of a prompt that a table shows: the last
LETTERS = 14  # of a token
# What is written by a step against the gradient stands at the bottom of a backward signal.
END = {"delta": "bottom", "input": "top"}
NONE = "-"  # of a vector of zeros


@dataclass(frozen=True)
class Grid:
    """A table of texts whose first column is the layer."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    file: str


def visible(text: str) -> str:
    """A token's text in a cell: blanks are dots, and it is not long."""
    told = plain(text).replace(" ", "·")
    return told if len(told) <= LETTERS else f"{told[: LETTERS - 3]}..."


def grids(tables: Mapping[str, Sequence[Row]], texts: Sequence[str], vocabulary: int) -> list[Grid]:
    """Everything that is shown.

    Args:
        tables: rows by the name of their table, as :mod:`lab.experiment.lens` makes them.
        texts: of the tokens that were read, if there is one prompt.
        vocabulary: number of tokens.
    """
    alone = len(tables["prompts"]) == 1
    found = [rank_grid(tables["ranks"], alone), *norm_grids(tables["norms"], alone)]
    found += target_grids(tables["target_ranks"], vocabulary, alone)
    if alone:
        found += token_grids(tables["projections"], texts)
    return found


def _layers(rows: Sequence[Row]) -> list[int]:
    return sorted({row["layer"] for row in rows})


def rank_grid(rows: Sequence[Row], alone: bool) -> Grid:
    """Of one prompt the rank, with its bound where it is less; of several the share that reaches the bound."""
    matrices = [matrix for matrix in MATRICES if any(row["matrix"] == matrix for row in rows)]
    lines = []
    for layer in _layers(rows):
        cells = []
        for matrix in matrices:
            own = [row for row in rows if (row["layer"], row["matrix"]) == (layer, matrix)]
            if alone:
                (row,) = own
                cells.append(f"{row['rank']}" if row["rank"] == row["bound"] else f"{row['rank']} of {row['bound']}")
            else:
                share = fmean(row["rank"] == row["bound"] for row in own)
                cells.append(f"{median(row['rank'] for row in own):g} ({share:.0%})")
        lines.append([str(layer), *cells])
    title = (
        f"Rank of the gradient; {rows[0]['tokens']} tokens are read"
        if alone
        else "Median rank of the gradient (share of prompts whose rank is the greatest that it can be)"
    )
    return Grid(title, ["layer", *matrices], lines, "ranks.csv")


def norm_grids(rows: Sequence[Row], alone: bool) -> list[Grid]:
    """Lengths of backward signals and inputs by layer and part, of the matrices of the residual stream's width."""
    found = []
    for matrix, kind in OF_WIDTH:
        own = [row for row in rows if row["matrix"] == matrix]
        parts = [part for part in PARTS if any(row["part"] == part for row in own)]
        lines = []
        for layer in _layers(own):
            cells = []
            for part in parts:
                values = [row[f"{kind}_norm"] for row in own if (row["layer"], row["part"]) == (layer, part)]
                cells.append(f"{fmean(values):.3g}" if values else "")
            lines.append([str(layer), *cells])
        if lines:
            of = "" if alone else ", mean over prompts"
            found.append(Grid(f"Mean length of the {kind}s of {matrix}{of}", ["layer", *parts], lines, "norms.csv"))
    return found


def target_grids(rows: Sequence[Row], vocabulary: int, alone: bool) -> list[Grid]:
    """Where target, answer and a random token stand at the prompt's last token: of deltas from the bottom, of inputs
    from the top, 0 being the end itself."""
    last = [row for row in rows if row["part"] == "last token"]
    found = []
    for kind, end in END.items():
        own = [row for row in last if row["vector"] == kind]
        matrices = [matrix for matrix, _ in OF_WIDTH if any(row["matrix"] == matrix for row in own)]
        columns = [(matrix, what) for matrix in matrices for what in ("target", "answer", "random")]
        lines = []
        for layer in _layers(own):
            cells = []
            for column in columns:
                ranks = [
                    row["rank"] for row in own if (row["layer"], row["matrix"], row["of_token"]) == (layer, *column)
                ]
                middle = median(ranks) if ranks else None
                from_end = middle if middle is None or kind == "input" else vocabulary - 1 - middle
                cells.append(NONE if from_end is None else f"{from_end:g}")
            lines.append([str(layer), *cells])
        title = (
            f"{'Rank' if alone else 'Median rank'} from the {end} in the {kind} of the prompt's last token, of "
            f"{vocabulary:,} tokens"
        )
        if lines:
            names = [f"{matrix}: {what}" for matrix, what in columns]
            found.append(Grid(title, ["layer", *names], lines, "target_ranks.csv"))
    return found


def token_grids(rows: Sequence[Row], texts: Sequence[str]) -> list[Grid]:
    """Layer x token: the first of the list that :data:`END` names."""
    first = max(0, len(texts) - TOKENS)
    found = []
    for matrix, kind in OF_WIDTH:
        own = {
            (row["layer"], row["position"]): json.loads(row[f"{END[kind]}_tokens"])
            for row in rows
            if (row["matrix"], row["vector"]) == (matrix, kind)
        }
        lines = []
        for layer in sorted({layer for layer, _ in own}):
            lists = [own[layer, position] for position in range(first, len(texts))]
            lines.append([str(layer), *(visible(each[0]) if each else NONE for each in lists)])
        if lines:
            columns = ["layer", *(f"{place} {visible(texts[place])}" for place in range(first, len(texts)))]
            cut = f", the last {TOKENS} tokens" if first else ""
            title = f"{END[kind].capitalize()} token of the {kind}s of {matrix}{cut}"
            found.append(Grid(title, columns, lines, "projections.csv"))
    return found


def summary(tables: Mapping[str, Sequence[Row]]) -> list[str]:
    """What was asked, in a line or two."""
    prompts = tables["prompts"]
    if len(prompts) > 1:
        losses = [row["loss_nats"] for row in prompts]
        return [f"{len(prompts)} prompts; mean loss of the targets {fmean(losses):.3f} nats"]
    (row,) = prompts
    return [
        plain(f"'{row['prompt']}' => '{row['target_text']}'"),
        f"loss of the target {row['loss_nats']:.3f} nats (p = {row['probability']:.3g}); "
        f"the likeliest token is {visible(row['answer_text'])}",
    ]


def print_lens(title: str, tables: Mapping[str, Sequence[Row]], texts: Sequence[str], vocabulary: int) -> None:
    """All grids on the terminal, whole, however narrow that is."""
    print(plain(title))
    for line in summary(tables):
        print(line)
    for grid in grids(tables, texts, vocabulary):
        table = Table(grid.columns[0], title=grid.title, title_justify="left", title_style="bold")
        for column in grid.columns[1:]:
            table.add_column(column, justify="right")
        for row in grid.rows:
            table.add_row(*row)
        Console(width=max(80, Console(width=2000).measure(table).maximum)).print(table)


def write_lens_page(
    folder: Path, title: str, tables: Mapping[str, Sequence[Row]], texts: Sequence[str], vocabulary: int
) -> None:
    """The same as one page, ``report.html`` and ``report.md``. Raises UserError if it cannot be written."""
    found: dict[str, list[Any]] = {}
    for grid in grids(tables, texts, vocabulary):
        found.setdefault(grid.file, []).append(PageTable(grid.columns, grid.rows, grid.title, grid.file))
    names = {
        "ranks.csv": "Rank",
        "norms.csv": "Lengths",
        "target_ranks.csv": "Where the target stands",
        "projections.csv": "Read through the vocabulary",
    }
    sections = [Section("What was asked", paragraphs=summary(tables))]
    sections += [Section(names[file], tables=each) for file, each in found.items()]
    write_page(folder, f"Gradient lens: {title}", [], sections)
