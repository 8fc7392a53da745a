"""What the tests here look at in a run directory."""

import json
from pathlib import Path
from typing import Any

# Enough steps to be stopped twice in their midst.
LONG = ("scale.tokens=122880", "trainer.checkpoint_every=20")


def run_of(folder: Path) -> Path:
    """The one run in a folder's runs/."""
    (manifest,) = (folder / "runs").glob("*/manifest.json")
    return manifest.parent


def manifest_of(folder: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((run_of(folder) / "manifest.json").read_text())
    return content


def last_checkpoint(folder: Path) -> int:
    """The newest step of which there is a checkpoint, 0 if there is none."""
    names = [path.name for path in folder.glob("runs/*/checkpoints/step=????????")]
    return max((int(name.removeprefix("step=")) for name in names), default=0)


def kept(folder: Path) -> list[bytes]:
    """What must be equal byte for byte, however often a run was interrupted."""
    run = run_of(folder)
    newest = max((run / "checkpoints").glob("step=*"))
    files = [newest / name for name in ("weights.safetensors", "training.safetensors", "training.json")]
    return [path.read_bytes() for path in (run / "metrics.csv", *files)] + [
        json.dumps(manifest_of(folder)["blocks"]).encode()
    ]
