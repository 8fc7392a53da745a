"""Claims: read from files, held against numbers of documents, and told."""

import re
from pathlib import Path

import numpy as np
import pytest
import yaml
from commands import lab
from scipy import stats

from lab.base.errors import UserError
from lab.base.parts import parts_of
from lab.base.tables import read_table, write_table
from lab.evidence.claims import Claim, Study, judge, read_claims, verdicts
from lab.evidence.weighing import Layout, joined, published
from lab.experiment import cloze, edit_evidence
from lab.experiment.claiming import claim
from lab.observe.measure import measures

CONTEXT = 8
CLAIM = {"name": "fails", "sentence": "It fails.", "source": "Nobody", "variant": "nope", "measure": "excess"}


def documents(
    means: dict[str, dict[float, float]], seeds: int = 5, authors: int = 8, noise: float = 0.01
) -> list[dict]:
    """Rows of documents: of each variant its mean by length in contexts C, with a little noise."""
    draw = np.random.default_rng(0)
    return [
        {
            "evaluation": "held_out-1",
            "clusters_told": "authors",
            "context_tokens": CONTEXT,
            "variant": variant,
            "seed": seed,
            "measure": "excess",
            "length_tokens": int(length * CONTEXT),
            "cluster": f"author {number // 2}",
            "document": f"d{number}",
            "mean": mean + noise * draw.normal(),
            "weight": 10.0,
        }
        for variant, by_length in means.items()
        for seed in range(seeds)
        for length, mean in by_length.items()
        for number in range(2 * authors)
    ]


def verdict(rows: list[dict], **changes) -> str:
    return judge(Claim.check(CLAIM | {"length": 16} | changes), Layout(rows))[0]


@pytest.mark.parametrize(
    ("bound", "mean", "expected"),
    [
        ({"above": 0.1}, 0.5, "holds"),
        ({"above": 0.1}, 0.0, "contradicted"),
        ({"above": 0.1}, 0.1, "cannot tell"),
        ({"below": 0.1}, 0.0, "holds"),
        ({"below": 0.1}, 0.5, "contradicted"),
        ({"within": 0.1}, -0.05, "holds"),
        ({"within": 0.1}, -0.5, "contradicted"),
        ({"within": 0.1}, 0.5, "contradicted"),
        ({"within": 0.1}, -0.1, "cannot tell"),
        ({"below": 0.0}, -0.2, "holds"),
    ],
)
def test_a_claim_holds_where_the_whole_interval_does_and_is_contradicted_where_none_of_it_does(bound, mean, expected):
    assert verdict(documents({"nope": {16: mean}}), **bound) == expected


def test_what_is_taken_off_is_another_variant_or_another_length():
    rows = documents({"nope": {1: 3.0, 16: 3.5}, "rope": {1: 2.0, 16: 3.4}})
    assert verdict(rows, minus="rope", within=0.2) == "holds"
    assert verdict(rows, minus_length=1, above=0.4) == "holds"
    assert verdict(rows, minus_length=1, below=0.4) == "contradicted"


def test_fewer_than_five_seeds_or_six_clusters_cannot_tell_and_still_have_an_effect():
    for rows in (documents({"nope": {16: 5.0}}, seeds=4), documents({"nope": {16: 5.0}}, authors=5)):
        found, interval = judge(Claim.check(CLAIM | {"length": 16, "above": 0.1}), Layout(rows))
        assert found == "cannot tell"
        assert interval.mean == pytest.approx(5.0, abs=0.01)


def test_a_claim_of_one_model_is_judged_over_clusters_alone():
    rows = documents({"nope": {16: 5.0}}, seeds=1)
    assert verdict(rows, above=0.1) == "cannot tell"
    assert verdict(rows, above=0.1, one_model=True) == "holds"
    assert verdict(rows, below=0.1, one_model=True) == "contradicted"
    assert verdict(documents({"nope": {16: 5.0}}, seeds=1, authors=5), above=0.1, one_model=True) == "cannot tell"
    # Of seeds that differ it says nothing, of the runs that were made it does.
    apart = [row | {"mean": row["mean"] + 10 * (row["seed"] - 2)} for row in documents({"nope": {16: 5.0}})]
    assert verdict(apart, above=0.1) == "cannot tell"
    assert verdict(apart, above=0.1, one_model=True) == "holds"


def test_what_was_not_measured_is_not_run():
    rows = documents({"nope": {16: 5.0}})
    for changes in ({"variant": "rope"}, {"length": 8}, {"measure": "copy"}, {"minus": "rope"}, {"minus_length": 2}):
        assert verdict(rows, above=0.1, **changes) == "not run"


def test_every_set_of_documents_has_its_row_and_a_claim_without_any_has_one():
    rows = documents({"nope": {16: 5.0}})
    rows += [row | {"evaluation": "plays-2", "clusters_told": "plays of one author"} for row in rows]
    claims = [
        Claim.check(CLAIM | {"length": 16, "above": 0.1}),
        Claim.check(CLAIM | {"variant": "x", "length": 1, "above": 0}),
    ]
    found = list(verdicts([Study(study="s", conditions="none", claims=claims)], rows))
    assert [(row["evaluation"], row["verdict"]) for row in found] == [
        ("held_out-1", "holds"),
        ("plays-2", "holds"),
        ("", "not run"),
    ]
    assert found[1]["clusters_told"] == "plays of one author"


def test_the_labs_own_claims_are_of_measures_that_there_are():
    studies = read_claims(Path(__file__).parents[2] / "conf" / "claim")
    names = [claim.name for study in studies for claim in study.claims]
    assert "nope_fails" in names
    assert len(set(names)) == len(names)
    known = {each.label() for each in measures()} | set(parts_of("study")) | {edit_evidence.STUDY, cloze.NAME}
    assert {claim.measure.partition(":")[0] for study in studies for claim in study.claims} <= known


def test_a_number_of_no_document_has_an_interval_over_five_seeds_or_more():
    values = [0.2, 0.21, 0.19, 0.22, 0.18]
    first = documents({"nope": {1: 0.0}}, authors=1)[0] | {"cluster": "", "document": "", "evaluation": "train-1"}
    told = [
        first | {"measure": f"formation: {name}", "seed": seed, "mean": value + more}
        for seed, value in enumerate(values)
        for name, more in (("first", 0.0), ("other", 1.0))
    ]
    claim = Claim.check(CLAIM | {"measure": "formation: first", "above": 0.15, "unit": ""})
    found, interval = judge(claim, Layout(told))
    assert found == "holds"
    expected = stats.ttest_1samp(values, 0.0).confidence_interval(0.95)
    assert (interval.low, interval.high) == pytest.approx((expected.low, expected.high))
    assert (interval.seeds, interval.clusters) == (5, 0)
    assert claim.told == "formation: first of nope above 0.15"
    assert judge(claim, Layout([row for row in told if row["seed"] < 4]))[0] == "cannot tell"
    less = claim.with_values(minus_measure="formation: other", above=None, below=-0.5)
    assert judge(less, Layout(told))[0] == "holds"


def test_what_stands_in_several_tables_is_paired_by_seed_and_by_what_all_were_scored_on():
    rows = documents({"nope": {16: 0.5}})
    for number, row in enumerate(rows):  # seeds differ by far more than variants do
        rows[number] = row | {"mean": row["mean"] + 10 * row["seed"]}
    other = [row | {"variant": "rope", "mean": row["mean"] - 0.3} for row in reversed(rows)]
    assert verdict(rows + other, minus="rope", above=0.25) == "holds"
    assert verdict(rows + other[:-1], minus="rope", above=0.25) == "holds"  # one document fewer of one cluster
    assert (
        verdict(rows + [row for row in other if row["seed"]], minus="rope", above=0.25) == "cannot tell"
    )  # four in common
    apart = [row | {"cluster": f"another {row['cluster']}"} for row in other]
    assert verdict(rows + apart, minus="rope", above=0.25) == "not run"
    assert verdict([row | {"measure": "copy"} for row in other] + rows, above=0.25) == "cannot tell"


def test_a_claim_on_what_is_not_there_cannot_be_told():
    rows = documents({"nope": {16: 0.5}})
    claims = [
        Claim.check(CLAIM | {"name": "sink", "length": 16, "above": 1.0}),
        Claim.check(CLAIM | {"name": "of_sink", "length": 16, "above": 0.1, "given": "sink"}),
    ]
    found = list(verdicts([Study(study="s", conditions="none", claims=claims)], rows))
    assert [row["verdict"] for row in found] == ["contradicted", "cannot tell"]
    assert found[1]["given"] == "It fails."
    claims[0] = claims[0].with_values(above=0.1)
    found = list(verdicts([Study(study="s", conditions="none", claims=claims)], rows))
    assert [row["verdict"] for row in found] == ["holds", "holds"]


@pytest.mark.parametrize(
    ("second", "told"), [({"name": "fails"}, "two claims are called fails"), ({"given": "x"}, "name a claim before it")]
)
def test_claims_name_themselves_and_each_other(tmp_path, second, told):
    each = CLAIM | {"length": 1, "above": 0.1}
    content = {"study": "s", "conditions": "none", "claims": [each, each | {"name": "other"} | second]}
    (tmp_path / "wrong.yaml").write_text(yaml.safe_dump(content))
    with pytest.raises(UserError, match=told):
        read_claims(tmp_path)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"above": 0.1, "below": 0.2}, "give one of above, below and within"),
        ({}, "give one of above, below and within"),
        ({"above": 0.1, "colour": "red"}, "colour"),
        ({"above": "much"}, "above"),
        ({"above": 0.1, "length": 0}, "length"),
    ],
)
def test_a_wrong_claim_is_told_with_its_file(tmp_path, changes, told):
    content = {"study": "s", "conditions": "none", "claims": [CLAIM | {"length": 1} | changes]}
    (tmp_path / "wrong.yaml").write_text(yaml.safe_dump(content))
    with pytest.raises(UserError, match=rf"wrong\.yaml: .*{told}"):
        read_claims(tmp_path)


def test_the_command_writes_a_page_and_its_table(tmp_path):
    write_table(tmp_path / "documents.csv.gz", documents({"nope": {16: 5.0}, "alibi": {16: 0.0}}))
    done = lab("claims", "--documents", "documents.csv.gz", "--output", "claims.md", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    page = (tmp_path / "claims.md").read_text()
    assert "| held_out-1 | +5.00" in page
    assert "5 seeds, 8 authors | **holds** |" in page
    assert "python -m lab.claims --documents documents.csv.gz" in page
    # What the papers had and the runs have not, and what was not told from their text.
    assert all(each in page for each in ("C = 2,048", "50B tokens", "from notes on the paper"))
    rows = read_table(tmp_path / "claims.csv")
    assert {row["claim"]: row["verdict"] for row in rows}["alibi_holds"] == "holds"
    assert {row["claim"]: row["verdict"] for row in rows}["rope_fails"] == "not run"


def test_the_numbers_that_claims_are_held_against_are_not_written_over(tmp_path):
    write_table(tmp_path / "mine.csv", documents({"nope": {16: 5.0}, "alibi": {16: 0.0}}))
    before = (tmp_path / "mine.csv").read_bytes()
    for given in (f"{tmp_path}/mine.csv", f"1 %={tmp_path}/mine.csv"):
        with pytest.raises(UserError, match=r"mine\.csv is read, too: it would be lost"):
            claim([given], None, None, tmp_path / "mine.md", "python -m lab.claims")
    assert (tmp_path / "mine.csv").read_bytes() == before
    assert not (tmp_path / "mine.md").exists()


def test_a_table_with_a_name_has_variants_of_that_name_and_is_held_against_another(tmp_path):
    write_table(tmp_path / "before.csv.gz", documents({"rope": {16: 5.0}}, noise=0))
    write_table(tmp_path / "after.csv.gz", documents({"rope": {16: 4.0}}, noise=0))
    claim = CLAIM | {"variant": "rope, trained 1 %", "minus": "rope", "length": 16, "above": None, "below": -0.5}
    content = {"study": "s", "conditions": "none", "claims": [claim]}
    table = {"file": "estimates.csv", "caption": "Means.", "measure": CLAIM["measure"]}
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "s.yaml").write_text(yaml.safe_dump(content | {"tables": [table]}))
    row = {"evaluation": "held_out-1", "measure": CLAIM["measure"], "seed": None}
    each = [("rope", 16, 5.0), ("rope", 32, 6.0), ("nope", 16, 4.5)]
    estimates = [row | {"variant": name, "length_tokens": length, "mean": mean} for name, length, mean in each]
    write_table(tmp_path / "estimates.csv", [*estimates, estimates[0] | {"seed": 0, "mean": 9.0}])
    given = ("--claims", "own", "--study", "s", "--output", "page.md", "--documents")
    done = lab("claims", *given, "before.csv.gz", "trained 1 %=after.csv.gz", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    page = (tmp_path / "page.md").read_text()
    assert "| -1.000" in page
    assert "**holds**" in page
    assert "| | 16 | 32 |" in page
    assert "| rope | 5.000 | 6.000 |" in page
    assert "| nope | 4.500 | - |" in page
    assert "9.000" not in page


def test_what_stands_in_two_tables_counts_once_and_different_numbers_of_one_document_are_refused():
    rows = documents({"rope": {16: 5.0}, "nope": {16: 4.0}}, noise=0)
    assert joined({"a.csv": rows, "b.csv": [*rows[:3], *documents({"alibi": {16: 4.0}})]}) == [
        *rows,
        *documents({"alibi": {16: 4.0}}),
    ]
    changed = [rows[0] | {"mean": 6.0}]
    with pytest.raises(UserError, match=r"^a\.csv and b\.csv have different numbers of .* of rope, seed .*NAME=PATH"):
        joined({"a.csv": rows, "b.csv": changed})


def test_a_damaged_table_of_documents_is_told_in_one_line(tmp_path):
    (tmp_path / "documents.csv.gz").write_bytes(b"\x1f\x8b not gzip")
    done = lab("claims", "--documents", "documents.csv.gz", cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "documents.csv.gz cannot be read" in done.stderr


@pytest.mark.parametrize(
    ("column", "value", "told"),
    [
        ("length_tokens", "9" * 400, f"column length_tokens holds {'9' * 20}..., which is larger than any number here"),
        ("length_tokens", "64.5", "line 3: length_tokens is 64.5, which it cannot be"),
        ("length_tokens", "-64", "line 3: length_tokens is -64, which it cannot be"),
        ("length_tokens", "", "line 3: length_tokens is None, which it cannot be"),
        ("context_tokens", "0", "line 3: context_tokens is 0, which it cannot be"),
        ("seed", "0.5", "line 3: seed is 0.5, which it cannot be"),
        ("weight", "0", "line 3: weight is 0, which it cannot be"),
        ("weight", "-1.0", "line 3: weight is -1.0, which it cannot be"),
        ("mean", "", "line 3: mean is None, which it cannot be"),
        ("document", "d0", "line 3: d0 stands twice for one quantity"),
    ],
)
def test_a_published_number_that_cannot_be_is_told_with_its_line(tmp_path, column, value, told):
    path = tmp_path / "documents.csv"
    write_table(path, documents({"nope": {16: 5.0}}))
    header, *lines = path.read_text().splitlines()
    row = dict(zip(header.split(","), lines[1].split(","), strict=True)) | {column: value}
    path.write_text("\n".join([header, lines[0], ",".join(row.values()), *lines[2:]]) + "\n")
    with pytest.raises(UserError, match=f"^{re.escape(f'{path}')}:? {re.escape(told)}; take it whole from where"):
        published(path)
