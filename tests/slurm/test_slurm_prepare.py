"""slurm/prepare.sbatch as it is shipped: a corpus tokenised by an array of two tasks, stopped, killed and continued."""

from pathlib import Path

import pytest
from cluster import ROOT, Cluster

PREPARE = str(ROOT / "slurm" / "prepare.sbatch")
KEYS = (
    *("data=files", "data.corpus.train=texts", "data.lanes=4", "scale=pilot"),
    "scale.tokens=24_000_000",
)
CORES = "--cpus-per-task=1"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with texts of about a million tokens, read as often as there is need."""
    (tmp_path / "texts").mkdir()
    for number in range(40):
        words = (f"{number} speaks of {(number + 7) * word % 9973} and" for word in range(5_000))
        (tmp_path / "texts" / f"{number:02d}.txt").write_text(" ".join(words))
    return tmp_path


def shards(folder: Path) -> dict[str, bytes]:
    """The content of what is written, by name."""
    return {
        str(path.relative_to(folder / "blocks")): path.read_bytes() for path in folder.glob("blocks/*/*/*.safetensors")
    }


def output_of(folder: Path, array: str, task: int) -> str:
    return (folder / f"slurm-{array}_{task}.out").read_text()


def test_an_array_writes_the_blocks_that_one_process_writes_however_its_tasks_are_stopped(
    slurm: Cluster, folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    array = slurm.sbatch("--array=1-2", CORES, PREPARE, *KEYS, cwd=folder)
    first, second = (f"{array}_{task}" for task in (1, 2))
    slurm.during(first, lambda: any("lane=0000" in name for name in shards(folder)))
    slurm.ask("scancel", "--batch", "--signal=USR1", first)  # as SLURM does before the time limit
    slurm.during(second, lambda: any("lane=0001" in name for name in shards(folder)))
    slurm.ask("scontrol", "requeue", second)  # as after a preemption, without a warning
    for task in (first, second):
        slurm.requeued(task, 1)
    for number, task in enumerate((first, second), start=1):
        shown = slurm.ended(task)
        assert (shown["JobState"], shown["Restarts"]) == ("COMPLETED", "1"), output_of(folder, array, number)
    told = output_of(folder, array, 1)
    assert "blocks are not yet written; the same command continues it" in told
    assert f"job {array}_1 goes back to the queue" in told
    assert not [line for line in (told + output_of(folder, array, 2)).splitlines() if line.startswith("error")]
    ends = [output_of(folder, array, number).splitlines()[-1] for number in (1, 2)]
    assert sum(line.endswith("; train on them with data.mode=blocks") for line in ends) >= 1, ends

    alone = tmp_path_factory.mktemp("alone")
    (alone / "texts").symlink_to(folder / "texts")
    result = slurm.run("python", "-m", "lab.prepare", "blocks", *KEYS, cwd=alone, timeout=900)
    assert result.returncode == 0, result.stderr
    assert shards(alone) == shards(folder)


def test_part_of_an_array_is_refused_with_the_array_to_submit(slurm: Cluster, folder: Path) -> None:
    part = slurm.sbatch("--array=2", CORES, PREPARE, *KEYS, cwd=folder)
    none = slurm.sbatch(CORES, PREPARE, *KEYS, cwd=folder)
    assert slurm.ended(f"{part}_2")["JobState"] == "FAILED"
    assert slurm.ended(none)["JobState"] == "FAILED"
    assert "sbatch --array=1-2 slurm/prepare.sbatch data=files" in output_of(folder, part, 2)
    (alone,) = folder.glob(f"slurm-{none}_*.out")
    assert "error: blocks are written by a job array: sbatch --array=1-8 slurm/prepare.sbatch" in alone.read_text()
    assert not (folder / "blocks").exists()
