"""A running SLURM, as its user types to it."""

import getpass
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).parents[2]
# A decoder of 84,128 parameters, in steps of some hundredths of a second.
SMOKE = (
    *("experiment=smoke", "measure=none", "logger=csv", "trainer.accelerator=cpu", "trainer.compute_dtype=float32"),
    *("scale.tokens=20480", "trainer.checkpoint_every=7"),
)


class Cluster:
    """The two nodes are n1 and n2, the partitions main and urgent, which preempts main."""

    def __init__(self, configuration: Path) -> None:
        self.environment = {name: value for name, value in os.environ.items() if not name.startswith("SLURM")} | {
            "SLURM_CONF": str(configuration),
            # The python of these tests, and the code of this tree, whatever is installed.
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT),
        }
        self.logs = configuration.parent

    def run(
        self, *command: str, cwd: Path = ROOT, timeout: float = 60, **environment: str
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command,
            cwd=cwd,
            env=self.environment | environment,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )

    def ask(self, *command: str) -> str:
        result = self.run(*command)
        assert result.returncode == 0, result.stderr
        return result.stdout.strip()

    def sbatch(self, *arguments: str, cwd: Path, **environment: str) -> str:
        """Submit; the job's number."""
        result = self.run("sbatch", "--parsable", *arguments, cwd=cwd, **environment)
        assert result.returncode == 0, result.stderr
        return result.stdout.strip()

    def show(self, job: str) -> dict[str, str]:
        """What scontrol knows of a job."""
        return dict(re.findall(r"(\S+?)=(\S*)", self.ask("scontrol", "--oneliner", "show", "job", job)))

    def until(self, job: str, *states: str, timeout: float = 900) -> dict[str, str]:
        """Wait for a job to be in one of these states."""
        deadline = time.monotonic() + timeout
        while True:
            shown = self.show(job)
            if shown["JobState"] in states:
                return shown
            assert time.monotonic() < deadline, f"job {job} is {shown}"
            time.sleep(0.2)

    def ended(self, job: str, timeout: float = 900) -> dict[str, str]:
        return self.until(
            *(job, "COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "OUT_OF_MEMORY"), timeout=timeout
        )

    def during(self, job: str, happened: Callable[[], object], timeout: float = 900) -> None:
        """Wait for a call to return something true, while a job lives."""
        deadline = time.monotonic() + timeout
        while not happened():
            shown = self.show(job)
            assert shown["JobState"] in ("PENDING", "RUNNING", "COMPLETING"), f"job {job} is {shown}"
            assert time.monotonic() < deadline, f"job {job} is {shown}"
            time.sleep(0.05)

    def requeued(self, job: str, count: int, timeout: float = 900) -> None:
        """Wait until a job has been requeued so many times, and let it start without SLURM's whole wait."""
        until(lambda: int(self.show(job)["Restarts"]) >= count, timeout)
        # In the second of its requeue a job that starts is "non-startable: credential revoked", and FAILED.
        time.sleep(2)
        self.ask("scontrol", "update", f"jobid={job}", "StartTime=now")

    def cancel_all(self) -> None:
        self.run("scancel", "--user", getpass.getuser())
        deadline = time.monotonic() + 300
        while self.ask("squeue", "--noheader"):
            assert time.monotonic() < deadline, self.ask("squeue")
            time.sleep(0.1)


def until(happened: Callable[[], object], timeout: float = 900) -> None:
    """Wait for a call to return something true."""
    deadline = time.monotonic() + timeout
    while not happened():
        assert time.monotonic() < deadline, "it has not happened"
        time.sleep(0.05)
