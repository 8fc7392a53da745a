"""Lightning's private names that the lab leans on, all of them; tests/training/test_private.py says which one broke."""

from typing import Any

import lightning


def silence_signals(trainer: lightning.Trainer) -> None:
    """Keep Lightning from telling the ranks of signals at every micro-batch, which waits for the GPU.

    The lab's own callback tells them once a step.
    """
    trainer.fit_loop.epoch_loop._broadcast_sigterm_tensor = lambda: None  # type: ignore[method-assign]


def _progress(checkpoint: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"]
    return found


def forget_what_is_fetched(checkpoint: dict[str, Any], step: int) -> None:
    """Lightning has fetched the next batch when it saves, and would count it twice when it is fetched again."""
    for counts in (_progress(checkpoint)["total"], _progress(checkpoint)["current"]):
        counts["ready"] = counts["completed"]
    # Only Lightning's own log uses this; after a resume it may be off by one.
    checkpoint["loops"]["fit_loop"]["epoch_loop.state_dict"]["_batches_that_stepped"] = step


def count_micro_batches(checkpoint: dict[str, Any], count: int) -> None:
    """Set how many micro-batches are behind: another number of ranks takes another number to a step."""
    for counts in (_progress(checkpoint)["total"], _progress(checkpoint)["current"]):
        counts.update({key: count for key in counts})
