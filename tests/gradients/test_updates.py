"""What an optimiser makes of a gradient: against torch.optim on a decoder's own matrix, and SVD in float64."""

import copy

import pytest
import torch
from gradients.tiny import EXAMPLES, HIDDEN, WIDTH, tiny

from lab.gradients.capture import Factors, Place, capture, places_of
from lab.gradients.updates import OPTIMIZERS, made, update
from lab.gradients.whole import WRITES
from lab.training.optimizers import Muon, adamw

PLACES = [Place(1, "query"), Place(2, "value"), Place(2, "gate"), Place(3, "down"), Place(1, "output")]


def stepped(optimizer: str, betas: tuple[float, float], eps: float) -> dict[Place, torch.Tensor]:
    """By how much a decoder's matrices change in the first step of an optimiser of the whole decoder, with autograd's
    gradient."""
    decoder = copy.deepcopy(tiny()).double()
    decoder.compute_dtype = torch.float64
    example = EXAMPLES[1]
    text = torch.tensor([[*example.prompt, *example.target]])
    likely = decoder(text[:, :-1]).log_softmax(-1)[0]
    loss = -sum(likely[len(example.prompt) - 1 + number, token] for number, token in enumerate(example.target))
    loss.backward()
    if optimizer == "sgd":
        step = torch.optim.SGD(decoder.parameters(), lr=1.0)
    elif optimizer == "adamw":
        step = adamw(decoder, 1.0, betas, eps, 0.0)
    else:
        step = Muon(decoder, 1.0, betas, eps, 0.0, 0.95)
    before = {place: decoder.get_submodule(place.module).weight.detach().clone() for place in PLACES}
    step.step()
    return {place: before[place] - decoder.get_submodule(place.module).weight.detach() for place in PLACES}


@pytest.mark.parametrize(("optimizer", "tolerance"), [("sgd", 1e-10), ("adamw", 1e-4), ("muon", 0.02)])
def test_an_update_is_the_first_step_that_an_optimiser_of_the_whole_decoder_makes(optimizer, tolerance):
    decoder = tiny()
    captured = capture(decoder, EXAMPLES[1:2], PLACES, torch.float64)
    for place, wanted in stepped(optimizer, (0.8, 0.99), 1e-8).items():
        found = update(captured.factors(0, place).gradient, optimizer, 1e-8)
        assert (found - wanted).norm() < tolerance * wanted.norm()


def test_an_update_of_adamw_is_the_sign_but_for_eps_and_the_gradients_type_stays():
    gradient = torch.tensor([[3.0, -1e-3], [1e-8, 0.0]]).double()
    found = update(gradient, "adamw", 1e-8)
    torch.testing.assert_close(found, torch.tensor([[1.0, -1.0], [0.5, 0.0]]).double(), rtol=1e-4, atol=1e-6)
    for optimizer in OPTIMIZERS:
        with torch.inference_mode():
            assert update(gradient.float(), optimizer, 1e-8).dtype == torch.float32


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("place", PLACES)
def test_what_is_told_of_an_update_is_what_its_svd_and_the_gradients_say(optimizer, place):
    decoder = tiny()
    factors = capture(decoder, EXAMPLES[1:2], places_of(decoder, None), torch.float64).factors(0, place)
    gradient = factors.gradient
    found, told = update(gradient, optimizer, 1e-8), made(factors, place.matrix, optimizer, 1e-8, 4)
    left, values, right = torch.linalg.svd(gradient, full_matrices=False)
    rank = int((values > 1e-12 * values[0]).sum())
    own = torch.linalg.svdvals(found)
    assert told.rank == int((own > told.tolerance * own[0]).sum())
    assert told.stable_rank == pytest.approx((found.norm() / own[0]).square().item(), rel=1e-9)
    assert told.norm == pytest.approx(found.norm().item(), rel=1e-9)
    assert told.cosine == pytest.approx(torch.cosine_similarity(found.flatten(), gradient.flatten(), 0).item())
    columns, rows = left[:, :rank], right[:rank]
    kept = columns @ columns.mT @ found @ rows.mT @ rows
    assert told.inside == pytest.approx((kept.norm() / found.norm()).square().item(), rel=1e-6)
    wanted = found @ factors.inputs[4] if place.matrix in WRITES else found.mT @ factors.deltas[4]
    torch.testing.assert_close(told.vector, wanted, rtol=1e-12, atol=1e-12)
    assert len(told.vector) == WIDTH


def test_sgd_keeps_the_rank_of_one_token_and_the_others_do_not_keep_to_its_rows_and_columns():
    draw = torch.Generator().manual_seed(2)
    inputs, deltas = (torch.randn(1, width, generator=draw, dtype=torch.float64) for width in (HIDDEN, WIDTH))
    found = {each: made(Factors(inputs, 1e-3 * deltas), "down", each, 1e-8, 0) for each in OPTIMIZERS}
    assert (found["sgd"].rank, found["sgd"].inside) == (1, pytest.approx(1))
    assert found["adamw"].inside < 0.7  # signs of rows and columns are other rows and columns
    assert found["muon"].rank > 10  # what bfloat16 rounds off is brought up
    assert found["muon"].inside < 0.9
    assert found["sgd"].stable_rank == pytest.approx(1)
    assert made(Factors(inputs, 0 * deltas), "down", "muon", 1e-8, 0) is None
