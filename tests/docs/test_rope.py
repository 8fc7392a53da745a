"""``make rope``, the whole chain on runs of seconds."""

import os
import subprocess
import sys
from pathlib import Path

from lab.base.tables import read_table

ROOT = Path(__file__).parents[2]


def test_make_rope_ends_in_a_page_with_every_claim_and_table(tmp_path: Path):
    places = [f"ROPE={tmp_path}", f"ROPE_RUNS={tmp_path}/runs", f"ROPE_TRAINED={tmp_path}/trained"]
    command = ["make", "--assume-old=.venv/installed", "rope", "SMOKE=1", *places, f"BIN={Path(sys.executable).parent}"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=1800, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    page = (tmp_path / "rope-extension.md").read_text()
    verdicts = read_table(tmp_path / "rope-extension.csv")
    # Each names a number that there is, but for s = 2, which the short chain leaves out; of two seeds nobody can tell.
    told = {row["claim"]: row["verdict"] for row in verdicts}
    assert len(told) == 20
    left_out = {"interpolation_is_better_than_extrapolation_2", "interpolation_costs_more_with_s"}
    assert {name for name, verdict in told.items() if verdict == "not run"} == left_out
    assert set(told.values()) == {"not run", "cannot tell"}
    assert "| rope+yarn(s=8, beta_fast=4, beta_slow=0.5) |" in page
    for caption in (
        "Without training, loss",
        "The searched factors",
        "on 1 % of",
        "on 10 % of",
        "YaRN trained at s = 4",
    ):
        assert caption in page
