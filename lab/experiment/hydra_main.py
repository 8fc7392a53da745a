"""Hydra runs lab.train: one run, or a sweep of them by a launcher."""

import sys
from pathlib import Path

import hydra

from lab.base.errors import UserError
from lab.base.files import refuse_link
from lab.experiment.compose import (
    composed,
    configuration_folder,
    first_of,
    of_child,
    plain_overrides,
    refuse_nothing,
    refuse_twice,
    settings_of,
)
from lab.experiment.settings import TrainSettings
from lab.experiment.slurm_launcher import register
from lab.experiment.sweep import Sweep


def train_by_hydra() -> None:
    """Train what the command line asks for.

    Raises:
        UserError: a mistake in it, or runs of a sweep that failed.
        Interrupted: a signal came; what runs is saved.
    """
    refuse_twice(plain_overrides(sys.argv[1:]))
    refuse_nothing(plain_overrides(sys.argv[1:]))
    if {"-m", "--multirun"} & set(sys.argv):
        _refuse_link_of_sweep()
    else:
        for each in plain_overrides(sys.argv[1:]):
            if first_of(each) != each:
                raise UserError(f"{each}: add -m to train a run of each value; a list is written in brackets, [a,b]")
    register()
    sweep = Sweep()
    sys.argv[1:] = of_child(sys.argv[1:])
    try:
        hydra.main(version_base="1.3", config_path=configuration_folder(), config_name="train")(sweep.run)()
    except hydra.errors.ConfigCompositionException as error:
        raise _all_wrong_keys(error) from None
    except Exception:
        sweep.print_failures()  # of the runs before Hydra itself failed
        raise
    if sweep.interrupted is not None:
        raise sweep.interrupted
    if sweep.error is not None:
        raise sweep.error
    sweep.conclude()


def _refuse_link_of_sweep() -> None:
    """Raises UserError if what Hydra writes down of a sweep would go to where a link leads."""
    try:
        folder = composed("train", [first_of(each) for each in plain_overrides(sys.argv[1:])]).runs
    except Exception:
        return  # Hydra itself tells what is wrong
    refuse_link(Path(folder) / "multirun.yaml")


def _all_wrong_keys(error: Exception) -> Exception:
    """What to raise for a key that does not exist: Hydra stops at the first, the settings tell all."""
    if "Could not override" not in str(error):
        return error
    overrides = [each for each in sys.argv[1:] if not each.startswith("-")]
    try:
        settings_of("train", TrainSettings, [first_of(each) for each in overrides])
    except UserError as told:
        # What a parent has is known when it is named: until then its keys would be told as wrong.
        of_start = [line for line in told.args if str(line).startswith("start.run must be given")]
        return UserError(*of_start) if of_start else told
    except Exception:
        return error
    return error
