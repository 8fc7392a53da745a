"""The recipe of a container: what it copies is enough for the lab that it installs. Apptainer is not run here."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def section(name: str) -> list[str]:
    """The lines of a section of the recipe."""
    text = (ROOT / "slurm" / "lab.def").read_text()
    (found,) = re.findall(rf"^%{name}\n(.*?)(?=^%|\Z)", text, re.DOTALL | re.MULTILINE)
    return [line.strip() for line in found.splitlines() if line.strip() and not line.strip().startswith("#")]


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The lab as the recipe installs it, without the packages it needs, from what the recipe copies alone."""
    folder = tmp_path_factory.mktemp("container")
    for line in section("files"):
        *sources, target = line.split()
        to = folder / target.lstrip("/")
        for source in sources:
            if (ROOT / source).is_dir():  # as Apptainer does: the folder becomes its target
                shutil.copytree(ROOT / source, to, ignore=shutil.ignore_patterns("__pycache__", "cache"))
            else:
                to.mkdir(parents=True, exist_ok=True)
                shutil.copy(ROOT / source, to)
    (command,) = [line for line in section("post") if "pip install" in line]
    assert command == "python3 -m pip install --no-cache-dir -c /opt/lab/constraints.txt '/opt/lab[eval]'"
    assert (folder / "opt" / "lab" / "constraints.txt").is_file()
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation"]
    done = subprocess.run(
        [*pip, "--target", str(folder / "site"), str(folder / "opt" / "lab")],
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    shutil.rmtree(folder / "opt")
    return folder / "site"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("-c", "import lab; print(lab.__file__)"), "/site/lab/__init__.py"),
        (("-m", "lab.train", "--help"), "model"),
        (("-m", "lab.plan", "model=rope", "scale=small"), "rope"),
    ],
)
def test_what_the_recipe_copies_is_enough_for_the_lab_that_it_installs(installed, tmp_path, arguments, said) -> None:
    done = inside(installed, tmp_path, *arguments)
    assert done.returncode == 0, done.stderr
    assert said in done.stdout


def test_an_installed_lab_writes_out_the_recipe_and_the_job_scripts(installed: Path, tmp_path: Path) -> None:
    done = inside(installed, tmp_path, "-m", "lab.prepare", "slurm")
    assert done.returncode == 0, done.stderr
    shipped = {path.name: path.read_bytes() for path in (ROOT / "slurm").iterdir()}
    assert {path.name: path.read_bytes() for path in (tmp_path / "slurm").iterdir()} == shipped


def inside(installed: Path, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Python with that lab, in a folder without a source tree."""
    environment = os.environ | {"PYTHONPATH": str(installed)}
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def test_the_code_of_the_container_is_called_by_what_the_job_scripts_have_at_their_top() -> None:
    (example,) = re.findall(r"with (PYTHON=\(.*\)) at its top", (ROOT / "slurm" / "lab.def").read_text())
    assert example == "PYTHON=(apptainer exec --nv lab.sif python)"
    for script in (ROOT / "slurm").glob("*.sbatch"):
        assert "\nPYTHON=(python)" in script.read_text()
