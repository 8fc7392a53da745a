"""At which optimiser step each run of a comparison is read, where it is not the last: at equal validation loss."""

from pathlib import Path

from lab.base.errors import UserError
from lab.base.tables import Row
from lab.runs.control import Control
from lab.runs.model import Model
from lab.runs.run import Run

MATCHED = "validation_loss_nats"


def matched_steps(control: Control) -> tuple[dict[Path, int], list[Row]]:
    """Of each run the first kept step whose validation loss is at or below the worst final one of its seed's runs.

    Returns:
        The steps by path, and a table: seed, variant, step, validation_loss_nats, and the loss to be matched.

    Raises:
        UserError: a run was not trained here, or kept no weights of a step with a validation loss that is low enough.
    """
    steps: dict[Path, int] = {}
    table: list[Row] = []
    for seed in dict.fromkeys(seed for by_seed in control.variants.values() for seed in by_seed):
        losses = {name: _losses(by_seed[seed]) for name, by_seed in control.variants.items() if seed in by_seed}
        worst = max(each[max(each)] for each in losses.values())
        for name, by_step in losses.items():
            run = control.variants[name][seed]
            reached = [step for step in kept_steps(run) if by_step.get(step, worst + 1) <= worst]
            if not reached:
                raise UserError(
                    f"{run.path} kept no weights of a step with a validation loss of {worst:.4f} or less; train with "
                    "trainer.keep_weights=[validation]"
                )
            steps[run.path] = min(reached)
            table.append(
                {
                    "seed": seed,
                    "variant": name,
                    "step": steps[run.path],
                    "validation_loss_nats": by_step[steps[run.path]],
                    "matched_nats": worst,
                }
            )
    return steps, table


def _losses(run: Model) -> dict[int, float]:
    """Validation loss by optimiser step."""
    if not isinstance(run, Run):
        raise UserError(f"{run.path} has no validation losses of its own: leave it out, or compare without match")
    rows = run.metrics(("step", "validation_loss_nats"))
    return {int(row["step"]): row["validation_loss_nats"] for row in rows if row["validation_loss_nats"] is not None}


def kept_steps(run: Model) -> list[int]:
    """The steps whose weights a finished run kept, by its proof: scores of them can be read where weights are gone."""
    assert isinstance(run, Run)
    proof = run.manifest.get("proof")
    return run.scorable() if proof is None else sorted(map(int, proof["weights"]))
