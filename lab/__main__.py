"""One door to all commands: ``lab train model=rope`` is ``python -m lab.train model=rope``.

lab                        what commands there are
eval "$(lab completion)"   let the shell complete commands, groups, choices and keys (bash, zsh; of fish:
                           lab completion fish | source)
"""

import argparse
import ast
import os
import runpy
import sys
from pathlib import Path
from typing import Any

from lab.base.commandline import run_command
from lab.base.errors import UserError
from lab.base.settings import near

SHELLS = ("bash", "zsh", "fish")  # that argcomplete writes for


def commands() -> dict[str, str]:
    """The commands, each with the first line of what it says of itself; none is imported."""
    files = sorted(Path(__file__).parent.glob("*.py"))
    return {
        path.stem: (ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or "").split("\n")[0]
        for path in files
        if not path.stem.startswith("_")
    }


def complete(prefix: str, parsed_args: argparse.Namespace, **_: Any) -> list[str]:
    """What may stand at an override that begins with ``prefix``, for argcomplete."""
    from lab.experiment.completion import candidates

    if parsed_args.command == "completion":
        return [shell for shell in SHELLS if shell.startswith(prefix)]
    return candidates(str(parsed_args.command), prefix)


def parser() -> argparse.ArgumentParser:
    """The command line, as argcomplete reads it."""
    made = argparse.ArgumentParser(prog="lab", add_help=False)
    made.add_argument("command", choices=[*commands(), "completion"])
    arguments: Any = made.add_argument("arguments", nargs="*")
    arguments.completer = complete
    return made


def act() -> None:
    if "_ARGCOMPLETE" in os.environ:
        import argcomplete

        argcomplete.autocomplete(parser(), always_complete_options=False)
    known = commands()
    if len(sys.argv) < 2 or sys.argv[1] in ("-h", "--help"):
        print((__doc__ or "").strip() + "\n")
        for name, line in known.items():
            print(f"  lab {name:12s} {line}")
        return
    name = sys.argv[1]
    if name == "completion":
        import argcomplete

        shell = " ".join(sys.argv[2:]) or SHELLS[0]
        if shell not in SHELLS:
            raise UserError(f"lab completion {shell}: choose one of {', '.join(SHELLS)}")
        print(argcomplete.shellcode(["lab"], shell=shell))
        return
    if name not in known:
        raise UserError(f"lab {name}: no such command{near(name, [*known])}; there are {', '.join(known)}")
    sys.argv = [f"lab {name}", *sys.argv[2:]]
    runpy.run_module(f"lab.{name}", run_name="__main__", alter_sys=False)


def main() -> None:
    run_command(act)


if __name__ == "__main__":
    main()
