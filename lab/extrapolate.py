"""Score trained decoders beyond their context window: rows into each run's scores.csv.

  python -m lab.extrapolate runs='runs/*'                           the standard list, held-out documents
  python -m lab.extrapolate runs=[runs/a,runs/b] evaluation=kjv     other documents
  python -m lab.extrapolate runs=runs/a measure=passkey             one measure
  python -m lab.extrapolate runs=runs/a measure=[copy,context_gain] scoring.longest=32
  python -m lab.extrapolate runs=runs/a preset=pi_pg19              a published protocol

What is scored already is not scored again; stopped, it goes on where it was.
"""

from lab.experiment.compose import run_composed
from lab.experiment.settings import ScoreSettings


def act(settings: ScoreSettings) -> None:
    from lab.experiment.scoring import extrapolate

    extrapolate(settings)


def main() -> None:
    run_composed("extrapolate", ScoreSettings, act, __doc__ or "")


if __name__ == "__main__":
    main()
