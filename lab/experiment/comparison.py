"""Compare trained runs: control first, then scores, then evidence, then the report."""

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from lab.base.console import Console, Table
from lab.base.errors import UserError
from lab.base.interruption import Interruption
from lab.base.tables import Row, write_table
from lab.evidence.gather import Evidence, check_reference, gather
from lab.evidence.weighing import published, weigh
from lab.experiment.compose import as_typed, settings_of
from lab.experiment.matching import matched_steps
from lab.experiment.settings import CompareSettings, TrainSettings
from lab.model.precision import device_of
from lab.observe.score_runs import score_runs
from lab.observe.scoring import setting_of
from lab.report.comparison_page import Compared, headline, over, write_report
from lab.runs.control import Control, check
from lab.runs.finding import runs_of, step_of
from lab.runs.manifest import make_results
from lab.runs.run import Run


def compare(settings: CompareSettings, command: str) -> None:
    """Compare the runs that a configuration names.

    Args:
        command: as it was typed, for the report.

    Raises:
        UserError: the runs may not be compared, and why.
    """
    if settings.match and settings.checkpoint != "last":
        raise UserError(f"checkpoint is {settings.checkpoint}, and match chooses steps itself: give one of them")
    measures = settings.measure.chosen
    if not measures:
        raise UserError("measure is empty: choose from conf/measure/, one, or several as measure=[a,b]")
    runs = runs_of(settings.runs)
    if len(runs) < 2:
        raise UserError(f"{runs[0].path} is one run: a comparison needs two or more, runs=[a,b] or runs='runs/*'")
    output = Path(settings.output)
    control = check(runs, settings.factor, settings.allow)
    console = Console(width=120)
    for line in control.statement():
        console.print(line, highlight=False, markup=False)
    # What would stop the comparison in the end is told before an hour of scoring.
    check_reference(list(control.variants), settings.reference)
    make_results(output)
    with Interruption() as interruption:
        interruption.install()

        def stop(item: str) -> None:
            interruption.check(f"came before {item} was scored; what is scored is kept")

        device, dtype = device_of(settings.accelerator, settings.threads), settings.scoring.dtype
        steps, matched = matched_steps(control) if settings.match else (_steps(control, settings), [])
        score_runs(runs, measures, settings.evaluation, device, steps or "last", stop, dtype)
    control = check(runs, settings.factor, settings.allow)  # of what was scored now, too
    digests = {name: setting_of(measure) for name, measure in measures.items()}
    evidence = gather(control, digests, settings.reference, settings.margin_nats, dtype, steps)
    if matched:
        evidence.details["matched"] = matched
    write_report(output, compared(control, evidence, command, matched=bool(matched)))
    show(control, evidence, console)
    print(f"{output / 'report.html'}, report.md, tables (.csv) and pictures (.png)")


def _steps(control: Control, settings: CompareSettings) -> dict[Path, int] | None:
    """Of each run by its path the step that was asked for; None for the last of each."""
    if settings.checkpoint == "last":
        return None
    return {run.path: step_of(run, settings.checkpoint) for run in control.runs}


def compare_again(settings: CompareSettings) -> None:
    """Intervals and verdicts from the documents of an earlier comparison alone.

    Raises:
        UserError: the table cannot be read, or has no such reference.
    """
    rows = published(Path(str(settings.documents)))
    reference = check_reference(list(dict.fromkeys(row["variant"] for row in rows)), settings.reference)
    output = Path(settings.output)
    make_results(output)
    found = weigh(rows, reference, settings.margin_nats)
    named = {"effective": "effective_context"}  # the rest is called as here
    files = {f"{named.get(name, name)}.csv": table for name, table in found.items() if table}
    for name, table in files.items():
        write_table(output / name, table)
    console = Console(width=120)
    for evaluation in dict.fromkeys(row["evaluation"] for row in rows):
        console.print(verdicts(found["differences"], evaluation, reference))
    print(f"{output}: {', '.join(files)}")


def compare_trained(settings: TrainSettings, paths: Sequence[Path]) -> None:
    """What ``compare=NAME`` of lab.train asks for: the runs of its sweep, scored as they were, into <runs>/NAME."""
    output = Path(settings.runs) / str(settings.compare)
    given = settings_of("compare", CompareSettings, [])
    chosen = given.with_values(
        runs=[str(path) for path in dict.fromkeys(paths)],
        output=str(output),
        evaluation=settings.evaluation.plain(),
        measure=settings.measure.plain(),
        scoring=settings.scoring.plain(),
    )
    compare(chosen, shlex.join(["python", "-m", "lab.train", *as_typed(sys.argv[1:])]))


def compared(control: Control, evidence: Evidence, command: str, matched: bool = False) -> Compared:
    """What the report shows. ``matched``: runs are read at equal validation loss."""
    provenance = []
    for run in control.runs:
        facts = run.facts
        attempts = facts.get("attempts", [])  # an imported model has none
        commits = dict.fromkeys(str(attempt["code"]["commit"])[:10] for attempt in attempts)
        commands = dict.fromkeys(attempt.get("command", "not recorded") for attempt in attempts)
        provenance.append(
            (
                run.path.name,
                run.digest[:16],
                ", ".join(commits),
                facts["blocks"]["fingerprint"] if "blocks" in facts else "not trained here",
                "; ".join([*commands, *([run.manifest["command"]] if "command" in run.manifest else [])]),
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
        command=command,
        context=control.runs[0].context,
        matched=matched,
        **vars(evidence),
    )


def training_curves(control: Control) -> list[Row]:
    """Validation losses of all runs that were trained: variant, seed, tokens, validation_loss_nats."""
    rows: list[Row] = []
    for variant, by_seed in control.variants.items():
        for seed, run in by_seed.items():
            if not isinstance(run, Run):
                continue
            metrics = run.metrics(("tokens", "validation_loss_nats"))
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
        console.print(verdicts(evidence.differences, evaluation, evidence.reference))
    for line in control.allowed:
        console.print(f"allowed: {line}", highlight=False, markup=False)


def verdicts(differences: Sequence[Row], evaluation: str, reference: str) -> Table:
    """The headline of one set of documents."""
    table = Table("measure", title=f"{evaluation}: minus {reference}", title_justify="left")
    table.add_column("length (tokens)", justify="right")
    table.add_column("over")
    table.add_column("verdict")
    for row in headline(differences, evaluation):
        table.add_row(row["measure"], row["length_told"], over(row), row["verdict"])
    return table
