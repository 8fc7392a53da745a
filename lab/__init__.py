"""Context-window lab: how a decoder's position encoding decides what happens beyond its context window.

from lab import open_run

run = open_run("runs/...")
logits = run.decoder()(run.encode("the state of the union"))
"""

import os
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lab.runs.model import Model

__all__ = ["open_run"]

# Ask torch's CPU allocator for transparent huge pages. Activations of tens of megabytes are allocated at every
# step, and with 4 KiB pages the kernel spends longer on page faults than the CPU on arithmetic. torch reads
# this at its first allocation, so it is set before anything imports torch; a value set by the user stands.
os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
# Let threads that wait for each other spin a little and then sleep: beside a busy process on two cores, spinning on
# takes nine tenths of the speed, and sleeping at once costs a quarter of it when nothing else runs (python -m lab.bench
# contention). The library reads this when torch loads it.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "2000")

# A command whose modules are still being loaded ends without a traceback, as it does later.
if os.path.basename(sys.argv[0] if sys.argv else "") in ("-m", "lab"):

    def _told(kind: type[BaseException], error: BaseException, trace: Any) -> None:
        if not issubclass(kind, KeyboardInterrupt):
            sys.__excepthook__(kind, error, trace)

    sys.excepthook = _told


def open_run(path: str) -> "Model":
    """The run, or derived run, in a directory: see :class:`lab.runs.model.Model`.

    Raises:
        lab.base.errors.UserError: there is none, or it is damaged; the message says what to do.
    """
    from lab.runs.run import open_model  # torch is loaded when a run is opened, not with --help

    model = open_model(path)
    model.check()
    return model
