"""Probes of people against slow versions, which read one text at a time and find places by letters."""

from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch
from knowledge.people import corpus, decoder, fold_of, groups, source, tokenizer
from torch.nn import functional

from lab.base.errors import UserError
from lab.data.biographies.people import ATTRIBUTES
from lab.knowledge.layer_probe import LayerProbe
from lab.knowledge.p_probe import PProbe
from lab.knowledge.probing import classes_of, place
from lab.knowledge.q_probe import QProbe
from lab.knowledge.soft_probe import SoftProbe
from lab.observe.heads import Head
from lab.observe.measure import Source
from lab.observe.trained import drawn

LAYER = {"people": None, "targets": ["whole", "first"], "entries": 2, "fit": "ridge", "penalty": 5.0}
TRAINED = {"people": None, "batch": 8, "learning_rate": 0.05, "eps": 1e-6, "weight_decay": 0.0, "seed": 4}


def told_places(person: Any, text: str) -> tuple[list[int], list[str]]:
    """Of the name's end and then of the values as they appear: the number of the token before what comes next, the end
    of a document being token 0; and the attributes in this order."""

    def tokens_before(letters: int) -> int:
        return len(tokenizer().encode(text[:letters].rstrip()))

    at = {}
    for attribute in ATTRIBUTES:
        value = person.value(attribute)
        found = text.find(value)
        if found < 0:  # it begins a sentence
            found = text.find(value[0].upper() + value[1:])
        if attribute == "office_city" and person.office_city == person.birth_city:
            found = -1
        at[attribute] = found
    assert -1 not in at.values()
    order = sorted(ATTRIBUTES, key=at.__getitem__)
    end = text.index(person.name) + len(person.name)
    return [tokens_before(end), *(tokens_before(at[each]) for each in order)], order


def read(entries: int) -> dict[str, list[tuple[int, Any, str]]]:
    """(number of the person, person, text) of what is read of each group."""
    return {
        group: [
            (number, person, written.text)
            for number, person in enumerate(people)
            for written in corpus().written(person)[:entries]
        ]
        for group, people in groups().items()
    }


def ids_of(text: str) -> list[int]:
    return [tokenizer().end_of_document, *map(int, tokenizer().encode(text))]


def label(person: Any, attribute: str, target: str) -> Any:
    value = person.value(attribute)
    return value if target == "whole" else ids_of(f"{person.name} {value}")[len(ids_of(person.name))]


def slow_states(of: Any, ids: list[int]) -> list[np.ndarray]:
    """What enters the first block and leaves each, [time, width]."""
    x = of.embedding[torch.tensor([ids])]
    of.position.reach(len(ids))
    found = [x[0]]
    for block in of.blocks:
        x = block(x, of.position, torch.arange(len(ids)), None, None)
        found.append(x[0])
    return [each.detach().double().numpy() for each in found]


def test_layer_probes_are_those_of_entries_read_one_at_a_time_and_fitted_by_least_squares() -> None:
    study, of = LayerProbe(**LAYER), decoder()
    rows = {(row["target"], row["attribute_text"], row["layer"], row["position"]): row for row in
            study.rows(fold_of(study, of, source()), 128)}  # fmt: skip
    assert len(rows) == 11 * 3 * 7
    states: dict[str, list[list[np.ndarray]]] = {"training": [], "held_out": []}
    orders: dict[str, list[list[str]]] = {"training": [], "held_out": []}
    every = read(2)
    for group, entries in every.items():
        for _, person, text in entries:
            places, order = told_places(person, text)
            states[group].append([each[places] for each in slow_states(of, ids_of(text))])
            orders[group].append(order)
    for target, attribute, layer, position in (
        ("whole", "major", 0, 3),
        ("whole", "employer", 2, 0),
        ("whole", "office_city", 1, 6),
        ("first", "birth_date", 2, 1),
        ("first", "university", 1, 4),
    ):
        row = rows[target, attribute.replace("_", " "), layer, position]
        x = {group: np.array([each[layer][position] for each in found]) for group, found in states.items()}
        wanted = {group: [label(each, attribute, target) for _, each, _ in found] for group, found in every.items()}
        values = sorted(set(wanted["training"]), key=wanted["training"].index)
        shift, scale = x["training"].mean(0), x["training"].std(0)
        scale[scale < 1e-9] = 1
        one_hot = np.array([[value == each for each in values] for value in wanted["training"]], dtype=float)
        # Least squares with further rows for the penalty, the bias taken out by centring.
        rows_of = np.vstack(((x["training"] - shift) / scale, np.sqrt(5.0) * np.eye(32)))
        weight = np.linalg.lstsq(rows_of, np.vstack((one_hot - one_hot.mean(0), np.zeros((32, len(values))))))[0]
        share: dict[str, dict[int, list[bool]]] = {"training": {}, "held_out": {}}
        unstated = []
        for group, found in every.items():
            for number, (who, _, _) in enumerate(found):
                scores = (x[group][number] - shift) / scale @ weight + one_hot.mean(0)
                right = values[int(scores.argmax())] == wanted[group][number]
                share[group].setdefault(who, []).append(right)
                before = orders[group][number].index(attribute) + 1 < position
                if group == "held_out" and not before:
                    unstated.append(right)
            expected = np.mean([np.mean(each) for each in share[group].values()])
            assert row[f"{group}_right"] == pytest.approx(expected)
        assert row["stated"] == pytest.approx(1 - len(unstated) / len(every["held_out"]))
        assert row["unstated_right"] == (pytest.approx(np.mean(unstated)) if unstated else None)
        often = Counter(wanted["training"][::2])  # two entries a person
        (frequent, _), *_ = often.most_common()
        assert row["chance"] == pytest.approx(np.mean([each == frequent for each in wanted["held_out"]]))
        assert row["people_per_class"] == pytest.approx(len(groups()["training"]) / len(often))
        assert row["reachable"] == pytest.approx(np.mean([each in often for each in wanted["held_out"]]))


def test_what_was_just_said_is_read_in_the_first_layer_and_what_was_not_is_not() -> None:
    """Behind the name's last token its own embedding enters the first block: a surname is told, a value is not."""
    study = LayerProbe(**LAYER | {"fit": "logistic", "targets": ["whole"]})
    rows = study.rows(fold_of(study, decoder(), source()), 128)
    at_the_name = [row for row in rows if row["position"] == 0 and row["layer"] == 0]
    assert len(at_the_name) == 5
    assert all(row["held_out_right"] <= 0.3 for row in at_the_name)
    assert all(row["training_right"] > row["held_out_right"] for row in at_the_name)
    assert {row["named"] for row in at_the_name} == {1.0}


def slow_soft_loss(of: Any, vectors: torch.Tensor, person: Any, attribute: str, target: str) -> torch.Tensor:
    """Losses of the tokens that are to be said, one after another."""
    said = ids_of(f"{person.name} {person.value(attribute)}.")[len(ids_of(person.name)) :]
    said = said[:1] if target == "first" else said
    losses = []
    for number, token in enumerate(said):
        before = of.embedding[torch.tensor(ids_of(person.name))]
        behind = of.embedding[torch.tensor(said[:number], dtype=torch.long)]
        x = torch.cat((before, vectors, behind))[None]
        of.position.reach(x.shape[1])
        x = of.position.embed(x, 0)
        for block in of.blocks:
            x = block(x, of.position, torch.arange(x.shape[1]), None, None)
        losses.append(functional.cross_entropy(of.logits(of.norm(x))[0, -1], torch.tensor(token)))
    return torch.stack(losses)


@pytest.mark.parametrize("model", ["rope", "learned"])
@pytest.mark.parametrize("target", ["whole", "first"])
def test_a_soft_probe_is_trained_on_the_loss_of_each_token_read_one_text_at_a_time(model: str, target: str) -> None:
    study = SoftProbe(**TRAINED, targets=[target], vectors=3, steps=4)
    of = decoder(model)
    (item,) = [each for each in study.items(source()) if each.details["task"].attribute == "university"]
    before = {name: each.clone() for name, each in of.named_parameters()}
    training = study.training(of, item, 128)
    people = groups()["training"]
    (vectors,) = training.module.parameters()
    some = [people[each] for each in drawn(4, f"{target}/university", len(people), 8, 0)]
    expected = torch.cat([slow_soft_loss(of, vectors, each, "university", target) for each in some]).mean()
    found = training.loss(0)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    wanted = torch.autograd.grad(expected, vectors)[0]
    torch.testing.assert_close(torch.autograd.grad(found, vectors)[0], wanted, rtol=1e-3, atol=1e-5)
    observed = training.run()
    for group, members in groups().items():
        right, count = observed[place(item.details["task"], group, 2, 0)]
        assert count.tolist() == [1] * len(members)
        for person, each in zip(members, right.tolist(), strict=True):
            with torch.no_grad():
                said, ids = [], ids_of(f"{person.name} {person.value('university')}.")[len(ids_of(person.name)) :]
                ids = ids[:1] if target == "first" else ids
                while len(said) < len(ids):
                    x = torch.cat((of.embedding[ids_of(person.name)], vectors, of.embedding[said]))[None]
                    of.position.reach(x.shape[1])
                    x = of.position.embed(x, 0)
                    for block in of.blocks:
                        x = block(x, of.position, torch.arange(x.shape[1]), None, None)
                    said.append(int(of.logits(of.norm(x))[0, -1].argmax()))
            assert each == (said == ids)
    assert all(torch.equal(each, before[name]) for name, each in of.named_parameters())


def test_a_soft_probe_of_more_steps_says_more_of_those_it_is_trained_on() -> None:
    of, right = decoder(), []
    for steps in (1, 150):
        study = SoftProbe(**TRAINED, targets=["first"], vectors=4, steps=steps)
        rows = study.rows(fold_of(study, of, source()), 128)
        assert len(rows) == 6
        right.append(np.mean([row["training_right"] for row in rows]))
    assert right[1] > right[0]


def slow_head(of: Any, head: Head, ids: list[int], places: list[int]) -> torch.Tensor:
    """States of one text at some places, the embedding changed, before the head's norm."""
    table = of.embedding + torch.einsum("rv,wr->vw", head.A, head.B)
    x = table[torch.tensor([ids])]
    of.position.reach(len(ids))
    for block in of.blocks:
        x = block(x, of.position, torch.arange(len(ids)), None, None)
    return of.norm(x)[0, places]


def test_a_p_probe_reads_a_layer_norm_of_the_last_state_before_each_value_with_the_embedding_updated() -> None:
    study, of = PProbe(**TRAINED, targets=["whole"], entries=2, rank=2, steps=3), decoder()
    (item,) = [each for each in study.items(source()) if each.details["task"].attribute == "major"]
    training = study.training(of, item, 128)
    head: Any = training.module
    entries, people = read(2)["training"], groups()["training"]
    values = list(dict.fromkeys(each.major for each in people))

    def slow_scores(person: Any, text: str) -> torch.Tensor:
        places, _ = told_places(person, text)
        states = slow_head(of, head, ids_of(text), places[1:])
        mean, variance = states.mean(1, keepdim=True), states.var(1, correction=0, keepdim=True)
        normed = (states - mean) / torch.sqrt(variance + head.norm.eps) * head.norm.weight + head.norm.bias
        return normed @ head.linear.weight.T + head.linear.bias

    for step in (0, 2):
        while training.step < step:
            training._take_step()
        some = [entries[each] for each in drawn(4, "whole/major", len(entries), 8, step)]
        scores = torch.cat([slow_scores(person, text) for _, person, text in some])
        wanted = torch.tensor([values.index(person.major) for _, person, _ in some for _ in range(6)])
        torch.testing.assert_close(training.loss(step), functional.cross_entropy(scores, wanted), rtol=1e-4, atol=1e-4)
    observed = training.run()
    assert head.A.abs().max() > 0
    every = read(2)["held_out"]
    hits = {number: [] for number in range(len(groups()["held_out"]))}
    with torch.no_grad():
        for number, person, text in every:
            got = slow_scores(person, text).argmax(1).tolist()
            hits[number].append([values[each] == person.major for each in got])
    for position in range(1, 7):
        right, count = observed[place(item.details["task"], "held_out", 2, position)]
        assert right.tolist() == [sum(each[position - 1] for each in hits[number]) for number in hits]
        assert count.tolist() == [2] * len(hits)
    assert of.adapted is None


def test_a_q_probe_reads_a_batch_norm_of_the_last_state_behind_a_name_between_end_tokens() -> None:
    study, of = QProbe(**TRAINED, targets=["first"], rank=16, steps=3), decoder()
    (item,) = [each for each in study.items(source()) if each.details["task"].attribute == "birth_date"]
    training = study.training(of, item, 128)
    head: Any = training.module
    end, people = tokenizer().end_of_document, groups()["training"]
    months = list(dict.fromkeys(each.birth_date.split()[0] for each in people))

    def states_of(some: list[Any]) -> torch.Tensor:
        return torch.cat([slow_head(of, head, [*ids_of(each.name), end], [-1]) for each in some])

    some = [people[each] for each in drawn(4, "first/birth_date", len(people), 8, 0)]
    states = states_of(some)
    normed = (states - states.mean(0)) / torch.sqrt(states.var(0, correction=0) + head.norm.eps)
    scores = (normed * head.norm.weight + head.norm.bias) @ head.linear.weight.T + head.linear.bias
    wanted = torch.tensor([months.index(each.birth_date.split()[0]) for each in some])
    torch.testing.assert_close(training.loss(0), functional.cross_entropy(scores, wanted), rtol=1e-4, atol=1e-4)
    observed = training.run()
    for group, members in groups().items():
        with torch.no_grad():
            states = states_of(members)
            normed = (states - head.norm.running_mean) / torch.sqrt(head.norm.running_var + head.norm.eps)
            scores = (normed * head.norm.weight + head.norm.bias) @ head.linear.weight.T + head.linear.bias
        right, _ = observed[place(item.details["task"], group, 2, 0)]
        got = [months[each] for each in scores.argmax(1).tolist()]
        assert right.tolist() == [name == each.birth_date.split()[0] for name, each in zip(got, members, strict=True)]


def test_classes_are_those_of_the_training_group_and_others_are_out_of_reach() -> None:
    classes = classes_of(["b", "a", "b", "c"], ["a", "d", "b", "b", "e"])
    assert classes.training.tolist() == [0, 1, 0, 2]
    assert classes.held_out.tolist() == [1, -1, 0, 0, -1]
    assert classes.told == {"chance": 0.4, "classes": 3, "people_per_class": 4 / 3, "reachable": 0.6}


def test_nobody_is_in_both_groups_and_the_first_people_are_read_if_fewer_are_asked_for() -> None:
    study = SoftProbe(**TRAINED | {"people": 5}, targets=["whole"], vectors=1, steps=1)
    found = study.made_of(source())["people"]
    assert found["training"] == [each.name for each in groups()["training"][:5]]
    assert found["held_out"] == [each.name for each in groups()["held_out"][:5]]
    everyone = LayerProbe(**LAYER).made_of(source())["people"]
    assert not set(everyone["training"]) & set(everyone["held_out"])


def test_what_cannot_be_probed_is_told_in_a_line() -> None:
    study = LayerProbe(**LAYER | {"people": 1})
    with pytest.raises(UserError, match="1 people of the group training are too few"):
        next(study.items(source()))
    with pytest.raises(UserError, match="name each once"):
        LayerProbe(**LAYER | {"targets": ["whole", "whole"]}).fits(128)
    other = Source(lambda: iter(()), tokenizer(), 128)
    with pytest.raises(UserError, match="study=layer_probe asks about people, and this decoder read of none"):
        next(LayerProbe(**LAYER).items(other))
    with pytest.raises(UserError, match="rank is 33, above the smaller side of the embedding, which is"):
        Head(decoder(), 33, 4, "layer", 0, "probe")
