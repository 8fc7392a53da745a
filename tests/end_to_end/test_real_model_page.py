"""The page on the real model says what the scores say: here of a tiny one, by the commands of `make real-model`."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from commands import lab
from transformers import LlamaConfig, LlamaForCausalLM

from lab.base.tables import read_table
from lab.data.tokenizer import shipped_tokenizers
from lab.observe.scores import Scores, proof
from lab.runs.finding import runs_of

PAGE = Path(__file__).parents[1] / "real_model" / "page.py"
END = "end_of_document=<|endoftext|>"
SCORED = ("evaluation=sotu_longest", "scoring.longest=2", "scoring.documents=7", "scoring.segments=1")
READ = "measure=[truncated_perplexity,loss_by_position]"


def done(folder: Path, *command: str) -> None:
    result = lab(*command, cwd=folder)
    assert result.returncode == 0, result.stderr


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("real")
    torch.manual_seed(0)
    shape = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=1024, max_position_embeddings=256, **shape, eos_token_id=0))
    model.save_pretrained(folder / "tiny")
    shutil.copy(shipped_tokenizers() / "sotu_1k" / "tokenizer.json", folder / "tiny")
    done(folder, "import_model", "source=tiny", END)
    for name in ("rope", "nope", "alibi"):
        done(folder, "import_model", "source=tiny", END, f"model={name}", "context=64")
    done(folder, "extrapolate", "runs=runs/*C64-*", *SCORED, READ)
    keys = ["measure.passkey.lengths=[200,256,512]", "measure.passkey.distances=3", "measure.passkey.trials=1"]
    done(folder, "extrapolate", "runs=runs/rope-*C256-*", *SCORED, "measure=[excess,passkey]", *keys)
    done(folder, "extrapolate", "runs=runs/rope-*C256-*", *SCORED, READ)
    study = ["study=first_tokens", "study.longest=2", "study.bin_tokens=32", "study.documents=3"]
    done(folder, "analyze", "runs=runs/rope-*C256-*", "evaluation=sotu_longest", *study)
    comparing = ["factor=model", "reference=rope", "output=docs/real_model/readings"]
    done(folder, "compare", "runs=runs/*C64-*", *SCORED, READ, *comparing)
    subprocess.run([sys.executable, str(PAGE), "runs", "docs"], cwd=folder, check=True, capture_output=True)
    return folder


def test_the_page_has_the_excess_of_every_eighth_and_what_follows_from_it(folder: Path) -> None:
    text = (folder / "docs" / "real-model.md").read_text()
    rows = read_table(folder / "docs" / "real_model" / "excess_by_position.csv")
    assert [row["tokens"] for row in rows] == [256 + 32 * number + 16.5 for number in range(8)]
    for number, row in enumerate(rows):
        start = 256 + 32 * number
        assert f"| {start} to {start + 32} | {row['mean']:.3f} | {row['low']:.3f} to {row['high']:.3f} |" in text
    assert all(row["low"] < 0.1 for row in rows)
    assert "**Not within twice its window**" in text
    assert "of the 7 presidents" in text.replace("\n", " ")


def test_a_break_is_the_first_eighth_whose_interval_lies_above_the_margin(folder: Path) -> None:
    (run,) = runs_of([str(folder / "runs" / "rope-*C256-*")])
    scores = run.path / "scores.csv"
    before, manifest = scores.read_text(), (run.path / "manifest.json").read_text()
    changed = Scores(scores)
    for row in changed.select(measure="excess_by_position"):
        row["loss_nats"] += 0.3 * (row["start_position"] >= 256 + 5 * 32)
    changed.write()
    named = {label: record for label, record in run.manifest["measured"].items() if label.startswith("excess")}
    ((label, record),) = named.items()
    columns = {name: record[name] for name in ("setting", "evaluation", "step", "precision")}
    run.update_manifest(scored=run.manifest["scored"] | {label: proof(changed.select(**columns))})
    shutil.copytree(folder / "docs", folder / "other")
    subprocess.run([sys.executable, str(PAGE), str(folder / "runs"), str(folder / "other")], check=True)
    scores.write_text(before)
    (run.path / "manifest.json").write_text(manifest)
    text = (folder / "other" / "real-model.md").read_text()
    assert "**In the tokens 416 to 448**" in text


def test_the_page_has_passkeys_attention_and_the_other_readings(folder: Path) -> None:
    text = (folder / "docs" / "real-model.md").read_text()
    assert len(re.findall(r"\| \d+ \| \d of 3 \| \d\.\d\d to \d\.\d\d \|", text)) == 3
    assert re.search(r"\| mean of all \| 0\.\d{3} \| 0\.\d{3} \|", text)
    for name in ("rope", "nope", "alibi"):
        assert len(re.findall(rf"\| \d+ \| {name} \| \d+\.\d\d \| \d+\.\d\d to \d+\.\d\d \|", text)) == 3
    for picture in re.findall(r"\((real_model/[^)]*)\)", text):
        assert (folder / "docs" / picture).exists()
