"""Fine-tuning of one matrix makes the steps that torch's own optimisers make of autograd's gradient."""

import copy

import pytest
import torch
from gradients.tiny import EXAMPLES, tiny
from torch.nn import functional

from lab.gradients.capture import Example, NotFinite, Place
from lab.gradients.finetune import finetune
from lab.model.decoder import Decoder

STEPS = 4
KEYS = {"steps": STEPS, "learning_rate": 0.05, "largest": None, "enough": 0.0, "batch_tokens": 12}


def in_float64() -> Decoder:
    decoder = tiny().requires_grad_(False)
    decoder.compute_dtype = torch.float64
    return decoder


def loss_of(decoder: Decoder, examples: list[Example]) -> torch.Tensor:
    """Mean over examples of the targets' summed losses, each read alone."""
    found = []
    for each in examples:
        logits = decoder(torch.tensor([each.read]))[0, len(each.prompt) - 1 :]
        found.append(functional.cross_entropy(logits, torch.tensor(each.target), reduction="sum"))
    return torch.stack(found).mean()


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
@pytest.mark.parametrize("place", [Place(2, "down"), Place(1, "value")])
def test_the_steps_are_those_of_torchs_optimiser_on_autograds_gradient(optimizer, place):
    decoder = in_float64()
    before = {name: each.clone() for name, each in decoder.state_dict().items()}
    change, rows = finetune(decoder, EXAMPLES, place, optimizer=optimizer, **KEYS)
    assert all(torch.equal(each, before[name]) for name, each in decoder.state_dict().items())
    other = copy.deepcopy(decoder).double()
    parameter = other.get_parameter(f"{place.module}.weight").requires_grad_()
    origin = parameter.detach().clone()
    own = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam}[optimizer]([parameter], lr=0.05)
    for step in range(STEPS + 1):
        loss = loss_of(other, EXAMPLES)
        assert rows[step]["loss_nats"] == pytest.approx(float(loss.detach()), rel=1e-9)
        if step < STEPS:
            own.zero_grad()
            loss.backward()
            own.step()
    torch.testing.assert_close(change, parameter.detach() - origin, rtol=1e-7, atol=1e-9)
    assert rows[-1]["loss_nats"] < rows[0]["loss_nats"]


def test_no_number_moves_farther_than_the_bound_and_some_come_to_it():
    keys = KEYS | {"largest": 0.02}
    change, _ = finetune(in_float64(), EXAMPLES, Place(2, "down"), optimizer="adam", **keys)
    assert float(change.abs().max()) == pytest.approx(0.02)


def test_it_ends_as_soon_as_the_loss_is_low_enough():
    free, rows = finetune(in_float64(), EXAMPLES, Place(2, "down"), optimizer="adam", **KEYS)
    enough = (rows[1]["loss_nats"] + rows[2]["loss_nats"]) / 2
    change, fewer = finetune(in_float64(), EXAMPLES, Place(2, "down"), optimizer="adam", **(KEYS | {"enough": enough}))
    assert fewer == rows[:3]
    assert float(change.norm()) < float(free.norm())


def test_a_gradient_that_is_not_finite_is_told_with_the_number_of_its_fact_among_all():
    decoder = in_float64()
    decoder.embedding[29] = float("nan")  # of the fourth prompt alone, which is read in another batch
    with pytest.raises(NotFinite) as told:
        finetune(decoder, EXAMPLES, Place(2, "down"), optimizer="sgd", **KEYS)
    assert told.value.number == 3
