"""Positional vector replacement: stretched vectors by hand, a block's output by its definition, the sweep by passes."""

import itertools

import numpy as np
import pytest
import torch
from measure.tiny_decoders import CONTEXT, VARIANTS, document, tiny
from torch.nn import functional

from lab.base.errors import UserError
from lab.base.interruption import Interruption
from lab.experiment.searching import swept
from lab.extension.vector_replacement import VectorReplacement, extrapolated, replacement_table, stretched
from lab.model.decoding import Cache
from lab.observe.measure import Item

LENGTH = 4 * CONTEXT
TOKENS = torch.tensor(document(LENGTH, 3)[None].astype(np.int64))


def table(width: int = 16, seed: int = 0) -> torch.Tensor:
    return torch.randn(LENGTH, width, generator=torch.Generator().manual_seed(seed)).double()


def test_twice_as_long_each_vector_is_three_quarters_of_the_nearest_and_a_quarter_of_the_next() -> None:
    p = table()[:CONTEXT]
    found = stretched(p, 2.0, 3, LENGTH, "linear")
    own = p[3:]
    by_hand = [own[0]]  # before the first there is none
    for left, right in itertools.pairwise(own):
        by_hand += [0.75 * left + 0.25 * right, 0.25 * left + 0.75 * right]
    by_hand += [own[-1]] * (LENGTH - 3 - len(by_hand))  # held at the end
    torch.testing.assert_close(found, torch.cat([p[:3], torch.stack(by_hand)]))


@pytest.mark.parametrize("ratio", [2, 3, 5])
@pytest.mark.parametrize("first", [1, 4])
def test_a_whole_ratio_is_torchs_interpolation(ratio: int, first: int) -> None:
    p = table()[:CONTEXT]
    wanted = functional.interpolate(p[first:].T[None], scale_factor=ratio, mode="linear")[0].T
    length = first + len(wanted)
    torch.testing.assert_close(stretched(p, float(ratio), first, length, "linear")[first:], wanted)


@pytest.mark.parametrize("kind", ["linear", "cubic"])
def test_a_ratio_of_one_changes_nothing_and_a_stretch_goes_through_its_vectors(kind: str) -> None:
    p = table()[:CONTEXT]
    torch.testing.assert_close(stretched(p, 1.0, 4, CONTEXT, kind), p)
    # With r = 3 number 3 i + 1 lies upon number i.
    torch.testing.assert_close(stretched(p, 3.0, 2, 3 * CONTEXT, kind)[3 : 2 + 3 * (CONTEXT - 2) : 3], p[2:])


def test_a_cubic_stretch_is_that_of_a_cubic_where_vectors_lie_on_one() -> None:
    at = torch.arange(20).double()
    p = torch.stack([at**3 - 5 * at, 2 * at**2], 1)
    found = stretched(p, 2.0, 1, 38, "cubic")[2:37]
    places = torch.from_numpy((np.arange(1, 36) + 0.5) / 2 - 0.5) + 1
    torch.testing.assert_close(found, torch.stack([places**3 - 5 * places, 2 * places**2], 1))


def test_a_line_goes_on_as_it_went_in_the_second_half() -> None:
    at = torch.arange(LENGTH).double()[:, None]
    line = 3 - 0.5 * at
    bent = torch.where(at < CONTEXT // 2, at**2, line)
    torch.testing.assert_close(extrapolated(bent[:CONTEXT], LENGTH)[CONTEXT:], line[CONTEXT:])


@pytest.mark.parametrize("beyond", ["measured", "extrapolated"])
def test_the_table_is_alpha_times_stretched_less_p_and_nothing_for_the_first(beyond: str) -> None:
    p = table()
    keys = {"ratio": 5.0, "alpha": 1.3, "first": 3, "stretch": "linear", "beyond": beyond}
    found = replacement_table(p, CONTEXT, **keys)
    put_in = stretched(p[:CONTEXT], 5.0, 3, LENGTH, "linear")
    taken = p if beyond == "measured" else extrapolated(p[:CONTEXT], LENGTH)
    for at in range(LENGTH):
        wanted = torch.zeros(16).double() if at < 3 else 1.3 * put_in[at] - taken[at]
        torch.testing.assert_close(found[at], wanted)


@pytest.mark.parametrize("layer", [1, 2])
@pytest.mark.parametrize(("position", "window"), VARIANTS)
@torch.inference_mode()
def test_states_behind_the_layer_have_the_table_added_and_a_cache_changes_nothing(position, window, layer) -> None:
    plain, changed = tiny(position, window), tiny(position, window)
    added = table().float()
    VectorReplacement(layer, added, ratio=2.0)(changed)
    x = plain.embedding[TOKENS].double()
    plain.position.reach(LENGTH)
    for number, block in enumerate(plain.blocks, 1):
        x = block(x, plain.position, torch.arange(LENGTH), None, None, 1.0)
        if number == layer:
            x = x + added.double()
    wanted = plain.logits(plain.norm(x))
    torch.testing.assert_close(changed(TOKENS), wanted, atol=1e-12, rtol=0)
    assert not torch.allclose(plain(TOKENS), wanted, atol=1e-3)
    cache, parts = Cache(changed), []
    for start, stop in ((0, 5), (5, 6), (6, 20), (20, LENGTH)):
        parts.append(changed.logits(changed.hidden(TOKENS[:, start:stop], cache=cache)))
    torch.testing.assert_close(torch.cat(parts, 1), wanted, atol=1e-9, rtol=0)


@torch.inference_mode()
def test_a_text_beyond_the_table_a_layer_that_is_not_there_and_another_width_are_refused() -> None:
    decoder = tiny()
    VectorReplacement(1, table()[:20])(decoder)
    with pytest.raises(UserError, match=r"replaced at 20 positions, and the text has 32 tokens"):
        decoder(TOKENS)
    with pytest.raises(UserError, match=r"extension.layer is 3, and the decoder has layers 1 to 2"):
        VectorReplacement(3, table())(tiny())
    with pytest.raises(UserError, match=r"width 8 is none of a decoder of width 16"):
        VectorReplacement(1, table(8))(tiny())


def test_the_sweep_gives_the_losses_of_whole_passes() -> None:
    documents = [Item(name, document(LENGTH + 1, seed)) for seed, name in enumerate("abc")]
    tables = {(layer, *pair): table(seed=layer) * pair[1] for layer in (1, 2) for pair in ((2.0, 0.5), (3.0, 1.5))}
    with Interruption() as interruption:
        rows = swept(
            tiny(),
            documents,
            CONTEXT,
            LENGTH,
            [(2.0, 0.5), (3.0, 1.5)],
            lambda *key: tables[key],
            interruption,
        )
    assert len(rows) == 4
    for row in rows:
        decoder = tiny()
        VectorReplacement(row["layer"], tables[row["layer"], row["ratio"], row["alpha"]])(decoder)
        losses = []
        for item in documents:
            tokens = torch.tensor(item.ids[None].astype(np.int64))
            with torch.inference_mode():
                shares = torch.log_softmax(decoder(tokens[:, :-1])[0], -1)
            losses.append(-shares[torch.arange(LENGTH), tokens[0, 1:]])
        mean = torch.stack(losses).mean(0)
        assert row["documents"] == 3
        # The hook adds in float32, the sweep in the decoder's type.
        assert row["loss_inside_nats"] == pytest.approx(float(mean[:CONTEXT].mean()), abs=1e-5)
        assert row["loss_beyond_nats"] == pytest.approx(float(mean[CONTEXT:].mean()), abs=1e-5)
