"""Captured factors are those of the gradient: batched and padded, against autograd one prompt at a time in float64,
and against finite differences."""

import copy

import pytest
import torch
from gradients.tiny import EXAMPLES, VARIANTS, tiny
from torch import Tensor

from lab.base.errors import UserError
from lab.gradients.capture import MATRICES, Example, Place, batches, capture, places_of
from lab.model.decoder import Decoder
from lab.model.position import NoPE, RoPE
from lab.model.recompute import recompute


def alone(decoder: Decoder, example: Example) -> tuple[float, dict[str, Tensor]]:
    """Loss and gradients of one prompt, written out: a copy whose weights are float64, the reference kernel, and
    torch's own log_softmax."""
    exact = copy.deepcopy(decoder).double()
    exact.compute_dtype = torch.float64
    for block in exact.blocks:
        block.attention.kernel = "reference"
    for parameter in exact.parameters():
        parameter.requires_grad_()
    text = torch.tensor([[*example.prompt, *example.target]])
    likely = exact(text[:, :-1]).log_softmax(-1)[0]
    loss = -sum(likely[len(example.prompt) - 1 + number, token] for number, token in enumerate(example.target))
    loss.backward()
    return loss.item(), {name: each.grad for name, each in exact.named_parameters() if each.grad is not None}


def close(found: Tensor, wanted: Tensor) -> None:
    torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-11 * max(1.0, wanted.abs().max().item()))


@pytest.mark.parametrize(("kind", "window"), VARIANTS)
@pytest.mark.parametrize(("kv_heads", "tied"), [(1, False), (2, True), (4, False)])
def test_each_prompts_factors_give_its_own_gradient_in_a_padded_batch(kind, window, kv_heads, tied):
    decoder = tiny(kind, window, kv_heads, tied)
    places = places_of(decoder, None)
    assert len(places) == 7 * len(decoder.blocks)
    captured = capture(decoder, EXAMPLES, places, torch.float64)
    for number, example in enumerate(EXAMPLES):
        loss, gradients = alone(decoder, example)
        assert captured.losses[number].item() == pytest.approx(loss, rel=1e-12)
        for place in places:
            factors = captured.factors(number, place)
            assert len(factors.inputs) == len(factors.deltas) == len(example.prompt) + len(example.target) - 1
            close(factors.gradient, gradients[f"{place.module}.weight"])
            assert captured.deltas[place][number, len(example.read) :].count_nonzero() == 0


@pytest.mark.parametrize(("kind", "window"), VARIANTS[:6])
def test_single_entries_are_what_finite_differences_say(kind, window):
    decoder = tiny(kind, window)
    captured = capture(decoder, EXAMPLES[:2], places_of(decoder, None), torch.float64)
    exact = copy.deepcopy(decoder).double()
    step = 1e-6
    draw = torch.Generator().manual_seed(1)
    for place in captured.deltas:
        weight = exact.get_submodule(place.module).weight
        row, column = (int(torch.randint(0, side, (1,), generator=draw)) for side in weight.shape)
        kept = weight[row, column].item()
        losses = []
        for sign in (1, -1):
            with torch.no_grad():
                weight[row, column] = kept + sign * step
            losses.append(capture(exact, EXAMPLES[:2], [], torch.float64).losses)
        with torch.no_grad():
            weight[row, column] = kept
        slope = (losses[0] - losses[1]) / (2 * step)
        for number in range(2):
            entry = captured.factors(number, place).gradient[row, column]
            assert entry.item() == pytest.approx(slope[number].item(), rel=1e-6, abs=1e-8)


def test_float32_gives_the_same_up_to_its_rounding_whatever_type_the_decoder_was_trained_in():
    decoder = tiny()
    decoder.compute_dtype = torch.bfloat16
    places = places_of(decoder, [2])
    fine, coarse = (capture(decoder, EXAMPLES, places, dtype) for dtype in (torch.float64, torch.float32))
    assert decoder.compute_dtype == torch.bfloat16
    for place in places:
        assert (fine.deltas[place].dtype, coarse.deltas[place].dtype) == (torch.float64, torch.float32)
        largest = fine.deltas[place].abs().max().item()
        torch.testing.assert_close(coarse.deltas[place].double(), fine.deltas[place], rtol=0, atol=1e-4 * largest)


def test_the_answer_is_the_likeliest_token_behind_the_prompt():
    decoder = tiny()
    captured = capture(decoder, EXAMPLES, [], torch.float64)
    for number, example in enumerate(EXAMPLES):
        assert captured.answers[number] == decoder(torch.tensor([example.prompt]))[0, -1].argmax().item()


@pytest.mark.parametrize("frozen", [False, True])
def test_nothing_is_left_behind_and_one_pass_each_way_is_made(frozen):
    decoder = tiny()
    for parameter in decoder.parameters():
        parameter.requires_grad_(not frozen)
    before = {name: each.clone() for name, each in decoder.state_dict().items()}
    passes = []
    decoder.norm.register_forward_hook(lambda *_: passes.append("forward"))
    decoder.norm.register_full_backward_hook(lambda *_: passes.append("backward"))
    with torch.inference_mode():  # even there
        capture(decoder, EXAMPLES, places_of(decoder, None), torch.float64)
    assert passes == ["forward", "backward"]
    decoder.norm._forward_hooks.clear()
    assert all(each.grad is None and each.requires_grad is not frozen for each in decoder.parameters())
    assert all(torch.equal(each, before[name]) for name, each in decoder.state_dict().items())
    assert sum(len(each._forward_hooks) + len(each._forward_pre_hooks) for each in decoder.modules()) == 0
    assert {block.attention.kernel for block in decoder.blocks} == {"auto"}
    assert decoder.compute_dtype == torch.float32


@pytest.mark.parametrize("what", ["weight", "loss"])
def test_what_is_not_finite_is_told_in_a_line_and_nothing_is_left_behind(what):
    decoder = tiny()
    with torch.no_grad():
        if what == "loss":
            decoder.head.weight[0, 0] = torch.nan
        else:  # the square of the largest is beyond float64: the forward pass stays finite, the backward does not
            decoder.norm.weight.fill_(torch.inf)
    with pytest.raises(UserError, match=r"is not finite: the weights are damaged") as told:
        capture(decoder, EXAMPLES, places_of(decoder, None), torch.float64)
    assert "\n" not in str(told.value)
    assert sum(len(each._forward_hooks) + len(each._forward_pre_hooks) for each in decoder.modules()) == 0


def test_a_gradient_that_is_not_finite_names_the_matrix(monkeypatch):
    decoder = tiny()
    found = torch.autograd.grad

    def broken(*given, **options):
        deltas = list(found(*given, **options))
        deltas[MATRICES.index("up")][0, 0, 0] = torch.inf
        return tuple(deltas)

    monkeypatch.setattr(torch.autograd, "grad", broken)
    with pytest.raises(UserError, match=r"^the gradient of up in layer 1 is not finite: "):
        capture(decoder, EXAMPLES, places_of(decoder, None), torch.float64)


def test_blocks_that_are_formed_again_are_refused():
    decoder = tiny()
    recompute(decoder, "all")
    with pytest.raises(UserError, match="is formed again in the backward pass"):
        capture(decoder, EXAMPLES, places_of(decoder, None), torch.float64)


@pytest.mark.parametrize("layers", [[0], [4], [1, 9], [-1]])
def test_a_layer_that_there_is_not_is_told(layers):
    with pytest.raises(UserError, match=rf"^layers has {layers[-1]}: the decoder has layers 1 to 3$"):
        places_of(tiny(), layers)


def test_layers_are_counted_from_one():
    assert [place.module for place in places_of(tiny(), [1, 3], ["gate", "key"])] == [
        "blocks.0.feed_forward.gate",
        "blocks.0.attention.key",
        "blocks.2.feed_forward.gate",
        "blocks.2.attention.key",
    ]


class Stretched(RoPE):
    """Rotations that depend on the length of the whole text."""

    depends_on_length = True

    def scale(self, length: int) -> float:
        return 1 + length / 10


def test_batches_hold_every_example_once_and_no_more_tokens_than_they_may():
    for longest in (1, 5, 12, 40, 10_000):
        made = batches(EXAMPLES, longest, tiny().position)
        assert sorted(number for batch in made for number in batch) == list(range(len(EXAMPLES)))
        for batch in made:
            assert len(batch) == 1 or len(batch) * max(len(EXAMPLES[each].read) for each in batch) <= longest
    assert len(batches(EXAMPLES, 10_000, tiny().position)) == 1


def test_where_padding_would_change_rotations_only_equal_lengths_go_together():
    decoder = tiny(Stretched)
    examples = [*EXAMPLES, Example((1, 2, 3, 4, 6), (9,))]
    made = batches(examples, 10_000, decoder.position)
    assert sorted(map(len, made)) == [1, 1, 1, 1, 2]
    with pytest.raises(ValueError, match="rotations depend on the length"):
        capture(decoder, examples, [], torch.float64)
    (pair,) = (each for each in made if len(each) == 2)
    place = Place(2, "key")
    captured = capture(decoder, [examples[each] for each in pair], [place], torch.float64)
    for number, each in enumerate(pair):
        close(captured.factors(number, place).gradient, alone(decoder, examples[each])[1][f"{place.module}.weight"])


def test_inputs_that_several_matrices_read_are_held_once():
    decoder = tiny(NoPE)
    captured = capture(decoder, EXAMPLES, places_of(decoder, [1]), torch.float64)
    shared = [captured.inputs[Place(1, matrix)].data_ptr() for matrix in MATRICES]
    assert len(set(shared)) == 4


def test_it_works_after_a_pass_in_inference_mode():
    decoder = tiny(RoPE)
    with torch.inference_mode():
        decoder(torch.zeros(1, 64, dtype=torch.int64))
    place = Place(2, "key")
    captured = capture(decoder, EXAMPLES, [place], torch.float64)
    close(captured.factors(1, place).gradient, alone(tiny(RoPE), EXAMPLES[1])[1][f"{place.module}.weight"])
