"""Hold claims against published numbers, and write the page."""

from collections.abc import Sequence
from pathlib import Path

from lab.base.console import Console, Table
from lab.base.files import writable
from lab.base.tables import Row, read_table, write_table
from lab.evidence.claims import read_claims, verdicts
from lab.evidence.weighing import OBSERVED
from lab.experiment.compose import configuration_folder
from lab.report.claims_page import write_claims_page


def claim(documents: Sequence[Path], folder: Path | None, output: Path, command: str) -> None:
    """Write the page and its table, and print the verdicts.

    Raises:
        UserError: a table or a claim cannot be read, or the page cannot be written.
    """
    studies = read_claims(folder or Path(configuration_folder()) / "claim")
    remedy = "take it whole from where it was published"
    rows = [row for path in documents for row in read_table(path, OBSERVED, remedy=remedy)]
    writable(output)
    found = list(verdicts(studies, rows))
    write_claims_page(output, found, command, {study.study: study.conditions for study in studies})
    if found:
        write_table(output.with_suffix(".csv"), found)
    show(found)
    print(f"{output}, {output.with_suffix('.csv')}")


def show(found: Sequence[Row]) -> None:
    """The verdicts on the terminal."""
    table = Table("claim", "documents", "verdict", title="Claims", title_justify="left")
    for row in found:
        table.add_row(row["sentence"], row["evaluation"] or "-", row["verdict"])
    Console(width=120).print(table)
