"""The report of a comparison: verdicts first, then pictures, then what is proven equal, then how it was made."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from matplotlib.figure import Figure

from lab.base.files import make_folder
from lab.base.tables import Row, write_table
from lab.evidence.interval import COVERED, FEWEST_CLUSTERS, FEWEST_SEEDS
from lab.observe.measure import measure_of, measures
from lab.report.figures import contrast_figure, curve_figure, detail_figure, difference_figure, training_figure
from lab.report.page import PageTable, Picture, Section, write_page
from lab.report.pictures import save

AT_EQUAL_LOSS = (
    "At equal validation loss, descriptive: each run is read at the first kept step whose validation loss is at or "
    "below the worst final one of its seed's runs, so the runs have seen different numbers of tokens (matched.csv)."
)


@dataclass(frozen=True)
class Compared:
    """All that the report shows: tables of rows, and how they came about.

    Attributes:
        statement: what is equal, what follows, what is allowed, in lines.
        control, documents, estimates, differences, seeds, effective, curves, details: see
            :class:`lab.runs.control.Control` and :class:`lab.evidence.gather.Evidence`.
        training: validation losses: variant, seed, tokens, validation_loss_nats.
        provenance: name, digest, commits, fingerprint of the blocks and command of each run.
        context: C in tokens.
        matched: runs are read at equal validation loss, not at their last step.
    """

    factor: str
    variants: list[str]
    statement: list[str]
    allowed: list[str]
    control: list[Row]
    reference: str
    evaluations: list[str]
    documents: list[Row]
    estimates: list[Row]
    differences: list[Row]
    seeds: list[Row]
    effective: list[Row]
    curves: list[Row]
    details: dict[str, list[Row]]
    training: list[Row]
    provenance: Sequence[tuple[str, ...]]
    command: str
    context: int
    matched: bool = False


def headline(differences: Sequence[Row], evaluation: str) -> list[Row]:
    """The differences that matter first: of each measure at its longest length, and at its shortest if it asks."""
    chosen = []
    here = [row for row in differences if row["evaluation"] == evaluation]
    for measure in dict.fromkeys(row["measure"] for row in here):
        lengths = sorted({row["length_tokens"] for row in here if row["measure"] == measure})
        kind = measure_of(measure)
        wanted = {lengths[-1]} | ({lengths[0]} if kind is not None and kind.shows_shortest else set())
        chosen += [row for row in here if row["measure"] == measure and row["length_tokens"] in wanted]
    return chosen


def number(value: float | None, digits: int = 3) -> str:
    """A number as it is shown, without a sign if it is shown as zero; what is not known says so."""
    if value is None or value != value:
        return "not known"
    return f"{value:z.{digits}f}"


def interval(row: Row, digits: int = 3) -> str:
    """``low to high``."""
    low, high = number(row["low"], digits), number(row["high"], digits)
    if row["low"] == row["high"]:
        return "all equal"
    return "not known" if "not known" in (low, high) else f"{low} to {high}"


def over(row: Row) -> str:
    """What an interval speaks of: ``5 seeds, 12 authors (42 documents)``."""
    seeds = f"{row['seeds']} seed{'s' * (row['seeds'] > 1)}{'' if row['over_seeds'] else ' (fixed)'}"
    clusters = f"{row['clusters']} {row['clusters_told']}"
    return f"{seeds}, {clusters}" + (f" ({row['documents']} documents)" if row["clusters_told"] != "documents" else "")


def titled(evaluation: str) -> str:
    """A set of documents as it is shown."""
    return "texts made up" if evaluation == "none" else evaluation


def write_report(folder: Path, compared: Compared) -> None:
    """Tables (.csv), pictures (.png), report.html and report.md into a folder.

    Raises:
        UserError: the folder cannot be written.
    """
    make_folder(folder)
    tables = {
        "control": compared.control,
        "estimates": compared.estimates,
        "differences": compared.differences,
        "seeds": compared.seeds,
        "curves": compared.curves,
        "effective_context": compared.effective,
        "training": compared.training,
        **compared.details,
    }
    for name, rows in tables.items():
        if rows:
            write_table(folder / f"{name}.csv", rows)
    if compared.documents:
        write_table(folder / "documents.csv.gz", compared.documents)
    notices = [AT_EQUAL_LOSS] * compared.matched
    notices += [f"Allowed to differ beside {compared.factor}: {line}" for line in compared.allowed]
    drawn = Drawing(folder, compared.allowed)
    sections = [_answer(compared), _control(compared), _verdicts(compared)]
    sections += [_pictures(drawn, compared, evaluation) for evaluation in compared.evaluations]
    if compared.training:
        caption = "Validation loss against tokens trained, a line a run"
        drawn.add("training", training_figure(compared.training, compared.variants), caption)
        sections.append(Section("Training", pictures=[Picture("training", caption)]))
    sections += [*_details(compared), _made_with(compared)]
    title = f"{len(compared.variants)} variants that differ in {compared.factor}"
    write_page(folder, title, notices, sections)


class Drawing:
    """Saves figures; what was allowed to differ is told on each of them."""

    def __init__(self, folder: Path, allowed: Sequence[str]) -> None:
        self.folder = folder
        self.note = f"allowed to differ: {'; '.join(allowed)}" if allowed else ""

    def add(self, name: str, figure: Figure, title: str) -> None:
        """Save a figure whose title says what it shows, wherever it is shown."""
        figure.axes[0].set_title(title, fontsize=9)
        if self.note:
            figure.suptitle(self.note, fontsize=7, color="#D55E00", wrap=True)
        save(figure, self.folder / name, ("png",))


def _answer(compared: Compared) -> Section:
    """What the comparison says, and one matrix: each variant's numbers on the first set of documents."""
    evaluation = next((each for each in compared.evaluations if each != "none"), compared.evaluations[0])
    asked = {measure.label() for measure in measures() if measure.answers}
    rows = headline(compared.differences, evaluation)
    points = [row["verdict"] for row in rows if row["measure"] in asked] or [row["verdict"] for row in rows]
    shown = list(dict.fromkeys((row["measure"], row["length_tokens"], row["length_told"]) for row in rows))
    judged = {(row["measure"], row["length_tokens"], row["variant"]): row for row in rows}
    effective = [row for row in compared.effective if row["evaluation"] == evaluation]
    lines = []
    for name in compared.variants:
        cells = []
        for measure, length, _ in shown:
            mean = next(
                (
                    row["mean"]
                    for row in compared.estimates
                    if (row["evaluation"], row["measure"], row["length_tokens"]) == (evaluation, measure, length)
                    and row["variant"] == name
                    and row.get("seed") is None
                ),
                None,
            )
            cells.append(number(mean) + sign(judged.get((measure, length, name))))
        if effective:
            cells.append("; ".join(dict.fromkeys(row["told"] for row in effective if row["variant"] == name)))
        lines.append((name, *cells))
    columns = ["variant", *(f"{measure}, {told}" for measure, _, told in shown)]
    columns += ["effective context"] * bool(effective)
    told = f"Each variant on {titled(evaluation)}; - better, + worse than {compared.reference}, over seeds and clusters"
    return Section("In short", points=points, tables=[PageTable(columns, lines, told, "estimates.csv")])


def sign(difference: Row | None) -> str:
    """Whether a difference over seeds is real: ``-`` better, ``+`` worse, nothing if nobody can tell."""
    if difference is None or not difference["over_seeds"] or " than " not in difference["verdict"]:
        return ""
    return " -" if difference["mean"] < 0 else " +"


def _verdicts(compared: Compared) -> Section:
    """The verdict table of each set of documents, and each variant's effective context."""
    tables = []
    for evaluation in compared.evaluations:
        rows = headline(compared.differences, evaluation)
        effective = [row for row in compared.effective if row["evaluation"] == evaluation]
        if not rows:
            continue
        tables.append(
            PageTable(
                ("measure", "length (tokens)", "verdict", "over", "noise floor", "coverage in simulation"),
                [
                    (
                        row["measure"],
                        row["length_told"],
                        row["verdict"],
                        over(row),
                        "one seed" if row["noise_floor"] is None else number(row["noise_floor"]),
                        "" if row["coverage"] is None else f"{row['coverage']:.0%} (widened {row['widened']:.2f}x)",
                    )
                    for row in rows
                ],
                f"{titled(evaluation)}: verdicts against {compared.reference}",
                "all differences: differences.csv; seed by seed: seeds.csv",
                folded=True,
            )
        )
        if effective:
            lines = []
            for measure, name in dict.fromkeys((row["measure"], row["variant"]) for row in effective):
                own = [row for row in effective if (row["measure"], row["variant"]) == (measure, name)]
                shown, spans = ([row[key] for row in own] for key in ("told", "interval_told"))
                lines.append((name, measure, "; ".join(shown), "; ".join(spans)))
            margin = effective[0]["margin_nats"]
            tables.append(
                PageTable(
                    ("variant", "measure", "effective context (tokens), a number a seed", "95 % interval"),
                    lines,
                    f"{titled(evaluation)}: the longest left context whose loss is within {margin:g} nats of that at C",
                    "effective_context.csv",
                )
            )
    paragraphs = (
        "Lower is better everywhere: losses in nats per token, or the share of keys not found. A difference is between "
        "means over the same documents of the same seeds. Its 95 % interval takes seeds and clusters of documents "
        "(authors, or the works of one author) as crossed random effects, and so speaks of other seeds and other "
        f"authors; of fewer than {FEWEST_SEEDS} seeds it speaks of these runs alone and says so, and of fewer than "
        f"{FEWEST_CLUSTERS} clusters there is none. It is widened until it covers {COVERED:.0%} of simulated samples "
        "of its design, normal, heavy-tailed or skewed, whatever share of the variance is the authors'. p-values are "
        "corrected by Holm over all differences of one measure on one set of documents. The noise floor is the largest "
        "difference between two seeds of one of the two variants.",
    )
    return Section("Verdicts", paragraphs, tables=tables)


def _pictures(drawn: Drawing, compared: Compared, evaluation: str) -> Section:
    """The pictures of one set of documents."""
    curves = [row for row in compared.curves if row["evaluation"] == evaluation]
    pictures = []
    name_only = evaluation.rpartition("-")[0] or evaluation
    alike = [other for other in compared.evaluations if other.rpartition("-")[0] == name_only]
    stem = evaluation if len(alike) > 1 else name_only  # two sets of documents may have one name

    def add(name: str, figure: Figure, caption: str) -> None:
        drawn.add(f"{stem}_{name}", figure, caption)
        pictures.append(Picture(f"{stem}_{name}", caption))

    for measure in measures():
        name = measure.label()
        own = [row for row in curves if row["measure"] == name]
        if own and measure.curve is not None:
            figure = curve_figure(own, measure, compared.variants, compared.context)
            add(name, figure, f"{measure.curve.title}, {titled(evaluation)}")
        map_of_lines = contrast_figure(own, measure)
        if map_of_lines is not None:
            add(f"{name}_map", map_of_lines, f"{measure.contrast_label.capitalize()}, {titled(evaluation)}")
        differing = [row for row in headline(compared.differences, evaluation) if row["measure"] == name]
        if differing and (measure.curve is None or measure.answers):
            figure = difference_figure(differing, compared.variants, measure.difference_unit)
            shown = name if measure.curve is None else f"{name}_differences"
            add(shown, figure, f"{name} against {compared.reference}, {titled(evaluation)}")
        details = [row for row in compared.details.get(measure.detail, []) if row["evaluation"] == evaluation]
        for variant in dict.fromkeys(row["variant"] for row in details):
            drawn_map = detail_figure([row for row in details if row["variant"] == variant], measure, variant)
            if drawn_map is not None:
                add(f"{name}_{variant}", drawn_map, f"{name} of {variant}, {titled(evaluation)}")
    return Section(f"Curves: {titled(evaluation)}", pictures=pictures)


def _control(compared: Compared) -> Section:
    """What is equal, what follows, what was allowed."""
    # How the runs were scored is a hundred keys, equal or refused: control.csv has them.
    shown = [row for row in compared.control if not row["key"].startswith("measured.")]
    differing = [row for row in shown if row["kind"] != "equal"]
    equal = [row for row in shown if row["kind"] == "equal"]
    keys = dict.fromkeys((row["key"], row["kind"]) for row in differing)
    lines = []
    for key, kind in keys:
        values = dict.fromkeys(row["value"] for row in differing if row["key"] == key)
        told = ", ".join(value[:60] for value in list(values)[:8]) + (", ..." if len(values) > 8 else "")
        lines.append((key, kind if kind != "follows" else f"follows from {compared.factor}", told))
    return Section(
        "Control",
        points=compared.statement,
        tables=[
            PageTable(
                ("key", "kind", "values"), lines, "What differs between the runs", "control.csv, run by run", True
            ),
            PageTable(
                ("key", "value in all runs"),
                [(row["key"], row["value"][:80]) for row in equal],
                "What is equal in all runs",
                folded=True,
            ),
        ],
    )


def _details(compared: Compared) -> list[Section]:
    """All differences."""
    sections = []
    for evaluation in compared.evaluations:
        rows = [row for row in compared.differences if row["evaluation"] == evaluation]
        lines = [
            (
                row["measure"],
                row["length_told"],
                row["variant"],
                number(row["mean"]),
                interval(row),
                "not known" if row["p_holm"] != row["p_holm"] else f"{row['p_holm']:.2g}",
                ""
                if row["least_of_seeds"] is None
                else f"{number(row['least_of_seeds'])} to {number(row['most_of_seeds'])}",
                "" if row["noise_floor"] is None else number(row["noise_floor"]),
            )
            for row in rows
        ]
        columns = (
            "measure",
            "length",
            "variant",
            f"minus {compared.reference}",
            "95 % interval",
            "p (Holm)",
            "seeds, least to most",
            "noise floor",
        )
        if lines:
            sections.append(
                Section(
                    f"All differences: {titled(evaluation)}",
                    tables=[PageTable(columns, lines, "Every measure and length", folded=True)],
                )
            )
    return sections


def _made_with(compared: Compared) -> Section:
    """The commands, and what each run is."""
    return Section(
        "How this was made",
        ["Digests name what decides a run's numbers; its whole configuration is in its config.yaml."],
        tables=[PageTable(("run", "digest", "commit", "blocks", "command"), compared.provenance, "Runs", folded=True)],
        code=[compared.command],
    )
