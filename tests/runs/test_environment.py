"""What a run is trained, and scored, on: what decides bits is recorded, and other hardware is refused by name."""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from lab.base.errors import UserError
from lab.observe.scoring import differing
from lab.runs import environment as surroundings
from lab.runs.environment import check_environment, environment, hardware

RUN = Path("runs/some")
DECIDING = ["ONEDNN_MAX_CPU_ISA", "DNNL_DEFAULT_FPMATH_MODE", "MKL_CBWR", "OMP_DYNAMIC", "ATEN_CPU_CAPABILITY"]
HARMLESS = ["OMP_WAIT_POLICY", "OMP_PROC_BIND", "GOMP_SPINCOUNT", "KMP_BLOCKTIME", "MKL_VERBOSE", "OMP_NUM_THREADS"]


def refused(before: dict[str, Any], now: dict[str, Any], *allow: str) -> str | None:
    """The line with which a run is not continued, None if it is."""
    try:
        check_environment(before, now, allow, RUN)
    except UserError as error:
        return str(error)
    return None


def test_the_same_surroundings_twice_are_equal() -> None:
    before, now = environment("banded"), environment("banded")
    assert before == now
    assert refused(before, now) is None
    assert differing(before, now) == ""


def test_the_hardware_has_the_cpu_its_instruction_sets_and_the_switches_of_libraries() -> None:
    found = hardware()
    assert {"machine", "cpu", "cpu_capability", "instruction_sets", "threads", "accelerator", "switches"} == set(found)
    assert all(str(value) for value in found.values())
    assert found["switches"]["mkldnn.enabled"] == "True"
    assert all(isinstance(value, str) for value in found["switches"].values())


@pytest.mark.parametrize("name", DECIDING)
def test_a_variable_that_may_decide_bits_is_recorded_and_refused(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(name, raising=False)
    before = environment("banded")
    monkeypatch.setenv(name, "AVX2")
    now = environment("banded")
    assert now["hardware"] == before["hardware"] | {"switches": before["hardware"]["switches"] | {name: "AVX2"}}
    assert refused(before, now) == (
        f"{RUN} was trained with hardware.switches.{name} = None, now it is AVX2: restore that, or add "
        "resume.allow=[hardware] to continue all the same, which is written down in its manifest"
    )
    assert f"hardware.switches.{name} = AVX2, now it is None" in str(refused(now, before))
    assert refused(before, now, "hardware") is None
    assert differing(before, now) == "hardware"


@pytest.mark.parametrize("name", HARMLESS)
def test_a_variable_that_decides_time_or_output_is_let_pass(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(name, raising=False)
    before = environment("banded")
    monkeypatch.setenv(name, "3")
    assert environment("banded") == before


def test_a_library_that_is_switched_off_is_recorded_and_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    before = environment("banded")
    monkeypatch.setattr(torch.backends.mkldnn, "enabled", False)
    now = environment("banded")
    monkeypatch.undo()
    assert now["hardware"]["switches"]["mkldnn.enabled"] == "False"
    assert "hardware.switches.mkldnn.enabled = True, now it is False" in str(refused(before, now))
    assert differing(before, now) == "hardware"
    assert environment("banded") == before


@pytest.mark.parametrize("key", ["cpu", "instruction_sets", "cpu_capability", "accelerator", "machine", "threads"])
def test_another_machine_is_refused_by_what_is_other(key: str) -> None:
    before = environment("banded")
    now = before | {"hardware": before["hardware"] | {key: "another"}}
    assert f"was trained with hardware.{key} = " in str(refused(before, now))


@pytest.mark.parametrize("place", [*surroundings.ROOMS, "__init__.py", "train.py"])
def test_the_code_of_training_is_all_files_of_the_rooms_that_train(
    place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "lab"
    shutil.copytree(surroundings.PACKAGE, package, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(surroundings, "PACKAGE", package)
    before = surroundings.code_digest()
    (package / "report" / "new.py").write_text("")
    assert surroundings.code_digest() == before
    changed = package / place if place.endswith(".py") else package / place / "new.py"
    changed.write_text("# other")
    assert surroundings.code_digest() != before


@pytest.mark.parametrize(
    ("given", "told"),
    [({}, "2000"), ({"OMP_WAIT_POLICY": "active"}, "None"), ({"GOMP_SPINCOUNT": "7"}, "7")],
)
def test_threads_that_wait_spin_a_little_unless_the_user_says_how(given: dict[str, str], told: str) -> None:
    bare = {name: value for name, value in os.environ.items() if not name.startswith(("OMP_", "GOMP_"))}
    script = "import lab, os; print(os.environ.get('GOMP_SPINCOUNT'))"
    done = subprocess.run([sys.executable, "-c", script], env=bare | given, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == told
