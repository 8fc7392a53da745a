"""Read the weights of a finished run otherwise, without training: a derived run beside it.

  python -m lab.extend run=runs/A extension=temperature extension.temperature=1.2
  python -m lab.extend run=runs/A extension=attention_scaling extension.factor=4 extension.k=fit
  python -m lab.extend run=runs/A extension=yarn extension.factor=4 show=true
  python -m lab.extend 'run=runs/rope-*-????????' extension=ntk extension.factor=4
  python -m lab.extend run=runs/A extension=vector_replacement extension.contexts=4 extension.ratio=5

What it makes is scored, compared (factor=extension), generated from and removed like any run. It holds no weights:
the run that it is of must stay where it is.
"""

import shlex
import sys

from lab.experiment.compose import run_composed
from lab.experiment.extend_settings import ExtendSettings


def act(settings: ExtendSettings) -> None:
    from lab.experiment.derive import extend_all
    from lab.experiment.showing import show_rule

    for run in extend_all(settings, shlex.join(["python", "-m", "lab.extend", *sys.argv[1:]])):
        if settings.show:
            show_rule(run)


def main() -> None:
    run_composed("extend", ExtendSettings, act, __doc__ or "")


if __name__ == "__main__":
    main()
