"""What the gradient lens found as tables of texts, for the terminal and for a page."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, median

from lab.base.shown import plain
from lab.base.tables import Row
from lab.gradients.capture import MATRICES
from lab.gradients.parts import PARTS
from lab.gradients.projection import OF_WIDTH
from lab.gradients.whole import kind_of

TOKENS = 12  # of a prompt that a table shows: the last
LETTERS = 14  # of a token
# What is written by a step against the gradient stands at the bottom of a backward signal.
END = {"delta": "bottom", "input": "top"}
NONE = "-"  # of a vector of zeros
COMPARED = ("target", "answer", "random", "frequent")


@dataclass(frozen=True)
class Grid:
    """A table of texts whose first column is the layer."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    file: str


def visible(text: str) -> str:
    """A token's text in a cell: blanks are dots, and it is not long."""
    told = plain(text).replace(" ", "·")
    return told if len(told) <= LETTERS else f"{told[: LETTERS - 3]}..."


def grids(tables: Mapping[str, Sequence[Row]], texts: Sequence[str], vocabulary: int) -> list[Grid]:
    """Everything that is shown.

    Args:
        tables: rows by the name of their table, as :mod:`lab.experiment.lens` makes them.
        texts: of the tokens that were read, if there is one prompt.
        vocabulary: number of tokens.
    """
    alone = len(tables["prompts"]) == 1
    found = [rank_grid(tables["ranks"], alone), *norm_grids(tables["norms"], alone)]
    found += target_grids(tables.get("target_ranks", ()), vocabulary, alone)
    found += principal_grids(tables.get("target_ranks", ()), vocabulary, alone)
    found += curve_grids(tables.get("curves", ()))
    found += cosine_grids(tables.get("cosines", ()))
    found += neuron_grids(tables.get("neurons", ()))
    found += update_grids(tables.get("updates", ()), vocabulary)
    if alone:
        found += token_grids(tables["projections"], texts)
    return found


def _layers(rows: Sequence[Row]) -> list[int]:
    return sorted({row["layer"] for row in rows})


def rank_grid(rows: Sequence[Row], alone: bool) -> Grid:
    """Of one prompt the rank, with its bound where it is less; of several the share that reaches the bound."""
    matrices = [matrix for matrix in MATRICES if any(row["matrix"] == matrix for row in rows)]
    lines = []
    for layer in _layers(rows):
        cells = []
        for matrix in matrices:
            own = [row for row in rows if (row["layer"], row["matrix"]) == (layer, matrix)]
            if alone:
                (row,) = own
                cells.append(f"{row['rank']}" if row["rank"] == row["bound"] else f"{row['rank']} of {row['bound']}")
            else:
                share = fmean(row["rank"] == row["bound"] for row in own)
                cells.append(f"{median(row['rank'] for row in own):g} ({share:.0%})")
        lines.append([str(layer), *cells])
    title = (
        f"Rank of the gradient; {rows[0]['tokens']} tokens are read"
        if alone
        else "Median rank of the gradient (share of prompts whose rank is the greatest that it can be)"
    )
    return Grid(title, ["layer", *matrices], lines, "ranks.csv")


def norm_grids(rows: Sequence[Row], alone: bool) -> list[Grid]:
    """Lengths of backward signals and inputs by layer and part, of the matrices of the residual stream's width."""
    found = []
    for matrix, kind in OF_WIDTH:
        own = [row for row in rows if row["matrix"] == matrix]
        parts = [part for part in PARTS if any(row["part"] == part for row in own)]
        lines = []
        for layer in _layers(own):
            cells = []
            for part in parts:
                values = [row[f"{kind}_norm"] for row in own if (row["layer"], row["part"]) == (layer, part)]
                cells.append(f"{fmean(values):.3g}" if values else "")
            lines.append([str(layer), *cells])
        if lines:
            of = "" if alone else ", mean over prompts"
            found.append(Grid(f"Mean length of the {kind}s of {matrix}{of}", ["layer", *parts], lines, "norms.csv"))
    return found


def target_grids(rows: Sequence[Row], vocabulary: int, alone: bool) -> list[Grid]:
    """Where target, answer, a random and a frequent token stand at the prompt's last token: of deltas from the bottom,
    of inputs from the top, 0 being the end itself."""
    last = [row for row in rows if row["part"] == "last token"]
    found = []
    for kind, end in END.items():
        own = [row for row in last if row["vector"] == kind]
        matrices = [matrix for matrix, _ in OF_WIDTH if any(row["matrix"] == matrix for row in own)]
        columns = [(matrix, what) for matrix in matrices for what in COMPARED]
        lines = []
        for layer in _layers(own):
            cells = []
            for column in columns:
                ranks = [
                    row["rank"] for row in own if (row["layer"], row["matrix"], row["of_token"]) == (layer, *column)
                ]
                middle = median(ranks) if ranks else None
                from_end = middle if middle is None or kind == "input" else vocabulary - 1 - middle
                cells.append(NONE if from_end is None else f"{from_end:g}")
            lines.append([str(layer), *cells])
        title = (
            f"{'Rank' if alone else 'Median rank'} from the {end} in the {kind} of the prompt's last token, of "
            f"{vocabulary:,} tokens"
        )
        if lines:
            names = [f"{matrix}: {what}" for matrix, what in columns]
            found.append(Grid(title, ["layer", *names], lines, "target_ranks.csv"))
    return found


def token_grids(rows: Sequence[Row], texts: Sequence[str]) -> list[Grid]:
    """Layer x token: the first of the list that :data:`END` names."""
    first = max(0, len(texts) - TOKENS)
    found = []
    for matrix, kind in OF_WIDTH:
        own = {
            (row["layer"], row["position"]): json.loads(row[f"{END[kind]}_tokens"])
            for row in rows
            if (row["matrix"], row["vector"]) == (matrix, kind)
        }
        lines = []
        for layer in sorted({layer for layer, _ in own}):
            lists = [own[layer, position] for position in range(first, len(texts))]
            lines.append([str(layer), *(visible(each[0]) if each else NONE for each in lists)])
        if lines:
            columns = ["layer", *(f"{place} {visible(texts[place])}" for place in range(first, len(texts)))]
            cut = f", the last {TOKENS} tokens" if first else ""
            title = f"{END[kind].capitalize()} token of the {kind}s of {matrix}{cut}"
            found.append(Grid(title, columns, lines, "projections.csv"))
    return found


def principal_grids(rows: Sequence[Row], vocabulary: int, alone: bool) -> list[Grid]:
    """Where the target stands in the direction in which most of each matrix's gradient lies, from the end that a step
    writes: of matrices that read the residual stream the top, of those that write there the bottom."""
    own = [row for row in rows if row["vector"] == "principal" and row["of_token"] == "target"]
    title = (
        f"{'Rank' if alone else 'Median rank'} of the target, of {vocabulary:,} tokens, in the principal direction of "
        "the gradient: from the top where a matrix reads the residual stream, from the bottom where it writes there"
    )

    def cell(here: Sequence[Row]) -> str:
        middle = median(row["rank"] for row in here)
        return f"{middle if kind_of(here[0]['matrix']) == 'input' else vocabulary - 1 - middle:g}"

    return _by_matrix(title, own, cell, "target_ranks.csv")


def curve_grids(rows: Sequence[Row]) -> list[Grid]:
    """Where the target stands over a set of prompts, each mean with its interval."""
    own = [row for row in rows if row["quantity"] == "place of target"]
    found = []
    for vector in ("delta", "input"):
        here = [row for row in own if row["vector"] == vector]
        title = (
            f"Mean place of the target in the {vector} of the prompt's last token (0: top, 1: bottom), with its 95 % "
            "interval over prompts"
        )
        found += _by_matrix(title, here, lambda each: str(each[0]["told"]), "curves.csv")
    title = "The same in the principal direction of the gradient"
    here = [row for row in own if row["vector"] == "principal"]
    return found + _by_matrix(title, here, lambda each: str(each[0]["told"]), "curves.csv")


def cosine_grids(rows: Sequence[Row]) -> list[Grid]:
    """How alike the last token's vectors are in neighbouring layers, and in each layer and the last."""
    last = [row for row in rows if row["part"] == "last token"]
    columns = [
        (matrix, kind, what)
        for matrix, kind in OF_WIDTH
        if any(row["matrix"] == matrix for row in last)
        for what in ("next", "last")
    ]
    if not columns:
        return []
    end = max(row["other_layer"] for row in last)
    lines = []
    for layer in _layers(last):
        following = min(row["other_layer"] for row in last if row["layer"] == layer)
        cells = []
        for matrix, _, what in columns:
            other = following if what == "next" else end
            values = [
                row["cosine"]
                for row in last
                if (row["matrix"], row["layer"], row["other_layer"]) == (matrix, layer, other)
            ]
            cells.append(f"{fmean(values):.2f}" if values else NONE)
        lines.append([str(layer), *cells])
    names = [f"{kind} of {matrix}: {what} layer" for matrix, kind, what in columns]
    return [Grid("Cosine of the prompt's last token's vectors in two layers", ["layer", *names], lines, "cosines.csv")]


def neuron_grids(rows: Sequence[Row]) -> list[Grid]:
    """Of the longest neurons of each gradient the nearest of the tokens' vectors: its cosine, sign apart, and how many
    of the first tokens both share."""
    nearest: dict[tuple[int, int, str, int], Row] = {}
    for row in rows:
        place = (row["number"], row["layer"], row["matrix"], row["neuron"])
        if place not in nearest or abs(row["cosine"]) > abs(nearest[place]["cosine"]):
            nearest[place] = row

    def cell(here: Sequence[Row]) -> str:
        return f"{fmean(abs(row['cosine']) for row in here):.2f}, {fmean(abs(row['overlap']) for row in here):.0%}"

    title = "Longest neurons of the gradient: cosine with the nearest token's vector, share of its first tokens; means"
    return _by_matrix(title, [*nearest.values()], cell, "neurons.csv")


def update_grids(rows: Sequence[Row], vocabulary: int) -> list[Grid]:
    """What optimisers make of each gradient, and where the target stands in what that writes at the last token."""

    def of(row: Row) -> str:
        return f"{row['rank']}, {row['stable_rank']:.1f}, {row['inside']:.0%}"

    def stands(here: Sequence[Row]) -> str:
        ranks = [row["target_rank"] for row in here if row["target_rank"] is not None]
        if not ranks:
            return NONE
        middle = median(ranks)
        return f"{middle if here[0]['vector'] == 'input' else vocabulary - 1 - middle:g}"

    found = []
    for optimizer in dict.fromkeys(row["optimizer"] for row in rows):
        own = [row for row in rows if row["optimizer"] == optimizer]
        first = own[0]["number"]
        title = (
            f"Update of {optimizer}, prompt {first}: rank, stable rank, share of it in the gradient's rows and columns"
        )
        alone = [row for row in own if row["number"] == first]
        found += _by_matrix(title, alone, lambda here: of(here[0]), "updates.csv")
        title = f"Update of {optimizer}: rank of the target from the end that is written, at the prompt's last token"
        found += _by_matrix(title, own, stands, "updates.csv")
    return found


def _by_matrix(title: str, rows: Sequence[Row], cell: Callable[[Sequence[Row]], str], file: str) -> list[Grid]:
    """A table of layer by matrix, or none where there are no rows."""
    matrices = [matrix for matrix in MATRICES if any(row["matrix"] == matrix for row in rows)]
    lines = []
    for layer in _layers(rows):
        here = [[row for row in rows if (row["layer"], row["matrix"]) == (layer, matrix)] for matrix in matrices]
        lines.append([str(layer), *(cell(each) if each else NONE for each in here)])
    return [Grid(title, ["layer", *matrices], lines, file)] if lines else []
