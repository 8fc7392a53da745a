"""A gradient's principal direction and neurons: against the SVD of the gradient that is formed, and by hand."""

import pytest
import torch
from gradients.tiny import EXAMPLES, VARIANTS, VOCABULARY, tiny

from lab.gradients.capture import Factors, Place, capture, places_of
from lab.gradients.projection import project
from lab.gradients.whole import WRITES, alike, principal


@pytest.mark.parametrize(("kind", "window"), VARIANTS)
def test_the_principal_direction_is_the_first_singular_vector_of_the_gradient_that_is_formed(kind, window):
    decoder = tiny(kind, window)
    captured = capture(decoder, EXAMPLES, places_of(decoder, None), torch.float64)
    compared = 0
    for place in captured.deltas:
        found = principal(captured.inputs[place], captured.deltas[place], place.matrix)
        for number in range(len(EXAMPLES)):
            factors = captured.factors(number, place)
            left, values, right = torch.linalg.svd(factors.gradient, full_matrices=False)
            if values[0] == 0 or values[0] < 1e-12:  # nothing but rounding
                continue
            squares = (values / values[0]).square()
            assert found.shares[number].item() == pytest.approx(1 / squares.sum().item(), rel=1e-9)
            if values[1] > 0.99 * values[0]:  # two directions alike
                continue
            wanted = left[:, 0] if place.matrix in WRITES else right[0]
            vector = found.vectors[number]
            assert vector.norm().item() == pytest.approx(1, rel=1e-12)
            assert abs((vector @ wanted).item()) == pytest.approx(1, rel=1e-9)
            inputs, deltas = factors
            towards = inputs.norm(dim=-1) @ deltas if place.matrix in WRITES else deltas.norm(dim=-1) @ inputs
            assert vector @ towards >= 0
            compared += 1
    assert compared > 3 * len(captured.deltas)


def test_of_one_token_it_is_that_tokens_vector_and_all_of_the_gradient():
    inputs, deltas = torch.tensor([[[3.0, 4.0]]]).double(), torch.tensor([[[0.0, -2.0, 0.0]]]).double()
    read, written = (principal(inputs, deltas, matrix) for matrix in ("gate", "down"))
    torch.testing.assert_close(read.vectors, torch.tensor([[0.6, 0.8]]).double())
    torch.testing.assert_close(written.vectors, torch.tensor([[0.0, -1.0, 0.0]]).double())
    assert read.shares.tolist() == written.shares.tolist() == [1.0]


@pytest.mark.parametrize("size", [1e-200, 1.0, 1e150])
def test_it_does_not_depend_on_the_size_of_signals_and_of_no_signal_there_is_none(size):
    draw = torch.Generator().manual_seed(3)
    inputs, deltas = (torch.randn(2, 5, width, generator=draw, dtype=torch.float64) for width in (7, 4))
    deltas[1] = 0
    found, plain = (principal(inputs, each, "down") for each in (deltas * size, deltas))
    torch.testing.assert_close(found.vectors, plain.vectors, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(found.shares, plain.shares, rtol=1e-9, atol=1e-9)
    assert found.vectors[1].count_nonzero() == 0
    assert found.shares[1] == 0


@pytest.mark.parametrize("matrix", ["gate", "down"])
def test_neurons_are_rows_or_columns_of_the_gradient_and_are_held_against_each_token(matrix):
    decoder, place = tiny(), Place(2, matrix)
    factors = capture(decoder, EXAMPLES[1:2], [place], torch.float64).factors(0, place)
    neurons = factors.gradient.mT if matrix in WRITES else factors.gradient
    spanning = factors.deltas if matrix in WRITES else factors.inputs
    found = alike(decoder, factors, matrix, 6)
    order = neurons.norm(dim=-1).argsort(descending=True).tolist()
    assert [each.neuron for each in found] == order[:6]
    half = VOCABULARY // 2
    for each in found:
        vector = neurons[each.neuron]
        assert each.norm == pytest.approx(vector.norm().item(), rel=1e-9)
        assert each.positions == list(range(len(spanning)))
        for position, cosine, overlap in zip(each.positions, each.cosines, each.overlaps, strict=True):
            other = spanning[position]
            assert cosine == pytest.approx(torch.cosine_similarity(vector, other, dim=0).item(), abs=1e-9)
            first = set(project(decoder, other[None])[0].argsort(descending=True)[:half].tolist())
            logits = project(decoder, vector[None])[0]
            same, opposite = (
                len(first & set(logits.argsort(descending=end)[:half].tolist())) / half for end in (True, False)
            )
            assert overlap == (same if same >= opposite else -opposite)
    assert {each > 0 for every in found for each in every.overlaps} == {True, False}


def test_the_neurons_of_one_token_are_its_vector_or_its_opposite():
    decoder = tiny()
    vector = torch.randn(1, 24, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    found = alike(decoder, Factors(torch.tensor([[2.0, -3.0, 0.0]]).double(), vector), "down", 9)
    assert [each.neuron for each in found] == [1, 0]  # the third is zero
    assert [each.cosines[0] for each in found] == pytest.approx([-1, 1])
    assert [each.overlaps[0] for each in found] == [-1.0, 1.0]
