"""Hold claims against published numbers, and write the page."""

from collections.abc import Sequence
from pathlib import Path

from lab.base.console import Console, Table
from lab.base.errors import UserError
from lab.base.files import refuse_read, writable
from lab.base.tables import Row, write_table
from lab.evidence.claims import read_claims, verdicts
from lab.evidence.weighing import joined, published
from lab.experiment.compose import configuration_folder
from lab.report.claims_page import write_claims_page


def claim(documents: Sequence[str], folder: Path | None, study: str | None, output: Path, command: str) -> None:
    """Write the page and its table, and print the verdicts.

    Args:
        documents: paths, each with a name before it, or none: ``trained 1 %=documents.csv.gz``.
        study: the file of the folder that is meant, without its .yaml; None: all.

    Raises:
        UserError: a table or a claim cannot be read, or the page cannot be written.
    """
    folder = folder or Path(configuration_folder()) / "claim"
    studies = read_claims(folder)
    names = [path.stem for path in sorted(folder.glob("*.yaml"))]
    if study is not None:
        if study not in names:
            raise UserError(f"--study is {study}: choose one of {', '.join(names) or f'none, {folder} has no claims'}")
        studies = [studies[names.index(study)]]
    table = output.with_suffix(".csv")
    for each in (output, table):
        writable(each)
        refuse_read(each, (Path(given.rpartition("=")[2]) for given in documents))
    rows = joined({each: _rows(each) for each in documents})
    found = list(verdicts(studies, rows))
    write_claims_page(output, found, command, studies)
    if found:
        write_table(table, found)
    show(found)
    print(f"{output}, {table}")


def _rows(given: str) -> list[Row]:
    """A table of documents, its variants called as was asked for."""
    name, equals, path = given.rpartition("=")
    rows = published(Path(path))
    return [row | {"variant": f"{row['variant']}, {name}"} for row in rows] if equals else rows


def show(found: Sequence[Row]) -> None:
    """The verdicts on the terminal."""
    table = Table("claim", "documents", "verdict", title="Claims", title_justify="left")
    for row in found:
        table.add_row(row["sentence"], row["evaluation"] or "-", row["verdict"])
    Console(width=120).print(table)
