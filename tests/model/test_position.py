"""Position encodings against formulas written independently of them."""

import math

import numpy as np
import pytest
import torch
from oracles.rotation import rotation

from lab.base.errors import UserError
from lab.model.position import ALiBi, NoPE, RoPE, alibi_slopes


def vectors(heads: int, time: int, width: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    draw = torch.Generator().manual_seed(heads * 100 + time)
    return torch.randn(1, heads, time, width, generator=draw, dtype=torch.float64).to(dtype)


def test_nope_changes_nothing():
    query, key = vectors(4, 9, 8), vectors(2, 9, 8)
    position = NoPE(4, 8)
    turned_query, turned_key = position.rotate(query, key, torch.arange(9))
    assert turned_query is query
    assert turned_key is key
    assert position.slopes is None


# RoPE.


@pytest.mark.parametrize("base", [10_000.0, 500_000.0])
def test_rope_angles_are_position_over_base_to_the_2i_over_d(base):
    positions = [0, 1, 2, 77, 2047, 2048, 65_535, 131_072]
    rope = RoPE(2, 16, base=base)
    rope.reach(131_073)
    for position in positions:
        for i in range(8):
            angle = position / base ** (2 * i / 16)
            # 1e-7 is a rounding to float32; angles formed in float32 would be off by 1e-2 at 131,072
            assert float(rope.table[0, position, i]) == pytest.approx(math.cos(angle), abs=1e-7)
            assert float(rope.table[1, position, i]) == pytest.approx(math.sin(angle), abs=1e-7)


def test_rope_turns_the_pairs_i_and_i_plus_half_by_their_angle():
    query, key = vectors(4, 5, 16), vectors(2, 5, 16)
    positions = [0, 1, 30, 31, 4000]
    rope = RoPE(4, 16)
    rope.reach(4001)
    for given, turned in zip((query, key), rope.rotate(query, key, torch.tensor(positions)), strict=True):
        for head in range(given.shape[1]):
            for row, position in enumerate(positions):
                expected = rotation(given[0, head, row].double().numpy(), position)
                np.testing.assert_allclose(turned[0, head, row].numpy(), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("shift", [1, 2048, 65_536, 131_072])
def test_rope_scores_do_not_change_when_all_positions_shift(shift):
    query, key = vectors(2, 64, 64), vectors(2, 64, 64).flip(2)
    rope = RoPE(2, 64)
    rope.reach(shift + 64)

    def scores(first: int) -> torch.Tensor:
        turned_query, turned_key = rope.rotate(query, key, torch.arange(first, first + 64))
        return turned_query.double() @ turned_key.double().mT / math.sqrt(64)

    torch.testing.assert_close(scores(shift), scores(0), rtol=0, atol=1e-5)


def test_rope_scores_change_when_only_queries_shift():
    query = key = vectors(2, 64, 64)
    rope = RoPE(2, 64)
    rope.reach(65)
    at_home, _ = rope.rotate(query, key, torch.arange(64))
    shifted, turned_key = rope.rotate(query, key, torch.arange(1, 65))
    assert ((at_home - shifted) @ turned_key.mT).abs().max() > 1


def test_rope_in_bfloat16_is_rope_in_float32_rounded_once():
    query, key = vectors(2, 40, 16, torch.bfloat16), vectors(1, 40, 16, torch.bfloat16)
    rope = RoPE(2, 16)
    rope.reach(40)
    rounded = rope.rotate(query, key, torch.arange(40))
    accurate = rope.rotate(query.float(), key.float(), torch.arange(40))
    for one, other in zip(rounded, accurate, strict=True):
        assert one.dtype == torch.bfloat16
        assert torch.equal(one, other.to(torch.bfloat16))


def test_rope_at_a_position_does_not_depend_on_how_far_it_has_reached():
    short, long = RoPE(2, 16), RoPE(2, 16)
    short.reach(10)
    long.reach(1000)
    long.reach(10)
    assert torch.equal(short.table, long.table[:, :10])


def test_rope_that_reached_further_in_inference_mode_still_trains():
    query, key = vectors(2, 8, 16).requires_grad_(), vectors(1, 8, 16).requires_grad_()
    rope = RoPE(2, 16)
    with torch.inference_mode():
        rope.reach(8)
    turned, _ = rope.rotate(query, key, torch.arange(8))
    turned.square().sum().backward()
    torch.testing.assert_close(query.grad, 2 * query.detach())  # a rotation keeps lengths


@pytest.mark.parametrize("head_dim", [1, 7, 65])
def test_rope_refuses_an_odd_head_dim(head_dim):
    with pytest.raises(UserError, match=f"head_dim is {head_dim}"):
        RoPE(2, head_dim)


# ALiBi.


@pytest.mark.parametrize(
    ("heads", "exponents"),
    [
        (1, [8]),
        (2, [4, 8]),
        (3, [4, 8, 2]),
        (8, [1, 2, 3, 4, 5, 6, 7, 8]),  # the paper, section 3
        (12, [1, 2, 3, 4, 5, 6, 7, 8, 0.5, 1.5, 2.5, 3.5]),  # the authors' code, as 1, 2, 3 and 32
        (16, [0.5, 1, 1.5, 2, 2.5, 3, 3.5, 4, 4.5, 5, 5.5, 6, 6.5, 7, 7.5, 8]),  # the paper, section 3
        (32, [(h + 1) / 4 for h in range(32)]),
    ],
)
def test_alibi_slopes_are_the_authors(heads, exponents):
    slopes = alibi_slopes(heads)
    assert slopes.dtype == torch.float32
    expected = torch.tensor([2.0**-exponent for exponent in exponents], dtype=torch.float32)
    torch.testing.assert_close(slopes, expected, rtol=1e-7, atol=0)


def test_alibi_leaves_queries_and_keys_alone_and_gives_its_slopes():
    query, key = vectors(4, 9, 8), vectors(2, 9, 8)
    position = ALiBi(4, 8)
    turned_query, turned_key = position.rotate(query, key, torch.arange(9))
    assert turned_query is query
    assert turned_key is key
    assert torch.equal(position.slopes, alibi_slopes(4))
