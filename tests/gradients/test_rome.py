"""ROME writes what its closed form says: by hand, against the equations of the least change, and in a decoder."""

import copy

import numpy as np
import pytest
import torch
from gradients.tiny import EXAMPLES, HIDDEN, LAYERS, tiny
from torch.nn import functional

from lab.base.errors import UserError
from lab.gradients.capture import Example, NotFinite, Place
from lab.gradients.covariance import KEY, observe_keys
from lab.gradients.edits import Request
from lab.gradients.rome import Search, closed_form, key_of, rome, value_of
from lab.model.decoder import Decoder
from lab.model.position import ALiBi, RoPE
from lab.observe import taps
from lab.observe.fold import Fold

SEARCH = Search(steps=12, learning_rate=0.3, decay=0.01, kl=0.0, longest=50.0, enough=0.01)
PREFIXES = [(4, 9, 26), (15, 2)]
REQUESTS = [
    Request("a", Example((3, 17, 5, 11, 8), (2,)), range(1, 3)),
    Request("b", Example((9, 1, 30, 4, 22, 6), (7, 19)), range(0, 2)),
]


def in_float64(**options) -> Decoder:
    decoder = tiny(**options).requires_grad_(False)
    decoder.compute_dtype = torch.float64
    return decoder


def covariance_of(size: int, seed: int = 0) -> torch.Tensor:
    draw = torch.Generator().manual_seed(seed)
    rows = torch.randn(3 * size, size, generator=draw, dtype=torch.float64)
    return rows.mT @ rows / len(rows)


def test_the_update_of_one_fact_by_hand():
    """Of two layers: the first gives the key (1, 1), the second is to give (3, 2) for it in place of (1, 1)."""
    first, second = torch.eye(2, dtype=torch.float64), torch.eye(2, dtype=torch.float64)
    key = first @ torch.tensor([1.0, 1.0], dtype=torch.float64)
    value = torch.tensor([3.0, 2.0], dtype=torch.float64)
    covariance = torch.tensor([[2.0, 0.0], [0.0, 1.0]], dtype=torch.float64)
    # C^-1 k = (1/2, 1), k^T C^-1 k = 3/2, v - W k = (2, 1)
    wanted = torch.tensor([[2 / 3, 4 / 3], [1 / 3, 2 / 3]], dtype=torch.float64)
    change = closed_form(second, covariance, key[None], value[None])
    torch.testing.assert_close(change, wanted, rtol=1e-14, atol=1e-14)
    torch.testing.assert_close((second + change) @ key, value, rtol=1e-14, atol=1e-14)


@pytest.mark.parametrize("facts", [1, 3])
def test_the_update_is_the_least_that_gives_every_key_its_value(facts):
    """Each row of D on its own: min d C d^T with K d = r, by its Lagrange equations, solved by least squares."""
    draw = torch.Generator().manual_seed(facts)
    weight, keys, values = (
        torch.randn(shape, generator=draw, dtype=torch.float64) for shape in ((4, 9), (facts, 9), (facts, 4))
    )
    covariance = covariance_of(9)
    change = closed_form(weight, covariance, keys, values)
    system = np.block([[2 * covariance.numpy(), keys.numpy().T], [keys.numpy(), np.zeros((facts, facts))]])
    for row in range(4):
        right = np.concatenate([np.zeros(9), (values - keys @ weight.mT)[:, row].numpy()])
        solution = np.linalg.lstsq(system, right, rcond=None)[0][:9]
        np.testing.assert_allclose(change[row].numpy(), solution, rtol=1e-9, atol=1e-10)
    assert torch.linalg.matrix_rank(change) == facts
    torch.testing.assert_close(keys @ (weight + change).mT, values, rtol=1e-11, atol=1e-11)


def test_keys_that_are_not_apart_and_a_covariance_without_inverse_are_told():
    weight, keys = torch.eye(3, dtype=torch.float64), torch.ones(2, 3, dtype=torch.float64)
    with pytest.raises(UserError, match="two facts have the same key"):
        closed_form(weight, covariance_of(3), keys, keys)
    with pytest.raises(UserError, match="two facts have the same key"):
        closed_form(weight, covariance_of(3), torch.zeros(1, 3, dtype=torch.float64), keys[:1])
    with pytest.raises(UserError, match="has no inverse"):
        closed_form(weight, torch.zeros(3, 3, dtype=torch.float64), keys[:1], keys[:1])


@pytest.mark.parametrize("kind", [RoPE, ALiBi])
@pytest.mark.parametrize("prefixes", [[], PREFIXES])
@pytest.mark.parametrize("layer", [1, LAYERS - 1])
def test_the_edited_matrix_gives_every_subject_its_value_and_targets_become_likelier(kind, prefixes, layer):
    decoder, place = in_float64(kind=kind), Place(layer, "down")
    before = {name: each.clone() for name, each in decoder.state_dict().items()}
    change, off, rows = rome(decoder, REQUESTS, place, covariance_of(HIDDEN), prefixes, SEARCH)
    assert all(torch.equal(each, before[name]) for name, each in decoder.state_dict().items())
    assert torch.linalg.matrix_rank(change) == len(REQUESTS)
    assert off < 1e-5
    edited = copy.deepcopy(decoder)
    module = edited.get_submodule(place.module)
    module.weight.copy_((module.weight.double() + change).float())
    for number, request in enumerate(REQUESTS, start=1):
        own = [row for row in rows if row["number"] == number]
        assert own[-1]["loss_nats"] < own[0]["loss_nats"] - 0.1
        outputs = []
        for prefix in [(), *prefixes]:
            with taps.reading(edited, place.module) as seen:
                edited.hidden(torch.tensor([[*prefix, *request.example.prompt]]))
            outputs.append(seen[place.module][0, len(prefix) + request.subject[-1]])
        texts = [Example((*prefix, *request.example.prompt), request.example.target) for prefix in [(), *prefixes]]
        places = [len(prefix) + request.subject[-1] for prefix in [(), *prefixes]]
        value, _ = value_of(decoder, request, texts, places, place, SEARCH)
        # What the matrix gives is linear in its input, so the mean of outputs is the output of the mean key.
        torch.testing.assert_close(torch.stack(outputs).mean(0), value, rtol=1e-5, atol=1e-5 * float(value.norm()))


def test_the_loss_that_a_search_tells_is_that_with_the_value_in_its_place():
    decoder, place, request = in_float64(), Place(2, "down"), REQUESTS[1]
    value, rows = value_of(decoder, request, [request.example], [1], place, SEARCH)

    def written(module, given, output):
        output[0, 1] = value
        return output

    hook = decoder.get_submodule(place.module).register_forward_hook(written)
    logits = decoder(torch.tensor([request.example.read]))[0, len(request.example.prompt) - 1 :]
    hook.remove()
    wanted = functional.cross_entropy(logits, torch.tensor(request.example.target), reduction="sum")
    assert rows[-1]["loss_nats"] == pytest.approx(float(wanted), rel=1e-9)


def test_a_value_stays_as_short_and_says_as_little_of_the_subject_as_is_asked():
    decoder, place, example = in_float64(), Place(2, "down"), REQUESTS[0].example
    request = Request("a", example, range(1, 3), ((17, 5, 12), range(0, 2)))

    def last(**changes):
        search = Search(
            **({"steps": 12, "learning_rate": 0.3, "decay": 0.0, "kl": 0.0, "longest": 50.0} | changes), enough=0.0
        )
        return value_of(decoder, request, [example], [2], place, search)[1][-1]

    free = last()
    assert last(longest=0.1)["length"] == pytest.approx(0.1, rel=1e-6)
    assert last(decay=10.0)["length"] < 0.7 * free["length"]
    assert last(kl=100.0)["divergence_nats"] < 0.5 * free["divergence_nats"]


def test_keys_are_what_down_reads_and_their_covariance_is_the_mean_of_their_outer_products():
    decoder, place = in_float64(), Place(2, "down")
    feed, norm = decoder.blocks[1].feed_forward, "blocks.1.feed_forward_norm"
    stretches = [each.prompt[:2] for each in EXAMPLES if len(each.prompt) > 1]
    fold, keys = Fold({}), []
    for number, stretch in enumerate(stretches):
        fold.add(str(number), observe_keys(decoder, place, [stretch]))
        with taps.reading(decoder, norm) as seen:
            decoder.hidden(torch.tensor([stretch]))
        states = seen[norm][0]
        gate, up = (functional.linear(states, each.weight.double()) for each in (feed.gate, feed.up))
        keys += [*(functional.silu(gate) * up)]
    wanted = sum(torch.outer(key, key) for key in keys) / len(keys)
    torch.testing.assert_close(fold.mean(KEY), wanted, rtol=1e-12, atol=1e-12)
    own = key_of(decoder, [Example(stretches[0], (1,))], [1], place)
    torch.testing.assert_close(own, keys[1], rtol=1e-12, atol=1e-12)
    together = Fold({})
    together.add("all", observe_keys(decoder, place, stretches))
    torch.testing.assert_close(together.mean(KEY), wanted, rtol=1e-12, atol=1e-12)


def test_weights_that_are_not_finite_are_told_with_the_number_of_the_fact():
    decoder = in_float64()
    decoder.blocks[2].feed_forward.up.weight[0, 0] = float("inf")
    with pytest.raises(NotFinite, match="the gradient of the value in layer 2 is not finite") as told:
        value_of(decoder, REQUESTS[0], [REQUESTS[0].example], [2], Place(2, "down"), SEARCH, number=1)
    assert told.value.number == 1
