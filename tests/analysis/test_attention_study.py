"""The studies of attention, of a read-out of positions, and of interpolation, against loops and other libraries."""

import math

import numpy as np
import pytest
import torch
from analysis.decompositions import decomposition
from measure.tiny_decoders import document, source_of, tiny
from sklearn.linear_model import Ridge

from lab.analysis.attention import REMOVED, Attending
from lab.analysis.interpolation import Interpolation
from lab.analysis.position_probe import PositionProbe
from lab.base.errors import UserError
from lab.extension.vector_replacement import stretched
from lab.model.position import ALiBi, NoPE, RoPE
from lab.observe.fold import Fold
from lab.observe.vectors import Vectors

CONTEXT = 32
LENGTH = 2 * CONTEXT
DOCUMENTS = (70, 20, 65)  # the second is too short


def vectors_of(decoder, window=None) -> Vectors:
    made, fold = decomposition(longest=2), Fold({})
    for item in made.items(source_of(200, 130, context=CONTEXT)):
        with torch.inference_mode():
            fold.add(item.name, made.observe(decoder, item, CONTEXT))
    return made.vectors(fold, CONTEXT, window)


def folded(study, decoder, vectors) -> Fold:
    fold = Fold({})
    for item in study.items(source_of(*DOCUMENTS, context=CONTEXT)):
        with torch.inference_mode():
            fold.add(item.name, study.observe(decoder, item, vectors))
    return fold


def entering(decoder, ids: np.ndarray) -> list[torch.Tensor]:
    """What enters each block, and leaves the last."""
    x = decoder.embedding[torch.tensor(ids[None, :LENGTH].astype(np.int64))].double()
    decoder.position.reach(LENGTH)
    found = [x[0]]
    for block in decoder.blocks:
        x = block(x, decoder.position, torch.arange(LENGTH), None, None, 1.0)
        found.append(x[0])
    return found


@pytest.mark.parametrize(("position", "window"), [(NoPE, None), (RoPE, None), (ALiBi, None), (RoPE, 20)])
def test_attention_is_that_of_each_query_and_head_taken_one_at_a_time(position, window) -> None:
    decoder = tiny(position, window)
    vectors = vectors_of(decoder, window)
    study = Attending(vectors=decomposition(longest=2), longest=2, first=4, documents=None)
    rows = study.rows(folded(study, decoder, vectors), vectors)
    queries = [7, 15, 31, 63]
    assert study.queries(CONTEXT) == queries
    assert len(rows) == 2 * 4 * 4 * 2
    sums: dict[tuple, list[dict[str, float]]] = {}
    logits_of: dict[tuple, list[np.ndarray]] = {}
    for ids in (document(tokens, number) for number, tokens in enumerate(DOCUMENTS) if tokens >= LENGTH):
        with torch.inference_mode():
            states = entering(decoder, ids)
            for layer, block in enumerate(decoder.blocks):
                attention = block.attention
                p, m = vectors.p(layer), vectors.m(layer)
                lefts = (states[layer], p, states[layer] - p, states[layer] - m)
                for removed, left in zip(REMOVED, lefts, strict=True):
                    given = block.attention_norm(left)
                    query, key, value = (
                        each(given).view(1, LENGTH, -1, 8).transpose(1, 2)
                        for each in (attention.query, attention.key, attention.value)
                    )
                    query, key = decoder.position.rotate(query, key, torch.arange(LENGTH))
                    for head in range(2):
                        for at in queries:
                            first = 0 if window is None else max(0, at - window + 1)
                            products = key[0, 0, first : at + 1] @ query[0, head, at] / math.sqrt(8)
                            logits = products.clone()
                            if decoder.position.slopes is not None:
                                distance = torch.arange(at - first, -1, -1)
                                logits -= decoder.position.slopes[head].double() * distance
                            shares = logits.exp() / logits.exp().sum()
                            where = range(first, at + 1)
                            lengths = value[0, 0, first : at + 1].norm(dim=-1)
                            told = {
                                "first_share": sum(float(s) for s, j in zip(shares, where, strict=True) if j < 4),
                                "entropy_nats": -sum(float(s) * math.log(float(s)) for s in shares),
                                "mean_distance": sum(float(s) * (at - j) for s, j in zip(shares, where, strict=True)),
                                "first_flow": sum(
                                    float(s * n) for s, n, j in zip(shares, lengths, where, strict=True) if j < 4
                                )
                                / float(shares @ lengths),
                            }
                            sums.setdefault((layer, removed, head, at), []).append(told)
                            logits_of.setdefault((layer, removed, head, at), []).append(products.numpy())
    for row in rows:
        place = (row["layer"], row["removed"], row["head"], row["query_position"])
        for name in ("first_share", "entropy_nats", "mean_distance", "first_flow"):
            wanted = np.mean([each[name] for each in sums[place]])
            assert row[name] == pytest.approx(wanted, rel=1e-4, abs=1e-6), (place, name)
        at = row["query_position"]
        mean = np.mean(logits_of[place], 0)
        keys = [each for each in range(at + 1 - len(mean), at + 1) if each >= 4]
        slope = np.polyfit([at - each for each in keys], mean[-len(keys) :], 1)[0]
        assert row["logit_slope"] == pytest.approx(slope, rel=1e-3, abs=1e-5)
        assert (row["tested"] is None) == (row["removed"] != "nothing" or at not in (31, 63))
    told = {each.quantity: each.value for each in study.numbers(Fold({}), rows)}
    for removed in REMOVED:
        here = [row for row in rows if (row["removed"], row["query_position"]) == (removed, CONTEXT - 1)]
        shares = [np.mean([row["first_share"] for row in here if row["layer"] == layer]) for layer in (0, 1)]
        assert told[f"greatest first_share without {removed}"] == pytest.approx(max(shares))
        slope = np.mean([row["logit_slope"] for row in here])
        assert told[f"logit_slope without {removed}"] == pytest.approx(slope)
        left = told[f"share of logit_slope left without {removed}"]
        assert left * told["logit_slope without nothing"] == pytest.approx(slope)


def test_the_read_out_is_ridge_regression_on_the_bases() -> None:
    decoder = tiny()
    vectors = vectors_of(decoder)
    study = PositionProbe(vectors=decomposition(longest=2), longest=2, bin_tokens=8, ridge=0.01, documents=None)
    rows = study.rows(folded(study, decoder, vectors), vectors)
    read = [document(tokens, number) for number, tokens in enumerate(DOCUMENTS) if tokens >= LENGTH]
    for layer in range(3):
        m = vectors.m(layer)[:CONTEXT].numpy()
        model = Ridge(alpha=0.01 * float((m**2).sum()) / m.shape[1]).fit(m, np.arange(CONTEXT))
        u = vectors.u(layer).numpy()
        with torch.inference_mode():
            single = np.stack([model.predict(entering(decoder, ids)[layer].numpy() - u) for ids in read])
        of_vectors = model.predict(vectors.m(layer)[:LENGTH].numpy())
        own = [row for row in rows if row["layer"] == layer]
        assert len(own) == LENGTH // 8
        for number, row in enumerate(own):
            here = slice(8 * number, 8 * number + 8)
            wrong = single[:, here] - np.arange(LENGTH)[here]
            assert row["read"] == pytest.approx(single[:, here].mean(), abs=1e-6)
            assert row["error"] == pytest.approx(math.sqrt((wrong**2).mean()), abs=1e-6)
            assert row["vector_read"] == pytest.approx(of_vectors[here].mean(), abs=1e-6)
        inside = single[:, :CONTEXT] - np.arange(CONTEXT)
        assert own[0]["layer_error_inside"] == pytest.approx(math.sqrt((inside**2).mean()), abs=1e-6)
        beyond = single[:, CONTEXT:] - np.arange(CONTEXT, LENGTH)
        assert own[0]["layer_error_beyond"] == pytest.approx(math.sqrt((beyond**2).mean()), abs=1e-6)
        told = {each.quantity: each.value for each in study.numbers(Fold({}), rows)}
        assert told[f"error_beyond in layer {layer}"] == own[0]["layer_error_beyond"]


def test_vectors_that_were_stretched_are_found_to_be_so() -> None:
    """Folds of known vectors: those of the derived run are the parent's, stretched, and noise."""
    drawn = np.random.default_rng(0)
    parent = np.cumsum(drawn.normal(size=(2, LENGTH, 6)), 1)
    derived = [
        stretched(torch.from_numpy(each[:CONTEXT]), 1.6, 4, LENGTH, "linear").numpy() for each in parent
    ] + 0.01 * drawn.normal(size=parent.shape)

    def vectors(tables) -> Vectors:
        fold = Fold({})
        for number in range(2):
            observed = {}
            for half in (0, 1):
                count = torch.full((LENGTH,), int(number == half))
                for layer in (0, 1):
                    state = torch.from_numpy(tables[layer]) * (number == half)
                    observed[f"state{half}/{layer}"] = (state, count)
                    observed[f"square{half}/{layer}"] = (state.square().sum(-1), count)
            fold.add(str(number), observed)
        return Vectors(fold, CONTEXT)

    study = Interpolation(vectors=decomposition(longest=2), contexts=2, bins=4)
    found = vectors(derived)
    found.origin = vectors(parent)
    rows = study.rows(found.fold, found)
    (ratio,) = {row["layer_ratio"] for row in rows}
    assert ratio == 1.6
    assert rows[0]["layer_cosine"] > 0.99
    told = {each.quantity: each.value for each in study.numbers(found.fold, rows)}
    assert told["ratio over s in layer 1"] == 0.8
    before = parent[1][:CONTEXT] - parent[1][:CONTEXT].mean(0)
    after = derived[1] - parent[1][:CONTEXT].mean(0)
    for row in rows:
        if row["ratio"] is None:
            down, across = row["parent_position"], row["position"]
            cosines = [
                one @ other / math.sqrt((one @ one) * (other @ other))
                for one in before[down : down + 8]
                for other in after[across : across + 8]
            ]
            assert row["cosine"] == pytest.approx(np.mean(cosines), abs=1e-9)
        elif row["ratio"] in (1.0, 1.6, 3.0):
            wanted = stretched(torch.from_numpy(before), row["ratio"], 4, LENGTH, "linear").numpy()
            cosines = [
                one @ other / math.sqrt((one @ one) * (other @ other))
                for one, other in zip(wanted[4:], after[4:], strict=True)
            ]
            assert row["stretched_cosine"] == pytest.approx(np.mean(cosines), abs=1e-9)


MADE = decomposition(longest=2)


@pytest.mark.parametrize(
    ("study", "told"),
    [
        (
            Attending(vectors=MADE, longest=3, first=4, documents=None),
            "longest is 3: give 1 to vectors.longest = 2 contexts",
        ),
        (
            Attending(vectors=MADE, longest=2, first=8, documents=None),
            "first is 8: the first query is at",
        ),
        (
            PositionProbe(vectors=MADE, longest=3, bin_tokens=8, ridge=0.1, documents=None),
            "longest is 3: give 1 to vectors.longest = 2 contexts",
        ),
        (
            PositionProbe(vectors=MADE, longest=2, bin_tokens=7, ridge=0.1, documents=None),
            "bin_tokens is 7: it must divide C = 32",
        ),
        (
            Interpolation(vectors=MADE, contexts=3, bins=4),
            "contexts is 3: give 2 to vectors.longest = 2",
        ),
        (Interpolation(vectors=MADE, contexts=2, bins=5), "bins is 5: it must divide C = 32"),
    ],
)
def test_settings_that_do_not_fit_are_told(study, told) -> None:
    with pytest.raises(UserError, match=told):
        study.fits(CONTEXT)
