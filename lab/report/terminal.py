"""What is shown of scored runs: one short table, on the terminal and as summary.csv, and a picture a measure."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from lab.base.console import Console, Table
from lab.base.tables import Row, write_table
from lab.evidence.quantities import curves, overview
from lab.observe.measure import measures
from lab.report.figures import curve_figure, detail_figure
from lab.report.pictures import save
from lab.report.tensorboard import write_curves

if TYPE_CHECKING:
    from lab.runs.model import Model


def show_run(run: "Model", rows: Sequence[Row], fresh: bool) -> None:
    """The table of one run; written with its pictures to its directory if it was scored now, or they are not there."""
    lines = overview(rows, run.context)
    if fresh or not (run.path / "summary.csv").exists():
        write_table(run.path / "summary.csv", lines)
        draw(run, rows)
    print_table([(run.path.name, lines)])
    pictures = sorted(path.name for path in run.path.glob("*.png"))
    print(f"tables and pictures: {run.path}/scores.csv, summary.csv{''.join(f', {name}' for name in pictures)}")


def show_runs(tables: Sequence[tuple["Model", Sequence[Row]]]) -> None:
    """One table of several runs; their pictures go to their directories."""
    for run, rows in tables:
        draw(run, rows)
    print_table([(run.path.name, overview(rows, run.context)) for run, rows in tables])
    print(f"every observation: scores.csv in {', '.join(str(run.path) for run, _ in tables)}")


def draw(run: "Model", rows: Sequence[Row]) -> None:
    """Pictures of one run's rows, to its directory: ``<measure>.png``, and ``<detail>.png`` of what it tells beside;
    its curves to TensorBoard, too, if its training is there.

    Their title says which documents and which checkpoint, for those of another evaluation take their place.
    """
    lines = [{"variant": run.label} | row for row in curves([rows])]
    evaluation = next((row["evaluation"] for row in rows if row["evaluation"] != "none"), "none")
    if (run.path / "tensorboard").is_dir():
        write_curves(run.path / "tensorboard", evaluation, lines, overview(rows, run.context))
    for measure in measures():
        own = [row for row in lines if row["measure"] == measure.label()]
        figures = {
            measure.label(): curve_figure(own, measure, [run.label], run.context) if own else None,
            measure.detail: detail_figure(measure.details(rows), measure, ""),
        }
        for name, figure in figures.items():
            if figure is not None:
                row = next(row for row in rows if row["measure"] == measure.label())
                of = "texts made up" if row["evaluation"] == "none" else row["evaluation"]
                figure.axes[0].set_title(f"{run.path.name}, step {row['step']}: {of}", fontsize=9)
                save(figure, run.path / name)


def summary_table(tables: Sequence[tuple[str, Sequence[Row]]]) -> Table:
    """Lines of :func:`lab.evidence.quantities.overview`, of each run by its name."""
    one = len(tables) == 1
    title = tables[0][0] if one else "Scored"
    table = Table(*([] if one else ["run"]), "measure", title=title, title_justify="left", title_style="bold")
    for column in ("length (tokens)", "mean", "95 % interval", "documents"):
        table.add_column(column, justify="right")
    for name, lines in tables:
        for row in lines:
            unit = f" ({row['unit']})" if row["unit"] else ""
            cells = (f"{row['measure']}{unit}", row["length_told"], *_numbers(row))
            table.add_row(*([] if one else [name]), *cells)
        table.add_section()
    return table


def _numbers(row: Row) -> tuple[str, str, str]:
    """Mean, interval and documents of a line as they are shown."""
    if row["mean"] is None:
        return row["told"], row["interval_told"], "" if row["documents"] is None else str(row["documents"])
    form = "z.1f" if row["unit"] == "perplexity" else "z.3f"
    low, high = row["low"], row["high"]
    between = "not known" if low != low or high != high else f"{low:{form}} to {high:{form}}"
    return f"{row['mean']:{form}}", "all equal" if low == high else between, str(row["documents"])


def print_table(tables: Sequence[tuple[str, Sequence[Row]]]) -> None:
    """The short table on the terminal, whole, however narrow that is."""
    table = summary_table(tables)
    Console(width=max(80, Console(width=1000).measure(table).maximum)).print(table)


def print_tasks(title: str, lines: Sequence[Row]) -> None:
    """The table of :func:`lab.experiment.evaluating.task_lines` on the terminal."""
    table = Table("task", "metric", title=title, title_justify="left", title_style="bold")
    for column in ("value", "standard error", "95 % interval", "questions"):
        table.add_column(column, justify="right")
    table.add_column("better")
    for row in lines:
        low, high = row["low"], row["high"]
        table.add_row(
            row["task"],
            row["metric"],
            f"{row['value']:.4f}",
            "" if row["stderr"] is None else f"{row['stderr']:.4f}",
            "" if low is None else f"{low:.4f} to {high:.4f}",
            "" if row["questions"] is None else f"{row['questions']:,}",
            row["better"],
        )
    Console(width=max(80, Console(width=1000).measure(table).maximum)).print(table)
