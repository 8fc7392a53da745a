"""The lens as a study: its profiles against gradients that are formed, its prompts, a decoder at all its steps."""

import ast
import importlib
import inspect
import itertools
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from commands import lab, the_one_line
from gradients.tiny import EXAMPLES, LAYERS, VARIANTS, VOCABULARY, tiny
from measure.tiny_decoders import source_of

from lab.base.errors import UserError
from lab.base.tables import read_table
from lab.gradients.capture import MATRICES, Place, capture, places_of
from lab.gradients.gradient_lens import TARGETS, GradientLens, document_profile, mean_profile
from lab.gradients.numbers import numbers_of, quarters
from lab.gradients.parts import PARTS, parts_of
from lab.gradients.profile import TOKENS, VECTORS, profiles
from lab.gradients.projection import project
from lab.gradients.ranks import shape_of
from lab.gradients.whole import WRITES
from lab.observe.fold import Fold
from lab.observe.scoring import code_of

OTHERS = {"random": 3, "frequent": 5}
FEW = {"shortest": 3, "longest": 6, "prompts": 4, "documents": None, "batch_tokens": 18, "seed": 1}


def study(**changed: int | None) -> GradientLens:
    return GradientLens(**(FEW | changed))


def profiles_of(decoder, examples):
    captured = capture(decoder, examples, places_of(decoder, None), torch.float64)
    parts = [parts_of(len(each.read), len(each.prompt), None) for each in examples]
    return captured, profiles(decoder, shape_of(decoder), captured, parts, [OTHERS] * len(examples))


@pytest.mark.parametrize(("kind", "window"), VARIANTS)
def test_a_profile_is_what_the_gradient_that_is_formed_says(kind, window):
    decoder = tiny(kind, window)
    captured, found = profiles_of(decoder, EXAMPLES)
    for number, (example, profile) in enumerate(zip(EXAMPLES, found, strict=True)):
        last = len(example.prompt) - 1
        parts = parts_of(len(example.read), len(example.prompt), None)
        for place in captured.deltas:
            at = (place.layer - 1, MATRICES.index(place.matrix))
            factors = captured.factors(number, place)
            rank = int(torch.linalg.matrix_rank(factors.gradient))
            assert profile["rank"][at] == rank
            assert profile["full"][at] == (rank == len(example.read))
            assert profile["least"][at] == (rank == len(example.target))
            for column, part in enumerate(PARTS):
                lengths = [row.norm().item() for row, each in zip(factors.deltas, parts, strict=True) if each == part]
                length = profile["length"][(*at, column)].item()
                assert length == pytest.approx(np.mean(lengths)) if lengths else math.isnan(length)
            for vector in ("input", "delta"):
                if (place.matrix, vector) not in VECTORS:
                    continue
                row = (factors.inputs if vector == "input" else factors.deltas)[last]
                stood = profile["place"][place.layer - 1, VECTORS.index((place.matrix, vector))].tolist()
                if not row.any():
                    assert all(map(math.isnan, stood))
                    continue
                order = project(decoder, row[None])[0].argsort(descending=True).tolist()
                named = (example.target[0], captured.answers[number], *OTHERS.values())
                assert stood == pytest.approx([order.index(token) / (VOCABULARY - 1) for token in named])
                bottom = profile["bottom"][place.layer - 1, VECTORS.index((place.matrix, vector))]
                assert bottom == (order[-1] == example.target[0])
            if place.matrix == "down" and factors.deltas[last].any():
                moved = -factors.gradient @ factors.inputs[last]  # of a step of rate 1
                cosine = torch.cosine_similarity(moved, -factors.deltas[last], dim=0).item()
                assert profile["shift"][place.layer - 1].item() == pytest.approx(cosine, rel=1e-9)
        for one, two in itertools.product(range(LAYERS), repeat=2):
            rows = [captured.factors(number, Place(each + 1, "down")) for each in (one, two)]
            wanted = torch.cosine_similarity(rows[0].deltas[last], rows[1].deltas[last], dim=0)
            assert profile["cosine"][one, two].item() == pytest.approx(wanted.item(), abs=1e-9)


def test_principal_directions_stand_where_the_first_singular_vector_does():
    decoder = tiny()
    captured, (profile,) = profiles_of(decoder, EXAMPLES[1:2])
    for place in captured.deltas:
        left, values, right = torch.linalg.svd(captured.factors(0, place).gradient, full_matrices=False)
        vector = left[:, 0] if place.matrix in WRITES else right[0]
        order = project(decoder, vector[None])[0].argsort(descending=True).tolist()
        stood = profile["place"][place.layer - 1, VECTORS.index((place.matrix, "principal")), TOKENS.index("target")]
        rank = order.index(EXAMPLES[1].target[0])
        ends = (rank / (VOCABULARY - 1), 1 - rank / (VOCABULARY - 1))
        assert min(abs(stood.item() - each) for each in ends) < 1e-9
        assert profile["share"][place.layer - 1, MATRICES.index(place.matrix)].item() == pytest.approx(
            (values[0].square() / values.square().sum()).item()
        )


def test_prompts_are_drawn_once_for_all_decoders_with_the_true_and_another_target():
    items = [*study(prompts=200).items(source_of(20, 40, 5, vocabulary=VOCABULARY))]
    assert [item.name for item in items] == ["a", "b"]  # the third is too short
    everything = np.concatenate([item.ids for item in items])
    drawn = []
    for item in items:
        for each in item.details["prompts"]:
            assert 3 <= each["length"] <= 6
            assert each["true"] == item.ids[each["start"] + each["length"]]
            assert each["drawn"] != each["true"]
            drawn.append(each["drawn"])
    assert {each["length"] for item in items for each in item.details["prompts"]} == {3, 4, 5, 6}
    shares = np.bincount(everything, minlength=VOCABULARY) / len(everything)
    found = np.bincount(drawn, minlength=VOCABULARY) / len(drawn)
    assert np.abs(shares - found).max() < 0.06
    again = [*study(prompts=200).items(source_of(20, 40, 5, vocabulary=VOCABULARY))]
    assert [item.details for item in again] == [item.details for item in items]
    other = [*study(prompts=200, seed=2).items(source_of(20, 40, 5, vocabulary=VOCABULARY))]
    assert [item.details for item in other] != [item.details for item in items]


def fold_of(decoder, each: GradientLens) -> Fold:
    fold = Fold({})
    for item in each.items(source_of(30, 40, 50, vocabulary=VOCABULARY)):
        with torch.inference_mode():
            fold.add(item.name, each.observe(decoder, item, 8))
    return fold


def test_a_document_counts_once_and_batches_change_nothing():
    decoder = tiny()
    together, alone = (fold_of(decoder, study(batch_tokens=each)) for each in (1000, 1))
    for kind in TARGETS:
        means = mean_profile(together, kind)
        for name, values in mean_profile(alone, kind).items():
            torch.testing.assert_close(means[name], values, rtol=1e-9, atol=1e-9, equal_nan=True)
            documents = torch.stack([document_profile(together, kind, each)[name] for each in "abc"])
            torch.testing.assert_close(means[name], documents.nanmean(dim=0), equal_nan=True)
    rows = study().rows(together, 8)
    at = (2, "drawn", "down", "delta", "")
    (row,) = (row for row in rows if tuple(row[key] for key in ("layer", "target", "matrix", "vector", "part")) == at)
    place = mean_profile(together, "drawn")["place"][1, VECTORS.index(("down", "delta"))]
    assert [row[f"{what}_place"] for what in TOKENS] == pytest.approx(place.tolist())
    assert row["last_token_place"] == row["target_place"]
    numbers = {(each.quantity, each.document): each.value for each in study().numbers(together, rows)}
    own = document_profile(together, "true", "b")
    assert numbers["rank is one in the last feed-forward, true target", "b"] == own["least"][-1, 4:].mean()
    wanted = own["place"][:, VECTORS.index(("down", "delta")), 0].mean()
    assert numbers["place of target in down's deltas, true target", "b"] == pytest.approx(wanted.item())
    upper = own["bottom"][2:, VECTORS.index(("down", "delta"))].mean()
    assert numbers["target at the very bottom of down's deltas in the upper quarter, true target", "b"] == upper
    assert {document for _, document in numbers} == {"a", "b", "c"}


def test_quarters_are_of_all_layers_and_what_is_not_there_is_no_number():
    assert quarters(30)["in the first quarter"] == slice(0, 7)
    assert quarters(30)["in the second quarter"] == slice(7, 15)
    assert quarters(30)["in the upper quarter"] == slice(23, 30)
    _, (profile,) = profiles_of(tiny(), EXAMPLES[:1])
    names = dict(numbers_of(profile))
    assert not any("subject" in name or "second quarter" in name for name in names)
    assert all(math.isfinite(value) for value in names.values())


def test_prompts_that_do_not_fit_are_refused():
    with pytest.raises(UserError, match="shortest is 7 and longest 6"):
        study(shortest=7).fits(8)
    with pytest.raises(UserError, match="longest is 9 and C is 8"):
        study(longest=9).fits(8)


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("lens_over_steps")
    given = ("experiment=smoke", "model=rope", "measure=none", "logger=csv", "seed=0,1,2", "scale.tokens=2048")
    trained = lab("train", "-m", *given, "scale.warmup_steps=1", "trainer.keep_weights=[doubling]", cwd=folder)
    assert trained.returncode == 0, trained.stderr
    return folder


def test_a_decoder_is_looked_at_at_all_its_steps_and_runs_are_compared_along_them(runs):
    few = ("study.documents=2", "study.prompts=2", "accelerator=cpu")
    result = lab("analyze", "runs=runs/*", "study=gradient_lens", "checkpoint=kept", *few, cwd=runs)
    assert result.returncode == 0, result.stderr
    (first, *_) = sorted((runs / "runs").glob("rope-*"))
    rows = read_table(first / "analysis" / "gradient_lens.csv")
    kept = sorted(int(path.name.partition("=")[2]) for path in (first / "weights").iterdir())
    assert sorted({row["step"] for row in rows}) == sorted({*kept, 2})
    assert (first / "analysis" / "gradient_lens_4.png").exists()
    compared = read_table(runs / "analysis" / "gradient_lens_step_target_place.csv")
    own = [read_table(each / "analysis" / "gradient_lens.csv") for each in (runs / "runs").glob("rope-*")]
    for row in compared:
        values = [next(each["step_target_place"] for each in table if each["step"] == row["step"]) for table in own]
        assert float(row["value"]) == pytest.approx(np.mean(values))
        assert row["low"] <= float(row["value"]) <= row["high"]
        assert row["runs"] == 3
    last = lab("analyze", "runs=runs/*", "study=gradient_lens", "output=last", *few, cwd=runs)
    assert last.returncode == 0, last.stderr
    documents = read_table(runs / "last" / "gradient_lens_documents.csv.gz")
    assert len({row["document"] for row in documents}) == 2
    assert {row["seed"] for row in documents} == {0, 1, 2}


def test_a_study_of_one_step_is_not_read_at_all_steps(runs):
    result = lab("analyze", "runs=runs/*", "study=state_norms", "study.longest=1", "checkpoint=kept", cwd=runs)
    assert the_one_line(result) == "error: state_norms is read at one step: name it, checkpoint=STEP"


def imported(name: str) -> set[str]:
    """The modules of the room that one imports, and those that these do."""
    tree = ast.parse(inspect.getsource(importlib.import_module(name)))
    own = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    found = {each for each in own if each and each.startswith("lab.gradients.")}
    return found.union(*map(imported, found))


def test_a_fold_is_named_by_all_code_that_its_sums_come_from(monkeypatch):
    # What is only made of the sums (numbers) may change.
    assert imported(GradientLens.__module__) - {"lab.gradients.numbers"} == set(GradientLens.built_on)
    before = code_of(study())
    monkeypatch.setattr(GradientLens, "built_on", GradientLens.built_on[1:])
    assert code_of(study()) != before
