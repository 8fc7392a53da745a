"""Read the weights of a finished run otherwise, without training: a derived run beside it.

  python -m lab.extend run=runs/A extension=temperature extension.temperature=1.2

What it makes is scored, compared (factor=extension), generated from and removed like any run. It holds no weights:
the run that it is of must stay where it is.
"""

import shlex
import sys

from lab.experiment.compose import run_composed
from lab.experiment.settings import ExtendSettings


def act(settings: ExtendSettings) -> None:
    from lab.experiment.derive import extend

    extend(settings.run, settings.extension, shlex.join(["python", "-m", "lab.extend", *sys.argv[1:]]))


def main() -> None:
    run_composed("extend", ExtendSettings, act, __doc__ or "")


if __name__ == "__main__":
    main()
