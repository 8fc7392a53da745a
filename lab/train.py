"""Train one decoder, score it beyond its context window, show the result.

python -m lab.train model=rope
python -m lab.train -m model=nope,rope seed=0,1
"""

import sys
import traceback

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from lab.commands import configuration_folder, one_line, run_command
from lab.errors import UserError
from lab.job import Job
from lab.measure.extrapolation import check_length, score
from lab.measure.summary import summarise
from lab.model.decoder import parameter_count
from lab.model.initialise import fingerprints
from lab.report.pictures import loss_by_position_picture
from lab.report.tables import SUMMARY, print_summary, read_table, write_table
from lab.sweep import Outcomes
from lab.training.fit import fit, surroundings

OUTCOMES = Outcomes()


def train(job: Job) -> None:
    """Make the run, or find it finished; score it and show its table."""
    if job.config["measure"]["name"] != "none" and not job.run.path.exists():
        check_length(job.data.held_out(), job.config["scale"]["context"])
    with job.run.locked():
        if trained(job):
            print(f"{job.run.path} is finished")
        else:
            make_run(job)
        complete(job)


def trained(job: Job) -> bool:
    """Whether there is nothing left to train. Raises UserError if an unfinished run stands in the way."""
    state = job.run.state(job.digest)
    if state == "unfinished" and not job.config["overwrite"]:
        raise UserError(
            f"{job.run.path} holds this run, unfinished; continuing it is not possible yet: add overwrite=true to "
            "delete it and train again"
        )
    return state == "finished" and not job.config["overwrite"]


def make_run(job: Job) -> None:
    """Train into a new run directory, in place of what stood there."""
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
        "stretches": [surroundings() | {"first_step": 1, "kernel": job.kernel}],
    }
    if job.run.path.exists():
        job.run.delete()
    job.run.create(job.config, manifest)
    print(f"{job.run.path}: {parameter_count(decoder):,} parameters, {job.trained_tokens:,} tokens")
    module = fit(job.config, job.run, decoder, job.data)
    job.run.update_manifest(
        blocks={
            "count": job.trained_tokens // job.config["scale"]["context"],
            "fingerprint": module.fingerprint.hex,
        },
        skipped_documents=job.data.corpus.skipped,
        state="finished",
    )


def complete(job: Job) -> None:
    """Score a trained run, unless it has been scored with these settings; show its table."""
    settings = job.config["measure"]
    if settings["name"] != "none" and job.run.manifest.get("measured") != settings:
        measure(job)
        job.run.update_manifest(measured=settings)
    show(job)


def measure(job: Job) -> None:
    """Score the trained decoder; tables and picture go to the run directory."""
    settings, context, folder = job.config["measure"], job.config["scale"]["context"], job.run.path
    decoder = job.run.load_decoder().to(job.device)
    rows = score(
        decoder,
        job.data.held_out(),
        context,
        settings["segments"],
        settings["bin_tokens"],
        progress=lambda document: print(f"scoring {document}", file=sys.stderr),
    )
    write_table(folder / "scores.csv", rows)
    write_table(folder / "summary.csv", summarise(rows, context, settings["resamples"]))
    loss_by_position_picture({job.config["model"]["name"]: rows}, context, folder / "loss_by_position")


def show(job: Job) -> None:
    """The run's short table on the terminal."""
    skipped = job.run.manifest["skipped_documents"]
    if skipped:
        print(f"skipped {len(skipped)} document{'s' * (len(skipped) > 1)}: {', '.join(skipped)}")
    if job.config["measure"]["name"] != "none":
        print_summary(job.run.path.name, read_table(job.run.path / "summary.csv", SUMMARY))
        print(f"tables and picture: {job.run.path}/scores.csv, summary.csv, loss_by_position.png")


@hydra.main(version_base="1.3", config_path=configuration_folder(), config_name="train")
def entry(composed: DictConfig) -> None:
    try:
        job = Job(composed)
        if composed.plan:
            OUTCOMES.planned.append(job)
            return
        train(job)
        OUTCOMES.finished.append(job)
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
    try:
        entry()
    except Exception:
        if not OUTCOMES.failed:
            raise
    if OUTCOMES.error is not None:
        raise OUTCOMES.error
    OUTCOMES.conclude()


if __name__ == "__main__":
    run_command(main)
