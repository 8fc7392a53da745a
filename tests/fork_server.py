"""Run the lab's commands in forks of a process that has loaded their libraries, which takes most of a small one's time.

Who connects to the socket (forked/python) gives stdin, stdout and stderr, then a line of JSON (module, arguments,
folder, environment); the exit code is written back when the fork has ended, as :mod:`subprocess` tells it. What happens
in the fork from there on, its end too, is what Python does for ``python -m lab.<command>``. It is killed when who asked
is gone.
"""

import importlib
import json
import os
import pkgutil
import runpy
import select
import signal
import socket
import sys
from typing import Any

import lab


def serve(path: str) -> dict[str, Any]:
    """Fork for each connection, for ever; in the fork what is asked for."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # keepers are not waited for
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(f"{path}.new")
        server.listen()
        os.rename(f"{path}.new", path)  # who sees it can connect
        while True:
            connection, _ = server.accept()
            if os.fork() == 0:
                server.close()
                return kept(connection)
            connection.close()


def kept(connection: socket.socket) -> dict[str, Any]:
    """In one more fork what is asked for; who forks waits for its end and tells it."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    _, files, _, _ = socket.recv_fds(connection, 1, 3)
    asked: dict[str, Any] = json.loads(connection.makefile().readline())
    child = os.fork()
    if child == 0:
        connection.close()
        return asked | {"files": files}
    for each in files:
        os.close(each)
    ended = os.pidfd_open(child)
    readable, _, _ = select.select([ended, connection], [], [])
    if connection in readable:
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    if connection not in readable:
        connection.sendall(f"{os.waitstatus_to_exitcode(status)}\n".encode())
    os._exit(0)


def become(asked: dict[str, Any]) -> None:
    """Take the place that a new process would have."""
    for number, opened in enumerate(asked["files"]):
        os.dup2(opened, number)
        os.close(opened)
    os.chdir(asked["folder"])
    os.environ.clear()
    os.environ.update(asked["environment"])
    sys.argv = [asked["module"], *asked["arguments"]]
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
    asked = serve(sys.argv[1])
    become(asked)
    runpy.run_module(asked["module"], run_name="__main__", alter_sys=True)
