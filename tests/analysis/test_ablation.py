"""Ablation, against attention that is written out: keys and values of a group are made of what is left, row by row."""

import math

import numpy as np
import pytest
import torch
from analysis.decompositions import decomposition
from measure.tiny_decoders import document, source_of, tiny

from lab.analysis.ablation import Ablation, Condition, conditions, groups, ranges
from lab.base.errors import UserError
from lab.model.position import ALiBi, NoPE, RoPE
from lab.observe.fold import Fold
from lab.observe.vectors import Vectors

CONTEXT = 64
DOCUMENTS = (65, 150, 30, 70)  # 1, 2, none and 1 windows


def study() -> Ablation:
    return Ablation(vectors=decomposition(longest=1), documents=None, windows=4, seed=5)


def vectors_of(decoder) -> Vectors:
    made, fold = study().vectors, Fold({})
    for item in made.items(source_of(200, 130, context=CONTEXT)):
        with torch.inference_mode():
            fold.add(item.name, made.observe(decoder, item, CONTEXT))
    return made.vectors(fold, CONTEXT)


def normed(block, x: np.ndarray, scale_of: np.ndarray) -> np.ndarray:
    size = np.sqrt((scale_of**2).mean(-1, keepdims=True) + block.attention_norm.eps)
    return x / size * block.attention_norm.weight.detach().double().numpy()


def written_out(decoder, vectors: Vectors, condition: Condition | None, tokens: np.ndarray):
    """Logits, and what enters the middle block, of one window; attention of each query by itself."""
    x = decoder.embedding.detach().double().numpy()[tokens]
    middle = None
    for number, block in enumerate(decoder.blocks):
        if number == len(decoder.blocks) // 2:
            middle = x
        attention = block.attention
        weight = {name: each.detach().double().numpy() for name, each in attention.named_parameters()}
        given = normed(block, x, x)
        source, value_source = given.copy(), given.copy()
        if condition is not None and number in ranges(len(decoder.blocks))[condition.layers]:
            start, stop = groups(CONTEXT)[condition.group]
            for at in range(start, stop):
                source[at] = value_source[at] = left(block, vectors, condition, number, at, x[at], given[at])
        query, keys = given @ weight["query.weight"].T, source @ weight["key.weight"].T
        values = value_source @ weight["value.weight"].T
        if condition is not None and condition.removed == "value" and number in ranges(2)[condition.layers]:
            start, stop = groups(CONTEXT)[condition.group]
            values[start:stop] = 0
        size = attention.head_dim
        if type(decoder.position).__name__ == "RoPE":
            shaped = [torch.from_numpy(each).view(1, CONTEXT, -1, size).transpose(1, 2) for each in (query, keys)]
            query, keys = (
                each.transpose(1, 2).reshape(CONTEXT, -1).numpy()
                for each in decoder.position.rotate(*shaped, torch.arange(CONTEXT))
            )
        mixed = np.zeros_like(query)
        for head in range(attention.heads):
            mine = slice(head * size, (head + 1) * size)
            shared = head * attention.kv_heads // attention.heads
            theirs = slice(shared * size, (shared + 1) * size)
            for at in range(CONTEXT):
                first = 0 if attention.window is None else max(0, at - attention.window + 1)
                logits = keys[first : at + 1, theirs] @ query[at, mine] / math.sqrt(size)
                if decoder.position.slopes is not None:
                    logits = logits - float(decoder.position.slopes[head]) * np.arange(at - first, -1, -1)
                shares = np.exp(logits - logits.max())
                mixed[at, mine] = (shares / shares.sum()) @ values[first : at + 1, theirs]
        x = x + mixed @ weight["output.weight"].T
        with torch.inference_mode():
            x = x + block.feed_forward(block.feed_forward_norm(torch.from_numpy(x))).numpy()
    with torch.inference_mode():
        return decoder.logits(decoder.norm(torch.from_numpy(x))).numpy(), middle


def left(block, vectors, condition, layer, at, state, given) -> np.ndarray:
    """The input of a token's key and value."""
    if condition.removed == "value":
        return given
    p, m = vectors.p(layer).numpy(), vectors.m(layer).numpy()
    if condition.removed == "random_vector":
        drawn = torch.randn(vectors.layers, CONTEXT, p.shape[1], generator=torch.Generator().manual_seed(5))
        direction = drawn[layer, at].double().numpy()
        rest = state - direction / np.linalg.norm(direction) * np.linalg.norm(p[at])
    else:
        rest = {
            "positional_vector": state - p[at],
            "positional_basis": state - m[at],
            "semantic_vector": p[at],
            "another_position": state - p[(at + CONTEXT // 2) % CONTEXT],
        }[condition.removed]
    return normed(block, rest[None], (state if condition.norm == "kept" else rest)[None])[0]


@pytest.mark.parametrize(("position", "window"), [(NoPE, None), (RoPE, None), (ALiBi, None), (RoPE, 40)])
def test_every_ablation_is_that_of_attention_written_out(position, window) -> None:
    decoder, made = tiny(position, window), study()
    vectors, fold = vectors_of(decoder), Fold({})
    for item in made.items(source_of(*DOCUMENTS, context=CONTEXT)):
        with torch.inference_mode():
            fold.add(item.name, made.observe(decoder, item, vectors))
    rows = {row["condition"]: row for row in made.rows(fold, vectors)}
    assert len(rows) == len(conditions()) == 5 * 3 * 3 * 2 + 3 * 3
    read = [document(tokens, number) for number, tokens in enumerate(DOCUMENTS) if tokens > CONTEXT]
    places = np.linspace(CONTEXT // 4, CONTEXT - 1, 16).round().astype(int)

    def losses_and_states(condition: Condition | None):
        by_document, states = [], []
        for ids in read:
            losses = []
            for start in range(0, (len(ids) - 1) // CONTEXT * CONTEXT, CONTEXT):
                logits, middle = written_out(decoder, vectors, condition, ids[start : start + CONTEXT])
                shares = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
                targets = ids[start + 1 : start + CONTEXT + 1]
                losses.append(-shares[np.arange(CONTEXT), targets][CONTEXT // 4 :])
                states.append(middle[places])
            by_document.append(np.mean(losses))
        return np.array(by_document), np.mean(states, 0)

    plain, formed = losses_and_states(None)
    u = vectors.u(1).numpy()
    chosen = [each for number, each in enumerate(conditions()) if number % 7 == 0]
    assert {each.removed for each in chosen} == {each.removed for each in conditions()}
    for condition in chosen:
        own, states = losses_and_states(condition)
        row = rows[str(condition)]
        assert row["loss_rise_nats"] == pytest.approx((own - plain).mean(), abs=1e-6)
        assert row["standard_error_nats"] == pytest.approx(np.std(own - plain, ddof=1) / math.sqrt(3), abs=1e-6)
        assert row["similarity"] == pytest.approx(cosines(states, formed), abs=1e-6)
        assert row["basis_similarity"] == pytest.approx(cosines(states - u, formed - u), abs=1e-6)
    told = [*made.numbers(fold, [*rows.values()])]
    condition = Condition("positional_vector", "first", "lower_half", "again")
    own, states = losses_and_states(condition)
    rises = [each.value for each in told if each.quantity == "loss_rise without positional_vector of first"]
    assert rises == pytest.approx(list(own - plain), abs=1e-6)
    assert [each.document for each in told[:3]] == [*fold.done]
    alike = {each.quantity: each.value for each in told}["basis_similarity without positional_vector of first"]
    assert alike == pytest.approx(cosines(states - u, formed - u), abs=1e-6)
    moved = [abs(row["loss_rise_nats"]) for row in rows.values()]
    assert np.median(moved) > 1e-3


def cosines(one: np.ndarray, other: np.ndarray) -> float:
    return float(np.mean([a @ b / math.sqrt((a @ a) * (b @ b)) for a, b in zip(one, other, strict=True)]))


def test_groups_are_the_papers_shares_and_before_what_is_scored() -> None:
    assert groups(2048) == {"first": (0, 4), "later": (32, 256), "later_four": (256, 260)}
    for context in (64, 256, 2048, 8192):
        assert all(start < stop <= context // 4 for start, stop in groups(context).values())


def test_a_context_too_short_for_groups_is_told() -> None:
    with pytest.raises(UserError, match="C is 32: groups of tokens are shares of C; take 64 or more"):
        study().fits(32)
