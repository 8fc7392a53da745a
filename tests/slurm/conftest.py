"""A real SLURM for these tests: two virtual nodes, n1 and n2, of two cores each."""

import getpass
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PROGRAMS = {
    "slurmctld": "slurmctld",
    "slurmd": "slurmd",
    "sbatch": "slurm-client",
    "munged": "munge",
}
ACCOUNTING_PROGRAMS = {
    "slurmdbd": "slurmdbd slurm-wlm-mysql-plugin",
    "mariadbd": "mariadb-server-core",
    "my_print_defaults": "mariadb-client-core",
}
# A decoder of 84,128 parameters, in steps of some hundredths of a second.
SMOKE = (
    *("experiment=smoke", "measure=none", "logger=csv", "trainer.accelerator=cpu", "trainer.compute_dtype=float32"),
    *("scale.tokens=20480", "trainer.checkpoint_every=7"),
)


class Cluster:
    """A running SLURM, as its user types to it, from one folder."""

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

    def sbatch(self, *arguments: str, cwd: Path) -> str:
        """Submit; the job's number."""
        result = self.run("sbatch", "--parsable", *arguments, cwd=cwd)
        assert result.returncode == 0, result.stderr
        return result.stdout.strip()

    def show(self, job: str) -> dict[str, str]:
        """What scontrol knows of a job."""
        return dict(re.findall(r"(\S+?)=(\S*)", self.ask("scontrol", "--oneliner", "show", "job", job)))

    def until(self, job: str, *states: str, timeout: float = 240) -> dict[str, str]:
        """Wait for a job to be in one of these states."""
        deadline = time.monotonic() + timeout
        while True:
            shown = self.show(job)
            if shown["JobState"] in states:
                return shown
            assert time.monotonic() < deadline, f"job {job} is {shown}"
            time.sleep(0.2)

    def ended(self, job: str, timeout: float = 240) -> dict[str, str]:
        return self.until(
            *(job, "COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "OUT_OF_MEMORY"), timeout=timeout
        )

    def requeued(self, job: str, count: int, timeout: float = 120) -> None:
        """Wait until a job has been requeued so many times, and let it start without SLURM's whole wait."""
        until(lambda: int(self.show(job)["Restarts"]) >= count, timeout)
        # In the second of its requeue a job that starts is "non-startable: credential revoked", and FAILED.
        time.sleep(2)
        self.ask("scontrol", "update", f"jobid={job}", "StartTime=now")

    def cancel_all(self) -> None:
        self.run("scancel", "--user", getpass.getuser())
        deadline = time.monotonic() + 30
        while self.ask("squeue", "--noheader"):
            assert time.monotonic() < deadline, self.ask("squeue")
            time.sleep(0.1)


def until(happened: object, timeout: float = 240) -> None:
    """Wait for a call to return something true."""
    deadline = time.monotonic() + timeout
    while not happened():  # type: ignore[operator]
        assert time.monotonic() < deadline, "it has not happened"
        time.sleep(0.05)


def absent(programs: dict[str, str]) -> str:
    """Which packages of Debian are to be installed, if a program is missing."""
    places = os.pathsep.join((os.environ["PATH"], "/usr/sbin", "/sbin"))
    packages = [package for program, package in programs.items() if not shutil.which(program, path=places)]
    return f"apt-get install --no-install-recommends {' '.join(packages)}" if packages else ""


def started(accounting: bool) -> Iterator[Cluster]:
    missing = absent(PROGRAMS | (ACCOUNTING_PROGRAMS if accounting else {}))
    if missing and os.environ.get("CI_REQUIRES_SLURM"):
        pytest.fail(f"CI_REQUIRES_SLURM is set and SLURM is not whole: {missing}")
    if missing:
        pytest.skip(f"needs a real SLURM: {missing}")
    command = [sys.executable, str(Path(__file__).with_name("supervisor.py"))]
    supervisor = subprocess.Popen(
        [*command, *(["--accounting"] if accounting else [])],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PATH": f"{os.environ['PATH']}:/usr/sbin:/sbin"},
    )
    assert supervisor.stdin is not None
    assert supervisor.stdout is not None
    try:
        word, _, rest = supervisor.stdout.readline().strip().partition(" ")
        if word != "ready":
            pytest.fail(f"SLURM is installed and does not start: {rest}")
        yield Cluster(Path(rest))
    finally:
        supervisor.stdin.close()
        supervisor.wait(120)


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """SLURM without accounting, as a small site has it."""
    yield from started(accounting=False)


@pytest.fixture(scope="session")
def cluster_with_accounting() -> Iterator[Cluster]:
    """SLURM with slurmdbd and MariaDB: what sacct tells."""
    yield from started(accounting=True)


@pytest.fixture
def slurm(cluster: Cluster) -> Iterator[Cluster]:
    """The cluster with an empty queue, before and after."""
    yield cluster
    cluster.cancel_all()


@pytest.fixture
def slurm_with_accounting(cluster_with_accounting: Cluster) -> Iterator[Cluster]:
    yield cluster_with_accounting
    cluster_with_accounting.cancel_all()
