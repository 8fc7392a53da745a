"""Imprint and shift are what the moved layer gives on the same inputs; a forward-pass shift adds what it says."""

import copy

import pytest
import torch
from gradients.tiny import EXAMPLES, LAYERS, tiny

from lab.base.errors import UserError
from lab.gradients.capture import MATRICES, Example, Place, capture, capture_inputs, places_of
from lab.gradients.steps import forward_shift, moved, swiglu_after
from lab.model.decoder import Decoder
from lab.observe import taps

STEP = 0.3


def stepped(decoder: Decoder, layer: int, matrices: list[str], gradients: dict[str, torch.Tensor]) -> Decoder:
    """A float64 copy, some of whose matrices are moved against their gradients."""
    moved_one = copy.deepcopy(decoder).double()
    moved_one.compute_dtype = torch.float64
    with torch.no_grad():
        for matrix in matrices:
            weight = moved_one.get_submodule(Place(layer, matrix).module).weight
            weight.sub_(STEP * gradients[matrix])
    return moved_one


@pytest.mark.parametrize("matrix", MATRICES)
@pytest.mark.parametrize("layer", [1, LAYERS])
def test_the_same_inputs_give_what_the_terms_of_all_tokens_say(matrix, layer):
    decoder, place = tiny(), Place(layer, matrix)
    captured = capture(decoder, EXAMPLES, [place], torch.float64)
    for number in range(len(EXAMPLES)):
        factors = captured.factors(number, place)
        module = stepped(decoder, layer, [matrix], {matrix: factors.gradient}).get_submodule(place.module)
        before = factors.inputs @ decoder.get_submodule(place.module).weight.double().mT
        after = module(factors.inputs)
        torch.testing.assert_close(before + moved(factors, STEP), after, rtol=1e-11, atol=1e-11)


def test_the_last_tokens_term_alone_is_not_the_whole():
    decoder, place = tiny(), Place(1, "down")
    factors = capture(decoder, EXAMPLES[1:2], [place], torch.float64).factors(0, place)
    whole = moved(factors, STEP)[-1]
    own = -STEP * factors.inputs[-1].square().sum() * factors.deltas[-1]
    assert (whole - own).norm() > 0.05 * whole.norm()
    shifts = (moved(factors, STEP) * factors.deltas).sum()  # all tokens together go against their signals
    assert shifts < 0


@pytest.mark.parametrize("layer", [1, 2, LAYERS])
def test_a_feed_forward_of_which_all_matrices_move_gives_what_the_algebra_of_swiglu_says(layer):
    decoder = tiny()
    matrices = ["gate", "up", "down"]
    captured = capture(decoder, EXAMPLES, places_of(decoder, [layer], matrices), torch.float64)
    for number in range(len(EXAMPLES)):
        gate, up, down = (captured.factors(number, Place(layer, matrix)) for matrix in matrices)
        gradients = {"gate": gate.gradient, "up": up.gradient, "down": down.gradient}
        feed = stepped(decoder, layer, matrices, gradients).get_submodule(f"blocks.{layer - 1}.feed_forward")
        wanted = feed(gate.inputs[None])[0]
        found = swiglu_after(decoder, layer, gate, up, down, STEP)
        torch.testing.assert_close(found, wanted, rtol=1e-10, atol=1e-10)


def test_inputs_alone_are_those_of_a_capture_and_take_no_backward_pass():
    decoder = tiny()
    places = places_of(decoder, None)
    captured = capture(decoder, EXAMPLES, places, torch.float64)
    alone = capture_inputs(decoder, EXAMPLES, places, torch.float64)
    for place in places:
        assert torch.equal(alone[place], captured.inputs[place])
        assert not alone[place].requires_grad
    assert sum(len(each._forward_pre_hooks) for each in decoder.modules()) == 0


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("rows", [1.0, 30.0])
@pytest.mark.parametrize("layer", [1, LAYERS])
def test_a_forward_pass_shift_adds_so_many_rows_of_the_target_where_the_prompt_ends(tied, rows, layer):
    decoder, example = tiny(tied=tied), EXAMPLES[0]
    before = {name: each.clone() for name, each in decoder.state_dict().items()}
    update = forward_shift(decoder, [example], layer, rows, torch.float64)
    assert all(torch.equal(each, before[name]) for name, each in decoder.state_dict().items())
    assert torch.linalg.matrix_rank(update) == 1
    place = Place(layer, "down").module
    edited = copy.deepcopy(decoder)
    edited.compute_dtype = torch.float64
    seen = []
    for change in (0.0, 1.0):
        with torch.no_grad():
            edited.double().get_submodule(place).weight.add_(change * update)
        with torch.no_grad(), taps.reading(edited, place) as tapped:
            edited.hidden(torch.tensor([example.prompt]))
        seen.append(tapped[place][0, -1])
    row = (decoder.embedding if tied else decoder.head.weight)[example.target[0]].double()
    torch.testing.assert_close(seen[1] - seen[0], rows * row, rtol=1e-10, atol=1e-10)


def test_a_large_shift_makes_the_target_the_answer_and_several_are_added_up():
    decoder = tiny()
    examples = [Example(each.prompt, each.target[:1]) for each in EXAMPLES[:2]]
    updates = [forward_shift(decoder, [each], LAYERS, 60.0, torch.float64) for each in examples]
    together = forward_shift(decoder, examples, LAYERS, 60.0, torch.float64)
    torch.testing.assert_close(together, sum(updates), rtol=1e-10, atol=1e-10)
    for example, update in zip(examples, updates, strict=True):
        edited = copy.deepcopy(decoder)
        with torch.no_grad():
            edited.get_submodule(Place(LAYERS, "down").module).weight.add_(update)
        assert capture(decoder, [example], [], torch.float64).answers != [example.target[0]]
        assert capture(edited, [example], [], torch.float64).answers == [example.target[0]]


def test_a_shift_where_there_is_no_layer_or_no_input_is_told():
    decoder = tiny()
    for layer in (0, LAYERS + 1):
        with pytest.raises(UserError, match=rf"^layer is {layer}: the decoder has layers 1 to 3$"):
            forward_shift(decoder, EXAMPLES[:1], layer, 1.0, torch.float64)
    with torch.no_grad():
        decoder.blocks[1].feed_forward.up.weight.zero_()
    with pytest.raises(UserError, match=r"is zero where a prompt ends: choose another layer"):
        forward_shift(decoder, EXAMPLES[:1], 2, 1.0, torch.float64)
