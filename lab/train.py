"""Train one decoder, score it beyond its context window, and show the result.

python -m lab.train model=rope                   one run
python -m lab.train -m model=nope,rope seed=0,1  every combination, one after the other
python -m lab.train model=rope plan=true         train nothing, print what would be run
python -m lab.train experiment=pilot_table       the seven variants, compared
python -m lab.train start=run start.run=runs/A model=nope
                                                 from the weights of A: what is not given is as A has it
"""

import sys
from collections.abc import Sequence

from lab.base.commandline import run_command
from lab.base.errors import UserError
from lab.base.progress import say_starting
from lab.experiment.compose import plain_overrides, print_help, wants_help
from lab.experiment.settings import TrainSettings

FLAGS = ("-m", "--multirun", "--resolve")
VALUED = ("--config-dir", "-cd", "--cfg", "-c", "--package", "-p")


def options_first(given: Sequence[str]) -> list[str]:
    """Options and then overrides, as Hydra wants them, wherever they stand. Raises UserError for another option."""
    options: list[str] = []
    overrides: list[str] = []
    rest = iter(given)
    for each in rest:
        if each in VALUED:
            value = next(rest, None)
            if value is None:
                raise UserError(f"{each}: what follows is missing; --help tells more")
            options += [each, value]
        elif each in FLAGS or (each.partition("=")[0] in VALUED and "=" in each):
            options.append(each)
        elif each.startswith("-"):
            raise UserError(f"{each}: no such option; give key=value, -m for a sweep, --config-dir FOLDER or --help")
        else:
            overrides.append(each)
    return [*options, *overrides]


def main() -> None:
    given = sys.argv[1:]
    if wants_help(given):
        print_help("train", TrainSettings, __doc__ or "", plain_overrides(given))
        return
    sys.argv[1:] = options_first(given)
    say_starting()
    from lab.experiment.hydra_main import train_by_hydra

    train_by_hydra()


if __name__ == "__main__":
    run_command(main)
