"""Tiny runs, trained once, and the lab's commands in this process: to start one anew costs seconds."""

import contextlib
import importlib
import io
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from lab.base.commandline import run_command

Lab = Callable[..., subprocess.CompletedProcess[str]]
QUICK = ("logger=csv", "measure=none", "trainer.accelerator=cpu", "trainer.log_every=1")
SMOKE = ("experiment=smoke", *QUICK, "scale.tokens=4096", "trainer.checkpoint_every=2")


def lab_here(command: str, *arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """``python -m lab.<command> <arguments>`` in a folder, without the start of a process."""
    out, err, code = io.StringIO(), io.StringIO(), 0
    main = importlib.import_module(f"lab.{command}").main
    with pytest.MonkeyPatch.context() as patch, contextlib.chdir(folder):
        patch.setattr(sys, "argv", [f"lab/{command}.py", *arguments])
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            try:
                run_command(main)
            except SystemExit as ended:
                code = int(ended.code or 0)
    return subprocess.CompletedProcess(["lab", command, *arguments], code, out.getvalue(), err.getvalue())


@pytest.fixture(scope="session")
def here() -> Lab:
    """here("train", "model=rope", folder=...): a command, whatever becomes of it."""
    return lab_here


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with runs/: nope and rope, of four optimiser steps each."""
    folder = tmp_path_factory.mktemp("trained")
    for model in ("nope", "rope"):
        result = lab_here("train", *SMOKE, f"model={model}", folder=folder)
        assert result.returncode == 0, result.stderr
    return folder
