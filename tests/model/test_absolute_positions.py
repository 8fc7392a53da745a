"""Learned and sinusoidal positions: what they add to the embedding, and where learned ones end."""

import math
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from commands import lab

from lab.base.errors import UserError
from lab.base.tables import read_table
from lab.extension.extension import Scaled
from lab.model.attention import Attention
from lab.model.decoder import Decoder
from lab.model.decoding import Cache, greedy
from lab.model.position import Learned, NoPE, PositionEncoding, Sinusoidal

WIDTH, CONTEXT = 24, 32
TOKENS = torch.randint(0, 61, (2, CONTEXT), generator=torch.Generator().manual_seed(1))


def decoder(kind: type[PositionEncoding]) -> Decoder:
    placed = {"width": WIDTH, "context": CONTEXT} if kind is not NoPE else {}
    return Decoder(
        vocabulary=61,
        layers=2,
        width=WIDTH,
        hidden=40,
        position=kind(4, 6, **placed),
        attention=partial(Attention, WIDTH, 4, 2, 6, None, "auto"),
        seed=3,
        compute_dtype=torch.float64,
    ).eval()


def test_sinusoids_are_those_of_the_paper_over_the_root_of_the_width() -> None:
    position = Sinusoidal(4, 6, WIDTH, CONTEXT)
    found = position.embed(torch.zeros(1, 50, WIDTH, dtype=torch.float64), 3)[0].numpy()
    for row, dimension in np.ndindex(50, WIDTH):
        angle = (3 + row) / 10_000 ** (2 * (dimension // 2) / WIDTH)
        wanted = math.cos(angle) if dimension % 2 else math.sin(angle)
        assert found[row, dimension] == pytest.approx(wanted / math.sqrt(WIDTH), abs=1e-6)


def test_learned_positions_are_added_to_the_embedding_and_trained() -> None:
    model = decoder(Learned)
    plain = decoder(NoPE)
    assert float(model.position.weight.detach().std()) == pytest.approx(math.sqrt(2 / (5 * WIDTH)), rel=0.1)
    with torch.no_grad():
        shifted = model.embedding[TOKENS].double() + model.position.weight[:CONTEXT].double()
        wanted = plain.continued(shifted, 0)
    torch.testing.assert_close(model.hidden(TOKENS), wanted)
    model(TOKENS).logsumexp(-1).sum().backward()
    assert (model.position.weight.grad.abs().sum(1) > 0).all()


def test_all_other_initial_weights_are_those_of_every_variant() -> None:
    plain = decoder(NoPE).state_dict()
    for kind in (Learned, Sinusoidal):
        own = decoder(kind).state_dict()
        assert own.keys() - plain.keys() == ({"position.weight"} if kind is Learned else set())
        assert all(torch.equal(own[name], value) for name, value in plain.items())


@pytest.mark.parametrize("kind", [Learned, Sinusoidal])
def test_decoding_with_a_cache_gives_the_logits_of_one_pass(kind: type[PositionEncoding]) -> None:
    model, parts = decoder(kind), []
    cache = Cache(model)
    with torch.inference_mode():
        for piece in TOKENS.split([5, 1, 1, 20, 5], dim=1):
            parts.append(model.logits(model.hidden(piece, cache=cache)))
        torch.testing.assert_close(torch.cat(parts, 1), model(TOKENS))


def test_learned_positions_end_at_the_context_in_one_line_and_sinusoids_do_not() -> None:
    longer = torch.cat((TOKENS, TOKENS[:, :1]), dim=1)
    with pytest.raises(UserError, match="learned positions end at C = 32, and 33 tokens are to be read"):
        decoder(Learned)(longer)
    with pytest.raises(UserError, match="learned positions end at C = 32"):
        greedy(decoder(Learned), TOKENS, 2)
    assert decoder(Sinusoidal)(longer).shape == (2, CONTEXT + 1, 61)
    with pytest.raises(UserError, match="no extension gives them more"):
        Scaled(Learned(4, 6, WIDTH, CONTEXT), 1.2)


def test_sinusoids_do_not_divide_an_odd_width() -> None:
    with pytest.raises(UserError, match="width is 25"):
        Sinusoidal(5, 5, 25, CONTEXT)


@pytest.mark.parametrize("model", ["learned", "sinusoidal"])
def test_a_run_with_absolute_positions_is_scored_as_far_as_it_reads(tmp_path: Path, model: str) -> None:
    measures = "measure=[loss_by_position,truncated_perplexity,excess]"
    short = ("scoring.longest=2", "scoring.documents=2", "logger=csv", "trainer.accelerator=cpu")
    done = lab("train", "experiment=smoke", f"model={model}", measures, *short, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    (run,) = (tmp_path / "runs").glob(f"{model}-*")
    rows = read_table(run / "scores.csv", ("measure", "stop_position", "length_tokens"))
    furthest = max(row["stop_position"] for row in rows if row["measure"] == "loss_by_position")
    measured = {row["measure"] for row in rows}
    if model == "learned":
        assert furthest == 64
        assert measured == {"loss_by_position", "truncated_perplexity"}
        assert "learned positions end at C = 64; excess looks beyond, and is left out" in done.stdout
        assert max(row["length_tokens"] for row in rows if row["measure"] == "truncated_perplexity") == 64
    else:
        assert furthest == 128
        assert "excess" in measured
    again = lab("extrapolate", f"runs={run}", measures, *short[:2], "scoring.segments=1", cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    assert read_table(run / "scores.csv", ("measure", "stop_position", "length_tokens")) == rows
