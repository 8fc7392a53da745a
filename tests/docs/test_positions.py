"""``make positions``, the whole chain on runs of seconds."""

import os
import subprocess
import sys
from pathlib import Path

from lab.base.tables import read_table

ROOT = Path(__file__).parents[2]


def test_make_positions_ends_in_a_page_with_every_claim_and_picture(tmp_path: Path):
    places = [f"POSITIONS={tmp_path}", f"POSITIONS_RUNS={tmp_path}/runs", f"BIN={Path(sys.executable).parent}"]
    command = ["make", "--assume-old=.venv/installed", "positions", "SMOKE=1", *places]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=1800, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    page = (tmp_path / "positions.md").read_text()
    verdicts = read_table(tmp_path / "positions.csv")
    assert len(verdicts) > 25
    # Each names a number that there is; of two seeds nobody can tell.
    assert {row["claim"]: row["verdict"] for row in verdicts if row["verdict"] != "cannot tell"} == {}
    for name in ("formation", "reach", "ablation", "attention", "beyond", "position_probe", "interpolation"):
        assert f"(positions/{name}.png)" in page
        assert (tmp_path / "positions" / f"{name}.png").stat().st_size > 10_000
