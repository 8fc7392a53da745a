"""Score the runs that a command names."""

from lab.base.errors import UserError
from lab.base.interruption import Interruption
from lab.experiment.settings import ScoreSettings
from lab.model.precision import device_of
from lab.observe.score_runs import score_runs
from lab.observe.scoring import rows_of, setting_of
from lab.runs.finding import runs_of


def extrapolate(settings: ScoreSettings) -> None:
    """Score runs, and print what is worth a glance. Raises UserError as what it calls; Interrupted on a signal."""
    measures = settings.measure.chosen
    if not measures:
        raise UserError("measure is empty: choose from conf/measure/, one, or several as measure=[a,b]")
    runs = runs_of(settings.runs)
    with Interruption() as interruption:
        interruption.install()

        def check(item: str) -> None:
            interruption.check(f"came before {item} was scored; what is scored is kept")

        dtype = settings.scoring.dtype
        device = device_of(settings.accelerator, settings.threads)
        scored = score_runs(runs, measures, settings.evaluation, device, settings.checkpoint, check, dtype)
    from lab.report.terminal import show_runs

    digests = {setting_of(measure) for measure in measures.values()}
    tables = [
        (run, rows_of(run, digests, dtype, evaluation, step))
        for run, (evaluation, step) in zip(runs, scored, strict=True)
    ]
    show_runs(tables)
