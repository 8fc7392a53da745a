"""A run that is stopped and continued on this machine's accelerator ends bit-identical: run by `make gpu-check`."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import torch

STEPS = 200
# A CPU takes a very small decoder through that in seconds.
SIZE = (
    ("scale=pilot", f"scale.tokens={STEPS * 8192}")
    if torch.cuda.is_available()
    else ("experiment=smoke", f"scale.tokens={STEPS * 1024}")
)
EVERY = ("trainer.checkpoint_every=25", "trainer.validate_every=100")


def command(folder: Path) -> list[str]:
    settings = (*SIZE, *EVERY, "model=rope", "measure=none", "logger=csv", f"runs={folder}")
    return [sys.executable, "-m", "lab.train", *settings]


def kept(folder: Path) -> list[bytes]:
    (manifest,) = folder.glob("*/manifest.json")
    newest = max((manifest.parent / "checkpoints").glob("step=*"))
    assert json.loads(manifest.read_text())["state"] == "finished"
    files = [newest / name for name in ("weights.safetensors", "training.safetensors", "training.json")]
    return [path.read_bytes() for path in (manifest.parent / "metrics.csv", *files)]


def test_two_hundred_steps_killed_half_way_and_continued_end_bit_identical(tmp_path: Path) -> None:
    whole = subprocess.Popen(command(tmp_path / "whole"))
    process = subprocess.Popen(command(tmp_path / "killed"))
    while process.poll() is None and not list(tmp_path.glob("killed/*/checkpoints/step=00000075")):
        time.sleep(0.01)
    assert process.poll() is None
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    subprocess.run(command(tmp_path / "killed"), check=True, timeout=400)
    assert whole.wait(timeout=400) == 0
    assert kept(tmp_path / "killed") == kept(tmp_path / "whole")
