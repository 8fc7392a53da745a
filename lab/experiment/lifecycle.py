"""A run from its beginning to its table: made, continued or found finished; trained; scored; shown."""

import os
import shlex
import sys
from contextlib import ExitStack
from functools import partial
from typing import Any

from lab.base.errors import UserError
from lab.base.files import discard, make_folder, refuse_link
from lab.base.interruption import Interruption
from lab.base.shown import plain
from lab.cluster.launch import launch
from lab.cluster.queue import job_of
from lab.experiment.compose import as_typed
from lab.experiment.settings import TrainSettings
from lab.experiment.setup import Setup
from lab.model.decoder import parameter_count
from lab.model.initialise import fingerprints
from lab.observe.scoring import rows_of, score_run, setting_of
from lab.runs.environment import check_environment, environment
from lab.runs.extensions import copy_tables
from lab.training.rows import last_step


def train(setup: Setup) -> None:
    """Make the run, continue it, or find it finished; score it and show its table.

    If several ranks train it, all call this; the first alone writes and scores.
    """
    if setup.processes > 1:
        launch(train_as_rank, setup.given.plain(), setup.processes)
        return
    if not setup.run.path.exists():
        check_readers(setup)
        for measure in setup.measures.values():
            next(measure.items(setup.source))  # what cannot be scored is refused before anything is written
    with ExitStack() as held, Interruption(setup.ranks.first) as interruption:
        with setup.ranks.connected(setup.device):
            after = setup.ranks.from_first(partial(begin, setup, held))
            if after is not None:
                fit_and_conclude(setup, interruption, after)
            # Together to the end: a rank that went ahead to the next run of a sweep would wait there while this one is
            # scored, and for nobody once a signal has ended the scoring.
            setup.ranks.from_first(partial(complete, setup, interruption))
            interruption.received = setup.ranks.one_of(interruption.received)
        interruption.check("came when the run was finished")  # a sweep begins no further one


def check_readers(setup: Setup) -> None:
    """Raises UserError if the lanes of the data cannot be divided among those that are to read them."""
    data, world = setup.config.data, setup.ranks.world
    each = max(1, data.workers) if data.mode == "stream" else 1
    if data.lanes % (world * each):
        raise UserError(
            f"lanes is {data.lanes}: it must be a multiple of processes x workers = {world} x {each}; "
            "change data.lanes or data.workers"
        )


def train_as_rank(given: dict[str, Any]) -> None:
    """What each process does that :func:`train` starts."""
    train(Setup(TrainSettings.check(given)))


def begin(setup: Setup, held: ExitStack) -> int | None:
    """Hold the run, make it or find it; the optimiser step to go on after, 0 for a new run, None if it is finished."""
    refuse_link(setup.run.path)
    held.enter_context(setup.run.locked())
    state = setup.run.state(setup.digest)
    if setup.given.overwrite and state != "new" and not begun_by_this_job(setup):
        setup.run.delete()
        state = "new"
    if state == "finished":
        print(f"{setup.run.path} is finished{lost(setup)}")
        return None
    return continue_run(setup) if state == "unfinished" else make_run(setup)


def lost(setup: Setup) -> str:
    """What of a finished run is no longer there, in words."""
    steps = [step for step, _, _, flaw in setup.run.checkpoints.listing(verify=False) if not flaw]
    missing = ["its weights"] * (setup.steps not in steps)
    missing += ["metrics.csv"] * (not (setup.run.path / "metrics.csv").exists())
    return f", but {' and '.join(missing)} are gone; overwrite=true trains it again" if missing else ""


def environment_of(setup: Setup) -> dict[str, Any]:
    """What this process trains on."""
    return environment(setup.kernel, setup.ranks.world, setup.config.trainer.strategy)


def make_run(setup: Setup) -> int:
    """Make a new run directory."""
    parent = setup.start.record()
    if parent is not None:
        print(f"child of {parent['name']}, step {parent['step']}: {'; '.join(setup.differences) or 'nothing differs'}")
    manifest = {
        "digest": setup.digest,
        "identity": setup.identity,
        "state": "training",
        "parameters": parameter_count(setup.decoder),
        "tokens": setup.trained_tokens,
        "first_block": setup.first_block,
        "flops_per_token": {"exact": setup.flops.exact, "full": setup.flops.full},
        "corpus": setup.corpus_manifest,
        "tokenizer": setup.spelling,
        "initial_weights": fingerprints(setup.decoder),
        "attempts": [environment_of(setup) | attempt_from(1)],
        **({"parent": parent, "extensions": setup.start.extensions} if parent else {}),
    }
    beside = setup.run.path.with_name(f".{setup.run.path.name}.new")
    discard(beside)
    make_folder(beside)
    copy_tables(setup.start.extensions, setup.start.table_folders, beside)
    setup.run.create(setup.config, manifest, beside)
    print(f"{setup.run.path}: {manifest['parameters']:,} parameters, {setup.trained_tokens:,} tokens")
    if setup.config.adapter is not None:
        print(f"{setup.config.adapter.name}: {setup.adapter.told(setup.decoder)}")
    return 0


def attempt_from(first_step: int) -> dict[str, Any]:
    """How an attempt of training came about: its first step, what was typed (under a launcher, how that starts this),
    and the SLURM job."""
    command = shlex.join(["python", "-m", "lab.train", *as_typed(sys.argv[1:])])
    return {"first_step": first_step, "command": command, "job": job_of(os.environ)}


def begun_by_this_job(setup: Setup) -> bool:
    """Whether the run was made or continued by this SLURM job before it was requeued: it is not to be deleted again."""
    now = job_of(os.environ)
    if now is None:
        return False
    before = [attempt.get("job") or {} for attempt in setup.run.manifest["attempts"]]
    return any(
        (each.get("id"), each.get("cluster")) == (now["id"], now["cluster"]) and each["restarts"] < now["restarts"]
        for each in before
    )


def continue_run(setup: Setup) -> int:
    """The step of the newest checkpoint, or 0 if the run was stopped before its first."""
    run, trainer = setup.run, setup.config.trainer
    checkpoint = run.checkpoints.newest()
    now = environment_of(setup)
    attempts, stored = run.manifest["attempts"], run.config.trainer
    allow = list(setup.given.resume.allow)
    if checkpoint is not None:
        check_environment(attempts[-1], now, allow, run.path)
    elif last_step(run.path) > stored.checkpoint_every:
        raise UserError(
            f"{run.path / 'checkpoints'} is empty, but the run has come to step {last_step(run.path)}: restore"
            " the checkpoints, or start the run again with overwrite=true"
        )
    for key in ("log_every", "validate_every"):  # they decide which rows metrics.csv has
        before, given = getattr(stored, key), getattr(trainer, key)
        if given != before:
            raise UserError(
                f"trainer.{key} is {given}, but {run.path} was begun with {before}: give trainer.{key}={before}, or"
                " start the run again with overwrite=true"
            )
    step = checkpoint.step if checkpoint else 0
    run.kept.forget_after(step)
    run.update_manifest(attempts=[*attempts, now | attempt_from(step + 1) | {"allowed": allow}])
    print(f"{run.path}: continuing after optimiser step {step} of {setup.steps}")
    return step


def fit_and_conclude(setup: Setup, interruption: Interruption, after: int) -> None:
    """Train on after an optimiser step, and say in the manifest that the run is finished."""
    from lab.training.fit import fit  # with Lightning, which takes seconds to load

    run = setup.run
    checkpoint = run.checkpoints.checkpoint(after) if after else None
    module = fit(
        setup.config,
        run,
        setup.decoder,
        setup.data,
        interruption,
        checkpoint,
        setup.ranks,
        setup.given.logger,
    )
    skipped = setup.data.state_dict()["skipped"]
    if setup.ranks.first:
        run.update_manifest(
            blocks={"count": setup.block_count, "fingerprint": module.fingerprint.hex},
            skipped_documents=skipped,
            state="finished",
            proof=run.prove(),
        )


def complete(setup: Setup, interruption: Interruption) -> None:
    """Score a trained run, as far as it is not scored; table and pictures go to the run directory."""

    def check(item: str) -> None:
        interruption.check(f"came before {item} was scored; what is scored is kept")

    evaluation, dtype = setup.evaluation_label, setup.given.scoring.dtype
    fresh = score_run(setup.run, setup.measures, evaluation, setup.source, setup.device, setup.steps, check, dtype)
    skipped = setup.run.manifest["skipped_documents"]
    if skipped:
        print(f"skipped {len(skipped)} document{'s' * (len(skipped) > 1)}: {plain(', '.join(skipped))}")
    settings = {setting_of(measure) for measure in setup.measures.values()}
    rows = rows_of(setup.run, settings, dtype, evaluation, setup.steps)
    if rows:
        from lab.report.terminal import show_run  # what shows a run has no part in training it

        show_run(setup.run, rows, fresh)
