"""A real SLURM on this machine: two virtual nodes, private to one folder and to the loopback, gone when stdin closes.

    python supervisor.py [--accounting]

Starts munged, slurmctld and two slurmd (with --accounting also MariaDB and slurmdbd), prints "ready" and the path of
slurm.conf, or "failed: why", waits until stdin is closed, stops everything and removes the folder. It is a process of
its own, and the reaper of all that its daemons leave behind: so that a test run that is killed leaves nothing either.
"""

import argparse
import contextlib
import ctypes
import getpass
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

PR_SET_CHILD_SUBREAPER = 36
PATIENCE_SECONDS = 60.0  # for a daemon to come up, on a busy machine
CLUSTER = """\
ClusterName=test
SlurmctldHost=localhost(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
CredType=cred/munge
AuthInfo={expiry}socket={folder}/munge/sock
CommunicationParameters=NoCtldInAddrAny,NoInAddrAny
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
{accounting}
MpiDefault=none
SwitchType=switch/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerType=sched/backfill
SchedulerParameters=bf_interval=1,sched_interval=2,batch_sched_delay=0
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
ReturnToService=2
JobRequeue=1
KillWait=30
UnkillableStepTimeout=900
MessageTimeout=60
MinJobAge=300
InactiveLimit=0
OverTimeLimit=0
PropagateResourceLimits=NONE
MailProg=/bin/true
NodeName=n1 NodeHostname=localhost NodeAddr=127.0.0.1 Port={ports[1]} CPUs=2 RealMemory=2000 State=UNKNOWN
NodeName=n2 NodeHostname=localhost NodeAddr=127.0.0.1 Port={ports[2]} CPUs=2 RealMemory=2000 State=UNKNOWN
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP PriorityTier=1
PartitionName=urgent Nodes=ALL MaxTime=INFINITE State=UP PriorityTier=2
"""
ACCOUNTING = """\
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=localhost
AccountingStoragePort={ports[3]}
AccountingStoragePass={folder}/munge/sock"""
DATABASE = """\
AuthType=auth/munge
AuthInfo=socket={folder}/munge/sock
DbdHost=localhost
DbdAddr=127.0.0.1
DbdPort={ports[3]}
SlurmUser={user}
StorageType=accounting_storage/mysql
StorageHost=localhost
StorageUser=root
StorageLoc=slurm_acct
LogFile={folder}/slurmdbd.log
PidFile={folder}/slurmdbd.pid
CommunicationParameters=NoInAddrAny
"""


class Slurm:
    """The daemons, in the order of their start."""

    def __init__(self, folder: Path, accounting: bool) -> None:
        self.folder, self.accounting = folder, accounting
        self.daemons: list[subprocess.Popen[bytes]] = []
        self.environment = os.environ | {
            "SLURM_CONF": str(folder / "slurm.conf"),
            "MYSQL_UNIX_PORT": str(folder / "mariadb.sock"),
        }

    def start(self) -> None:
        """Raises RuntimeError, naming the log, if a daemon does not come up."""
        words = {"ports": free_ports(4), "user": getpass.getuser(), "folder": self.folder}
        kind = ACCOUNTING.format(**words) if self.accounting else "AccountingStorageType=accounting_storage/none"
        # A job that is requeued waits until its credential has expired: with accounts the whole two minutes.
        expiry = "" if self.accounting else "cred_expire=5,"
        (self.folder / "slurm.conf").write_text(CLUSTER.format(**words, accounting=kind, expiry=expiry))
        for name in ("state", "spool-n1", "spool-n2"):
            (self.folder / name).mkdir()
        munge = self.folder / "munge"
        munge.mkdir(mode=0o711)
        (munge / "key").touch(mode=0o600)
        (munge / "key").write_bytes(os.urandom(1024))
        files = [
            f"--{name}={munge / file}"
            for name, file in (
                *(("key-file", "key"), ("socket", "sock"), ("pid-file", "pid"), ("log-file", "log")),
                ("seed-file", "seed"),
            )
        ]
        self.daemon("munged", "-F", "--num-threads=2", *files)
        self.until("munged", (munge / "sock").exists)
        if self.accounting:
            self.start_accounting(DATABASE.format(**words))
        configuration = ("-f", str(self.folder / "slurm.conf"))
        self.daemon("slurmctld", "-D", "-i", *configuration)
        self.until("slurmctld", lambda: "UP" in self.asked("scontrol", "ping"))
        for node in ("n1", "n2"):
            self.daemon("slurmd", "-D", "-N", node, *configuration)
        self.until("slurmd", lambda: self.asked("sinfo", "-h", "-N", "-p", "main", "-o", "%T").split() == ["idle"] * 2)

    def start_accounting(self, configuration: str) -> None:
        data = self.folder / "mariadb"
        subprocess.run(
            [
                *("mariadb-install-db", "--no-defaults", f"--datadir={data}", f"--user={getpass.getuser()}"),
                *("--auth-root-authentication-method=normal", "--skip-test-db"),
            ],
            stdout=open(self.folder / "mariadb-install.log", "wb"),  # noqa: SIM115
            stderr=subprocess.STDOUT,
            timeout=4 * PATIENCE_SECONDS,
            check=True,
        )
        self.daemon(
            *("mariadbd", "--no-defaults", f"--datadir={data}", f"--socket={self.folder / 'mariadb.sock'}"),
            *("--skip-networking", f"--user={getpass.getuser()}", f"--pid-file={self.folder / 'mariadb.pid'}"),
            "--innodb-buffer-pool-size=32M",
        )
        self.until("mariadbd", (self.folder / "mariadb.sock").exists)
        path = self.folder / "slurmdbd.conf"
        path.touch(mode=0o600)
        path.write_text(configuration)
        self.daemon("slurmdbd", "-D")
        self.until("slurmdbd", lambda: self.run("sacctmgr", "-n", "list", "cluster").returncode == 0)

    def daemon(self, *command: str) -> None:
        with open(self.folder / f"{command[0]}.out", "ab") as output:
            self.daemons.append(
                subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    env=self.environment,
                    cwd=self.folder,
                    start_new_session=True,  # Ctrl-C in a terminal is for the tests
                )
            )

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        try:
            return subprocess.run(
                command, env=self.environment, capture_output=True, text=True, timeout=300, check=False
            )
        except subprocess.TimeoutExpired:
            return subprocess.CompletedProcess(command, 1, "", "no answer")

    def asked(self, *command: str) -> str:
        return self.run(*command).stdout

    def until(self, name: str, come: Callable[[], bool]) -> None:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not come():
            if self.daemons[-1].poll() is not None or time.monotonic() > deadline:
                logs = [*self.folder.glob(f"{name}*.log"), self.folder / f"{name}.out", self.folder / name[:5] / "log"]
                lines = [line for log in logs if log.is_file() for line in log.read_text().splitlines()[-3:]]
                raise RuntimeError(f"{name} did not start: {' / '.join(lines)}")
            time.sleep(0.05)

    def stop(self) -> None:
        """Jobs first, then the daemons, then whatever is left."""
        if (self.folder / "slurm.conf").exists() and len(self.daemons) > 2:
            self.run("scancel", "--user", getpass.getuser())
            self.run("scancel", "--signal=KILL", "--full", "--user", getpass.getuser())
            deadline = time.monotonic() + 15
            while self.asked("squeue", "-h").strip() and time.monotonic() < deadline:
                time.sleep(0.1)
        for daemon in reversed(self.daemons):
            daemon.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                daemon.wait(10)
        deadline = time.monotonic() + 10
        while left := descendants(os.getpid()):
            for process in left:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(process, signal.SIGKILL)
            reap_orphans(self)
            if time.monotonic() > deadline:
                break
            time.sleep(0.05)


def free_ports(count: int) -> list[int]:
    """Ports that nothing listens on just now."""
    with contextlib.ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in probes]


def children(process: int) -> list[int]:
    """The processes that a process has started, or taken over as orphans."""
    found: list[int] = []
    for path in Path(f"/proc/{process}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            found += map(int, path.read_text().split())
    return found


def descendants(process: int) -> list[int]:
    """All processes under one."""
    return [each for child in children(process) for each in (child, *descendants(child))]


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--accounting", action="store_true")
    arguments = parser.parse_args()
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    for attempt in (1, 2):  # once more if another process has taken a port meanwhile
        with tempfile.TemporaryDirectory(prefix="slurm-", ignore_cleanup_errors=True) as name:
            folder = Path(name)
            folder.chmod(0o711)  # as munge wants it
            slurm = Slurm(folder, arguments.accounting)
            try:
                slurm.start()
                print(f"ready {folder / 'slurm.conf'}", flush=True)
                while not (select.select([sys.stdin], [], [], 0.5)[0] and not sys.stdin.buffer.read1(1)):
                    reap_orphans(slurm)
                return 0
            except (RuntimeError, OSError, subprocess.SubprocessError) as error:
                if attempt == 2:
                    print(f"failed: {error}", flush=True)
            finally:
                slurm.stop()
    return 1


def reap_orphans(slurm: Slurm) -> None:
    """Take leave of the processes that have ended and came here as orphans; the daemons are waited for elsewhere."""
    ours = {daemon.pid for daemon in slurm.daemons}
    for child in children(os.getpid()):
        if child not in ours:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(child, os.WNOHANG)


if __name__ == "__main__":
    sys.exit(main())
