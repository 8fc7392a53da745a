"""What the gradient lens found, on the terminal and as a page."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from lab.base.console import Console, Table
from lab.base.shown import plain
from lab.base.tables import Row
from lab.report.lens_figures import lengths_figure, places_figure
from lab.report.lens_grids import grids, visible
from lab.report.page import PageTable, Picture, Section, write_page
from lab.report.pictures import save


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
        "curves.csv": "Over all prompts",
        "cosines.csv": "Layers beside each other",
        "neurons.csv": "Neurons of the gradient",
        "updates.csv": "What optimisers make of it",
        "projections.csv": "Read through the vocabulary",
    }
    drawn = {
        "curves.csv": ("places", places_figure, "Mean place by layer; bands: 95 % intervals over prompts."),
        "norms.csv": ("lengths", lengths_figure, "Mean length of the backward signals of down, by part and layer."),
    }
    sections = [Section("What was asked", paragraphs=summary(tables))]
    for file, each in found.items():
        pictures = []
        if file in drawn and tables.get("curves"):
            name, make, caption = drawn[file]
            figure = make(tables["curves"])
            if figure is not None:
                save(figure, folder / name)
                pictures.append(Picture(name, caption))
        sections.append(Section(names[file], tables=each, pictures=pictures))
    write_page(folder, f"Gradient lens: {title}", [], sections)
