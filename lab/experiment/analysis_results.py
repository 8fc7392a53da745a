"""What a study has found, written: a run's table and pictures, several runs beside each other, numbers for claims."""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lab.base.files import make_folder
from lab.base.tables import Row, write_table
from lab.evidence.interval import students
from lab.evidence.quantities import WHOLE
from lab.observe.measure import Source
from lab.observe.study import Headline, Lines, Map, Number, Points, Study
from lab.runs.model import Model


def evidence(
    run: Model, label: str, study: Study, evaluation: str, source: Source, numbers: Iterable[Number]
) -> Iterator[Row]:
    """A run's numbers as observations that claims are held against: the columns OBSERVED of
    :mod:`lab.evidence.weighing`."""
    context = run.context
    place = {
        "evaluation": evaluation,
        "clusters_told": source.clusters,
        "context_tokens": context,
        "variant": label,
        "seed": run.identity.get("seed", 0),
    }
    for number in numbers:
        yield place | {
            "measure": f"{study.label()}: {number.quantity}",
            "length_tokens": context,
            "cluster": source.cluster(number.document) if number.document else WHOLE,
            "document": number.document,
            "mean": number.value,
            "weight": 1.0,
        }


def publish(runs: Sequence[Model], labels: Sequence[str], study: Study, numbers: Sequence[Row], folder: Path) -> None:
    """Write the numbers of runs; of two runs that are one variant with one seed claims could make nothing."""
    seen: dict[tuple[str, Any], Model] = {}
    for run, label in zip(runs, labels, strict=True):
        other = seen.setdefault((label, run.identity.get("seed", 0)), run)
        if other is not run:
            print(f"no table for claims: {other.path} and {run.path} are both {label} of one seed")
            return
    make_folder(folder)
    path = folder / f"{study.label()}_documents.csv.gz"
    write_table(path, numbers)
    print(f"{path}: for python -m lab.claims --documents")


def show(run: Model, steps: Sequence[int], study: Study, evaluation: str, documents: int, rows: list[Row]) -> None:
    """The table and the pictures, beside the folds: those of the last step, and of several steps together."""
    from lab.report.figures import heat_map, lines_figure, points_figure
    from lab.report.pictures import save

    path: Path = run.path / "analysis" / study.label()
    write_table(path.with_name(f"{path.name}.csv"), rows)
    pictures = [*study.pictures, *(study.step_pictures if len(steps) > 1 else ())]
    for number, picture in enumerate(pictures):
        of_steps = number >= len(study.pictures)
        drawn = [
            row
            for row in rows
            if (of_steps or row["step"] == steps[-1])
            and row.get(picture.value if isinstance(picture, Map) else picture.upward) is not None
        ]
        if not drawn:
            print(f"no picture of {picture.title[:1].lower()}{picture.title[1:]}: there is no number of it")
            continue
        if isinstance(picture, Lines):
            figure = lines_figure(drawn, picture, run.context)
        elif isinstance(picture, Points):
            figure = points_figure(drawn, picture)
        else:
            figure = heat_map(drawn, picture.down, picture.across, picture.value, picture.labels, reverse=True)
        at = f"steps {steps[0]} to {steps[-1]}" if of_steps else f"step {steps[-1]}"
        figure.suptitle(f"{picture.title}\n{run.path.name}, {at}, {evaluation}", fontsize=9)
        save(figure, path if number == 0 else path.with_name(f"{path.name}_{number + 1}"))
    read = f"{documents} {'probes of people' if study.of_people else 'documents'}"
    print(f"{path}.csv{', .png' if path.with_name(f'{path.name}.png').exists() else ''}: {read} of {evaluation}")


def headlines(study: Study, over_steps: bool) -> list[tuple[str, Headline]]:
    """By what several runs are compared, with what is added to the study's name in the files."""
    if not over_steps:
        return [] if study.headline is None else [("", study.headline)]
    return [(f"_{each.value}", each) for each in study.over_steps]


def compare_runs(
    tables: Sequence[tuple[Model, list[Row]]],
    labels: Sequence[str],
    study: Study,
    headline: Headline,
    folder: Path,
    name: str = "",
) -> None:
    """One table and picture of several runs: of each variant the mean over its runs, with Student's 95 % interval where
    there are several, by ``headline.along``."""
    from lab.report.figures import headline_figure
    from lab.report.pictures import save

    values: dict[tuple[str, Any], list[float]] = {}
    for (_, rows), label in zip(tables, labels, strict=True):
        shown = [row for row in rows if None not in (row[headline.along], row[headline.value])]
        own = {row[headline.along]: row[headline.value] for row in shown}
        for along, value in own.items():
            values.setdefault((label, along), []).append(float(value))
    compared: list[Row] = []
    for (variant, along), each in values.items():
        low, high = students(np.array(each))
        compared.append(
            {
                "study": study.label(),
                "variant": variant,
                headline.along: along,
                "measure": headline.value,
                "value": float(np.mean(each)),
                "low": low,
                "high": high,
                "runs": len(each),
            }
        )
    if not compared:
        print(
            f"{study.label()}: no run has a number of it ({headline.value_label}), so that there is nothing to compare"
        )
        return
    make_folder(folder)
    path = folder / f"{study.label()}{name}"
    write_table(path.with_name(f"{path.name}.csv"), compared)
    save(headline_figure(compared, headline), path)
    print(f"{path}.csv, .png: {len(tables)} runs")
