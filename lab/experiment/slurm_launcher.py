"""``hydra/launcher=slurm``: every run of a sweep is a task of one SLURM job array, and this process waits for all.

It is hydra-submitit-launcher with what that leaves out: mistakes are one line; the jobs run a copy of the code; a run
that is to stop is saved before submitit requeues its job; a job that was killed is noticed without accounts, too.
"""

import contextlib
import io
import os
import shlex
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn, JobStatus, filter_overrides
from hydra.plugins.launcher import Launcher

from lab.base.commandline import one_line
from lab.base.errors import UserError
from lab.base.files import make_folder, write_whole
from lab.base.interruption import Interrupted
from lab.cluster.queue import jobs_of_user, keeps_accounts
from lab.experiment.compose import checked, configuration_folder
from lab.experiment.settings import TrainSettings
from lab.experiment.sweep import Sweep
from lab.runs.environment import commit_of

try:
    from hydra_plugins.hydra_submitit_launcher.submitit_launcher import SlurmLauncher
except ImportError:  # the extra `slurm` is not installed; told when it is asked for
    SlurmLauncher = None

NAME = "hydra_plugins.lab.SlurmLauncher"  # what conf/hydra/launcher/slurm.yaml calls it: Hydra accepts no other place
GONE = "GONE"  # the state of a job that SLURM no longer knows
REQUEUE_SECONDS = 120.0  # that other ranks wait for the first to requeue their job, and for SLURM to end them


def register() -> None:
    """Let Hydra find the launcher."""
    Plugins.instance().class_name_to_class[NAME] = LabLauncher if SlurmLauncher is not None else NotInstalled


class NotInstalled(Launcher):
    """Says what to install."""

    def __init__(self, **_: Any) -> None: ...

    def setup(self, **_: Any) -> None:
        raise UserError("hydra/launcher=slurm needs hydra-submitit-launcher: pip install -e '.[slurm]'")

    def launch(self, job_overrides: Any, initial_job_idx: int) -> NoReturn:
        raise NotImplementedError


class RunFailed(Exception):
    """A run of the sweep has failed, elsewhere; the message is the line that tells why."""


class LabLauncher(SlurmLauncher or Launcher):  # type: ignore[misc]
    """See above. The object itself goes to the jobs too, where it is called for one run."""

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Submit and wait; what becomes of the runs goes to the sweep."""
        if self.config.plan:
            return self._plan(job_overrides, initial_job_idx)
        jobs = self._submit(job_overrides, initial_job_idx)
        shared = set.intersection(*map(set, job_overrides)) if len(jobs) > 1 else set()
        names = [" ".join(each for each in overrides if each not in shared) for overrides in job_overrides]
        array = str(jobs[0].job_id).partition("_")[0]
        folder = Path(str(self.config.hydra.sweep.dir))
        write_plan(folder / ".submitit" / f"{array}.txt", job_overrides)
        print(f"job {array}: {len(jobs)} runs are submitted; python -m lab.status {folder} and squeue list them")
        if not keeps_accounts():
            watch_by_squeue()
            print("SLURM keeps no accounts here (sacct has no answer): jobs that are killed are found out by squeue")
        sys.stdout.flush()
        try:
            returned = self._wait(jobs, names)
        except KeyboardInterrupt:
            print(f"\nthe jobs go on; scancel {array} ends them, the same command finds their runs again", flush=True)
            raise
        if self.config.compare and not self.sweep.failed:
            from lab.experiment.setup import Setup

            setups = [Setup(checked(TrainSettings, result.cfg)) for result in returned if result.cfg is not None]
            self.sweep.finished += [(setup.given, setup.run.path) for setup in setups]
        return returned

    @property
    def sweep(self) -> Sweep:
        """The sweep whose method Hydra calls for each run."""
        found: Sweep = self.task_function.__self__
        return found

    def _plan(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """What plan=... asks for is done here, and nothing is submitted."""
        from hydra._internal.core_plugins.basic_launcher import BasicLauncher

        here = BasicLauncher()
        here.setup(hydra_context=self.hydra_context, task_function=self.task_function, config=self.config)
        return here.launch(job_overrides, initial_job_idx)

    def _submit(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> list[Any]:
        import submitit
        from hydra.core.singleton import Singleton

        for program in ("sbatch", "srun"):
            if shutil.which(program) is None:
                raise UserError(
                    f"there is no {program} here: hydra/launcher=slurm is for a machine from which SLURM jobs are "
                    "submitted; without it the runs are trained here, one after the other"
                )
        folder = Path(str(self.config.hydra.sweep.dir))
        parameters = dict(self.params)
        executor = submitit.AutoExecutor(
            cluster="slurm",
            folder=parameters.pop("submitit_folder"),
            slurm_max_num_timeout=parameters.pop("max_num_timeout"),
        )
        cpus = parameters.get("cpus_per_task") or 1
        code = copy_code(folder / ".jobs")
        if code is not None:
            self._compose_from(code)
        environment = {
            # Threads are part of what a continued run must have again; by default they are the node's cores.
            "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", cpus),
            "PYTHONSAFEPATH": 1,
            "PYTHONPATH": os.pathsep.join(filter(None, (code, os.environ.get("PYTHONPATH")))),
        }
        parameters["setup"] = [
            *(parameters.get("setup") or []),
            *(f"export {name}={shlex.quote(str(value))}" for name, value in environment.items()),
        ]
        # SLURM does not hand the job's CPUs on to srun. Ranks that have saved end one after the other, none is killed.
        parameters["srun_args"] = [f"--cpus-per-task={cpus}", "--kill-on-bad-exit=0", "--wait=0"]
        shared = ("name", "timeout_min", "mem_gb", "nodes", "cpus_per_task", "gpus_per_node", "tasks_per_node")
        named = {key if key in (*shared, "stderr_to_stdout") else f"slurm_{key}": parameters[key] for key in parameters}
        try:
            executor.update_parameters(**named)
        except (ValueError, TypeError, NameError) as error:
            raise UserError(
                f"hydra.launcher: {str(error).splitlines()[0]}; see conf/hydra/launcher/slurm.yaml"
            ) from None
        given = [
            (list(overrides), "hydra.sweep.dir", number, f"job_id_for_{number}", Singleton.get_state())
            for number, overrides in enumerate(job_overrides, start=initial_job_idx)
        ]
        said = io.StringIO()
        try:
            with contextlib.redirect_stderr(said):  # what sbatch says is told below
                return list(executor.map_array(self, *zip(*given, strict=True)))
        except submitit.core.utils.FailedJobError as error:
            lines = [line.removeprefix("sbatch: ").removeprefix("error: ") for line in str(error).splitlines()]
            raise UserError(
                f"sbatch refuses the jobs: {'; '.join(lines)}; change hydra.launcher.partition, account, timeout_min, "
                "... in conf/hydra/launcher/slurm.yaml or on the command line"
            ) from None

    def _compose_from(self, code: str) -> None:
        """Let the jobs read the copy of conf/: they compose their configurations themselves, each time they start."""
        loader = self.hydra_context.config_loader
        for place in (*loader.get_search_path().get_path(), *loader.repository.sources):
            if place.provider == "main":
                place.path = place.path.replace(configuration_folder(), os.path.join(code, "conf"))

    def _wait(self, jobs: list[Any], names: list[str]) -> list[JobReturn]:
        """A line for each run that ends, as it ends."""
        returned: dict[int, JobReturn] = {}
        while len(returned) < len(jobs):
            for number, (job, name) in enumerate(zip(jobs, names, strict=True)):
                if number in returned or not job.done():
                    continue
                returned[number], line = result_of(job)
                if line:
                    self.sweep.failed.append((f"{name} (job {job.job_id})", line))
                else:
                    self.sweep.elsewhere += 1
                print(f"job {job.job_id} ({name}): {line or 'done'}", flush=True)
            time.sleep(1)
        return [returned[number] for number in range(len(jobs))]

    def __call__(self, *arguments: Any, **keywords: Any) -> JobReturn:
        """One run, in its job."""
        returned: JobReturn = super().__call__(*arguments, **keywords)
        if returned.status == JobStatus.COMPLETED:
            return returned
        error = returned._return_value
        if isinstance(error, Interrupted):
            leave(error)
        line = one_line(error) or f"{type(error).__name__}: {error}"
        # submitit would print where in submitit it came through.
        sys.excepthook = lambda *_: print(f"error: {line}", file=sys.stderr)
        raise RunFailed(line)


def leave(interrupted: Interrupted) -> NoReturn:
    """End this task of a job whose run is saved, so that the job can be requeued, by exactly one party.

    On the signal that announces the time limit submitit had set a handler; it requeues the job, or says why not.
    After SIGTERM the job was cancelled, or SLURM itself requeues it. In neither case there is a result yet.
    """
    print(interrupted, file=sys.stderr, flush=True)
    number = signal.Signals[interrupted.received] if interrupted.received else signal.SIGTERM
    asked = signal.getsignal(number)
    if number not in (signal.SIGTERM, signal.SIGINT) and callable(asked):
        asked(number, None)  # on the first rank it ends the process
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        time.sleep(REQUEUE_SECONDS)
    sys.exit(Interrupted.EXIT_CODE)


def result_of(job: Any) -> tuple[JobReturn, str]:
    """What a job that has ended has returned, and a line that tells why it failed, or nothing."""
    import submitit

    try:
        returned: JobReturn = job.results()[0]
        return returned, ""
    except submitit.core.utils.FailedJobError as error:
        found = [text for text in str(error).splitlines() if text.startswith(("lab.", "submitit."))]
        line = found[-1].partition(": ")[2] if found else f"see {job.paths.stderr}"
    except submitit.core.utils.UncompletedJobError:  # the process was killed
        told = "is no longer known to SLURM" if job.state == GONE else f"has ended as {job.state}"
        line = f"the job {told} and has left no result; {job.paths.stderr} may say why, and the same command continues"
    return JobReturn(status=JobStatus.COMPLETED), line  # Hydra itself would print and raise the first failure only


def watch_by_squeue() -> None:
    """Let submitit ask squeue, which knows of ended jobs for some minutes, where sacct has no answer."""
    from submitit.slurm.slurm import SlurmInfoWatcher, SlurmJob

    class Watcher(SlurmInfoWatcher):
        def update(self) -> None:
            listed = jobs_of_user()
            self._last_status_check = time.time()
            if listed is None:
                return  # no answer: no news
            states = {entry.id: "RUNNING" if entry.alive else entry.state for entry in listed}
            # It was submitted, so it was known.
            self._info_dict.update({job: {"State": states.get(job, GONE)} for job in self._registered})

    watcher = Watcher(delay_s=30)
    watcher._registered |= SlurmJob.watcher._registered
    watcher._start_time = time.time()
    SlurmJob.watcher = watcher


def write_plan(path: Path, job_overrides: Sequence[Sequence[str]]) -> None:
    """The runs of a job array, one a line, for lab.status."""
    make_folder(path.parent)
    write_whole(path, "".join(shlex.join(filter_overrides(each)) + "\n" for each in job_overrides).encode())


def copy_code(folder: Path) -> str | None:
    """Copy what jobs import and read, so that they run what was submitted; None if the lab is an installed package."""
    source = Path(__file__).resolve().parents[2]
    if not (source / "conf").is_dir():
        return None
    try:
        folder.mkdir(parents=True, exist_ok=True)
        copy = Path(tempfile.mkdtemp(prefix="launcher-", dir=folder)).resolve()
        for name in ("lab", "conf", "data/tokenizers"):
            shutil.copytree(source / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
        commit, changed = commit_of(source)
        (copy / "commit").write_text(commit + "\nchanged" * changed + "\n", encoding="utf-8")
    except OSError as error:
        raise UserError(
            f"{folder} cannot be written: {(error.strerror or str(error)).lower()}; choose another folder with runs=..."
        ) from None
    return str(copy)
