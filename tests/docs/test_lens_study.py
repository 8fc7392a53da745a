"""``make lens``, the whole chain on runs of seconds, without SmolLM2."""

import os
import subprocess
import sys
from pathlib import Path

from lab.base.tables import read_table

ROOT = Path(__file__).parents[2]


def test_make_lens_ends_in_a_page_with_every_claim_and_picture(tmp_path: Path):
    places = [f"LENS={tmp_path}", f"LENS_RUNS={tmp_path}/runs", f"BIN={Path(sys.executable).parent}"]
    command = ["make", "--assume-old=.venv/installed", "lens", "SMOKE=1", *places]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=1800, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    page = (tmp_path / "lens-study.md").read_text()
    told = {row["claim"]: row["verdict"] for row in read_table(tmp_path / "lens-study.csv")}
    assert len(told) == 24
    # SmolLM2 is left out; a decoder of two layers has no second quarter.
    left_out = {name for name in told if name.endswith("_smollm2")} | {"lengths_peak_early_rope"}
    assert {name for name, verdict in told.items() if verdict == "not run"} == left_out
    # Of two seeds and two documents nobody can tell.
    assert {verdict for name, verdict in told.items() if name not in left_out} == {"cannot tell"}
    pictures = [line for line in page.splitlines() if line.startswith("![")]
    assert len(pictures) == 5
    steps = read_table(tmp_path / "lens" / "steps" / "gradient_lens_step_rank.csv")
    assert {(row["variant"], row["step"]) for row in steps} == {
        (model, step) for model in ("rope", "nope") for step in (1, 2, 4, 8)
    }
