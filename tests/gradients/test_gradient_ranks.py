"""The rank from the factors is that of autograd's gradient by SVD, and the bounds hold and are reached."""

import pytest
import torch
from gradients.tiny import EXAMPLES, HEADS, LAYERS, VARIANTS, VOCABULARY, encoding, tiny

from lab.gradients.capture import MATRICES, Example, Place, capture, places_of
from lab.gradients.ranks import Shape, bound, ranks, shape_of, sides, singular_values
from lab.model.position import ALiBi, Learned, NoPE, RoPE, Sinusoidal

ALL = [(NoPE, None), (RoPE, None), (ALiBi, None), (NoPE, 3), (RoPE, 3), (ALiBi, 3), (RoPE, 1), (Learned, None)]


@pytest.mark.parametrize(("kind", "window"), VARIANTS)
@pytest.mark.parametrize("kv_heads", [1, 2])
def test_ranks_are_those_of_the_gradient_by_svd_and_within_their_bounds(kind, window, kv_heads):
    decoder = tiny(kind, window, kv_heads)
    shape = shape_of(decoder)
    captured = capture(decoder, EXAMPLES, places_of(decoder, None), torch.float64)
    for place, found in ranks(captured).items():
        assert sides(shape, place) == tuple(decoder.get_submodule(place.module).weight.shape)
        for number, example in enumerate(EXAMPLES):
            gradient = captured.factors(number, place).gradient
            values = torch.linalg.svdvals(gradient)
            tolerance = max(gradient.shape) * torch.finfo(torch.float64).eps
            assert found[number].tolerance == tolerance
            wanted = int((values > tolerance * values[0]).sum())
            assert found[number].rank == wanted == int(torch.linalg.matrix_rank(gradient))
            assert wanted <= bound(shape, place, example.read, len(example.target)) <= len(example.read)
            if wanted:
                least = (values[wanted - 1] / values[0]).item()
                assert found[number].least_counted == pytest.approx(least, rel=1e-6)
                assert found[number].greatest_left < tolerance < found[number].least_counted


@pytest.mark.parametrize(("kind", "window"), VARIANTS)
def test_bounds_are_reached_by_different_tokens(kind, window):
    """By a decoder whose sides are larger than the number of tokens."""
    decoder = tiny(kind, window, kv_heads=4)
    shape = shape_of(decoder)
    captured = capture(decoder, EXAMPLES[:4], places_of(decoder, None), torch.float64)
    for place, found in ranks(captured).items():
        for number, example in enumerate(EXAMPLES[:4]):
            assert found[number].rank == bound(shape, place, example.read, len(example.target)), (place, number)


def last_layer(kind, targets: int = 1, window: int | None = None, tokens: int = 9) -> dict[str, int]:
    decoder = tiny(kind, window, kv_heads=2)
    example = Example(tuple(range(tokens - targets + 1)), tuple(range(20, 20 + targets)))
    captured = capture(decoder, [example], places_of(decoder, [LAYERS]), torch.float64)
    return {place.matrix: found.rank for place, (found,) in ranks(captured).items()}


def test_in_the_last_layer_one_target_token_gives_rank_one_and_value_has_that_of_the_query_heads():
    one = {"query": 1, "output": 1, "gate": 1, "up": 1, "down": 1, "value": HEADS}
    assert last_layer(RoPE) == one | {"key": 9}
    for kind in (NoPE, ALiBi):  # whose keys are not rotated
        assert last_layer(kind) == one | {"key": HEADS}
    two = {"query": 2, "output": 2, "gate": 2, "up": 2, "down": 2, "value": 2 * HEADS}
    assert last_layer(RoPE, 2, tokens=12) == two | {"key": 12}
    assert last_layer(NoPE, 2, tokens=12) == two | {"key": 2 * HEADS}
    assert last_layer(RoPE, 1, window=3) == one | {"key": 3, "value": 3}
    assert last_layer(NoPE, 1, window=3) == one | {"key": 2, "value": 3}


def test_a_window_lets_only_near_tokens_take_part():
    decoder = tiny(RoPE, 3)
    example = Example(tuple(range(15)), (20,))
    captured = capture(decoder, [example], places_of(decoder, None), torch.float64)
    found = {place: each[0].rank for place, each in ranks(captured).items()}
    assert [found[Place(layer, "down")] for layer in (1, 2, 3)] == [5, 3, 1]
    assert [found[Place(layer, "key")] for layer in (1, 2, 3)] == [7, 5, 3]
    with_gradient = (captured.deltas[Place(1, "down")][0] != 0).any(dim=-1)
    assert with_gradient.nonzero().flatten().tolist() == [10, 11, 12, 13, 14]


def test_the_first_token_asks_one_key_and_gets_no_signal():
    for kind, window in VARIANTS:
        captured = capture(tiny(kind, window), EXAMPLES, places_of(tiny(), None, ["query"]), torch.float64)
        for deltas in captured.deltas.values():
            largest = deltas.abs().max().item()
            assert deltas[:, 0].abs().max().item() <= 1e-12 * largest


def test_keys_that_are_not_rotated_have_signals_that_add_up_to_nothing():
    for kind, window in VARIANTS:
        decoder = tiny(kind, window)
        captured = capture(decoder, EXAMPLES, places_of(decoder, None, ["key"]), torch.float64)
        for deltas in captured.deltas.values():
            together = deltas.sum(dim=1).abs().max().item()
            if kind is not RoPE:
                assert together <= 1e-12 * deltas.abs().max().item()
            elif window != 1:
                assert together > 1e-3 * deltas.abs().max().item()


@pytest.mark.parametrize("kind", [RoPE, ALiBi, NoPE, Learned, Sinusoidal])
def test_equal_tokens_count_once_in_the_first_layer_and_at_the_beginning_of_a_text_in_all(kind):
    example = Example((4, 4, 4, 9, 4, 9, 11, 2), (20,))  # four different ones; those behind the first run are four, too
    decoder = tiny(kind, None, kv_heads=4)
    shape = shape_of(decoder)
    captured = capture(decoder, [example], places_of(decoder, None), torch.float64)
    found = {place: each[0].rank for place, each in ranks(captured).items()}
    placed, turned = kind in (Learned, Sinusoidal), kind is RoPE
    assert found[Place(1, "value")] == (8 if placed else 4)
    assert found[Place(1, "query")] == (7 if placed else 4)
    assert found[Place(1, "key")] == (8 if placed else 4) - (not turned)
    assert found[Place(1, "gate")] == found[Place(2, "value")] == (8 if placed else 6)
    assert found[Place(2, "query")] == (7 if placed else 5)
    assert found == {place: bound(shape, place, example.read, 1) for place in captured.deltas}


@pytest.mark.parametrize("kind", [RoPE, ALiBi, NoPE])
def test_a_text_of_one_token_repeated_has_rank_one_and_queries_and_keys_no_signal_but_rounding(kind):
    decoder, example = tiny(kind), Example((4,) * 6, (20,))
    captured = capture(decoder, [example], places_of(decoder, None), torch.float64)
    shape = shape_of(decoder)
    largest = max(deltas.abs().max() for deltas in captured.deltas.values())
    for place, (found,) in ranks(captured).items():
        if place.matrix in ("query", "key"):
            assert captured.deltas[place].abs().max() < 1e-12 * largest
            assert bound(shape, place, example.read, 1) == 0
        else:
            assert found.rank == bound(shape, place, example.read, 1) == 1


def test_rank_never_exceeds_the_sides_of_the_matrix():
    decoder = tiny(RoPE, kv_heads=1)  # whose keys and values are 8 wide
    draw = torch.Generator().manual_seed(3)
    example = Example(tuple(torch.randint(0, VOCABULARY, (60,), generator=draw).tolist()), (20,))
    shape = shape_of(decoder)
    captured = capture(decoder, [example], places_of(decoder, [1, 2]), torch.float64)
    for place, (found,) in ranks(captured).items():
        assert found.rank == min(sides(shape, place)) == bound(shape, place, example.read, 1)


def test_singular_values_are_those_of_the_product_with_padding_and_more_tokens_than_sides():
    draw = torch.Generator().manual_seed(3)
    for tokens in (1, 5, 30):
        inputs, deltas = (torch.randn(2, tokens, side, generator=draw, dtype=torch.float64) for side in (9, 12))
        deltas[1, tokens // 2 :] = 0
        for found, x, delta in zip(singular_values(inputs, deltas), inputs, deltas, strict=True):
            wanted = torch.linalg.svdvals(delta.mT @ x)[: len(found)]
            torch.testing.assert_close(found, wanted, rtol=1e-10, atol=1e-12)


def test_the_tolerance_is_that_of_the_type_that_was_computed_in():
    decoder = tiny(RoPE)
    captured = capture(decoder, EXAMPLES[:1], places_of(decoder, [2]), torch.float32)
    for place, (found,) in ranks(captured).items():
        assert found.tolerance == max(decoder.get_submodule(place.module).weight.shape) * torch.finfo(torch.float32).eps


@pytest.mark.parametrize(("kind", "window"), ALL)
def test_the_shape_says_what_the_position_encoding_does(kind, window):
    shape = shape_of(tiny(kind, window))
    assert shape.turned == (kind is RoPE)
    assert shape.placed == (kind is Learned)
    assert shape.windows == (window,) * LAYERS
    assert shape_of(tiny(Sinusoidal)).placed
    assert encoding(kind).heads == HEADS


def test_bounds_by_hand():
    shape = Shape((None, None), 4, 2, 8, 24, 40, True, False)
    read = (1, 2, 3, 2, 5)
    told = {matrix: [bound(shape, Place(layer, matrix), read, 1) for layer in (1, 2)] for matrix in MATRICES}
    assert told == {
        "query": [3, 1],
        "key": [4, 5],
        "value": [4, 4],
        "output": [5, 1],
        "gate": [5, 1],
        "up": [5, 1],
        "down": [5, 1],
    }
