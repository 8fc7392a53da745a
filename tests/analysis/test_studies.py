"""Studies: each number against a slow loop, and a study that is stopped ends as one that was not."""

import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from commands import lab, the_one_line
from measure.tiny_decoders import CONTEXT, VARIANTS, document, source_of, tiny
from torch.nn import functional

from lab.analysis.first_tokens import FirstTokens
from lab.analysis.loss_by_frequency import LossByFrequency
from lab.analysis.state_norms import StateNorms
from lab.base.errors import UserError
from lab.base.tables import read_table
from lab.observe.fold import Fold
from lab.observe.study import ranges

DOCUMENTS = (33, 40, 12, 50)  # the third is too short


def fold_of(study, decoder) -> Fold:
    fold = Fold({})
    for item in study.items(source_of(*DOCUMENTS)):
        with torch.inference_mode():
            fold.add(item.name, study.observe(decoder, item, CONTEXT))
    return fold


def read() -> list[np.ndarray]:
    return [document(tokens, number) for number, tokens in enumerate(DOCUMENTS) if tokens > 32]


def test_ranges_begin_with_the_window_and_double() -> None:
    assert ranges(8, 8) == [(0, 8)]
    assert ranges(8, 64) == [(0, 8), (8, 16), (16, 32), (32, 64)]
    assert ranges(8, 48) == [(0, 8), (8, 16), (16, 32), (32, 48)]


@pytest.mark.parametrize(("position", "window"), VARIANTS)
def test_attention_on_the_first_tokens_is_that_of_each_query_and_head_taken_one_at_a_time(position, window) -> None:
    study, decoder = FirstTokens(first=3, longest=4, bin_tokens=4, documents=None), tiny(position, window)
    rows = study.rows(fold_of(study, decoder), CONTEXT)
    shares: dict[tuple[int, int], list[float]] = {}
    for ids in read():
        tokens = torch.tensor(ids[None, :32].astype(np.int64))
        for layer, block in enumerate(decoder.blocks):
            attention, given = block.attention, {}
            hook = attention.register_forward_hook(lambda _, args, __, given=given: given.update(x=args[0]))
            with torch.inference_mode():
                decoder(tokens)
                hook.remove()
                query, key = (
                    projected(given["x"]).view(32, -1, attention.head_dim).transpose(0, 1)[None]
                    for projected in (attention.query, attention.key)
                )
                query, key = (each[0].double() for each in decoder.position.rotate(query, key, torch.arange(32)))
            for head in range(attention.heads):
                own = key[head * attention.kv_heads // attention.heads]
                for at in range(32):
                    first = 0 if attention.window is None else max(0, at - attention.window + 1)
                    logits = own[first : at + 1] @ query[head, at] / attention.head_dim**0.5
                    if decoder.position.slopes is not None:
                        logits -= decoder.position.slopes[head].double() * torch.arange(at - first, -1, -1)
                    share = torch.softmax(logits, 0)[: max(0, 3 - first)].sum()
                    shares.setdefault((layer, at // 4), []).append(float(share))
    assert [(row["layer"], row["start_position"] // 4) for row in rows] == sorted(shares)
    for row in rows:
        own = shares[row["layer"], row["start_position"] // 4]
        assert row["share"] == pytest.approx(np.mean(own), rel=1e-5, abs=1e-7)
        assert row["tokens"] == len(own) // decoder.blocks[0].attention.heads


@pytest.mark.parametrize(("position", "window"), VARIANTS)
def test_loss_by_frequency_is_the_mean_over_targets_of_a_class_taken_one_at_a_time(position, window) -> None:
    study, decoder = LossByFrequency(longest=4, classes=3, documents=None), tiny(position, window)
    rows = study.rows(fold_of(study, decoder), CONTEXT)
    targets = [int(token) for ids in read() for token in ids[1:33]]
    often = Counter(targets)
    ordered = sorted(often, key=lambda token: (-often[token], token))
    class_of, before = {}, 0
    for token in ordered:
        class_of[token] = before * 3 // len(targets) + 1
        before += often[token]
    losses: dict[tuple[int, int], list[float]] = {}
    for ids in read():
        for position_ in range(32):
            with torch.inference_mode():
                logits = decoder(torch.tensor(ids[None, : position_ + 1].astype(np.int64)))[0, -1].double()
            target = int(ids[position_ + 1])
            start = next(start for start, stop in ranges(CONTEXT, 32) if start <= position_ < stop)
            losses.setdefault((start, class_of[target]), []).append(
                float(functional.cross_entropy(logits, torch.tensor(target)))
            )
    assert {(row["start_position"], row["frequency_class"]): row["tokens"] for row in rows} == {
        place: len(found) for place, found in losses.items()
    }
    for row in rows:
        expected = np.mean(losses[row["start_position"], row["frequency_class"]])
        assert row["loss_nats"] == pytest.approx(expected, abs=1e-6)
    assert {row["frequency_class"] for row in rows} == {1, 2, 3}
    of_class = Counter(class_of.values())
    assert {row["frequency_class"]: row["distinct_tokens"] for row in rows} == of_class


def test_the_rarest_class_holds_the_rarest_tokens_and_classes_are_of_near_equal_size() -> None:
    study = LossByFrequency(longest=4, classes=4, documents=None)
    rows = study.rows(fold_of(study, tiny()), CONTEXT)
    size = Counter()
    for row in rows:
        size[row["frequency_class"]] += row["tokens"]
    often = Counter(int(token) for ids in read() for token in ids[1:33])
    assert max(size.values()) - min(size.values()) <= 2 * max(often.values())


@pytest.mark.parametrize(("position", "window"), VARIANTS)
def test_state_norms_are_those_of_blocks_called_one_after_another(position, window) -> None:
    study, decoder = StateNorms(longest=4, bin_tokens=4, documents=None), tiny(position, window)
    rows = study.rows(fold_of(study, decoder), CONTEXT)
    norms: dict[int, list[np.ndarray]] = {}
    for ids in read():
        with torch.inference_mode():
            x = decoder.embedding[torch.tensor(ids[None, :32].astype(np.int64))].to(decoder.compute_dtype)
            decoder.position.reach(32)
            for layer, block in enumerate([None, *decoder.blocks]):
                x = x if block is None else block(x, decoder.position, torch.arange(32), None, None)
                norms.setdefault(layer, []).append(np.linalg.norm(x[0].double().numpy(), axis=-1))
    assert len(rows) == 3 * 8
    for row in rows:
        of_bin = np.array(norms[row["layer"]])[:, row["start_position"] : row["stop_position"]]
        assert row["tokens"] == of_bin.size == 4 * 3
        assert row["norm"] == pytest.approx(of_bin.mean(), rel=1e-9)
        assert row["norm_deviation"] == pytest.approx(of_bin.std(), rel=1e-6)


def test_bins_that_do_not_divide_the_context_are_refused() -> None:
    with pytest.raises(UserError, match="bin_tokens is 3: it must divide C = 8"):
        StateNorms(longest=4, bin_tokens=3, documents=None).fits(CONTEXT)


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("analysis")
    trained = lab("train", "experiment=smoke", "logger=csv", "measure=none", cwd=folder)
    assert trained.returncode == 0, trained.stderr
    return folder


@pytest.mark.parametrize("study", ["loss_by_frequency", "state_norms"])
def test_a_study_leaves_table_picture_and_fold_and_is_not_done_twice(study: str, runs: Path) -> None:
    command = ("analyze", "runs=runs/*", f"study={study}", "study.longest=4", "study.documents=3")
    first = lab(*command, cwd=runs)
    assert first.returncode == 0, first.stderr
    (folder,) = (runs / "runs").glob("*/analysis")
    rows = read_table(folder / f"{study}.csv")
    assert rows
    assert {(row["study"], row["documents"], row["step"]) for row in rows} == {(study, 3, 8)}
    assert (folder / f"{study}.png").read_bytes().startswith(b"\x89PNG")
    before = {path.name: path.read_bytes() for path in folder.glob(f"{study}*")}
    again = lab(*command, cwd=runs)
    assert again.returncode == 0
    assert "items" not in again.stderr  # nothing is read again
    assert {path.name: path.read_bytes() for path in folder.glob(f"{study}*")} == before
    other = lab(*command[:-1], "study.documents=4", cwd=runs)
    assert other.returncode == 0, other.stderr
    assert {row["documents"] for row in read_table(folder / f"{study}.csv")} == {4}


STOPPED = """
import os, signal, sys
from lab.analysis.state_norms import StateNorms
plain, seen = StateNorms.observe, []
def observe(self, decoder, item, context):
    seen.append(item.name)
    if len(seen) == 3:
        os.kill(os.getpid(), signal.SIGTERM)
    return plain(self, decoder, item, context)
StateNorms.observe = observe
import runpy
sys.argv = ["lab.analyze", *sys.argv[1:]]
runpy.run_module("lab.analyze", run_name="__main__")
"""


def test_a_study_that_is_stopped_goes_on_and_ends_with_the_same_bytes(runs: Path, tmp_path: Path) -> None:

    shutil.copytree(runs / "runs", tmp_path / "runs")
    for path in (tmp_path / "runs").glob("*/analysis"):
        shutil.rmtree(path)
    command = ("runs=runs/*", "study=state_norms", "study.longest=2", "study.documents=6")
    whole = lab("analyze", *command, cwd=runs)
    assert whole.returncode == 0, whole.stderr
    stopped = subprocess.run(
        [sys.executable, "-c", STOPPED, *command], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert stopped.returncode == 75, stopped.stderr
    assert "the same command goes on" in stopped.stderr
    (folder,) = (tmp_path / "runs").glob("*/analysis")
    assert not (folder / "state_norms.csv").exists()
    gone_on = lab("analyze", *command, cwd=tmp_path)
    assert gone_on.returncode == 0, gone_on.stderr
    (other,) = (runs / "runs").glob("*/analysis")
    for path in folder.iterdir():
        assert path.read_bytes() == (other / path.name).read_bytes()


def test_a_study_that_cannot_be_is_told_in_a_line_before_anything_is_written(runs: Path) -> None:
    missing = the_one_line(lab("analyze", "runs=runs/*", cwd=runs))
    assert "study" in missing
    assert "loss_by_frequency" in missing
    line = the_one_line(lab("analyze", "runs=runs/*", "study=state_norms", "study.bin_tokens=7", cwd=runs))
    assert "bin_tokens is 7: it must divide C = 64" in line
    line = the_one_line(lab("analyze", "runs=runs/*", "study=state_norms", "study.longest=100000", cwd=runs))
    assert "no held-out document" in line
    line = the_one_line(lab("analyze", "runs=runs/nothing", "study=state_norms", cwd=runs))
    assert "no such run" in line


def test_a_damaged_fold_is_told_in_a_line(runs: Path) -> None:
    command = ("analyze", "runs=runs/*", "study=loss_by_frequency", "study.longest=2", "study.documents=2")
    assert lab(*command, cwd=runs).returncode == 0
    folds = sorted((runs / "runs").glob("*/analysis/loss_by_frequency-*.safetensors"), key=lambda p: p.stat().st_mtime)
    folds[-1].write_bytes(folds[-1].read_bytes()[:-8])
    assert "is damaged" in the_one_line(lab(*command, cwd=runs))
    folds[-1].unlink()
