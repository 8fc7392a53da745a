"""How pictures are saved, and their colours."""

import io
from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from lab.base.files import write_whole
from lab.base.parts import parts_of

# Okabe and Ito's palette: told apart by readers with any colour vision; line styles help in print.
# Colour says the position encoding, dashes the attention, in every picture; what has neither goes by its place.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
STYLES = ("-", "--", ":", "-.")
ATTENTIONS = ("", "window", "narrow_window")


def style_of(label: str, labels: Sequence[str]) -> tuple[str, str]:
    """Colour and dashes of a variant by its label (``narrow_window_nope``, ``rope+temperature=1.2``).

    A label that names no position encoding has the colour of its place among ``labels``, and so have several of one
    position encoding and attention (extensions of one variant).
    """

    def kind(each: str) -> tuple[str, str] | None:
        variant = each.partition("+")[0]
        for position in parts_of("position"):
            if variant == position or variant.endswith(f"_{position}"):
                return position, variant.removesuffix(position).removesuffix("_")
        return None

    own, place = kind(label), [*labels].index(label) if label in labels else 0
    if own is None or sum(kind(each) == own for each in labels) > 1:
        return COLOURS[place % len(COLOURS)], STYLES[place % len(STYLES)]
    position, attention = own
    dashes = STYLES[ATTENTIONS.index(attention)] if attention in ATTENTIONS else STYLES[-1]
    return COLOURS[[*parts_of("position")].index(position) % len(COLOURS)], dashes


def save(figure: Figure, path: Path, endings: tuple[str, ...] = ("png",)) -> None:
    """``path`` with each ending, ``png`` or ``svg``; the same figure gives the same bytes.

    Raises:
        UserError: a file cannot be written.
    """
    FigureCanvasAgg(figure)
    for axes in figure.axes:  # titles and labels are broken into lines where the picture is too narrow for them
        for text in (axes.title, axes.xaxis.label, axes.yaxis.label):
            text.set_wrap(True)
    metadata: dict[str, dict[str, None]] = {"svg": {"Date": None}, "png": {"Software": None}}
    with mpl.rc_context({"svg.hashsalt": "context-window-lab", "svg.fonttype": "path"}):
        for ending in endings:
            content = io.BytesIO()
            figure.savefig(content, format=ending, dpi=150, metadata=metadata[ending])
            write_whole(path.with_name(f"{path.name}.{ending}"), content.getvalue())
