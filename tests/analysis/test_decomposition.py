"""Positional vectors: means by loops, the additive fit by least squares, and how far two halves agree."""

import numpy as np
import pytest
import torch
from analysis.decompositions import decomposition
from measure.tiny_decoders import CONTEXT, VARIANTS, VOCABULARY, document, source_of, tiny

from lab.analysis.decomposition import Decomposition
from lab.base.errors import UserError
from lab.observe.fold import Fold
from lab.observe.vectors import FIRST, additive

LENGTH = 4 * CONTEXT
DOCUMENTS = (70, 20, 130, 64)  # 2, none, 4 and 2 windows


def fold_of(made: Decomposition, decoder, *lengths: int) -> Fold:
    fold = Fold({})
    for item in made.items(source_of(*(lengths or DOCUMENTS))):
        with torch.inference_mode():
            fold.add(item.name, made.observe(decoder, item, CONTEXT))
    return fold


def windows(count: int | None = None) -> list[np.ndarray]:
    cut = [
        ids[start : start + LENGTH]
        for ids in (document(tokens, number) for number, tokens in enumerate(DOCUMENTS))
        for start in range(0, len(ids) - LENGTH + 1, LENGTH)
    ]
    return cut[:count]


def states(decoder, window: np.ndarray, layer: int) -> torch.Tensor:
    """What leaves a block, by calling the blocks one after the other."""
    x = decoder.embedding[torch.tensor(window.astype(np.int64))][None].double()
    decoder.position.reach(LENGTH)
    for block in decoder.blocks[:layer]:
        x = block(x, decoder.position, torch.arange(LENGTH), None, None, 1.0)
    return x[0]


@pytest.mark.parametrize("group", [1, 3, 100])
@pytest.mark.parametrize(("position", "window"), VARIANTS)
def test_a_positional_vector_is_the_mean_state_of_its_position_and_layer(position, window, group) -> None:
    decoder, made = tiny(position, window), decomposition(group=group)
    vectors = made.vectors(fold_of(made, decoder), CONTEXT)
    assert (vectors.layers, vectors.windows) == (3, 8)
    with torch.inference_mode():
        for layer in range(3):
            each = torch.stack([states(decoder, window, layer) for window in windows()])
            torch.testing.assert_close(vectors.p(layer), each.mean(0), atol=1e-12, rtol=1e-9)
            torch.testing.assert_close(vectors.p(layer, 0), each[0::2].mean(0), atol=1e-12, rtol=1e-9)
            torch.testing.assert_close(vectors.p(layer, 1), each[1::2].mean(0), atol=1e-12, rtol=1e-9)
            mean = each.mean(0)[:CONTEXT].mean(0)
            torch.testing.assert_close(vectors.u(layer), mean, atol=1e-12, rtol=1e-9)
            torch.testing.assert_close(vectors.m(layer), each.mean(0) - mean, atol=1e-12, rtol=1e-9)


def test_the_additive_fit_is_that_of_least_squares_with_a_column_for_each_position_and_token() -> None:
    decoder, made = tiny(), decomposition(estimator="additive")
    vectors = made.vectors(fold_of(made, decoder), CONTEXT)
    cut = windows()
    often = np.bincount(np.concatenate(cut), minlength=VOCABULARY)
    own = sorted(range(VOCABULARY), key=lambda token: (-often[token], token))[:6]
    for layer in (0, 1, 2):
        rows, wanted = [], []
        for window in cut:
            with torch.inference_mode():
                found = states(decoder, window, layer).numpy()
            for at, token in enumerate(window):
                row = np.zeros(LENGTH + 7)
                row[at] = 1
                row[LENGTH + (own.index(token) if token in own else 6)] = 1
                rows.append(row)
                wanted.append(found[at])
        matrix, target = np.array(rows), np.array(wanted)
        fitted = np.linalg.lstsq(matrix, target, rcond=None)[0]
        p, effects = fitted[:LENGTH], fitted[LENGTH:]
        # The constant that is free: effects are 0 on the mean over all tokens.
        p = p + (matrix[:, LENGTH:].sum(0) @ effects) / len(matrix)
        np.testing.assert_allclose(vectors.p(layer).numpy(), p, atol=1e-8)


def test_the_additive_fit_finds_what_was_put_together_where_the_mean_does_not() -> None:
    """Vectors of positions and of tokens, each position with tokens of its own share."""
    drawn = np.random.default_rng(0)
    p, c = drawn.normal(size=(5, 3)), 4 * drawn.normal(size=(7, 3))
    pairs = drawn.integers(1, 20, (5, 7)).astype(float)
    c -= (pairs.sum(0) @ c) / pairs.sum()
    total = pairs.sum(1)[:, None] * p + pairs @ c
    tokens = pairs.T @ p + pairs.sum(0)[:, None] * c
    found = additive(*(torch.from_numpy(each) for each in (total, tokens, pairs)))
    np.testing.assert_allclose(found.numpy(), p, atol=1e-10)
    assert np.abs(total / pairs.sum(1)[:, None] - p).max() > 0.1


def test_halves_agree_as_their_vectors_cosine_says_and_as_their_variance_foretells() -> None:
    """A decoder would be slow: states are drawn about known vectors, of noise that is known."""
    drawn, count, width = np.random.default_rng(0), 64, 48
    truth = torch.from_numpy(drawn.normal(size=(LENGTH, width)) * 0.15)
    fold = Fold({})
    halves: list[list[torch.Tensor]] = [[], []]
    for number in range(count):
        half = number % 2
        each = truth + torch.from_numpy(drawn.normal(size=truth.shape))
        halves[half].append(each)
        none = torch.zeros(LENGTH, dtype=torch.int64)
        observed = {}
        for other in (0, 1):
            own = each if other == half else torch.zeros_like(each)
            counted = none + (other == half)
            observed[f"state{other}/0"] = (own, counted)
            observed[f"square{other}/0"] = (own.square().sum(-1), counted)
        fold.add(str(number), observed)
    vectors = decomposition().vectors(fold, CONTEXT)
    bases = [torch.stack(each).mean(0) for each in halves]
    bases = [each - each[:CONTEXT].mean(0) for each in bases]
    cosines = [float(torch.cosine_similarity(bases[0][at], bases[1][at], dim=0)) for at in range(FIRST, CONTEXT)]
    assert vectors.agreement(0) == pytest.approx(np.mean(cosines), abs=1e-12)
    assert 0.2 < vectors.agreement(0) < 0.8
    assert vectors.predicted_agreement(0) == pytest.approx(vectors.agreement(0), abs=0.12)


def test_unigram_windows_have_the_tokens_of_the_documents_in_no_order() -> None:
    drawn = [item.ids for item in decomposition(text="unigram", group=100).items(source_of(*DOCUMENTS))]
    again = [item.ids for item in decomposition(text="unigram", group=2).items(source_of(*DOCUMENTS))]
    np.testing.assert_array_equal(np.concatenate(drawn), np.concatenate(again))
    held = np.concatenate(windows())
    assert len(np.concatenate(drawn)) == len(held)
    assert set(np.concatenate(drawn)) <= set(held)
    assert not np.array_equal(np.concatenate(drawn), held)
    often = [np.bincount(each, minlength=VOCABULARY) / len(each) for each in (np.concatenate(drawn), held)]
    assert np.abs(often[0] - often[1]).max() < 0.08


def test_the_table_has_the_lengths_and_the_agreement_of_every_layer_and_bin() -> None:
    decoder, made = tiny(), decomposition()
    fold = fold_of(made, decoder)
    rows, vectors = made.rows(fold, CONTEXT), made.vectors(fold, CONTEXT)
    assert len(rows) == 3 * LENGTH // 4
    row = rows[LENGTH // 4 + 1]
    assert (row["layer"], row["start_position"], row["stop_position"], row["position"]) == (1, 4, 8, 5.5)
    assert row["windows"] == 8
    assert row["basis_norm"] == pytest.approx(float(vectors.m(1)[4:8].norm(dim=-1).mean()))
    assert row["vector_norm"] == pytest.approx(float(vectors.p(1)[4:8].norm(dim=-1).mean()))
    assert row["layer_agreement"] == vectors.agreement(1)


@pytest.mark.parametrize(
    ("keys", "lengths", "told"),
    [
        ({}, (33,), "1 windows of 32 tokens are in these documents, and two are needed"),
        ({"longest": 8}, (64,), "1 windows of 64 tokens"),
    ],
)
def test_too_few_windows_are_told(keys, lengths, told) -> None:
    made = decomposition(**keys)
    with pytest.raises(UserError, match=told):
        made.vectors(fold_of(made, tiny(), *lengths), CONTEXT)


def test_the_first_windows_alone_are_read_if_so_many_are_asked_for() -> None:
    decoder, made = tiny(), decomposition(windows=5, group=2)
    vectors = made.vectors(fold_of(made, decoder), CONTEXT)
    assert vectors.windows == 5
    with torch.inference_mode():
        each = torch.stack([states(decoder, window, 1) for window in windows(5)])
    torch.testing.assert_close(vectors.p(1), each.mean(0), atol=1e-12, rtol=1e-9)
