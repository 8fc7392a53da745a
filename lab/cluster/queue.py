"""What SLURM tells of jobs: to a job itself by its environment, to everybody else by squeue."""

import re
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lab.base.errors import UserError

PATIENCE_SECONDS = 20.0  # for an answer: SLURM's programs try for minutes when the controller is down
FIELDS = ("JobArrayID", "State", "RestartCnt", "TimeLeft", "Reason", "exit_code", "WorkDir", "Command")
WAITING = ("PENDING", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED", "SPECIAL_EXIT")
ALIVE = (*WAITING, "CONFIGURING", "RUNNING", "COMPLETING", "SUSPENDED", "STOPPED", "RESIZING", "SIGNALING", "STAGE_OUT")


def job_of(environment: Mapping[str, str]) -> dict[str, Any] | None:
    """The SLURM job that this process is in, for a run's manifest; None outside of any.

    ``id`` is the number that squeue prints, ``12`` or ``12_3`` in a job array; ``restarts`` how often it was requeued.
    """
    if "SLURM_JOB_ID" not in environment:
        return None
    array, task = environment.get("SLURM_ARRAY_JOB_ID"), environment.get("SLURM_ARRAY_TASK_ID")
    return {
        "id": f"{array}_{task}" if array and task else environment["SLURM_JOB_ID"],
        "cluster": environment.get("SLURM_CLUSTER_NAME", ""),
        "restarts": restarts_of(environment),
    }


def restarts_of(environment: Mapping[str, str]) -> int:
    """How often this process's job was requeued. Raises UserError if the environment does not say a number."""
    told = environment.get("SLURM_RESTART_COUNT") or "0"
    if not re.fullmatch(r"\d{1,9}", told, re.ASCII):
        raise UserError(f"SLURM_RESTART_COUNT is {told[:80]!r} in the environment: SLURM gives a number; clear it")
    return int(told)


@dataclass(frozen=True)
class Queued:
    """A job, or a task of a job array, as squeue lists it: waiting, running, or ended some minutes ago at most.

    Args:
        state: SLURM's word, such as ``PENDING``.
        restarts: how often it was requeued.
        time_left: until its time limit, as SLURM prints it.
        reason: why it waits, or how it ended.
        code: its exit code.
        folder, command: where sbatch was typed, and what was submitted.
    """

    id: str
    state: str
    restarts: int
    time_left: str
    reason: str
    code: int
    folder: Path
    command: str

    @property
    def alive(self) -> bool:
        """Whether it waits, runs, or is about to do so again."""
        return self.state in ALIVE

    @property
    def told(self) -> str:
        """Its state in words."""
        times = f"{self.restarts} time{'s' * (self.restarts > 1)}"
        if self.state in WAITING:
            why = "" if self.reason in ("None", "") else f": {self.reason}"
            return f"requeued {times}{why}" if self.restarts else f"queued{why}"
        word = self.state.lower().replace("_", " ")
        if self.state == "FAILED":
            return f"failed with exit code {self.code}"
        return f"{word}, requeued {times}" if self.restarts and self.alive else word


def jobs_of_user() -> list[Queued] | None:
    """The user's jobs in the queue, and those that have ended some minutes ago at most.

    None if SLURM does not answer, or is not here.
    """
    form = ",".join(f"{field}:|" for field in FIELDS)
    command = ["squeue", "--noheader", "--array", "--states=all", "--me", f"--Format={form}"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_SECONDS, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return [entry for line in answer.stdout.splitlines() if (entry := read_line(line)) is not None]


def read_line(line: str) -> Queued | None:
    """One line of squeue; None if it is none."""
    parts = line.split("|", len(FIELDS) - 1)
    if len(parts) != len(FIELDS):
        return None
    number, state, restarts, left, reason, code, folder, command = parts
    return Queued(
        number,
        state,
        int(restarts) if restarts.isdigit() else 0,
        left,
        reason,
        int(code) >> 8 or int(code) if code.isdigit() else 0,
        Path(folder),
        command.rstrip("|"),
    )


def request_of(job: Queued) -> tuple[Path, str] | None:
    """The folder of runs that a job writes to, and the overrides of its run; None if it is none of the lab's."""
    script, *arguments = job.command.split() or [""]
    path = job.folder / script
    array, _, task = job.id.partition("_")
    number = int(task) if task.isdigit() else -1
    if path.parent.name == ".submitit":  # lab/experiment/slurm_launcher.py has written the plan, and counts from 0
        return path.parents[1], line_of(path.parent / f"{array}.txt", number)
    if path.name == "sweep.sbatch" and arguments:
        # The plan as it was when the jobs began, if they have.
        copies = [*job.folder.glob(f"runs/.jobs/*-{array}/plan.txt"), job.folder / arguments[0]]
        line = line_of(copies[0], number - 1)
    elif path.name == "train.sbatch":
        line = " ".join(arguments)
    else:
        return None
    given = re.findall(r"(?:^|\s)runs=(\S+)", line)
    return job.folder / (given[-1] if given else "runs"), line


def line_of(path: Path, number: int) -> str:
    """A line of a file, counted from 0; empty if there is none."""
    if number < 0:
        return ""
    try:
        return path.read_text(encoding="utf-8").splitlines()[number]
    except (OSError, ValueError, IndexError):
        return ""


def keeps_accounts() -> bool:
    """Whether SLURM remembers jobs that have ended: whether sacct has an answer."""
    try:
        command = ["sacct", "--noheader", "--allocations", "--jobs=1"]
        return subprocess.run(command, capture_output=True, timeout=PATIENCE_SECONDS, check=False).returncode == 0
    except (OSError, subprocess.SubprocessError):
        return False
