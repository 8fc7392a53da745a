"""The list of a folder's runs: how far each is, and what SLURM does with it; and removing runs."""

import csv
import os
import sys
import time
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, NamedTuple

from lab.base.commandline import lines_of
from lab.base.console import Console, Table
from lab.base.errors import UserError
from lab.base.files import bytes_in, dangling, open_stored, refuse_link
from lab.base.shown import plain
from lab.cluster.queue import Queued, jobs_of_user, request_of
from lab.runs.derived import Derived
from lab.runs.environment import hardware
from lab.runs.imported import STEP, Imported
from lab.runs.lock import holder
from lab.runs.model import DERIVED
from lab.runs.run import Run

LONGEST_LINE = 2**16  # bytes of a table's line
COLUMNS = ("step", "of tokens", "loss", "tokens/s", "MB", "last checkpoint")
JOB_COLUMNS = ("job", "job's state", "time left")

A_DAY = 24 * 60 * 60


class Chosen(NamedTuple):
    """Which runs of a folder are meant: those whose name fits a pattern, and of these perhaps only those trained on
    another kind of machine than this one."""

    folder: Path
    match: str = "*"
    elsewhere: bool = False


def runs_in(chosen: Chosen) -> list[Run]:
    """The chosen run directories by name. Raises UserError if there is no such folder."""
    if (link := dangling(chosen.folder)) is not None:
        raise UserError(f"{link} is a link to {os.readlink(link)}, which is not there: name the folder with the runs")
    if not chosen.folder.is_dir():
        raise UserError(f"{chosen.folder}: not a folder; name the folder that holds the runs")
    runs = [Run(path.parent) for path in sorted(chosen.folder.glob("*/manifest.json"))]
    runs = [run for run in runs if fnmatch(run.path.name, chosen.match)]
    return [run for run in runs if was_elsewhere(run)] if chosen.elsewhere else runs


def was_elsewhere(run: Run) -> bool:
    """Whether an attempt of a run was on another kind of machine than this one, whatever the number of threads."""
    try:
        attempts = run.manifest.get("attempts", [])
    except UserError:
        return False
    here = {key: value for key, value in hardware().items() if key != "threads"}
    found = [each.get("hardware", {}) for each in attempts]
    return any({key: value for key, value in each.items() if key != "threads"} != here for each in found)


def watch(chosen: Chosen, verify: bool, seconds: float) -> None:
    """Print the list every so many seconds. Raises UserError for no time at all, and for more than a day."""
    if not 0 < seconds <= A_DAY:
        raise UserError(f"--watch is {seconds:g}: give seconds above 0, {A_DAY:,} at most")
    while True:
        if sys.stdout.isatty():
            print("\033[H\033[2J", end="")
        show(chosen, verify)
        sys.stdout.flush()
        time.sleep(seconds)


def last_row(path: Path) -> dict[str, str]:
    """The last whole row of a table, of which only the beginning and the end are read; empty if there is none.

    Raises:
        UserError: it cannot be read, or is no table.
    """
    try:
        with open_stored(path) as file:
            header = file.readline(LONGEST_LINE)
            file.seek(max(len(header), file.seek(0, os.SEEK_END) - LONGEST_LINE))
            lines = file.read(LONGEST_LINE).decode(errors="replace").split("\n")[:-1]  # what is whole of it
        rows = [
            dict(zip(names, each, strict=False))
            for names in csv.reader([header.decode(errors="replace")])
            for each in csv.reader(lines)
            if len(each) == len(names)
        ]
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, csv.Error) as error:
        raise UserError(f"{path} cannot be read ({error}); restore it, or leave the run out") from None
    return rows[-1] if rows else {}


def number_in(row: dict[str, str], column: str, path: Path) -> float:
    """A number of a table's row. Raises UserError if there is none."""
    try:
        return float(row[column])
    except (KeyError, ValueError):
        found = plain(row[column])[:40] if column in row else "nothing"
        raise UserError(f"{path} has {found} as {column}, where a number should be; restore it") from None


def describe(run: Run, verify: bool) -> dict[str, Any]:
    """One row of the list."""
    manifest = run.manifest
    if manifest.get("kind") in DERIVED:
        return describe_derived(Derived(run.path))
    if manifest.get("kind") == "imported":
        return describe_imported(Imported(run.path), verify)
    run.check_manifest()
    running = holder(run.path)
    state = str(manifest.get("state"))
    metrics, timing = last_row(run.path / "metrics.csv"), last_row(run.path / "timing.csv")
    checkpoints = run.checkpoints.listing(verify=verify)
    checkpoint = "none"
    if checkpoints:
        step, _, _, broken = checkpoints[-1]
        checkpoint = f"{step}, broken: {broken}" if broken else f"{step}, {'verified' if verify else 'complete'}"
    of_metrics, of_timing = run.path / "metrics.csv", run.path / "timing.csv"
    tokens = number_in(metrics, "tokens", of_metrics) if metrics else 0
    return {
        "run": run.path.name,
        "state": state if state == "finished" else (f"running ({running})" if running else "interrupted"),
        "step": f"{number_in(metrics, 'step', of_metrics):.0f}" if metrics else "0",
        "of tokens": f"{100 * tokens / manifest['tokens']:.0f} %",
        "loss": f"{number_in(metrics, 'loss_nats', of_metrics):.3f}" if metrics else "-",
        "tokens/s": f"{number_in(timing, 'tokens_per_second', of_timing):,.0f}" if timing else "-",
        "MB": f"{bytes_in(run.path) / 1e6:,.1f}",
        "last checkpoint": checkpoint,
    }


def describe_derived(run: Derived) -> dict[str, Any]:
    """The row of a derived run, which has no training of its own."""
    run.check_manifest()
    parent = run.parent
    return {
        "run": run.path.name,
        "state": f"derived of {parent.path.name}",
        "step": str(run.field("parent")["step"]),
        "of tokens": "-",
        "loss": "-",
        "tokens/s": "-",
        "MB": f"{bytes_in(run.path) / 1e6:,.1f}",
        "last checkpoint": "its parent's",
    }


def describe_imported(model: Imported, verify: bool) -> dict[str, Any]:
    """The row of an imported model, which was trained elsewhere."""
    model.check_manifest()
    flaw = model.store.checkpoint(STEP).flaw(verify)
    return {
        "run": model.path.name,
        "state": f"imported from {plain(model.manifest['source']['name'])}",
        "step": "-",
        "of tokens": "-",
        "loss": "-",
        "tokens/s": "-",
        "MB": f"{bytes_in(model.path) / 1e6:,.1f}",
        "last checkpoint": f"broken: {flaw}" if flaw else ("verified" if verify else "complete"),
    }


def job_of_run(run: Run) -> str | None:
    """The number of the job that has trained a run last, None if none has."""
    try:
        return (run.manifest["attempts"][-1].get("job") or {}).get("id")
    except (UserError, LookupError):
        return None


def describe_job(number: str | None, jobs: dict[str, Queued]) -> tuple[str, str, str]:
    """Number, state and time left of a job."""
    if number is None:
        return "-", "-", "-"
    if number not in jobs:
        return number, "ended", "-"  # SLURM has forgotten it, after some minutes
    return number, jobs[number].told, jobs[number].time_left if jobs[number].alive else "-"


def not_begun(folder: Path, jobs: dict[str, Queued], known: set[str]) -> list[tuple[str, str]]:
    """(job, overrides) of the jobs that are to make runs in this folder and have not, or never will."""
    # One that is completed without has found its run finished.
    without = {number: job for number, job in jobs.items() if number not in known and job.state != "COMPLETED"}
    asked = {number: request_of(job) for number, job in sorted(without.items())}
    return [(number, each[1]) for number, each in asked.items() if each and each[0].resolve() == folder.resolve()]


def print_whole(table: Table) -> None:
    """Names must come whole, however narrow the terminal is."""
    Console(width=Console(width=1000).measure(table).maximum).print(table)


def show(chosen: Chosen, verify: bool) -> None:
    """Print the list."""
    folder = chosen.folder
    jobs = {job.id: job for job in jobs_of_user() or []}
    runs = runs_in(chosen) if folder.is_dir() or not not_begun(folder, jobs, set()) else []
    known = {number for run in runs if (number := job_of_run(run)) is not None}
    with_jobs = bool(jobs and known)
    table = Table("run", "state", title=str(folder), title_justify="left")
    for column in COLUMNS + (JOB_COLUMNS if with_jobs else ()):
        table.add_column(column, justify="left" if column == JOB_COLUMNS[1] else "right")
    damaged = []
    for run in runs:
        try:
            cells = [*describe(run, verify).values()]
            table.add_row(*cells, *(describe_job(job_of_run(run), jobs) if with_jobs else ()))
        except Exception as error:  # whatever an entry holds, the others are listed
            damaged += lines_of(error) or [f"{run.path} cannot be listed ({type(error).__name__}: {error})"]
    print_whole(table)
    if waiting := not_begun(folder, jobs, known):
        # What they have in common is told once.
        sets = [set(overrides.split()) for _, overrides in waiting if overrides]
        common = set.intersection(*sets) if len(sets) > 1 else set()
        title = "Jobs that have not begun a run"
        if common:
            title += f"; of all: {' '.join(each for each in waiting[-1][1].split() if each in common)}"
        table = Table(*JOB_COLUMNS, "overrides", title=title, title_justify="left")
        for number, overrides in waiting:
            own = [each for each in overrides.split() if each not in common]
            table.add_row(*describe_job(number, jobs), " ".join(own))
        print_whole(table)
    for line in damaged:
        print(plain(line), file=sys.stderr)


def remove(chosen: Chosen, names: list[str], sure: bool) -> None:
    """Delete runs by name, without names all chosen, after asking. Raises UserError, deleting none, if one does not
    exist or is being trained."""
    folder = chosen.folder
    runs = {run.path.name: run for run in runs_in(chosen)}
    if not names:
        names = list(runs)
    if not names:
        print(f"{folder} has no such run: nothing was removed")
        return
    for name in names:
        if name not in runs:
            raise UserError(f"{folder / name} is not a run directory; python -m lab.status {folder} lists them")
        refuse_link(runs[name].path)
        running = holder(runs[name].path)
        if running:
            raise UserError(f"{folder / name} is being trained by {running}; stop it first")
    for name in names:
        left = [each.name for each in runs[name].derived() if each.name not in names]
        if left:
            raise UserError(f"{folder / name} holds the weights of {', '.join(left)}: remove these first, or with it")
    names = derived_first(runs, names)
    total = sum(bytes_in(runs[name].path) for name in names)
    if not sure:
        print(f"remove {', '.join(map(plain, names))} ({total / 1e6:,.1f} MB)? [y/N] ", end="", flush=True)
        if sys.stdin.readline().strip().lower() not in ("y", "yes"):
            print("nothing was removed")
            return
    for name in names:
        with runs[name].locked():
            runs[name].delete()
        print(f"removed {plain(folder / name)}")


def derived_first(runs: dict[str, Run], names: list[str]) -> list[str]:
    """Runs in an order in which each comes after those that are derived of it; those of a damaged circle last."""
    left, ordered = list(dict.fromkeys(names)), []
    while left:
        free = [name for name in left if not {each.name for each in runs[name].derived()} & set(left)]
        ordered += free or left
        left = [name for name in left if name not in ordered]
    return ordered
