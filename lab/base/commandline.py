"""What all commands share: how a mistake is told, and with which code they end."""

import argparse
import atexit
import contextlib
import io
import math
import os
import shlex
import signal
import sys
import traceback
from collections.abc import Callable
from typing import Any, NoReturn

from lab.base.errors import UserError
from lab.base.files import remedy
from lab.base.interruption import AtOnce, Interrupted, Process, ignore_signals
from lab.base.shown import plain, show_warnings


def lines_of(error: BaseException) -> list[str]:
    """What tells a user's mistakes, a line for each; none if it is not a user's to mend."""
    told = error.args if isinstance(error, UserError) else filter(None, [one_line(error)])
    return [plain(line) for line in told]


def one_line(error: BaseException) -> str | None:
    """What tells a user's mistake, or None if it is not a user's to mend."""
    if isinstance(error, UserError):
        return str(error)
    if type(error).__name__ == "OverrideParseException":  # Hydra's, of its grammar
        return unreadable(str(getattr(error, "override", "")), str(error))
    if type(error).__module__.partition(".")[0] in ("hydra", "omegaconf"):
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        # The search path follows, of interest to those who write Hydra plugins only.
        kept = [line for line in lines if not line.startswith(("Config search path", "provider=", "full_key"))]
        override = str(error).removeprefix("Error merging override ")
        if override != str(error) and error.__cause__ is not None:  # of a value that does not fit what stands there
            why = next(iter(str(error.__cause__).splitlines()), "")
            return f"an override cannot be read ({override}: {why}); --help shows what its key holds"
        return " ".join(" ".join(kept).split())
    if raised_in(error) in ("hydra", "omegaconf", "antlr4"):  # by their own code, which some overrides confuse
        return f"an override cannot be read ({type(error).__name__}: {error}); write key=value or group=choice"
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename or 'a file'}: {error.strerror.lower()}; {remedy(error)}"
    return None


def unreadable(override: str, why: str) -> str:
    """What to tell of an override that Hydra's grammar cannot read, with the quotes that it needs."""
    key, equals, value = override.partition("=")
    if not equals:
        reason = " ".join(why.split("\n")[0].split())
        return f"{override!r} cannot be read ({reason}); write key=value or group=choice"
    mark = "'" if '"' in value else '"'
    quoted = f"{key}={mark}{value.strip(mark)}{mark}"
    return f"{override}: the value has signs of Hydra's grammar; quote it, for the shell too: {shlex.quote(quoted)}"


def raised_in(error: BaseException) -> str:
    """The package whose code raised an error."""
    frames = [*traceback.walk_tb(error.__traceback__)]
    return str(frames[-1][0].f_globals.get("__name__", "")).partition(".")[0] if frames else ""


class Parser(argparse.ArgumentParser):
    """argparse with the lab's manner of telling a mistake, and the module's docstring as it stands for --help."""

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        if "\n" in keywords.get("description", ""):
            keywords["formatter_class"] = argparse.RawDescriptionHelpFormatter
        super().__init__(*arguments, **keywords)
        self.register("type", int, whole_number)
        self.register("type", float, finite_number)

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        """As argparse's, and overrides may stand behind options, too, where argparse wants them in one place."""
        given, rest = self.parse_known_args(args, namespace)
        if rest and (any(each.startswith("-") for each in rest) or not hasattr(given, "overrides")):
            self.error(f"unrecognized arguments: {' '.join(rest)}")
        if rest:
            given.overrides = [*given.overrides, *rest]
        return given

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}; {self.prog} --help tells more")


def whole_number(text: str) -> int:
    """Raises ArgumentTypeError where a text is no whole number, or one of more than 64 bits."""
    with contextlib.suppress(ValueError):
        if abs(number := int(text)) < 2**63:
            return number
    raise argparse.ArgumentTypeError(f"{text[:40]!r} is no whole number that 64 bits hold")


def finite_number(text: str) -> float:
    """Raises ArgumentTypeError where a text is no number, or not a finite one."""
    with contextlib.suppress(ValueError):
        if math.isfinite(number := float(text)):
            return number
    raise argparse.ArgumentTypeError(f"{text[:40]!r} is no finite number")


def check_working_folder() -> None:
    """Raises UserError if the folder that the command was started in has been deleted."""
    try:
        os.getcwd()
    except OSError:
        raise UserError("the working folder is not there any more: change to one that is") from None


def run_command(main: Callable[[], None]) -> None:
    """Call ``main``; a user's mistakes become lines on stderr and exit code 1, a bug keeps its traceback."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        # A pipe or a job's file gets each line when it is said; a sign that it cannot hold is a question mark there.
        sys.stdout.reconfigure(line_buffering=True, errors="replace")
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra hands its errors on instead of printing them in its own way
    Process.command = True
    show_warnings()
    try:
        check_working_folder()
        main()
    except KeyboardInterrupt:
        print("SIGINT: stopped at once", file=sys.stderr)
        sys.exit(AtOnce.EXIT_CODE)
    except AtOnce as stopped:
        print(stopped, file=sys.stderr)
        sys.exit(AtOnce.EXIT_CODE)
    except Interrupted as interrupted:
        atexit.register(ignore_signals)  # Python itself would take its handlers away before it ends
        print(plain(interrupted), file=sys.stderr)
        sys.exit(Interrupted.EXIT_CODE)
    except BrokenPipeError:
        # The reader, such as head, has what it wants: end as a command does that SIGPIPE kills.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(128 + signal.SIGPIPE)
    except Exception as error:
        told = lines_of(error)
        if not told:
            traceback.print_exc()
        for line in told:
            print(f"error: {line}", file=sys.stderr)
        sys.exit(1)
    finally:
        Process.command = False
