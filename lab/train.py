"""Train one decoder, score it beyond its context window, show the result.

python -m lab.train model=rope
python -m lab.train -m model=nope,rope seed=0,1
"""

import os
import shlex
import sys
import traceback
from contextlib import ExitStack
from functools import partial
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from lab.checkpoints import Checkpoint
from lab.commands import configuration_folder, one_line, run_command
from lab.errors import UserError
from lab.job import Job
from lab.launch import launch
from lab.measure.scoring import score_run
from lab.measure.summary import summarise
from lab.model.decoder import Decoder, parameter_count
from lab.model.initialise import fingerprints
from lab.report.pictures import loss_by_position_picture
from lab.report.tables import SUMMARY, print_summary
from lab.runs import Config
from lab.slurm import job_of
from lab.slurm_launcher import register
from lab.sweep import OUTCOMES
from lab.tables import read_table, write_table
from lab.training.callbacks import last_step
from lab.training.fit import fit, surroundings
from lab.training.interruption import Interrupted, Interruption
from lab.training.resume import check_surroundings


def train(job: Job) -> None:
    """Make the run, continue it, or find it finished; score it and show its table.

    If several ranks train it, all call this; the first alone writes and scores.
    """
    if job.processes > 1:
        launch(train_as_rank, job.config, job.processes)
        return
    if not job.run.path.exists():
        for measure in job.measures:
            next(measure.items(job.source))  # what cannot be scored is refused before anything is written
    with ExitStack() as held, Interruption(job.ranks.first) as interruption:
        with job.ranks.connected(job.device):
            after = job.ranks.from_first(partial(begin, job, held))
            if after is not None:
                fit_and_conclude(job, job.decoder(), interruption, after)
        if job.ranks.first:
            complete(job, interruption)


def train_as_rank(config: Config) -> None:
    """What each process does that :func:`train` starts."""
    train(Job(OmegaConf.create(config)))


def begin(job: Job, held: ExitStack) -> int | None:
    """Hold the run, make it or find it; the optimiser step to go on after, 0 for a new run, None if it is finished."""
    held.enter_context(job.run.locked())
    state = job.run.state(job.digest)
    if job.config["overwrite"] and state != "new" and not begun_by_this_job(job):
        job.run.delete()
        state = "new"
    if state == "finished":
        print(f"{job.run.path} is finished{lost(job)}")
        return None
    return continue_run(job) if state == "unfinished" else make_run(job)


def lost(job: Job) -> str:
    """What of a finished run is no longer there, in words."""
    steps = [step for step, _, _, flaw in job.run.checkpoints.listing(verify=False) if not flaw]
    missing = ["its weights"] * (job.steps not in steps)
    missing += ["metrics.csv"] * (not (job.run.path / "metrics.csv").exists())
    return f", but {' and '.join(missing)} are gone; overwrite=true trains it again" if missing else ""


def make_run(job: Job) -> int:
    """Make a new run directory."""
    decoder = job.decoder()
    manifest = {
        "digest": job.digest,
        "identity": job.identity,
        "state": "training",
        "parameters": parameter_count(decoder),
        "tokens": job.trained_tokens,
        "flops_per_token": {"exact": job.flops.exact, "full": job.flops.full},
        "corpus": job.corpus_manifest,
        "initial_weights": fingerprints(decoder),
        "stretches": [surroundings(job.kernel, job.ranks.world, job.config["trainer"]["strategy"]) | begun(1)],
    }
    job.run.create(job.config, manifest)
    print(f"{job.run.path}: {parameter_count(decoder):,} parameters, {job.trained_tokens:,} tokens")
    return 0


def begun(first_step: int) -> dict[str, Any]:
    """How a stretch of training came about: its first step, what was typed (under a launcher, how that starts this),
    and the SLURM job."""
    command = shlex.join(["python", "-m", "lab.train", *sys.argv[1:]])
    return {"first_step": first_step, "command": command, "job": job_of(os.environ)}


def begun_by_this_job(job: Job) -> bool:
    """Whether the run was made or continued by this SLURM job before it was requeued: it is not to be deleted again."""
    now = job_of(os.environ)
    if now is None:
        return False
    before = [stretch.get("job") or {} for stretch in job.run.manifest["stretches"]]
    return any(
        (each.get("id"), each.get("cluster")) == (now["id"], now["cluster"]) and each["restarts"] < now["restarts"]
        for each in before
    )


def continue_run(job: Job) -> int:
    """The step of the newest checkpoint, or 0 if the run was stopped before its first."""
    checkpoint = job.run.checkpoints.newest()
    now = surroundings(job.kernel, job.ranks.world, job.config["trainer"]["strategy"])
    stretches = job.run.manifest["stretches"]
    allow = job.config["resume"]["allow"]
    if checkpoint is not None:
        check_surroundings(stretches[-1], now, allow, job.run.path)
    elif last_step(job.run.path) > job.run.config["trainer"]["checkpoint_every"]:
        raise UserError(
            f"{job.run.path / 'checkpoints'} is empty, but the run has come to step {last_step(job.run.path)}: restore"
            " the checkpoints, or start the run again with overwrite=true"
        )
    for key in ("log_every", "validate_every"):  # they decide which rows metrics.csv has
        before, given = job.run.config["trainer"][key], job.config["trainer"][key]
        if given != before:
            raise UserError(
                f"trainer.{key} is {given}, but {job.run.path} was begun with {before}: give trainer.{key}={before}, or"
                " start the run again with overwrite=true"
            )
    step = checkpoint.step if checkpoint else 0
    stretch = now | begun(step + 1) | {"allowed": allow}
    job.run.update_manifest(stretches=[*stretches, stretch])
    print(f"{job.run.path}: continuing after optimiser step {step} of {job.steps}")
    return step


def fit_and_conclude(job: Job, decoder: Decoder, interruption: Interruption, after: int) -> None:
    """Train on after an optimiser step, and say in the manifest that the run is finished."""
    checkpoint = Checkpoint(job.run.checkpoints.path(after), after) if after else None
    module = fit(job.config, job.run, decoder, job.data, interruption, checkpoint, job.ranks)
    skipped = job.data.state_dict()["skipped"]
    if job.ranks.first:
        job.run.update_manifest(
            blocks={"count": job.block_count, "fingerprint": module.fingerprint.hex},
            skipped_documents=skipped,
            state="finished",
        )


def complete(job: Job, interruption: Interruption) -> None:
    """Score a trained run, as far as it is not scored; tables and picture go to the run directory."""

    def check(item: str) -> None:
        interruption.check(f"came before {item} was scored; what is scored is kept")

    nodes, folder = job.config.get("measure", {}), job.run.path
    fresh = score_run(job.run, nodes, job.evaluation_label, job.source, job.device, job.steps, check)
    rows = job.scored_rows()
    if rows and (fresh or not (folder / "summary.csv").exists()):
        write_table(folder / "summary.csv", summarise(rows, job.config["scale"]["context"]))
        if any(row["measure"] == "loss_by_position" for row in rows):
            curves = {job.config["model"]["name"]: rows}
            loss_by_position_picture(curves, job.config["scale"]["context"], folder / "loss_by_position")
    show(job, bool(rows))


def show(job: Job, scored: bool) -> None:
    """The run's short table on the terminal."""
    skipped = job.run.manifest["skipped_documents"]
    if skipped:
        print(f"skipped {len(skipped)} document{'s' * (len(skipped) > 1)}: {', '.join(skipped)}")
    if scored:
        print_summary(job.run.path.name, read_table(job.run.path / "summary.csv", SUMMARY))
        print(f"tables and picture: {job.run.path}/scores.csv, summary.csv, loss_by_position.png")


def entry(composed: DictConfig) -> None:
    if OUTCOMES.interrupted:
        raise OUTCOMES.interrupted  # a sweep that is asked to stop starts no further run
    try:
        job = Job(composed)
        if composed.plan:
            OUTCOMES.plan(job, HydraConfig.get().overrides.task)
            return
        train(job)
        OUTCOMES.finished.append(job)
    except Interrupted as interrupted:
        OUTCOMES.interrupted = interrupted
        if HydraConfig.get().mode == RunMode.MULTIRUN:
            raise
    except Exception as error:
        if HydraConfig.get().mode != RunMode.MULTIRUN:
            # Raised again by main: an error that passes through Hydra gets a line of Hydra's own.
            OUTCOMES.error = error
            return
        # Raised, so that any launcher knows: Hydra goes on with the next job and in the end raises the first error.
        line = one_line(error)
        if line is None:
            traceback.print_exc()
        OUTCOMES.failed.append((f"{composed.model.name} seed {composed.seed}", line or repr(error)))
        raise


def main() -> None:
    register()
    try:
        hydra.main(version_base="1.3", config_path=configuration_folder(), config_name="train")(entry)()
    except Exception:
        if not OUTCOMES.failed or OUTCOMES.interrupted:
            raise
    if OUTCOMES.interrupted is not None:
        raise OUTCOMES.interrupted
    if OUTCOMES.error is not None:
        raise OUTCOMES.error
    OUTCOMES.conclude()


if __name__ == "__main__":
    from lab import train as importable  # jobs elsewhere find what they are to call as lab.train, not as __main__

    run_command(importable.main)
