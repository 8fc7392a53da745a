"""The tables of a comparison, from scores written by hand."""

import csv
from itertools import groupby
from pathlib import Path

import numpy as np
import pytest

from lab.base.errors import UserError
from lab.base.tables import read_table, write_table
from lab.evidence.differences import holm
from lab.evidence.gather import gather
from lab.evidence.interval import mean_interval
from lab.evidence.weighing import OBSERVED, weigh
from lab.observe.scores import COLUMNS, Scores, proof
from lab.observe.scoring import SCORING
from lab.runs.control import Control
from lab.runs.identity import FORMAT
from lab.runs.manifest import write_manifest
from lab.runs.run import Run

CONTEXT = 8
SETTINGS = {"excess": "aaaa1111", "context_gain": "bbbb2222"}


class Scored(Run):
    """A run of which nothing is there but its scores."""

    context = CONTEXT


def a_run(folder: Path, name: str, losses: dict[str, dict[str, float]], documents: list[str], step: int = 9) -> Run:
    """A run that was scored: for each measure and length a loss for each document."""
    path = folder / name
    path.mkdir()
    rows = []
    for measure, by_length in losses.items():
        for length, values in by_length.items():
            for document, loss in zip(documents, values, strict=True):
                named = {"measure": measure, "setting": SETTINGS[measure], "evaluation": "held_out-1", "step": step}
                author = f"author of {document[:-1]}"  # ten documents each
                seen = {"precision": "float32", "document": document, "cluster": author, "segment": 0}
                seen |= {"length_tokens": length}
                place = {"start_position": 0, "stop_position": length, "tokens": length, "loss_nats": loss}
                rows.append(dict.fromkeys(COLUMNS) | named | seen | place)
    write_table(path / "scores.csv", rows)
    return scored(path)


def scored(path: Path) -> Run:
    """The run of a scores.csv, with the manifest that belongs to it."""
    rows = Scores(path / "scores.csv").rows
    measured, proven = {}, {}
    for label, of_label in groupby(sorted(rows, key=label_of), label_of):
        each = list(of_label)
        measured[label] = {column: each[0][column] for column in ("measure", *SCORING)}
        measured[label] |= {"clusters": "authors", "settings": {}, "code": "c0de", "python": "3.11", "packages": {}}
        measured[label] |= {"hardware": {}, "kernel": "banded"}
        proven[label] = proof(each)
    write_manifest(path, {"format": FORMAT, "measured": measured, "scored": proven})
    return Scored(path)


def label_of(row: dict) -> str:
    return "/".join(str(row[column]) for column in ("measure", *SCORING))


def compared(folder: Path, seeds: int, documents: int = 80, gaps: dict[str, float] | None = None) -> Control:
    """Variants whose loss is the reference's plus a gap, with noise of documents that they share."""
    draw = np.random.default_rng(0)
    gaps = gaps or {"one": 0.0, "two": 1.0, "three": 0.0}
    shared = draw.normal(3, 1, documents)
    names = [f"document {number:02d}" for number in range(documents)]
    variants = {}
    for name, gap in gaps.items():
        variants[name] = {}
        for seed in range(seeds):
            values = shared + gap + 0.05 * draw.normal(size=documents) + 0.01 * seed
            losses = {"excess": {64: values}, "context_gain": {8: values, 16: values + gap}}
            variants[name][seed] = a_run(folder, f"{name}-{seed}", losses, names)
    runs = tuple(run for by_seed in variants.values() for run in by_seed.values())
    return Control(runs, "model", variants, {}, {})


def line(rows: list[dict], **columns) -> dict:
    (found,) = [row for row in rows if all(row[key] == value for key, value in columns.items())]
    return found


def test_differences_are_paired_by_seed_and_document_and_are_over_authors(tmp_path):
    control = compared(tmp_path, seeds=3)
    evidence = gather(control, SETTINGS, "one", 0.1)
    found = line(evidence.differences, measure="excess", variant="two")

    def losses(name: str) -> np.ndarray:
        runs = control.variants[name].values()
        return np.array(
            [[r["loss_nats"] for r in Scores(run.path / "scores.csv").select(measure="excess")] for run in runs]
        )

    paired = losses("two") - losses("one")
    by_author = paired.reshape(3, 8, 10).mean(axis=2)
    expected = mean_interval(by_author, [10] * 8)
    assert (found["mean"], found["low"], found["high"]) == pytest.approx((expected.mean, expected.low, expected.high))
    assert found["verdict"].startswith("cannot tell for other seeds (3 of 5); in 3 seeds: two is worse than one by 1.0")
    assert (found["documents"], found["clusters"], found["clusters_told"]) == (80, 8, "authors")
    assert (found["seeds"], found["over_seeds"], found["reference"]) == (3, 0, "one")
    assert found["coverage"] >= 0.93
    by_seed = [row["mean"] for row in evidence.seeds if row["measure"] == "excess" and row["variant"] == "two"]
    assert by_seed == pytest.approx(list((losses("two") - losses("one")).mean(axis=1)))
    assert (found["least_of_seeds"], found["most_of_seeds"]) == (min(by_seed), max(by_seed))
    floors = [np.ptp(losses(name).mean(axis=1)) for name in ("one", "two")]
    assert found["noise_floor"] == pytest.approx(max(floors))
    assert "no difference larger than" in line(evidence.differences, measure="excess", variant="three")["verdict"]


def test_the_family_of_holm_is_all_differences_of_one_measure(tmp_path):
    evidence = gather(compared(tmp_path, seeds=1), SETTINGS, None, 0.1)
    for measure in ("excess", "context_gain"):
        family = [row for row in evidence.differences if row["measure"] == measure]
        assert len(family) == 2 * (1 if measure == "excess" else 2)
        assert [row["p_holm"] for row in family] == pytest.approx(holm([row["p_value"] for row in family]))


def test_from_five_seeds_on_the_interval_speaks_of_other_seeds_too(tmp_path):
    few, many = tmp_path / "few", tmp_path / "many"
    few.mkdir()
    many.mkdir()
    gaps = {"one": 0.0, "two": 0.0}
    for folder, seeds in ((few, 4), (many, 5)):
        row = line(gather(compared(folder, seeds, gaps=gaps), SETTINGS, None, 0.1).differences, measure="excess")
        assert (row["seeds"], row["over_seeds"]) == (seeds, int(seeds == 5))
        assert row["verdict"].startswith("cannot tell for other seeds") == (seeds < 5)


def test_one_seed_has_no_noise_floor(tmp_path):
    row = line(gather(compared(tmp_path, seeds=1), SETTINGS, None, 0.1).differences, measure="excess", variant="two")
    assert row["noise_floor"] is None


def test_seeds_of_one_variant_that_differ_leave_no_verdict_over_seeds(tmp_path):
    draw = np.random.default_rng(1)
    names = [f"{number:02d}" for number in range(80)]
    base = draw.normal(3, 1, 80)
    variants: dict[str, dict[int, Run]] = {"a": {}, "b": {}}
    for seed, gap in enumerate((2.9, -0.1, 0.4, -0.2, -1.5)):  # 0.3 in the mean
        for name, shift in (("a", 0.0), ("b", gap)):
            values = base + shift + 0.01 * draw.normal(size=80)
            variants[name][seed] = a_run(tmp_path, f"{name}{seed}", {"excess": {64: values}}, names)
    runs = tuple(run for by_seed in variants.values() for run in by_seed.values())
    (row,) = gather(Control(runs, "model", variants, {}, {}), SETTINGS, "a", 0.1).differences
    assert row["mean"] == pytest.approx(0.3, abs=0.01)
    assert row["verdict"].startswith("b and a: no difference larger than")
    assert row["low"] < -1 < 1 < row["high"]


def test_evidence_is_made_again_from_its_documents_alone(tmp_path):
    evidence = gather(compared(tmp_path, seeds=5), SETTINGS, "one", 0.1)
    write_table(tmp_path / "documents.csv.gz", evidence.documents)
    again = weigh(read_table(tmp_path / "documents.csv.gz", OBSERVED), "one", 0.1)
    assert again == {name: getattr(evidence, name) for name in ("estimates", "differences", "seeds", "effective")}


def test_the_documents_of_a_comparison_of_the_pilots_size_take_less_than_five_megabytes(tmp_path):
    """Every quantity of the pilot that was published, of 35 runs on the documents of its three sets; the numbers are
    drawn, so that packing them saves no more than it does of measured ones."""
    with (Path(__file__).parents[2] / "docs" / "pilot" / "estimates.csv").open(newline="") as table:
        published = list(csv.DictReader(table))
    quantities = sorted({(row["evaluation"], row["measure"], int(row["length_tokens"])) for row in published})
    documents = {"held_out": 42, "kjv": 12, "shakespeare": 12}
    variants = sorted({row["variant"] for row in published})
    draw = np.random.default_rng(0)
    rows = [
        {"evaluation": evaluation, "clusters_told": "authors", "context_tokens": 256, "variant": variant, "seed": seed}
        | {"measure": measure, "length_tokens": length, "cluster": f"Author {number % 12}"}
        | {"document": f"sotu/{1790 + number}-Author-{number % 8}", "mean": draw.normal(3, 1), "weight": 2.0 * length}
        for evaluation, measure, length in quantities
        for variant in variants
        for seed in range(5)
        for number in range(documents[evaluation.partition("-")[0]])
    ]
    assert (len(variants), len(rows)) == (7, 35 * sum(documents[each.partition("-")[0]] for each, *_ in quantities))
    assert set(OBSERVED) <= set(rows[0])
    write_table(tmp_path / "documents.csv.gz", rows)
    assert len(rows) > 50_000
    assert (tmp_path / "documents.csv.gz").stat().st_size < 5_000_000


def test_effective_contexts_are_told_seed_by_seed(tmp_path):
    evidence = gather(compared(tmp_path, seeds=2), SETTINGS, None, 0.1)
    assert [row["tokens"] for row in evidence.effective if row["variant"] == "one"] == [16, 16]
    assert [row["tokens"] for row in evidence.effective if row["variant"] == "two"] == [8, 8]
    assert {row["measure"] for row in evidence.effective} == {"context_gain"}


def test_seeds_that_are_chains_stand_behind_numbers_and_are_paired(tmp_path):
    control = compared(tmp_path, seeds=2, gaps={"one": 0.0, "two": 1.0})
    chained = {name: {0: by_seed[0], "1 of 0": by_seed[1]} for name, by_seed in control.variants.items()}
    evidence = gather(Control(control.runs, "model", chained, {}, {}), SETTINGS, None, 0.1)
    assert [row["seed"] for row in evidence.seeds if row["measure"] == "excess"] == [0, "1 of 0"]
    plain = gather(control, SETTINGS, None, 0.1)
    assert [row["mean"] for row in evidence.differences] == [row["mean"] for row in plain.differences]


@pytest.mark.parametrize("seeds", [1, 5])
def test_curves_have_the_interval_of_the_tables(tmp_path, seeds):
    evidence = gather(compared(tmp_path, seeds), SETTINGS, None, 0.1)
    row = line(evidence.curves, measure="context_gain", variant="two", tokens=16)
    table = line(evidence.estimates, measure="context_gain", variant="two", length_tokens=16, seed=None)
    assert [row[key] for key in ("mean", "low", "high")] == pytest.approx([table[k] for k in ("mean", "low", "high")])
    assert row["over_seeds"] == table["over_seeds"] == int(seeds == 5)
    assert {row["measure"] for row in evidence.curves} == {"context_gain"}  # the other is drawn as differences


def test_what_is_allowed_to_differ_is_told_in_every_row_of_every_table(tmp_path):
    control = compared(tmp_path, seeds=1)
    allowed = Control(control.runs, "model", control.variants, {"code": "allowed"}, {"code": ("x",) * 3})
    evidence = gather(allowed, SETTINGS, None, 0.1)
    tables = (evidence.estimates, evidence.differences, evidence.seeds, evidence.curves, evidence.effective)
    assert {row["allowed"] for table in tables for row in table} == {"code"}


def test_runs_are_compared_on_the_documents_that_all_were_scored_on(tmp_path):
    names = {"a": [f"d{n}" for n in range(6)], "b": [f"d{n}" for n in range(5)]}
    runs = [a_run(tmp_path, name, {"excess": {64: [1.0] * len(given)}}, given) for name, given in names.items()]
    control = Control(tuple(runs), "model", {"a": {0: runs[0]}, "b": {0: runs[1]}}, {}, {})
    assert [row["documents"] for row in gather(control, SETTINGS, None, 0.1).differences] == [5]


def test_runs_that_were_scored_on_other_documents_are_refused(tmp_path):
    runs = [
        a_run(
            tmp_path, name, {"excess": {64: [1.0] * 5}}, [f"d{n}" for n in range(5)] if name == "a" else list("vwxyz")
        )
        for name in ("a", "b")
    ]
    control = Control(tuple(runs), "model", {"a": {0: runs[0]}, "b": {0: runs[1]}}, {}, {})
    with pytest.raises(UserError, match=r"excess of held_out-1: no document was scored in all runs"):
        gather(control, SETTINGS, None, 0.1)


def test_what_runs_were_scored_on_instead_is_told_with_a_document_that_is_in_one_alone(tmp_path):
    given = {"a": ["d0", "d1", "d2"], "b": ["d0", "d2"]}
    runs = [a_run(tmp_path, name, {"excess": {64: [1.0] * len(each)}}, each) for name, each in given.items()]
    path = runs[1].path / "scores.csv"
    write_table(path, [row | {"evaluation": "held_out-2"} for row in Scores(path).rows])
    runs[1] = scored(runs[1].path)
    control = Control(tuple(runs), "model", {"a": {0: runs[0]}, "b": {0: runs[1]}}, {}, {})
    told = r"in common \(.*a on held_out-1; .*b on held_out-2; d1 is in one of them alone\)"
    with pytest.raises(UserError, match=told):
        gather(control, SETTINGS, None, 0.1)


def test_a_reference_that_is_no_variant_and_runs_without_scores_are_refused(tmp_path):
    control = compared(tmp_path, seeds=1)
    with pytest.raises(UserError, match=r"reference is 'rope': choose one of the variants one, two, three"):
        gather(control, SETTINGS, "rope", 0.1)
    with pytest.raises(UserError, match=r"no scores in common \(.*one-0 on nothing with these settings\)"):
        gather(control, {"excess": "cccc3333"}, None, 0.1)
    (control.runs[0].path / "scores.csv").unlink()
    with pytest.raises(UserError, match=r"one-0 has no scores; score it with"):
        gather(control, SETTINGS, None, 0.1)


def passkeys(found: dict[int, int]) -> list[dict]:
    """A key of a prompt of 8 tokens at each distance: whether it was found."""
    named = {"measure": "passkey", "setting": "dddd4444", "evaluation": "none", "step": 9, "precision": "float32"}
    return [
        named
        | {"document": f"length=8 distance={distance}", "cluster": f"length=8 distance={distance}", "segment": 0}
        | {"length_tokens": 8, "correct": correct}
        for distance, correct in found.items()
    ]


def test_what_measures_have_to_tell_beside_is_told_by_variant_over_all_its_seeds(tmp_path):
    control = compared(tmp_path, seeds=2, gaps={"one": 0.0, "two": 1.0})
    for run, found in zip(control.runs, ({4: 1, 8: 0}, {4: 1, 8: 1}, {4: 0, 8: 0}, {4: 0, 8: 0}), strict=True):
        scores = Scores(run.path / "scores.csv")
        scores.add(passkeys(found))
        scores.write()
        scored(run.path)
    evidence = gather(control, SETTINGS | {"passkey": "dddd4444"}, None, 0.1)
    assert list(evidence.details) == ["passkeys"]
    told = [(row["variant"], row["depth_percent"], row["found"]) for row in evidence.details["passkeys"]]
    assert told == [("one", 0.0, 0.5), ("one", 50.0, 1.0), ("two", 0.0, 0.0), ("two", 50.0, 0.0)]
    assert {row["evaluation"] for row in evidence.details["passkeys"]} == {"none"}
    assert evidence.evaluations == ["held_out-1", "none"]
    keys = line(evidence.differences, measure="passkey")
    assert keys["mean"] == pytest.approx(0.75)  # two places are too few to tell, but a mean they have
    assert "cannot tell (2 authors; 6 are needed)" in keys["verdict"]
