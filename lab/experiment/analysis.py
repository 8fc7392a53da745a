"""Run a study over the documents of the runs that a command names."""

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lab.analysis.decomposition import Decomposition
from lab.analysis.vector_study import VectorDocumentStudy, VectorStudy
from lab.base.errors import UserError
from lab.base.files import make_folder, refuse_link
from lab.base.interruption import Interruption
from lab.base.parts import build, find
from lab.base.progress import progress
from lab.base.tables import Row, write_table
from lab.data.sources.documents import Corpus
from lab.evidence.interval import students
from lab.evidence.quantities import WHOLE
from lab.experiment.analysis_settings import AnalyzeSettings
from lab.experiment.setup import device_of
from lab.observe.fold import Fold, Observed, run_fold
from lab.observe.measure import Item, Source
from lab.observe.score_runs import sources_of
from lab.observe.scoring import code_of
from lab.observe.study import DocumentStudy, Headline, Lines, Map, Number, Points, Study, TrainedStudy
from lab.observe.vectors import Vectors
from lab.runs.derived import Derived
from lab.runs.finding import runs_of, step_of
from lab.runs.run import Model

Sources = Sequence[tuple[str, Source]]


def analyze(settings: AnalyzeSettings) -> None:
    """Raises UserError as what it calls, all that can be known beforehand before anything is read; Interrupted on a
    signal, after which the same command goes on."""
    study: Study = settings.study
    runs = runs_of(settings.runs)
    steps = [step_of(run, settings.checkpoint) for run in runs]
    labels = labels_of(runs, study)
    if study.of_people and settings.evaluation.corpus is not None:
        raise UserError(
            f"{study.label()} is about the people whom a decoder read of in training: leave evaluation= out, which "
            "chooses other documents"
        )
    sources = sources_of(runs, settings.evaluation, study.documents_of)
    of_vectors: Sources = []
    if isinstance(study, VectorStudy):
        of_vectors = sources_of(runs, settings.evaluation, study.vectors.documents_of)
    for run, (_, source) in zip(runs, sources, strict=True):
        study.fits(run.context)
        if study.of_people:
            check_people(run, source)
        if isinstance(study, VectorStudy) and study.of_extensions and not isinstance(run, Derived):
            raise UserError(f"{run.path} is no derived run: {study.label()} compares one with the run that it is of")
        if isinstance(study, DocumentStudy | VectorDocumentStudy):
            next(study.items(source))
    device = device_of(settings.accelerator, settings.threads)
    tables: list[tuple[Model, list[Row]]] = []
    numbers: list[Row] = []
    with Interruption() as interruption:
        interruption.install()
        for number, (run, step, (evaluation, source)) in enumerate(zip(runs, steps, sources, strict=True)):
            folding = Folding(run, step, device, interruption)
            with run.locked():
                if isinstance(study, VectorStudy):
                    rows, fold = folding.of_vectors(study, evaluation, source, *of_vectors[number])
                else:
                    assert isinstance(study, DocumentStudy)
                    fold = folding.folded(
                        study,
                        evaluation,
                        [*study.items(source)],
                        partial(study.observe, context=run.context),
                        study.made_of(source),
                    )
                    rows = study.rows(fold, run.context)
            show(run, step, study, evaluation, fold, rows)
            tables.append((run, rows))
            found = study.numbers(fold, rows)
            numbers += evidence(run, labels[number], study, evaluation, source, found)
    if study.headline is not None and len(runs) > 1:
        compare_runs(tables, labels, study, study.headline, Path(settings.output))
    if numbers and len(runs) > 1:
        publish(runs, labels, study, numbers, Path(settings.output))


def labels_of(runs: Sequence[Model], study: Study) -> list[str]:
    """What runs are called that are compared: their variants; of people the data too, where these differ, and alone
    where the variants do not."""
    labels = [run.label for run in runs]
    if not study.of_people:
        return labels
    data = [str(run.config.data.corpus.label) for run in runs]
    if len(set(labels)) == 1 < len(set(data)):
        return data
    return [f"{label} {each}" for label, each in zip(labels, data, strict=True)] if len(set(data)) > 1 else labels


def check_people(run: Model, source: Source) -> None:
    """Raises UserError if the people that are asked about are not those that a run, or one before it, read of."""
    corpus = source.trained_on() if source.trained_on is not None else None
    identity = run.identity
    if corpus is None or "data" not in identity:
        return
    before, now = identity["data"]["corpus"]["digest"], corpus.manifest()["digest"]
    if before != now:
        raise UserError(
            f"{run.path} was trained on another corpus: its digest is {before[:8]}, and that of its settings now "
            f"{now[:8]}; restore the files that it is made of"
        )
    while "start" in identity:
        identity = identity["start"]["parent"]
        stored = dict(identity.get("data", {}).get("corpus", {}))
        digest = stored.pop("digest", None)
        if stored.get("name") != identity_name(run):
            continue
        parents: Corpus = build("corpus", find("corpus", stored["name"]).settings.check(stored))
        if parents.held_out_digest != corpus.held_out_digest:
            raise UserError(
                f"{run.path} was trained from a decoder of another corpus ({str(digest)[:8]}), of other people: nobody "
                "can be asked about whom both read of"
            )


def identity_name(run: Model) -> str:
    """The short name of the corpus that a run was trained on."""
    return str(run.identity["data"]["corpus"]["name"])


class Folding:
    """Folds over one checkpoint of a run, which are taken up where they were left, or found whole.

    A file is named by what its fold is made with and over; another study, code or checkpoint has another.
    """

    def __init__(self, run: Model, step: int, device: str, interruption: Interruption) -> None:
        self.run, self.step, self.device, self.interruption = run, step, device, interruption

    def folded(
        self,
        study: Study,
        evaluation: str,
        items: list[Item],
        observe: Callable[[Any, Item], Observed],
        made_of: Mapping[str, Any] | None = None,
    ) -> Fold:
        """The study's statistic over all items.

        Args:
            made_of: what it needs beside the decoder.
        """
        run = self.run
        identity = {
            "run": run.digest,
            "weights_sha256": run.checkpoint(self.step).weights_digest(),
            "step": self.step,
            "study": study.identity(),
            "evaluation": evaluation,
            "precision": run.compute_dtype,
            "code": code_of(study),
        } | ({"made_of": made_of} if made_of else {})
        digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:8]
        path = run.path / "analysis" / f"{study.label()}-{digest}.safetensors"
        refuse_link(path.parent)
        make_folder(path.parent)
        fold = Fold.load(path, identity) if path.exists() else Fold(identity)
        if fold.done.keys() == {item.name for item in items}:
            return fold
        decoder = run.decoder(self.step).to(self.device)
        each, unit = (study.steps, "steps") if isinstance(study, TrainedStudy) else (1, "items")
        label = f"{run.path.name} {study.label()}"
        bar = progress(label, unit, total=each * len(items), initial=each * len(fold.done))
        stop = "came before all documents were read; the same command goes on"
        trainings: list[Path] = []

        def check() -> None:
            self.interruption.check(stop)

        def observed(item: Item) -> Observed:
            if isinstance(study, TrainedStudy):
                training = study.training(decoder, item, run.context)
                trainings.append(path.with_suffix(f".{item.name.replace('/', '-')}.training"))
                return training.run(trainings[-1], {"of": digest, "item": item.name}, check, bar.update)
            with torch.inference_mode():
                found = observe(decoder, item)
            bar.update()
            return found

        with bar:
            run_fold(fold, items, observed, path, check)
        for training in path.parent.glob(f"{path.stem}.*.training"):
            training.unlink()
        return fold

    def folded_vectors(self, decomposition: Decomposition, evaluation: str, items: list[Item]) -> Vectors:
        """Positional vectors, made or found."""
        run = self.run
        fold = self.folded(decomposition, evaluation, items, partial(decomposition.observe, context=run.context))
        return decomposition.vectors(fold, run.context, run.window)

    def of_vectors(
        self, study: VectorStudy, evaluation: str, source: Source, label: str, training: Source
    ) -> tuple[list[Row], Fold]:
        """A study's table, and what it read of documents.

        Args:
            label, training: the documents that vectors are made of, and what they are called.
        """
        vectors = self.folded_vectors(study.vectors, label, [*study.vectors.items(training)])
        agreements = " ".join(f"{vectors.agreement(layer):.2f}" for layer in range(vectors.layers))
        print(f"{vectors.windows:,} windows, whose halves agree on m by layer: {agreements}")
        made_of = vectors.fold.identity
        for name, each in study.beside.items():
            vectors.beside[name] = self.folded_vectors(each, label, [*each.items(training)])
        if study.of_extensions:
            assert isinstance(self.run, Derived)
            parent = Folding(self.run.parent, self.run.steps, self.device, self.interruption)
            with parent.run.locked():
                vectors.origin = parent.folded_vectors(study.vectors, label, [*study.vectors.items(training)])
        if not isinstance(study, VectorDocumentStudy):
            return study.rows(vectors.fold, vectors), vectors.fold
        observe = partial(study.observe, vectors=vectors)
        fold = self.folded(study, evaluation, [*study.items(source)], observe, made_of)
        return study.rows(fold, vectors), fold


def evidence(
    run: Model, label: str, study: Study, evaluation: str, source: Source, numbers: Iterable[Number]
) -> Iterator[Row]:
    """A run's numbers as observations that claims are held against: the columns OBSERVED of
    :mod:`lab.evidence.weighing`."""
    place = {
        "evaluation": evaluation,
        "clusters_told": source.clusters,
        "context_tokens": run.context,
        "variant": label,
        "seed": run.identity.get("seed", 0),
    }
    for number in numbers:
        yield place | {
            "measure": f"{study.label()}: {number.quantity}",
            "length_tokens": run.context,
            "cluster": source.cluster(number.document) if number.document else WHOLE,
            "document": number.document,
            "mean": number.value,
            "weight": 1.0,
        }


def publish(runs: Sequence[Model], labels: Sequence[str], study: Study, numbers: Sequence[Row], folder: Path) -> None:
    """Write the numbers of several runs; of two runs that are one variant with one seed claims could make nothing."""
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


def show(run: Model, step: int, study: Study, evaluation: str, fold: Fold, rows: list[Row]) -> None:
    """The table and the pictures, beside the fold."""
    from lab.report.figures import heat_map, lines_figure, points_figure
    from lab.report.pictures import save

    told = {"study": study.label(), "evaluation": evaluation, "step": step, "documents": len(fold.done)}
    rows = [told | row for row in rows]
    path: Path = run.path / "analysis" / study.label()
    write_table(path.with_name(f"{path.name}.csv"), rows)
    for number, picture in enumerate(study.pictures):
        drawn = [
            row for row in rows if row.get(picture.value if isinstance(picture, Map) else picture.upward) is not None
        ]
        if isinstance(picture, Lines):
            figure = lines_figure(drawn, picture, run.context)
        elif isinstance(picture, Points):
            figure = points_figure(drawn, picture)
        else:
            figure = heat_map(drawn, picture.down, picture.across, picture.value, picture.labels, reverse=True)
        figure.suptitle(f"{picture.title}\n{run.path.name}, step {step}, {evaluation}", fontsize=9)
        save(figure, path if number == 0 else path.with_name(f"{path.name}_{number + 1}"))
    read = f"{len(fold.done)} {'probes of people' if study.of_people else 'documents'}"
    print(f"{path}.csv, .png: {read} of {evaluation}")


def compare_runs(
    tables: Sequence[tuple[Model, list[Row]]], labels: Sequence[str], study: Study, headline: Headline, folder: Path
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
    make_folder(folder)
    path = folder / study.label()
    write_table(path.with_name(f"{path.name}.csv"), compared)
    save(headline_figure(compared, headline), path)
    print(f"{path}.csv, .png: {len(tables)} runs")
