"""Past C: the study ``beyond`` against loops, and its intervention, of which nothing inside C knows."""

import math

import numpy as np
import pytest
import torch
from analysis.decompositions import decomposition, vectors_of
from measure.tiny_decoders import CONTEXT, VARIANTS, document, source_of, tiny

from lab.analysis.beyond import Beyond
from lab.base.errors import UserError
from lab.model.decoding import Cache
from lab.observe import taps
from lab.observe.fold import Fold

DOCUMENTS = (33, 40, 12, 50)  # the third is too short


@pytest.mark.parametrize(("position", "window"), VARIANTS)
@torch.inference_mode()
def test_a_pass_that_is_continued_from_any_block_is_the_whole_pass(position, window) -> None:
    decoder = tiny(position, window)
    tokens = torch.tensor(document(30)[None].astype(np.int64))
    whole, x = decoder.hidden(tokens), decoder.embedding[tokens].double()
    for first, block in enumerate([*decoder.blocks, None]):
        torch.testing.assert_close(decoder.continued(x, first), whole, atol=1e-12, rtol=0)
        if block is not None:
            x = block(x, decoder.position, torch.arange(30), None, None, 1.0)
    cache, parts = Cache(decoder), []
    for start, stop in ((0, 11), (11, 30)):
        parts.append(decoder.continued(decoder.embedding[tokens[:, start:stop]].double(), 0, cache=cache))
    torch.testing.assert_close(torch.cat(parts, 1), whole, atol=1e-9, rtol=0)


@pytest.mark.parametrize(("position", "window"), VARIANTS)
def test_beyond_c_each_number_is_that_of_its_definition(position, window) -> None:
    decoder = tiny(position, window)
    vectors = vectors_of(decoder, window)
    study = Beyond(vectors=decomposition(), longest=4, bin_tokens=4, documents=None, batch_tokens=64)
    fold, length = Fold({}), 4 * CONTEXT
    for item in study.items(source_of(*DOCUMENTS)):
        with torch.inference_mode():
            fold.add(item.name, study.observe(decoder, item, vectors))
    rows = study.rows(fold, vectors)
    read = [document(tokens, number) for number, tokens in enumerate(DOCUMENTS) if tokens > length]
    losses: dict[object, list[np.ndarray]] = {}
    logits = []
    for ids in read:
        tokens = torch.tensor(ids[None, : length + 1].astype(np.int64))
        with torch.inference_mode():
            plain = decoder(tokens[:, :-1])[0]
            logits.append(plain)
            losses.setdefault("plain", []).append(nats(plain, tokens[0, 1:]))
            for layer in (0, 1, 2):
                replaced = losses_with_nearest(decoder, vectors, layer, tokens)
                losses.setdefault(layer, []).append(replaced)
            restarted = []
            for at in range(CONTEXT, length):  # the token behind position at, after C tokens, or 1 / 8 fewer
                given = tokens[:, at + 1 - CONTEXT : at + 1]
                restarted.append(nats(decoder(given)[0, -1:], tokens[0, at + 1 : at + 2])[0])
            losses.setdefault("restarted", []).append(np.array(restarted))
    means = {name: np.mean(each, 0) for name, each in losses.items()}
    excess = (means["plain"][CONTEXT:] - means["restarted"]).mean()
    mean_logits = torch.stack(logits).mean(0).view(-1, 4, plain.shape[-1]).mean(1)
    for row in rows:
        layer, start = row["layer"], row["start_position"]
        here = slice(start, start + 4)
        p, m = vectors.p(layer), vectors.m(layer)
        cosines = [[cosine(p[at], p[inside]) for inside in range(CONTEXT)] for at in range(start, start + 4)]
        assert row["cosine"] == pytest.approx(np.max(cosines, 1).mean(), abs=1e-9)
        cosines = [[cosine(m[at], m[inside]) for inside in range(CONTEXT)] for at in range(start, start + 4)]
        assert row["basis_cosine"] == pytest.approx(np.max(cosines, 1).mean(), abs=1e-9)
        apart = [min(float((p[at] - p[inside]).norm()) for inside in range(CONTEXT)) for at in range(start, start + 4)]
        size = float(m[:CONTEXT].norm(dim=-1).mean())
        assert row["distance"] * size == pytest.approx(np.mean(apart), abs=1e-5)
        inside = [cosine(mean_logits[start // 4], mean_logits[each]) for each in range(CONTEXT // 4)]
        assert row["logit_cosine"] == pytest.approx(max(inside), abs=1e-6)
        assert row["loss_nats"] == pytest.approx(means["plain"][here].mean(), abs=1e-9)
        assert row["replaced_loss_nats"] == pytest.approx(means[layer][here].mean(), abs=1e-9)
        if start >= CONTEXT:
            # Of C = 8 the restarted have all of it.
            wanted = means["restarted"][start - CONTEXT : start + 4 - CONTEXT].mean()
            assert row["restarted_loss_nats"] == pytest.approx(wanted, abs=1e-9)
        wanted = (means["plain"] - means[layer])[CONTEXT:].mean() / excess
        assert row["layer_recovered"] == pytest.approx(wanted, rel=1e-6, abs=1e-9)
        if start < CONTEXT:
            assert row["cosine"] == pytest.approx(1)
            assert row["replaced_loss_nats"] == pytest.approx(row["loss_nats"])
    told = [*study.numbers(fold, rows)]
    far = [row["cosine"] for row in rows if row["layer"] == 1 and row["start_position"] >= length // 2]
    by_name = {each.quantity: each.value for each in told}
    assert by_name["cosine from half the length on in layer 1"] == pytest.approx(np.mean(far))
    assert by_name["cosine from half the length on in the middle layer"] == pytest.approx(np.mean(far))
    for number, name in enumerate(fold.done):  # the layer is chosen on the other documents
        others = [each for each in range(len(read)) if each != number]
        best = min((0, 1, 2), key=lambda layer: np.mean([losses[layer][each][CONTEXT:].mean() for each in others]))
        half = (losses["plain"][number][CONTEXT:].mean() + losses["restarted"][number].mean()) / 2
        (left,) = [each.value for each in told if each.document == name]
        assert left == pytest.approx(losses[best][number][CONTEXT:].mean() - half, abs=1e-9)


def losses_with_nearest(decoder, vectors, layer, tokens) -> np.ndarray:
    """All in one pass, block by block, the change added by a loop over positions."""
    length = tokens.shape[1] - 1
    x = decoder.embedding[tokens[:, :-1]].double()
    decoder.position.reach(length)
    for number in range(3):
        if number == layer:
            p = vectors.p(layer)
            x = x.clone()
            for at in range(CONTEXT, length):
                nearest = min(range(CONTEXT), key=lambda each, at=at: float((p[at] - p[each]).norm()))
                x[0, at] += p[nearest] - p[at]
        if number < 2:
            x = decoder.blocks[number](x, decoder.position, torch.arange(length), None, None, 1.0)
    return nats(decoder.logits(decoder.norm(x))[0], tokens[0, 1:])


def nats(logits: torch.Tensor, targets: torch.Tensor) -> np.ndarray:
    shares = torch.log_softmax(logits.double(), -1)
    return -shares[torch.arange(len(targets)), targets].numpy()


def cosine(one: torch.Tensor, other: torch.Tensor) -> float:
    return float(one @ other) / math.sqrt(float(one @ one) * float(other @ other))


@pytest.mark.parametrize("longest", [1, 5])
def test_nothing_beyond_c_and_more_than_the_vectors_have_is_refused(longest) -> None:
    study = Beyond(vectors=decomposition(), longest=longest, bin_tokens=4, documents=None, batch_tokens=64)
    with pytest.raises(UserError, match=rf"longest is {longest}: give 2 to vectors.longest = 4 contexts"):
        study.fits(CONTEXT)


@pytest.mark.parametrize(("position", "window"), VARIANTS)
@torch.inference_mode()
def test_the_intervention_changes_no_state_and_no_loss_inside_c(position, window, monkeypatch) -> None:
    decoder = tiny(position, window)
    vectors = vectors_of(decoder, window)
    # Of nearly equal vectors inside C another than its own may come out nearest; here it is so everywhere.
    nearest = (torch.arange(4 * CONTEXT) + 1) % CONTEXT
    monkeypatch.setattr(vectors, "nearest_inside", lambda layer: nearest)
    read = dict(zip(taps.states(decoder), range(3), strict=True))
    given: dict[int, torch.Tensor] = {}
    continued = decoder.continued

    def noted(states: torch.Tensor, first: int, *others: object) -> torch.Tensor:
        if not others:  # what is given besides is given by whole passes
            given[first] = states.clone()
        return continued(states, first, *others)

    study = Beyond(vectors=decomposition(), longest=4, bin_tokens=4, documents=1, batch_tokens=64)
    (item,) = study.items(source_of(*DOCUMENTS))
    with monkeypatch.context() as patched:
        patched.setattr(decoder, "continued", noted)
        observed = study.observe(decoder, item, vectors)
    tokens = torch.tensor(item.ids[None, : 4 * CONTEXT].astype(np.int64))
    with taps.reading(decoder, list(read)) as seen:
        decoder.hidden(tokens)
        untouched = {layer: seen[place] for place, layer in read.items()}
    assert sorted(given) == [0, 1, 2]
    for layer, states in given.items():
        differ = (states != untouched[layer]).any(-1).flatten()
        assert not differ[:CONTEXT].any()
        p, nearest = vectors.p(layer), vectors.nearest_inside(layer)
        # Past C it is p that changes, and nothing besides.
        torch.testing.assert_close(
            (states - untouched[layer]).flatten(0, -2)[CONTEXT:],
            (p[nearest] - p)[CONTEXT : 4 * CONTEXT],
            check_dtype=False,
        )
        assert differ[CONTEXT:].all()
        plain, replaced = (observed[name][0][: CONTEXT // 4] for name in ("loss", f"replaced/{layer}"))
        torch.testing.assert_close(replaced, plain, atol=1e-12, rtol=0)
