"""Run a study over the documents of the runs that a command names."""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch

from lab.analysis.decomposition import Decomposition
from lab.analysis.vector_study import VectorDocumentStudy, VectorStudy
from lab.base.errors import UserError
from lab.base.files import make_folder, refuse_link
from lab.base.interruption import Interruption
from lab.base.parts import build, find
from lab.base.progress import progress
from lab.base.tables import Row
from lab.data.sources.documents import Corpus
from lab.experiment.analysis_results import compare_runs, evidence, headlines, publish, show
from lab.experiment.analysis_settings import AnalyzeSettings
from lab.model.precision import device_of
from lab.observe.fold import Fold, Observed, run_fold
from lab.observe.measure import Item, Source
from lab.observe.score_runs import sources_of
from lab.observe.scoring import code_of
from lab.observe.study import DocumentStudy, Study, TrainedStudy
from lab.observe.vectors import Vectors
from lab.runs.derived import Derived
from lab.runs.finding import runs_of, step_of
from lab.runs.manifest import make_results
from lab.runs.model import Model
from lab.runs.run import Run
from lab.runs.settings import RunSettings

Sources = Sequence[tuple[str, Source]]


def analyze(settings: AnalyzeSettings) -> None:
    """Raises UserError as what it calls, all that can be known beforehand before anything is read; Interrupted on a
    signal, after which the same command goes on."""
    study: Study = settings.study
    runs = runs_of(settings.runs)
    steps = [steps_of(run, settings.checkpoint, study) for run in runs]
    labels = labels_of(runs, study)
    if study.of_people and settings.evaluation.corpus is not None:
        raise UserError(
            f"{study.label()} is about the people whom a decoder read of in training: leave evaluation= out, which "
            "chooses other documents"
        )
    for run in runs:
        if study.of_people and not isinstance(run.config, RunSettings):
            raise UserError(
                f"study={study.label()} asks about people, and {run.path}, which was not trained here, read of none: "
                "train a run with data=biographies"
            )
    sources = sources_of(runs, settings.evaluation, study.documents_of)
    of_vectors: Sources = []
    if isinstance(study, VectorStudy):
        of_vectors = sources_of(runs, settings.evaluation, study.vectors.documents_of)
    for run, (_, source) in zip(runs, sources, strict=True):
        study.fits(run.context)
        run.must_foretell(f"study={study.label()}")
        if study.of_people:
            check_people(run, source)
        if isinstance(study, VectorStudy) and study.of_extensions and not isinstance(run, Derived):
            raise UserError(f"{run.path} is no derived run: {study.label()} compares one with the run that it is of")
        if isinstance(study, DocumentStudy | VectorDocumentStudy):
            next(study.items(source))
    if len(runs) > 1:
        make_results(Path(settings.output))  # one that cannot be written is told before the work, not after it
    device = device_of(settings.accelerator, settings.threads)
    tables: list[tuple[Model, list[Row]]] = []
    numbers: list[Row] = []
    with Interruption() as interruption:
        interruption.install()
        for number, (run, (evaluation, source)) in enumerate(zip(runs, sources, strict=True)):
            rows: list[Row] = []
            for step in steps[number]:
                folding = Folding(run, step, device, interruption)
                with run.locked():
                    if isinstance(study, VectorStudy):
                        found, fold = folding.of_vectors(study, evaluation, source, *of_vectors[number])
                    else:
                        assert isinstance(study, DocumentStudy)
                        fold = folding.folded(
                            study,
                            evaluation,
                            [*study.items(source)],
                            partial(study.observe, context=run.context),
                            study.made_of(source),
                        )
                        found = study.rows(fold, run.context)
                told = {"study": study.label(), "evaluation": evaluation, "step": step, "documents": len(fold.done)}
                rows += [told | row for row in found]
                if settings.checkpoint != "kept":
                    own = study.numbers(fold, found)
                    numbers += evidence(run, labels[number], study, evaluation, source, own)
            show(run, steps[number], study, evaluation, len(fold.done), rows)
            tables.append((run, rows))
    if len(runs) > 1:
        for name, headline in headlines(study, settings.checkpoint == "kept"):
            compare_runs(tables, labels, study, headline, Path(settings.output), name)
    if numbers:
        publish(runs, labels, study, numbers, Path(settings.output) if len(runs) > 1 else runs[0].path / "analysis")


def steps_of(run: Model, checkpoint: int | Literal["last", "kept"], study: Study) -> list[int]:
    """The optimiser steps at which a run is studied: of ``kept`` those whose weights were kept, and the last.

    Raises:
        UserError: the run is unfinished, or the study is of one step.
    """
    if checkpoint != "kept":
        return [step_of(run, checkpoint)]
    if not study.over_steps:
        raise UserError(f"{study.label()} is read at one step: name it, checkpoint=STEP")
    kept = run.kept.listing() if isinstance(run, Run) else []
    return sorted({step_of(run, "last"), *(each.step for each in kept if not each.flaw)})


def labels_of(runs: Sequence[Model], study: Study) -> list[str]:
    """What runs are called that are compared: their variants; of people the data too, where these differ, and alone
    where the variants do not."""
    labels = [run.label for run in runs]
    if not study.of_people:
        return labels
    data = [str(run.config.data.corpus.label) if isinstance(run.config, RunSettings) else "" for run in runs]
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
