"""How pictures are saved, and their colours."""

import io
from pathlib import Path

import matplotlib as mpl
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from lab.base.files import write_whole

# Okabe and Ito's palette: told apart by readers with any colour vision; line styles help in print.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
STYLES = ("-", "--", "-.", ":")


def save(figure: Figure, path: Path, endings: tuple[str, ...] = ("png",)) -> None:
    """``path`` with each ending, ``png`` or ``svg``; the same figure gives the same bytes.

    Raises:
        UserError: a file cannot be written.
    """
    FigureCanvasAgg(figure)
    metadata: dict[str, dict[str, None]] = {"svg": {"Date": None}, "png": {"Software": None}}
    with mpl.rc_context({"svg.hashsalt": "context-window-lab", "svg.fonttype": "path"}):
        for ending in endings:
            content = io.BytesIO()
            figure.savefig(content, format=ending, dpi=150, metadata=metadata[ending])
            write_whole(path.with_name(f"{path.name}.{ending}"), content.getvalue())
