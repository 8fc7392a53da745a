"""What SLURM tells of a job: to the job itself by its environment, to everybody else by squeue."""

from collections.abc import Mapping
from typing import Any


def job_of(environment: Mapping[str, str]) -> dict[str, Any] | None:
    """The SLURM job that this process is in, for a run's manifest; None outside of any.

    ``id`` is the number that squeue prints, ``12`` or ``12_3`` in a job array; ``restarts`` how often it was requeued.
    """
    if "SLURM_JOB_ID" not in environment:
        return None
    array, task = environment.get("SLURM_ARRAY_JOB_ID"), environment.get("SLURM_ARRAY_TASK_ID")
    restarts = environment.get("SLURM_RESTART_COUNT", "0")
    return {
        "id": f"{array}_{task}" if array and task else environment["SLURM_JOB_ID"],
        "cluster": environment.get("SLURM_CLUSTER_NAME", ""),
        "restarts": int(restarts) if restarts.isdigit() else 0,
    }
