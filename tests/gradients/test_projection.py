"""Vectors through the final norm and the head: against the written-out formula; directions, ties, zeros."""

import pytest
import torch
from gradients.tiny import VOCABULARY, WIDTH, tiny
from torch.nn import functional

from lab.gradients.projection import ends, project, ranked, shown

VECTORS = torch.randn(6, WIDTH, generator=torch.Generator().manual_seed(2), dtype=torch.float64)


@pytest.mark.parametrize("tied", [False, True])
def test_it_is_the_final_norm_and_the_head_of_the_decoder(tied):
    decoder = tiny(tied=tied)
    matrix = (decoder.embedding if tied else decoder.head.weight).double()
    normed = functional.rms_norm(VECTORS, (WIDTH,), decoder.norm.weight.double(), eps=0)
    torch.testing.assert_close(project(decoder, VECTORS), normed @ matrix.mT, rtol=1e-12, atol=1e-12)
    decoder.norm.eps = 0.0
    torch.testing.assert_close(project(decoder, VECTORS), decoder.logits(decoder.norm(VECTORS)), rtol=1e-12, atol=1e-12)
    assert not project(decoder, VECTORS).requires_grad


@pytest.mark.parametrize("factor", [1e-300, 1e-160, 1e-30, 1.0, 8.0, 1e200])
def test_length_changes_nothing_however_small_and_a_negative_vector_is_the_negative(factor):
    decoder = tiny()
    logits = project(decoder, VECTORS)
    torch.testing.assert_close(project(decoder, VECTORS * factor), logits, rtol=1e-9, atol=1e-9)
    assert torch.equal(project(decoder, -VECTORS), -logits)
    tokens = torch.arange(6)
    ranks = ranked(logits, tokens).rank
    assert torch.equal(ranked(project(decoder, VECTORS * factor), tokens).rank, ranks)
    assert torch.equal(ranked(-logits, tokens).rank, VOCABULARY - 1 - ranks)
    assert ends(-logits, 4) == tuple(reversed(ends(logits, 4)))


def test_a_vector_of_zeros_shows_nothing():
    vectors = torch.cat((VECTORS[:2], torch.zeros(1, WIDTH, dtype=torch.float64)))
    assert shown(vectors).tolist() == [True, True, False]
    assert project(tiny(), vectors)[2].count_nonzero() == 0


def test_ranks_are_counted_from_the_top_and_ties_share_the_mean_of_their_places():
    logits = torch.tensor([[3.0, 1.0, 2.0, 1.0, 1.0, 0.0]]).double().expand(6, 6)
    found = ranked(logits, torch.arange(6))
    assert found.above.tolist() == [0, 2, 1, 2, 2, 5]
    assert found.ties.tolist() == [0, 2, 0, 2, 2, 0]
    assert found.rank.tolist() == [0, 3, 1, 3, 3, 5]


def test_ends_are_in_order_and_no_more_than_there_are_tokens():
    logits = torch.tensor([[0.5, -2.0, 3.0, 1.0]]).double()
    assert ends(logits, 2) == ([[2, 3]], [[1, 0]])
    assert ends(logits, 9) == ([[2, 3, 0, 1]], [[1, 0, 3, 2]])
