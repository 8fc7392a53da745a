"""Run the lab's commands in forks of a process that has loaded their libraries, which takes most of a small one's time.

A line of JSON on stdin (command, arguments, folder, environment, stdout and stderr: paths of files) starts one, and its
exit code is printed when it has ended, as :mod:`subprocess` tells it. What happens in the fork from there on, its end
too, is what Python does for ``python -m lab.<command>``.
"""

import importlib
import json
import os
import pkgutil
import runpy
import sys
from typing import Any

import lab


def serve() -> dict[str, Any] | None:
    """Fork for each line of stdin; in the fork what is asked for, in the server None at the end of stdin."""
    for line in sys.stdin:
        asked: dict[str, Any] = json.loads(line)
        child = os.fork()
        if child == 0:
            return asked
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)
    return None


def become(asked: dict[str, Any]) -> None:
    """Take the place that a new process would have."""
    files = ((os.devnull, os.O_RDONLY), *((asked[name], os.O_WRONLY | os.O_TRUNC) for name in ("stdout", "stderr")))
    for number, (path, flags) in enumerate(files):
        opened = os.open(path, flags)
        os.dup2(opened, number)
        os.close(opened)
    os.chdir(asked["folder"])
    os.environ.clear()
    os.environ.update(asked["environment"])
    sys.argv = [f"lab.{asked['command']}", *asked["arguments"]]
    sys.path[0] = asked["folder"]


def load() -> None:
    """The lab, its commands apart, and what it loads only when it is needed."""
    for name in ("lightning.pytorch", "matplotlib.figure", "datasets", "scipy.stats", "torch._dynamo"):
        importlib.import_module(name)
    for module in pkgutil.walk_packages(lab.__path__, "lab."):
        if module.name.count(".") > 1:
            importlib.import_module(module.name)


if __name__ == "__main__":
    load()
    asked = serve()
    if asked is not None:
        become(asked)
        runpy.run_module(f"lab.{asked['command']}", run_name="__main__", alter_sys=True)
