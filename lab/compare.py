"""Compare trained runs that differ in one declared factor and in nothing else: report.html, tables, pictures.

  python -m lab.compare runs=[runs/a,runs/b]                         two variants
  python -m lab.compare runs='runs/pilot/*' reference=rope output=pilot
  python -m lab.compare runs='runs/*' factor=optimizer allow=[code]
  python -m lab.compare noise=runs/a                                 how much seeds alone change
  python -m lab.compare documents=pilot/documents.csv.gz             intervals again, from published numbers

What is not scored yet is scored first. All sets of documents that all runs have been scored on are compared.
A difference beside the factor stops the comparison and is named.
"""

import shlex
import sys

from lab.experiment.compose import run_composed
from lab.experiment.settings import CompareSettings


def act(settings: CompareSettings) -> None:
    if settings.noise is not None:
        from lab.experiment.noise import measure_noise

        measure_noise(settings)
        return
    from lab.experiment.comparison import compare, compare_again

    if settings.documents is not None:
        compare_again(settings)
        return
    compare(settings, shlex.join(["python", "-m", "lab.compare", *sys.argv[1:]]))


def main() -> None:
    run_composed("compare", CompareSettings, act, __doc__ or "")


if __name__ == "__main__":
    main()
