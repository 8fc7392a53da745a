"""A real SLURM for these tests: two virtual nodes, n1 and n2, of two cores each."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from cluster import Cluster

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
