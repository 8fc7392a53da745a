"""Probes as commands: tables, pictures, numbers for claims, what is refused, and a training that is killed."""

import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from commands import lab, the_one_line
from knowledge.people import TRAINED, corpus

from lab.base.parts import parts_of
from lab.base.tables import read_table
from lab.data.biographies.people import ATTRIBUTES

BRIEF = ("logger=csv", "scale.tokens=4096", "scale.validation_blocks=1")
SHORT = ("study.steps=3", "study.people=8")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two runs of seconds: each person in two wordings, and in one."""
    folder = tmp_path_factory.mktemp("knowledge")
    for more in ((), ("data.corpus.wordings=1", "data.corpus.orders=0")):
        trained = lab("train", *TRAINED, "logger=csv", *more, cwd=folder)
        assert trained.returncode == 0, trained.stderr
    return folder


def command(study: str) -> tuple[str, ...]:
    return (f"study={study}", "study.people=8") if study == "layer_probe" else (f"study={study}", *SHORT)


def multi(folder: Path) -> Path:
    (run,) = (folder / "runs").glob("rope-*multi2_permute-*")
    return run


@pytest.mark.parametrize("study", ["layer_probe", "soft_probe", "p_probe", "q_probe"])
def test_several_runs_end_in_tables_pictures_and_numbers_that_claims_may_name(study: str, runs: Path) -> None:
    done = lab("analyze", "runs=runs/*", *command(study), f"output=out_{study}", cwd=runs)
    assert done.returncode == 0, done.stderr
    folder = multi(runs) / "analysis"
    rows = read_table(folder / f"{study}.csv")
    places = {"layer_probe": 3 * 7, "soft_probe": 1, "p_probe": 6, "q_probe": 1}[study]
    assert len(rows) == (12 if study == "soft_probe" else 11) * places
    assert {row["attribute_text"] for row in rows} == {each.replace("_", " ") for each in ATTRIBUTES}
    for row in rows:
        assert 0 <= row["held_out_right"] <= 1
        assert row["people_training"] == row["people_held_out"] == 8
        assert row["people_per_class"] == pytest.approx(8 / row["classes"])
    assert (folder / f"{study}.png").read_bytes().startswith(b"\x89PNG")
    assert not [*folder.glob("*.training")]
    compared = read_table(runs / f"out_{study}" / f"{study}.csv")
    assert {row["variant"] for row in compared} == {"multi2_permute", "single"}
    evidence = read_table(runs / f"out_{study}" / f"{study}_documents.csv.gz")
    assert {row["variant"] for row in evidence} == {"multi2_permute", "single"}
    held_out = {person.name for person in corpus().members("held_out")[:8]}
    assert {row["document"] for row in evidence} - {""} == held_out  # no other is claimed anything of
    where = {"layer_probe": " at the name in the middle layer", "p_probe": " at position 1"}.get(study, "")
    whole = [row for row in evidence if row["measure"] == f"{study}: whole{where}"]
    assert len(whole) == 2 * 8
    of_major = [row for row in rows if (row["attribute_text"], row["target"]) == ("major", "whole")]
    (number,) = (
        row["mean"]
        for row in evidence
        if (row["variant"], row["measure"]) == ("multi2_permute", f"{study}: whole major{where}")
    )
    assert number in {row["held_out_right"] for row in of_major}
    assert any(row["measure"] == f"{study}: whole major by chance" for row in evidence)
    before = {path.name: path.read_bytes() for path in folder.glob(f"{study}*")}
    again = lab("analyze", "runs=runs/*", *command(study), f"output=out_{study}", cwd=runs)
    assert again.returncode == 0
    assert " steps" not in again.stderr + again.stdout  # nothing is trained again
    assert {path.name: path.read_bytes() for path in folder.glob(f"{study}*")} == before


KILLED = """
import os, signal, sys
import lab.observe.trained as trained
trained.WRITE_SECONDS = 0.0
plain, taken = trained.Training._take_step, []
def take(self):
    taken.append(self.step)
    if len(taken) == 6:
        os.kill(os.getpid(), signal.SIG{how})
    plain(self)
trained.Training._take_step = take
import runpy
sys.argv = ["lab.analyze", *sys.argv[1:]]
runpy.run_module("lab.analyze", run_name="__main__")
"""


@pytest.mark.parametrize(("study", "how"), [("q_probe", "KILL"), ("soft_probe", "TERM")])
def test_a_probe_that_is_killed_in_its_training_goes_on_and_ends_with_the_same_bytes(
    study: str, how: str, runs: Path, tmp_path: Path
) -> None:
    name = multi(runs).name
    shutil.copytree(multi(runs), tmp_path / "runs" / name, ignore=shutil.ignore_patterns("analysis"))
    asked = (f"runs=runs/{name}", f"study={study}", "study.steps=4", "study.targets=[first]", "study.batch=5")
    whole = lab("analyze", *asked, cwd=runs)
    assert whole.returncode == 0, whole.stderr
    code = KILLED.replace("{how}", how)
    killed = subprocess.run(
        [sys.executable, "-c", code, *asked], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert killed.returncode == (-signal.SIGKILL if how == "KILL" else 75), killed.stderr
    folder = tmp_path / "runs" / name / "analysis"
    kept = {path.name.split(".")[1] for path in folder.glob("*.training")}
    assert kept == {"first-birth_date", "first-birth_city"}  # the first is done, the second in its second step
    gone_on = lab("analyze", *asked, cwd=tmp_path)
    assert gone_on.returncode == 0, gone_on.stderr
    names = sorted(path.name for path in folder.iterdir())
    assert any(each.startswith(f"{study}-") for each in names)
    assert not [each for each in names if each.endswith(".training")]
    for each in names:
        assert (folder / each).read_bytes() == (multi(runs) / "analysis" / each).read_bytes(), each


def test_a_damaged_training_is_told_in_a_line(runs: Path, tmp_path: Path) -> None:
    name = multi(runs).name
    shutil.copytree(multi(runs), tmp_path / "runs" / name, ignore=shutil.ignore_patterns("analysis"))
    asked = (f"runs=runs/{name}", "study=q_probe", "study.steps=4", "study.targets=[first]")
    subprocess.run([sys.executable, "-c", KILLED.replace("{how}", "KILL"), *asked], cwd=tmp_path, check=False)
    (path,) = (tmp_path / "runs" / name / "analysis").glob("*.first-birth_city.training")
    path.write_bytes(path.read_bytes()[:-1])
    assert "is damaged" in the_one_line(lab("analyze", *asked, cwd=tmp_path), last=True)


def test_a_decoder_that_read_of_nobody_and_people_of_other_documents_are_refused_before_anything_is_read(
    runs: Path, tmp_path: Path
) -> None:
    trained = lab("train", "experiment=smoke", "logger=csv", "measure=none", cwd=tmp_path)
    assert trained.returncode == 0, trained.stderr
    for study in ("layer_probe", "soft_probe", "p_probe", "q_probe"):
        line = the_one_line(lab("analyze", "runs=runs/*", f"study={study}", cwd=tmp_path))
        assert f"study={study} asks about people, and this decoder read of none: train it with data=biographies" in line
    line = the_one_line(lab("analyze", "runs=runs/*", "study=soft_probe", "evaluation=sotu", cwd=runs))
    assert "soft_probe is about the people whom a decoder read of in training: leave evaluation= out" in line
    line = the_one_line(lab("analyze", "runs=runs/*", "study=q_probe", "study.rank=33", cwd=runs), last=True)
    assert "rank is 33, above the smaller side of the embedding" in line


CHANGED = """
import sys
from lab.data.biographies import people
plain = people.draw_people
def draw(count, seed, pools, skip=0):
    return plain(count, seed + 1, pools, skip)
people.draw_people = draw
import runpy
sys.argv = ["lab.analyze", *sys.argv[1:]]
runpy.run_module("lab.analyze", run_name="__main__")
"""


def test_people_of_another_corpus_than_the_decoder_read_of_are_refused(runs: Path, tmp_path: Path) -> None:
    refused = subprocess.run(
        [sys.executable, "-c", CHANGED, f"runs=runs/{multi(runs).name}", "study=layer_probe"],
        cwd=runs,
        capture_output=True,
        text=True,
        check=False,
    )
    assert refused.returncode == 1
    assert "was trained on another corpus: its digest is" in refused.stderr
    child = ("start=run", f"start.run={multi(runs)}", "data.corpus.seed=9", *BRIEF)
    trained = lab("train", *TRAINED, *child, cwd=tmp_path)
    assert trained.returncode == 0, trained.stderr
    line = the_one_line(lab("analyze", "runs=runs/*", "study=layer_probe", cwd=tmp_path))
    assert "was trained from a decoder of another corpus" in line


def test_a_child_that_was_asked_about_the_same_people_is_probed(runs: Path, tmp_path: Path) -> None:
    child = ("start=run", f"start.run={multi(runs)}", "data.corpus.content=questions", *BRIEF)
    trained = lab("train", *TRAINED, *child, cwd=tmp_path)
    assert trained.returncode == 0, trained.stderr
    done = lab("analyze", "runs=runs/*", "study=soft_probe", *SHORT, cwd=tmp_path)
    assert done.returncode == 0, done.stderr


def test_studies_of_both_rooms_can_be_chosen() -> None:
    assert {"layer_probe", "soft_probe", "p_probe", "q_probe", "formation", "state_norms"} <= parts_of("study").keys()
