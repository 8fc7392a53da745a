"""The place of a prompt in the backward signal: variances against loops and draws, decoders that know no place."""

import itertools
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from commands import lab, the_one_line
from gradients.tiny import LAYERS, VOCABULARY, WIDTH, tiny
from measure.tiny_decoders import source_of

from lab.base.errors import UserError
from lab.base.tables import read_table
from lab.gradients.delta_position import KINDS, PARTS, DeltaPosition, components
from lab.model.position import ALiBi, Learned, NoPE, RoPE
from lab.observe.fold import Fold

KEYS = {"length": 6, "prompts": 3, "places": 4, "filler": "a", "documents": None, "batch_tokens": 60, "seed": 2}
FILLER = np.array([4, 9, 2, 17], dtype=np.uint32)


def study(**changed: object) -> DeltaPosition:
    return DeltaPosition(**(KEYS | changed))


def items_of(made: DeltaPosition, *lengths: int, context: int = 16):
    source = source_of(*lengths, context=context, vocabulary=VOCABULARY)
    source.tokenizer = SimpleNamespace(vocabulary=VOCABULARY, end_of_document=0, encode=lambda text: FILLER)
    return [*made.items(source)]


def test_components_are_those_of_the_mean_squares_by_loops() -> None:
    draw = np.random.default_rng(0)
    values = draw.normal(size=(2, 3, 4, 5)) + draw.normal(size=(2, 3, 1, 5)) + 2 * draw.normal(size=(2, 1, 4, 5))
    found = components(torch.from_numpy(values))
    for layer in range(2):
        prompt = position = rest = 0.0
        for column in range(5):
            cells = values[layer, :, :, column]
            mean = cells.mean()
            within_prompts, within_places = cells.mean(axis=1), cells.mean(axis=0)
            left = sum(
                (cells[i, j] - within_prompts[i] - within_places[j] + mean) ** 2 for i in range(3) for j in range(4)
            )
            of_rest = left / (2 * 3)
            rest += of_rest
            prompt += (4 * sum((each - mean) ** 2 for each in within_prompts) / 2 - of_rest) / 4
            position += (3 * sum((each - mean) ** 2 for each in within_places) / 3 - of_rest) / 3
        assert [float(each[layer]) for each in found] == pytest.approx([prompt, position, rest])


def test_over_many_draws_components_are_the_variances_that_were_drawn_with() -> None:
    draw = np.random.default_rng(1)
    shape = (4000, 4, 3, 1)
    values = 1.5 * draw.normal(size=(4000, 4, 1, 1)) + 0.5 * draw.normal(size=(4000, 1, 3, 1))
    found = components(torch.from_numpy(values + draw.normal(size=shape)))
    assert [float(each.mean()) for each in found] == pytest.approx([2.25, 0.25, 1.0], rel=0.1)


@pytest.mark.parametrize("kind", [NoPE, RoPE, ALiBi])
def test_a_decoder_whose_reach_ends_inside_the_stretch_knows_no_place(kind) -> None:
    """Three layers with a window of 2 reach 4 tokens: the filler and the place are beyond."""
    made = study()
    decoder = tiny(kind, window=2)
    for item in items_of(made, 40, 50):
        deltas = made.deltas(decoder, item.ids, item.details["starts"], item.details["filler"])
        assert deltas.shape == (LAYERS, 3, 4, WIDTH)
        torch.testing.assert_close(deltas, deltas[:, :, :1].expand_as(deltas), rtol=1e-3, atol=1e-7)
        observed = made.observe(decoder, item, 16)
        for layer in range(LAYERS):
            of_layer = {name: float(observed[f"direction/{name}/{item.name}"][0][layer]) for name in PARTS}
            assert of_layer["prompt"] > 0.1
            assert abs(of_layer["position"]) + abs(of_layer["rest"]) < 1e-8


@pytest.mark.parametrize("kind", [NoPE, RoPE, ALiBi])
def test_what_stands_directly_before_the_stretch_is_no_place(kind) -> None:
    """Three layers with a window of 3 reach 7 tokens, one of the filler's with these."""
    made = study(places=2)
    decoder = tiny(kind, window=3)
    (item,) = items_of(made, 40)
    deltas = made.deltas(decoder, item.ids, item.details["starts"], item.details["filler"])
    torch.testing.assert_close(deltas, deltas[:, :, :1].expand_as(deltas), rtol=1e-3, atol=1e-7)
    other = made.deltas(decoder, item.ids, item.details["starts"], item.details["filler"] + 1)
    assert (other - deltas).abs().max() > 1e-4  # it is read


def test_stretches_of_a_document_share_no_token_that_is_read() -> None:
    for item in items_of(study(), 19, 20, 25, 60):
        starts = sorted(item.details["starts"])
        assert all(later - earlier >= 6 for earlier, later in itertools.pairwise(starts))
        assert starts[-1] + 6 < len(item.ids)


def test_deltas_are_those_of_each_stretch_behind_its_filler_read_alone() -> None:
    made, decoder = study(), tiny(Learned)
    (item,) = items_of(made, 40)
    deltas = made.deltas(decoder, item.ids, item.details["starts"], item.details["filler"])
    decoder.compute_dtype = torch.float64
    for number, start in enumerate(item.details["starts"]):
        for place, offset in enumerate((2, 5, 8, 10)):  # of ten tokens of filler a quarter, a half, three, all
            read = [4, 9, 2, 17, 4, 9, 2, 17, 4, 9][10 - offset :] + item.ids[start : start + 6].tolist()
            left = {}

            def keep(module, given, output, left=left):
                output.retain_grad()
                left["down"] = output

            hook = decoder.blocks[1].feed_forward.down.register_forward_hook(keep)
            logits = decoder(torch.tensor([read]))[0, -1]
            torch.nn.functional.cross_entropy(logits[None], torch.tensor([int(item.ids[start + 6])])).backward()
            hook.remove()
            torch.testing.assert_close(deltas[1, number, place], left["down"].grad[0, -1], rtol=1e-5, atol=1e-9)


def test_places_that_the_decoder_reads_are_found_and_each_document_counts_once() -> None:
    made, decoder = study(prompts=6), tiny(Learned)
    with torch.no_grad():
        [(table,)] = [[each for name, each in decoder.named_parameters() if name.startswith("position")]]
        table *= 30
    fold = Fold({})
    for item in items_of(made, 60, 70, 80):
        fold.add(item.name, made.observe(decoder, item, 16))
    rows = made.rows(fold, 16)
    assert [(row["kind"], row["layer"]) for row in rows] == [(k, n + 1) for k in KINDS for n in range(LAYERS)]
    for row in rows:
        assert sum(row[f"{name}_share"] for name in PARTS) == pytest.approx(1)
        if row["kind"] == "direction":
            assert row["layer_position_share"] == row["position_share"] > 0.05
    numbers = [*made.numbers(fold, rows)]
    for kind in KINDS:
        own = [n.value for n in numbers if n.quantity == f"share of position in the {kind} of down's deltas"]
        assert len(own) == 3
        assert np.mean(own) == pytest.approx(np.mean([row["position_share"] for row in rows if row["kind"] == kind]))


def test_stretches_without_so_many_places_and_filler_without_a_token_are_refused() -> None:
    with pytest.raises(UserError, match="length is 14 and places 4, and C is 16: give less"):
        study(length=14).fits(16)
    source = source_of(40, context=16)
    source.tokenizer = SimpleNamespace(encode=lambda text: FILLER[:0])
    with pytest.raises(UserError, match="filler has no token"):
        next(study().items(source))


def test_the_command_leaves_a_table_a_picture_and_numbers_for_claims(tmp_path: Path) -> None:
    trained = lab("train", "experiment=smoke", "logger=csv", "measure=none", cwd=tmp_path)
    assert trained.returncode == 0, trained.stderr
    asked = ("analyze", "runs=runs/*", "study=delta_position", "study.documents=2")
    line = the_one_line(lab(*asked, "study.length=60", cwd=tmp_path))
    assert "length is 60 and places 8, and C is 64: give less" in line
    done = lab(*asked, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    (folder,) = tmp_path.glob("runs/*/analysis")
    rows = read_table(folder / "delta_position.csv")
    assert {row["kind"] for row in rows} == {*KINDS}
    assert (folder / "delta_position.png").read_bytes().startswith(b"\x89PNG")
    assert len({row["document"] for row in read_table(folder / "delta_position_documents.csv.gz")} - {""}) == 2
