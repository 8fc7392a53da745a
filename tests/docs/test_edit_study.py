"""``make edits``, the whole chain on a run of seconds."""

import os
import subprocess
import sys
from pathlib import Path

from lab.base.tables import read_table

ROOT = Path(__file__).parents[2]


def test_make_edits_chooses_on_some_facts_and_reports_on_others(tmp_path: Path) -> None:
    places = [f"EDITS={tmp_path}", f"EDITS_RUNS={tmp_path}/runs", f"BIN={Path(sys.executable).parent}"]
    command = ["make", "--assume-old=.venv/installed", "--assume-old=.venv/installed-test", "edits", "SMOKE=1", *places]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=900, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    told = {row["claim"]: row["verdict"] for row in read_table(tmp_path / "edit-study.csv")}
    assert len(told) == 6
    assert "not run" not in told.values()
    for method in ("forward_shift", "finetune", "rome"):
        rows = read_table(tmp_path / "edits" / method / "edit_scores.csv")
        assert {row["number"] for row in rows} <= {4, 5, 6, 7, 8, 9}
    tried = sorted(path.name for path in (tmp_path / "runs" / "tried").iterdir())
    assert len(tried) == 4
    rows = read_table(tmp_path / "runs" / "tried" / tried[0] / "edit_scores.csv")
    assert {row["number"] for row in rows} <= {1, 2, 3}
