"""The curves of a scored run in TensorBoard, beside those of its training; the horizontal axis is the position."""

from collections.abc import Sequence
from pathlib import Path

from lab.base.files import discard, refuse_link
from lab.base.tables import Row


def write_curves(folder: Path, evaluation: str, curves: Sequence[Row], lines: Sequence[Row]) -> None:
    """Means of every measure by position or length, in tokens, in the place of those that were there.

    Args:
        folder: where the training of the run was logged.
        evaluation: the documents.
        curves: of :func:`lab.evidence.quantities.curves`.
        lines: of :func:`lab.evidence.quantities.overview`, for measures that are no curve.

    Raises:
        UserError: a link stands where the files are written.
    """
    refuse_link(folder)
    from torch.utils.tensorboard import SummaryWriter

    discard(folder / f"scores-{evaluation}")
    with SummaryWriter(str(folder / f"scores-{evaluation}")) as writer:
        for row in curves:
            line = "" if row["line"] == row["measure"] else f" {row['line']}"
            writer.add_scalar(f"scores/{row['measure']}{line}", row["mean"], row["tokens"])
        drawn = {row["measure"] for row in curves}
        for row in lines:
            if row["measure"] not in drawn and row["mean"] is not None:
                writer.add_scalar(f"scores/{row['measure']}", row["mean"], row["length_tokens"])
