"""What foretells whose facts are answered: numbers at names against formed gradients, planted tables, commands."""

from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from commands import lab, the_one_line
from knowledge.people import TRAINED, corpus, decoder, source, tokenizer

from lab.base.errors import UserError
from lab.base.tables import read_table
from lab.data.biographies.people import ATTRIBUTES
from lab.gradients.delta_position import KINDS
from lab.gradients.extractability import (
    FEATURES,
    TOGETHER,
    Extractability,
    answered,
    lens_at_names,
    losses_of_values,
    somebody_else,
)
from lab.gradients.foretelling import ALL, DIFFERENCES, LENS, LOSS, OTHER, WITHOUT, Told
from lab.measure.biography_recall import BiographyRecall
from lab.observe import people as observed_people
from lab.observe.fold import Fold

KEYS = {"people": 6, "entries": 2, "penalty": 1.0, "batch_tokens": 200}


def study(**changed: object) -> Extractability:
    return Extractability(**(KEYS | changed))


def keep(left, layer, module, given, output):
    output.retain_grad()
    left[layer] = output


def enter(entered, layer, module, given):
    entered[layer] = given[0].detach()


@pytest.mark.parametrize("model", ["rope", "window_alibi", "nope"])
def test_the_lens_at_a_name_is_what_the_gradient_that_is_formed_says(model: str) -> None:
    made, people = decoder(model), corpus().members("held_out")[:2]
    # At the other's name, too: the name and what is said there need not belong together.
    names = [[people[0].name] * 6, [people[0].name] * 3 + [people[1].name] * 3]
    values = [[person.value(attribute) for attribute in ATTRIBUTES] for person in people]
    found = lens_at_names(made, names, values, tokenizer(), 100)
    assert found.shape == (2, 6, len(made.blocks), len(FEATURES))
    made.compute_dtype = torch.float64
    vocabulary = made.embedding.shape[0]
    for number, person in enumerate(people):
        for attribute, of in enumerate(ATTRIBUTES):
            read = names[number][attribute]
            name = [tokenizer().end_of_document, *tokenizer().encode(read).tolist()]
            said = tokenizer().encode(f"{read} {person.value(of)}.").tolist()
            target = said[len(name) - 1]
            left, entered = {}, {}
            hooks = []
            for layer, block in enumerate(made.blocks):
                down, gate = block.feed_forward.down, block.feed_forward.gate
                hooks.append(down.register_forward_hook(partial(keep, left, layer)))
                hooks.append(gate.register_forward_pre_hook(partial(enter, entered, layer)))
            logits = made(torch.tensor([name]))[0, -1]
            torch.nn.functional.cross_entropy(logits[None], torch.tensor([target])).backward()
            for hook in hooks:
                hook.remove()
            for layer in range(len(made.blocks)):
                delta = left[layer].grad[0, -1]
                assert found[number, attribute, layer, 0] == pytest.approx(float(delta.norm().log()), abs=1e-6)
                for column, vector in ((1, delta), (2, entered[layer][0, -1])):
                    read = vector / vector.square().mean().sqrt() * made.norm.weight.double()
                    every = made.unembed(read.detach()).detach()
                    above = int((every > every[target]).sum())
                    assert float(found[number, attribute, layer, column]) == pytest.approx(above / (vocabulary - 1))


def test_losses_of_values_are_those_of_the_recall_measure() -> None:
    made, people = decoder(), corpus().members("choosing")[:4]
    total, count = losses_of_values(made, people, corpus(), tokenizer(), 2)
    measure = BiographyRecall(people=None, entries=2)
    rows = [row for item in measure.items(source()) for row in measure.score(made, item, 128)]
    for number, person in enumerate(people):
        for attribute in range(6):
            of_value = [
                row["loss_nats"]
                for row in rows
                if row["document"] == person.name and row.get("segment") == attribute and "loss_nats" in row
            ]
            assert count[number, attribute] == len(of_value)
            assert total[number, attribute] == pytest.approx(sum(of_value), rel=1e-4)
    assert count.max() == 2


def test_who_is_answered_is_told_person_by_person_and_attribute_by_attribute(monkeypatch: pytest.MonkeyPatch) -> None:
    people = corpus().members("held_out")[:3]
    plain = observed_people.answers

    def some(made, prompts):
        given = plain(made, prompts)
        return [prompt.answer if number in (1, 8) else given[number] for number, prompt in enumerate(prompts)]

    monkeypatch.setattr(observed_people, "answers", some)
    found = answered(decoder(), people, corpus(), tokenizer())
    assert found.tolist() == [[0, 1, 0, 0, 0, 0], [0, 0, 1, 0, 0, 0], [0] * 6]


def planted(by: str, attributes_differ: bool = False) -> tuple[Extractability, Fold]:
    """A fold of 60 people a group, of whom a third of the facts are answered, which one number foretells."""
    draw, made = np.random.default_rng(0), study(people=None)
    names = {group: [f"{group} {number}" for number in range(60)] for group in ("held_out", "choosing")}
    fold = Fold({"made_of": names})
    for group in names:
        right = draw.random((60, 6)) < 1 / 3
        lens, other, loss = draw.normal(size=(60, 6, 2, 3)), draw.normal(size=(60, 6, 2, 3)), draw.normal(size=(60, 6))
        known = draw.random((60, 6)) < 0.9
        if by in (LENS, "the value"):
            lens[:, :, 1, 2] -= 3 * right
        if by == "the value":  # the same at another's name
            other[:, :, 1, 2] = lens[:, :, 1, 2]
        if by == LOSS:
            loss -= 3 * right
        if attributes_differ:
            lens += 100 * np.arange(6)[:, None, None]
        for first in (0, 40):
            some = slice(first, min(first + 40, 60))
            page = f"{group}/{first:06d}"
            losses = torch.from_numpy(np.where(known, np.exp(loss), 0.0)[some])
            fold.add(
                page,
                {
                    f"{page}/lens": (torch.from_numpy(lens[some]), 1),
                    f"{page}/other": (torch.from_numpy(other[some]), 1),
                    f"{page}/loss": (2 * losses, torch.from_numpy(2 * known[some].astype(np.int64))),
                    f"{page}/right": (torch.from_numpy(right[some].astype(float)), 1),
                },
            )
    return made, fold


def areas(made: Extractability, fold: Fold) -> dict[str, float]:
    return {row["predictor"]: row["auc"] for row in made.rows(fold, 128) if row["auc"] is not None}


def of_people(made: Extractability, fold: Fold) -> dict[str, dict[str, float]]:
    found: dict[str, dict[str, float]] = {}
    for each in made.numbers(fold, made.rows(fold, 128)):
        found.setdefault(each.quantity, {})[each.document] = each.value
    return found


@pytest.mark.parametrize("attributes_differ", [False, True])
def test_what_the_lens_tells_is_found_and_set_against_the_other_predictors(attributes_differ: bool) -> None:
    made, fold = planted(LENS, attributes_differ)
    found = areas(made, fold)
    assert found[LENS] > 0.95
    assert found[ALL] > 0.95
    assert all(abs(found[each] - 0.5) < 0.08 for each in (LOSS, OTHER, WITHOUT))
    layers = {
        (row["feature"], row["layer"]): row["layer_auc"] for row in made.rows(fold, 128) if row["layer_auc"] is not None
    }
    assert layers.pop((FEATURES[2], 2)) < 0.05
    assert all(abs(each - 0.5) < 0.1 for each in layers.values())
    numbers = of_people(made, fold)
    assert all([*values] == fold.identity["made_of"]["held_out"] for values in numbers.values())
    for one, other in DIFFERENCES:
        gained = np.mean([*numbers[f"AUC of {one} less that of {other}"].values()])
        assert gained == pytest.approx(found[one] - found[other], abs=0.02)
        assert gained > 0.3
    assert np.mean([*numbers["answered"].values()]) == pytest.approx(1 / 3, abs=0.1)


def test_what_a_value_tells_at_any_name_is_not_taken_for_what_the_name_tells() -> None:
    made, fold = planted("the value")
    found = areas(made, fold)
    assert min(found[LENS], found[OTHER], found[WITHOUT]) > 0.95
    assert abs(found[LENS] - found[OTHER]) < 0.03
    assert found[ALL] - found[WITHOUT] < 0.03


def test_where_the_loss_alone_foretells_the_lens_adds_nothing() -> None:
    made, fold = planted(LOSS)
    found = areas(made, fold)
    assert min(found[LOSS], found[WITHOUT]) > 0.95
    assert abs(found[LENS] - 0.5) < 0.08
    assert abs(found[ALL] - found[WITHOUT]) < 0.02


def test_nobody_is_foretold_by_what_was_fitted_on_them() -> None:
    """Features of noise, more of them than people: who is fitted on is told wholly, who is not is not."""
    made, fold = planted("")
    for name in [*fold.done]:
        lens = np.random.default_rng(len(name)).normal(size=(fold.mean(f"{name}/lens").shape[0], 6, 300, 3))
        fold._entries[f"{name}/lens"] = (lens, np.zeros_like(lens), np.asarray(1))
    assert abs(areas(made, fold)[LENS] - 0.5) < 0.1


def test_what_was_observed_stays_as_it_is() -> None:
    made, fold = planted(LENS, attributes_differ=True)
    lens = np.concatenate([fold.mean(f"held_out/{page}/lens").numpy() for page in ("000000", "000040")])
    np.testing.assert_array_equal(Told.of(fold, made.penalty).lens, lens)


def test_where_nobody_is_answered_there_is_no_area_and_no_number_of_one() -> None:
    made, fold = planted("")
    for name in [*fold.done]:
        fold._entries[f"{name}/right"][0][:] = 0
    assert areas(made, fold) == {}
    assert {each.quantity for each in made.numbers(fold, [])} == {"answered"}


def test_another_is_the_next_person_with_another_value() -> None:
    people = corpus().members("held_out")
    for number, person in enumerate(people):
        for attribute in ATTRIBUTES:
            other = somebody_else(people, number, attribute)
            assert other.value(attribute) != person.value(attribute)
            between = people[number + 1 : people.index(other)] if people.index(other) > number else people[number + 1 :]
            assert all(each.value(attribute) == person.value(attribute) for each in between)


def test_the_claims_on_facts_and_places_name_numbers_that_the_studies_give() -> None:
    asked = yaml.safe_load((Path(__file__).parents[2] / "conf" / "claim" / "lens_facts.yaml").read_text())["claims"]
    given = {f"extractability: {each}" for each in of_people(*planted(LENS))}
    given |= {f"delta_position: share of position in the {kind} of down's deltas" for kind in KINDS}
    assert {each["measure"] for each in asked} <= given


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("extractability")
    trained = lab("train", *TRAINED, "logger=csv", "scale.tokens=4096", "scale.validation_blocks=1", cwd=folder)
    assert trained.returncode == 0, trained.stderr
    return folder


def test_the_command_leaves_a_table_a_picture_and_numbers_for_claims(run: Path) -> None:
    done = lab("analyze", "runs=runs/*", "study=extractability", "study.people=6", cwd=run)
    assert done.returncode == 0, done.stderr
    (folder,) = run.glob("runs/*/analysis")
    rows = read_table(folder / "extractability.csv")
    assert {row["attribute_text"] for row in rows} == {TOGETHER, *(each.replace("_", " ") for each in ATTRIBUTES)}
    assert {row["predictor"] for row in rows} - {None, ""} == {LOSS, LENS, OTHER, WITHOUT, ALL}
    # Nobody is answered by a decoder of seconds: there is no pair to tell apart.
    assert {row["attribute_auc"] for row in rows} == {None}
    assert "no picture of how well one number of one layer tells who is answered: there is no number" in done.stdout
    assert not (folder / "extractability.png").exists()
    told = read_table(folder / "extractability_documents.csv.gz")
    assert {row["measure"] for row in told} == {"extractability: answered"}
    assert {row["document"] for row in told} == {person.name for person in corpus().members("held_out")[:6]}


def test_runs_of_whom_nothing_is_told_are_not_compared(run: Path) -> None:
    trained = lab("train", *TRAINED, "logger=csv", "scale.tokens=4096", "scale.validation_blocks=1", "seed=1", cwd=run)
    assert trained.returncode == 0, trained.stderr
    done = lab("analyze", "runs=runs/*", "study=extractability", "study.people=6", "output=out", cwd=run)
    assert done.returncode == 0, done.stderr
    assert "no run has a number of it (area under the ROC curve (0.5: chance)), so that there is nothing" in done.stdout
    assert [path.name for path in (run / "out").iterdir()] == ["extractability_documents.csv.gz"]


def test_who_read_of_nobody_or_of_too_few_is_refused(run: Path) -> None:
    line = the_one_line(lab("analyze", "runs=runs/*", "study=extractability", "study.people=1", cwd=run))
    assert "1 people of the group held_out are too few to tell apart: train with more" in line
    none = source()
    none.trained_on = lambda: None
    with pytest.raises(UserError, match="study=extractability asks about people, and this decoder read of none"):
        study().groups(none)
