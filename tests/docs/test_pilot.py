"""``make pilot``, the whole chain on one seed of runs of seconds."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

from lab.base.tables import read_table

ROOT = Path(__file__).parents[2]


def make_pilot(place: Path) -> str:
    places = [f"PILOT={place}", f"PILOT_RUNS={place}/runs", "PILOT_JOBS=1"]
    binaries = f"BIN={Path(sys.executable).parent}"
    command = ["make", "--assume-old=.venv/installed-eval", "pilot", "SMOKE=1", *places, binaries]
    done = subprocess.run(command, cwd=ROOT, env=os.environ, capture_output=True, text=True, timeout=1800, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return done.stdout


def test_make_pilot_ends_in_claims_and_goes_on_without_weights_from_what_it_kept_of_a_seed(tmp_path: Path):
    make_pilot(tmp_path)
    published = ("pilot", "pilot/matched", "pilot/rates_nope", "pilot/rates_rope")
    made = {folder: read_table(tmp_path / folder / "documents.csv.gz") for folder in published}
    assert all(made.values())
    assert (tmp_path / "pilot" / "seed0.tar.xz").stat().st_size < 200_000
    claims = read_table(tmp_path / "claims.csv")
    assert {row["verdict"] for row in claims} <= {"not run", "cannot tell"}  # one seed tells nothing
    assert "cannot tell" in {row["verdict"] for row in claims}

    # Another machine, which has the archive alone.
    for folder in ("runs", "runs_rates", "runs_matched"):
        shutil.rmtree(tmp_path / folder)
    told = make_pilot(tmp_path)
    assert "lab.train" not in told
    assert not list((tmp_path / "runs").rglob("*.safetensors"))
    for folder, rows in made.items():
        assert read_table(tmp_path / folder / "documents.csv.gz") == rows, folder
