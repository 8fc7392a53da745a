"""What the entry points share: where conf/ is, and how a user's mistake is told."""

import argparse
import io
import os
import re
import sys
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NoReturn

import hydra
from hydra.errors import HydraException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from lab.errors import UserError
from lab.files import remedy
from lab.schema import KINDS
from lab.training.interruption import Interrupted


def configuration_folder() -> str:
    """``lab/conf`` in an installed wheel, ``conf`` at the top of a source tree."""
    package = Path(__file__).resolve().parent
    inside = package / "conf"
    return str(inside if inside.is_dir() else package.parent / "conf")


def one_line(error: BaseException, kinds: Mapping[str, str] = KINDS) -> str | None:
    """The line that tells a user's mistake, or None if it is not a user's to mend; ``kinds``: the command's keys."""
    if isinstance(error, UserError):
        return str(error)
    if isinstance(error, (HydraException, OmegaConfBaseException)):
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        # The search path follows, of interest to those who write Hydra plugins only.
        kept = [line for line in lines if not line.startswith(("Config search path", "provider=", "full_key"))]
        return " ".join(" ".join(kept).split()) + known_keys(str(error), kinds)
    if isinstance(error, ValueError) and str(error).startswith("Config group override"):
        return f"{error}; write group=choice, for example model=rope"
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename or 'a file'}: {error.strerror.lower()}; {remedy(error)}"
    return None


def known_keys(message: str, kinds: Mapping[str, str]) -> str:
    """For Hydra's complaint about a key that does not exist: the keys that stand where it was looked for."""
    unknown = re.search(r"Could not override '([\w.]+)'", message)
    if unknown is None:
        return ""
    group = unknown.group(1).rpartition(".")[0]
    keys = [key for key in kinds if key.rpartition(".")[0] == group]
    return f"; {group or 'at the top'} has {', '.join(keys)}" if keys else ""


class Parser(argparse.ArgumentParser):
    """argparse with the lab's manner of telling a mistake, and the module's docstring as it stands for --help."""

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        if "\n" in keywords.get("description", ""):
            keywords["formatter_class"] = argparse.RawDescriptionHelpFormatter
        super().__init__(*arguments, **keywords)

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}; {self.prog} --help tells more")


def run_composed(name: str, act: Callable[[DictConfig], None], kinds: Mapping[str, str] = KINDS) -> None:
    """Call ``act`` with conf/<name>.yaml as the command line composes it; errors as in :func:`run_command`."""
    errors: list[Exception] = []

    @hydra.main(version_base="1.3", config_path=configuration_folder(), config_name=name)
    def entry(composed: DictConfig) -> None:
        try:
            act(composed)
        except Exception as error:  # one that passes through Hydra gets a line of Hydra's own
            errors.append(error)

    def main() -> None:
        entry()
        if errors:
            raise errors[0]

    run_command(main, kinds)


def run_command(main: Callable[[], None], kinds: Mapping[str, str] = KINDS) -> None:
    """Call ``main``; a user's mistake becomes one line on stderr and exit code 1, a bug keeps its traceback."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(line_buffering=True)  # a pipe or a job's file gets each line when it is said
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra hands its errors on instead of printing them in its own way
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(130)
    except Interrupted as interrupted:
        print(interrupted, file=sys.stderr)
        sys.exit(Interrupted.EXIT_CODE)
    except Exception as error:
        line = one_line(error, kinds)
        if line is None:
            traceback.print_exc()
        else:
            print(f"error: {line}", file=sys.stderr)
        sys.exit(1)
