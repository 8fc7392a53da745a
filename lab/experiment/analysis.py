"""Run a study over the documents of the runs that a command names."""

import hashlib
import json
from pathlib import Path

import torch

from lab.base.files import make_folder, refuse_link
from lab.base.interruption import Interruption
from lab.base.progress import progress
from lab.base.tables import write_table
from lab.experiment.analysis_settings import AnalyzeSettings
from lab.experiment.setup import device_of
from lab.observe.fold import Fold, Observed, run_fold
from lab.observe.measure import Item
from lab.observe.score_runs import sources_of
from lab.observe.scoring import code_of
from lab.observe.study import Study
from lab.runs.finding import runs_of, step_of
from lab.runs.run import Model


def analyze(settings: AnalyzeSettings) -> None:
    """Raises UserError as what it calls, all that can be known beforehand before anything is read; Interrupted on a
    signal, after which the same command goes on."""
    study: Study = settings.study
    runs = runs_of(settings.runs)
    steps = [step_of(run, settings.checkpoint) for run in runs]
    sources = sources_of(runs, settings.evaluation)
    for run, (_, source) in zip(runs, sources, strict=True):
        study.fits(run.context)
        next(study.items(source))
    device = device_of(settings.accelerator, settings.threads)
    with Interruption() as interruption:
        interruption.install()
        for run, step, (evaluation, source) in zip(runs, steps, sources, strict=True):
            with run.locked():
                fold = folded(run, step, study, evaluation, [*study.items(source)], device, interruption)
            show(run, step, study, evaluation, fold)


def folded(
    run: Model, step: int, study: Study, evaluation: str, items: list[Item], device: str, interruption: Interruption
) -> Fold:
    """The study's statistic over all items: taken up where it was left, or found whole.

    Its file is named by what it is made with and over; another study, code or checkpoint has another.
    """
    identity = {
        "run": run.digest,
        "weights_sha256": run.checkpoint(step).weights_digest(),
        "step": step,
        "study": study.identity(),
        "evaluation": evaluation,
        "precision": run.config.trainer.compute_dtype,
        "code": code_of(study),
    }
    digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:8]
    path = run.path / "analysis" / f"{study.label()}-{digest}.safetensors"
    refuse_link(path.parent)
    make_folder(path.parent)
    fold = Fold.load(path, identity) if path.exists() else Fold(identity)
    if fold.done.keys() == {item.name for item in items}:
        return fold
    decoder = run.decoder(step).to(device)
    bar = progress(f"{run.path.name} {study.label()}", "items", total=len(items), initial=len(fold.done))

    def observe(item: Item) -> Observed:
        with torch.inference_mode():
            found = study.observe(decoder, item, run.context)
        bar.update()
        return found

    with bar:
        stop = "came before all documents were read; the same command goes on"
        run_fold(fold, items, observe, path, lambda: interruption.check(stop))
    return fold


def show(run: Model, step: int, study: Study, evaluation: str, fold: Fold) -> None:
    """The table and the picture, beside the fold."""
    from lab.report.figures import lines_figure
    from lab.report.pictures import save

    told = {"study": study.label(), "evaluation": evaluation, "step": step, "documents": len(fold.done)}
    rows = [told | row for row in study.rows(fold, run.context)]
    path: Path = run.path / "analysis" / study.label()
    write_table(path.with_name(f"{path.name}.csv"), rows)
    figure = lines_figure(rows, study.lines, run.context)
    figure.axes[0].set_title(f"{study.lines.title}: {run.path.name}, step {step}, {evaluation}", fontsize=9)
    save(figure, path)
    print(f"{path}.csv, .png: {len(fold.done)} documents of {evaluation}")
