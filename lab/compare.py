"""Compare trained runs that differ in one declared factor and in nothing else, with the evidence, or refuse.

python -m lab.compare runs=[runs/a,runs/b] factor=model
python -m lab.compare noise=runs/a
"""

import shlex
import sys
from pathlib import Path

from rich.console import Console
from rich.table import Table

from lab.commands import run_composed
from lab.control import Control, check
from lab.errors import UserError
from lab.files import make_folder
from lab.job import device_of, to_plain
from lab.measure.comparison import Evidence, check_reference, gather
from lab.measure.runs import runs_of, score_runs
from lab.measure.scoring import setting_of
from lab.noise import measure_noise
from lab.report.comparison import Compared, headline, write_report
from lab.runs import Config
from lab.schema import COMPARING_KINDS, check_values
from lab.tables import Row, read_table
from lab.training.interruption import Interruption


def compare(config: Config) -> None:
    """Control first, then scores, then evidence, then the report."""
    check_values(config, COMPARING_KINDS)
    if config["noise"] is not None:
        measure_noise(config)
        return
    nodes = config.get("measure", {})
    if not nodes:
        raise UserError("measure is empty: choose from conf/measure/, for example measure=[loss_by_position,copy]")
    runs = runs_of(config["runs"])
    if len(runs) < 2:
        raise UserError(f"{runs[0].path} is one run: a comparison needs two or more, runs=[a,b] or runs='runs/*'")
    output = Path(config["output"])
    control = check(runs, config["factor"], config["allow"])
    console = Console(width=120)
    for line in control.statement():
        console.print(line, highlight=False, markup=False)
    # What would stop the comparison in the end is told before an hour of scoring.
    check_reference(control, config["reference"])
    make_folder(output)
    with Interruption() as interruption:
        interruption.install()

        def stop(item: str) -> None:
            interruption.check(f"came before {item} was scored; what is scored is kept")

        score_runs(runs, nodes, config["evaluation"], device_of(config["accelerator"]), "last", stop)
    control = check(runs, config["factor"], config["allow"])  # of what was scored now, too
    settings = {name: setting_of(node) for name, node in nodes.items()}
    evidence = gather(control, settings, config["resamples"], config["reference"], config["margin_nats"])
    write_report(output, compared(control, evidence))
    show(control, evidence, console)
    print(f"{output / 'report.html'}, report.md, tables (.csv) and pictures (.png, .svg)")


def compared(control: Control, evidence: Evidence) -> Compared:
    """What the report shows."""
    provenance = []
    for run in control.runs:
        manifest = run.manifest
        commits = dict.fromkeys(str(stretch["code"]["commit"])[:10] for stretch in manifest["stretches"])
        commands = dict.fromkeys(stretch.get("command", "not recorded") for stretch in manifest["stretches"])
        provenance.append(
            (
                run.path.name,
                manifest["digest"][:16],
                ", ".join(commits),
                manifest["blocks"]["fingerprint"],
                "; ".join(commands),
            )
        )
    return Compared(
        factor=control.factor,
        variants=list(control.variants),
        statement=control.statement(),
        allowed=control.allowed,
        control=control.rows,
        training=training_curves(control),
        provenance=provenance,
        command=shlex.join(["python", "-m", "lab.compare", *sys.argv[1:]]),
        context=control.runs[0].config["scale"]["context"],
        **vars(evidence),
    )


def training_curves(control: Control) -> list[Row]:
    """Validation losses of all runs: variant, seed, tokens, validation_loss_nats."""
    rows: list[Row] = []
    for variant, by_seed in control.variants.items():
        for seed, run in sorted(by_seed.items()):
            path = run.path / "metrics.csv"
            metrics = read_table(path, ("tokens", "validation_loss_nats"), remedy="restore it, or leave the run out")
            rows += [
                {
                    "variant": variant,
                    "seed": seed,
                    "tokens": row["tokens"],
                    "validation_loss_nats": row["validation_loss_nats"],
                }
                for row in metrics
                if row["validation_loss_nats"] is not None
            ]
    return rows


def show(control: Control, evidence: Evidence, console: Console) -> None:
    """The verdicts on the terminal."""
    for evaluation in evidence.evaluations:
        table = Table("measure", title=f"{evaluation}: minus {evidence.reference}", title_justify="left")
        table.add_column("length (tokens)", justify="right")
        table.add_column("verdict")
        for row in headline(evidence.differences, evaluation):
            table.add_row(row["measure"], row["length_told"], row["verdict"])
        console.print(table)
    for line in control.allowed:
        console.print(f"allowed: {line}", highlight=False, markup=False)


if __name__ == "__main__":
    run_composed("compare", lambda composed: compare(to_plain(composed)), COMPARING_KINDS)
