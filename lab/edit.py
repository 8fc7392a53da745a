"""Edit facts in the weights of a finished run: a derived run beside it, which differs in one matrix.

  python -m lab.edit run=runs/A method=forward_shift method.layer=2 method.step=30 prompt="The state of" target=" a"
  python -m lab.edit run=runs/A method=forward_shift method.layer=2 method.step=30 facts=facts.jsonl

What stands after prompt=, target= and subject= is taken as it is, whatever signs it holds. What is made is scored,
compared (factor=edit), generated from and removed like any run; the run that it is of must stay where it is.
"""

import shlex
import sys

from lab.experiment.compose import run_composed
from lab.experiment.edit_settings import EditSettings


def act(settings: EditSettings) -> None:
    from lab.experiment.editing import edit

    edit(settings, shlex.join(["python", "-m", "lab.edit", *sys.argv[1:]]))


def main() -> None:
    run_composed("edit", EditSettings, act, __doc__ or "", literal=("prompt", "target", "subject"))


if __name__ == "__main__":
    main()
