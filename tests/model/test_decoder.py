"""The decoder as a whole: how far a token is felt, sizes, types, losses."""

import math
from functools import partial

import pytest
import torch
from torch._dynamo.testing import CompileCounterWithBackend
from torch.nn import functional

from lab.extension.temperature import Temperature
from lab.model.attention import Attention
from lab.model.decoder import Decoder, parameter_count
from lab.model.kernels import KERNELS, flex
from lab.model.position import ALiBi, NoPE, PositionEncoding, RoPE

POSITIONS = [NoPE, RoPE, ALiBi]
VOCABULARY = 61


def decoder(
    position: type[PositionEncoding] = NoPE,
    window: int | None = None,
    kernel: str = "auto",
    layers: int = 2,
    **settings,
) -> Decoder:
    return Decoder(
        vocabulary=VOCABULARY,
        layers=layers,
        width=24,
        hidden=40,
        position=position(4, 6),
        attention=partial(Attention, 24, 4, 2, 6, window, kernel),
        seed=5,
        **settings,
    )


def tokens(length: int, batch: int = 1) -> torch.Tensor:
    draw = torch.Generator().manual_seed(length)
    return torch.randint(0, VOCABULARY, (batch, length), generator=draw)


# How far a token is felt.


@pytest.mark.parametrize("position", POSITIONS)
@pytest.mark.parametrize("kernel", ["reference", "sdpa", "banded"])
@pytest.mark.parametrize(("layers", "window"), [(1, 1), (1, 2), (1, 40), (1, 130), (3, 5), (3, 40)])
def test_a_token_is_felt_for_layers_times_window_minus_one_tokens_and_no_further(position, kernel, layers, window):
    model = decoder(position, window, kernel, layers, compute_dtype=torch.float64)
    given = tokens(180)
    for needle in (0, 17):
        other = given.clone()
        other[0, needle] = (other[0, needle] + 1) % VOCABULARY
        with torch.no_grad():
            felt = (model(given) != model(other)).any(dim=2)[0].nonzero().flatten().tolist()
        reach = layers * (window - 1) + 1  # one layer: at distance window - 1 and not at window
        assert felt == list(range(needle, needle + reach))


@pytest.mark.parametrize("position", POSITIONS)
def test_without_a_window_a_token_is_felt_to_the_end_and_never_before_itself(position):
    model = decoder(position, compute_dtype=torch.float64)
    given = tokens(150)
    other = given.clone()
    other[0, 20] = (other[0, 20] + 1) % VOCABULARY
    with torch.no_grad():
        felt = (model(given) != model(other)).any(dim=2)[0].nonzero().flatten().tolist()
    assert felt == list(range(20, 150))


@pytest.mark.parametrize("position", POSITIONS)
@pytest.mark.parametrize("window", [None, 20])
def test_documents_in_one_block_get_the_logits_of_documents_alone(position, window):
    model = decoder(position, window)
    given = tokens(200, batch=2)
    lengths = [[130, 1, 69], [64, 64, 72]]
    documents = torch.stack([torch.arange(3).repeat_interleave(torch.tensor(row)) for row in lengths])
    with torch.no_grad():
        together = model(given, documents)
        for row, sizes in enumerate(lengths):
            for part, whole in zip(given[row].split(sizes), together[row].split(sizes), strict=True):
                # The second document stands at other positions than alone: only distances may count.
                torch.testing.assert_close(model(part[None])[0], whole, rtol=0, atol=1e-5)
        assert (model(given) - together).abs().max() > 1e-3


@pytest.mark.parametrize("position", POSITIONS)
@pytest.mark.parametrize("window", [None, 20])
def test_a_decoder_that_saw_length_c_runs_at_three_times_c(position, window):
    seen, fresh = decoder(position, window), decoder(position, window)
    given = tokens(3 * 48, batch=2)
    targets = given[:, :48]
    seen.next_token_losses(seen.hidden(given[:, :48]), targets).mean().backward()
    with torch.no_grad():
        long = seen(given)
        assert torch.equal(long, fresh(given))
        torch.testing.assert_close(long[:, :48], seen(given[:, :48]), rtol=0, atol=1e-5)
    assert long.shape == (2, 144, VOCABULARY)
    assert long.isfinite().all()


def test_a_pass_in_inference_mode_leaves_a_decoder_that_trains():
    model = decoder(RoPE)
    with torch.inference_mode():
        model(tokens(40))
    model(tokens(30)).sum().backward()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())


@pytest.mark.parametrize("kernel", ["banded", "sdpa", "flex"])
@pytest.mark.parametrize("window", [None, 40])
@pytest.mark.parametrize("position", POSITIONS)
@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
def test_all_blocks_share_one_graph_of_a_length_and_masks_are_made_outside_of_it(position, window, kernel, monkeypatch):
    monkeypatch.setitem(KERNELS, "flex", KERNELS["flex"]._replace(refusal=lambda case: None))  # forward only
    model, block = decoder(position, window, kernel, layers=3), tokens(256)
    torch._dynamo.reset()
    counter = CompileCounterWithBackend("eager")
    with torch.no_grad():
        expected = model.hidden(block)
        monkeypatch.setattr(flex, "_masks", {})  # the pass above has made its own
        for each in model.blocks:
            each.compile(dynamic=False, backend=counter)
        for _ in range(2):
            torch.testing.assert_close(model.hidden(block), expected)
    assert counter.frame_count == 1
    called = [str(node.target) for graph in counter.graphs for node in graph.graph.nodes]
    assert not any("argsort" in name for name in called)  # by which a block mask is made


def test_temperature_is_a_factor_on_the_scores():
    warm, large = decoder(), decoder()
    Temperature(1.5)(warm)
    for other in large.blocks:
        with torch.no_grad():
            other.attention.query.weight *= 1.5
    with torch.no_grad():
        torch.testing.assert_close(warm(tokens(50)), large(tokens(50)), rtol=0, atol=1e-5)
        assert (warm(tokens(50)) - decoder()(tokens(50))).abs().max() > 1e-4


# Losses.


@pytest.mark.parametrize("chunk", [1, 7, 64, 4096])
def test_next_token_losses_are_cross_entropy_whatever_the_chunk(chunk):
    given, targets = tokens(33, batch=2), tokens(34, batch=2)[:, 1:]

    def losses_and_gradients(chunked: bool) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        model = decoder(RoPE)
        if chunked:
            losses = model.next_token_losses(model.hidden(given), targets, chunk=chunk)
        else:
            losses = functional.cross_entropy(model(given).transpose(1, 2), targets, reduction="none")
        losses.mean().backward()
        return losses.detach(), {name: weight.grad for name, weight in model.named_parameters()}

    actual, gradients = losses_and_gradients(chunked=True)
    expected, expected_gradients = losses_and_gradients(chunked=False)
    assert actual.shape == (2, 33)
    torch.testing.assert_close(actual, expected, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(gradients, expected_gradients, rtol=1e-5, atol=1e-6)


def test_a_backward_pass_keeps_no_logits_of_several_chunks():
    model = decoder()
    hidden, targets = model.hidden(tokens(64)), tokens(65)[:, 1:]
    kept: list[int] = []

    def note(tensor: torch.Tensor) -> torch.Tensor:
        kept.append(tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        model.next_token_losses(hidden, targets, chunk=64)
        assert max(kept) >= 64 * VOCABULARY  # one chunk keeps its own
        kept.clear()
        model.next_token_losses(hidden, targets, chunk=16)
    assert max(kept) < 16 * VOCABULARY


def test_the_loss_of_an_untrained_decoder_is_near_that_of_a_guess():
    model = decoder()
    losses = model.next_token_losses(model.hidden(tokens(200)), tokens(201)[:, 1:])
    assert losses.mean().item() == pytest.approx(math.log(VOCABULARY), abs=0.4)


# Types.


@pytest.mark.parametrize("position", POSITIONS)
def test_in_bfloat16_logits_losses_and_gradients_are_float32_and_near_those_of_float32(position):
    rounded, accurate = decoder(position, compute_dtype=torch.bfloat16), decoder(position)
    given = tokens(64, batch=2)
    for model in (rounded, accurate):
        model.losses = model.next_token_losses(model.hidden(given), given.roll(-1, 1))
        model.losses.mean().backward()
    assert rounded.hidden(given).dtype == torch.bfloat16
    assert rounded(given).dtype == rounded.losses.dtype == torch.float32
    assert (rounded(given) - accurate(given)).norm() < 0.02 * accurate(given).norm()
    for (name, one), other in zip(rounded.named_parameters(), accurate.parameters(), strict=True):
        assert one.dtype == one.grad.dtype == torch.float32, name
        assert (one.grad - other.grad).norm() < 0.05 * other.grad.norm(), name


def test_in_float64_everything_is_computed_in_float64():
    model = decoder(NoPE, compute_dtype=torch.float64)
    given = tokens(40)
    exact = model(given)
    assert exact.dtype == torch.float64
    # Were one step of the two passes in float32, they would differ by about 1e-7.
    torch.testing.assert_close(model(given[:, :21]), exact[:, :21], rtol=0, atol=1e-13)


# Parameters.


def sized(vocabulary, layers, width, hidden, heads, kv_heads, head_dim, tied=False) -> Decoder:
    """On the meta device: shapes without values."""
    with torch.device("meta"):
        return Decoder(
            vocabulary,
            layers,
            width,
            hidden,
            RoPE(heads, head_dim),
            partial(Attention, width, heads, kv_heads, head_dim, None, "auto"),
            seed=0,
            tied=tied,
        )


@pytest.mark.parametrize(
    ("shape", "count"),
    [
        ((32_000, 12, 768, 2048, 12, 1, 64), 121_129_728),
        ((32_000, 22, 2048, 5632, 32, 4, 64), 1_100_048_384),
    ],
)
def test_tinyllamas_shapes_have_tinyllamas_parameters(shape, count):
    assert parameter_count(sized(*shape)) == count
    assert parameter_count(sized(*shape, tied=True)) == count - 32_000 * shape[2]


def test_parameters_are_named_and_buffers_are_not_stored():
    kinds = {
        "attention_norm.weight",
        *(f"attention.{name}.weight" for name in ("query", "key", "value", "output")),
        "feed_forward_norm.weight",
        *(f"feed_forward.{name}.weight" for name in ("gate", "up", "down")),
    }
    expected = {"embedding", "norm.weight", "head.weight"} | {f"blocks.{n}.{k}" for n in (0, 1) for k in kinds}
    for position in POSITIONS:
        model = decoder(position)
        model(tokens(8))
        assert set(model.state_dict()) == expected


def test_a_tied_head_is_the_embedding_and_learns_with_it():
    model = decoder(tied=True)
    assert model.head is None
    assert parameter_count(model) == parameter_count(decoder()) - VOCABULARY * 24
    states = model.hidden(tokens(9)).detach()
    torch.testing.assert_close(model.logits(states), states @ model.embedding.mT)
    model.next_token_losses(states, tokens(9)).mean().backward()
    assert model.embedding.grad.abs().sum() > 0


# Refusals.


@pytest.mark.parametrize("name", ["layers", "width", "hidden"])
def test_a_size_below_one_is_refused(name):
    sizes = {"layers": 1, "width": 24, "hidden": 40} | {name: 0}
    with pytest.raises(ValueError, match=f"{name} is 0"):
        Decoder(9, **sizes, position=NoPE(4, 6), attention=partial(Attention, 24, 4, 2, 6, None, "auto"), seed=0)


@pytest.mark.parametrize("kv_heads", [0, 3, 8])
def test_key_heads_that_do_not_divide_heads_are_refused(kv_heads):
    with pytest.raises(ValueError, match=f"{kv_heads} key heads"):
        Attention(24, 4, kv_heads, 6, None, "auto")


@pytest.mark.parametrize("window", [0, -3])
def test_a_window_below_one_is_refused(window):
    with pytest.raises(ValueError, match=f"window is {window}"):
        Attention(24, 4, 2, 6, window, "auto")
