"""Study trained decoders over many documents: a table and a picture in each run's folder ``analysis``.

  python -m lab.analyze runs='runs/*' study=loss_by_frequency
  python -m lab.analyze runs=runs/A study=state_norms study.longest=4

Stopped, it goes on where it was; what is there already is not read again.
"""

from lab.experiment.analysis_settings import AnalyzeSettings
from lab.experiment.compose import run_composed


def act(settings: AnalyzeSettings) -> None:
    from lab.experiment.analysis import analyze

    analyze(settings)


def main() -> None:
    run_composed("analyze", AnalyzeSettings, act, __doc__ or "")


if __name__ == "__main__":
    main()
