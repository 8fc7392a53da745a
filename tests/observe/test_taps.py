"""Taps: what is read is what the decoder computed, what is changed is what it goes on with, nothing stays behind."""

from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from lab.base.errors import UserError
from lab.model.attention import Attention
from lab.model.decoder import Block, Decoder
from lab.model.decoding import greedy
from lab.model.position import ALiBi, NoPE, RoPE
from lab.model.recompute import recompute
from lab.observe import taps

LAYERS, WIDTH, VOCABULARY = 3, 16, 19
TOKENS = torch.randint(0, VOCABULARY, (2, 11), generator=torch.Generator().manual_seed(0))
VARIANTS = [(NoPE, None), (RoPE, None), (ALiBi, None), (RoPE, 4)]


def small(position=RoPE, window: int | None = None, kernel: str = "reference", dtype=torch.float32) -> Decoder:
    attention = partial(Attention, WIDTH, 2, 1, 8, window, kernel)
    decoder = Decoder(VOCABULARY, LAYERS, WIDTH, 24, position(2, 8), attention, seed=3, compute_dtype=dtype)
    with torch.no_grad():  # as initialised, blocks hardly add to what enters them
        for parameter in decoder.parameters():
            parameter.mul_(8 if parameter.dim() > 1 else 1)
    return decoder


def start(decoder: Decoder) -> Tensor:
    """What enters the first block."""
    decoder.position.reach(TOKENS.shape[1])
    return decoder.embedding[TOKENS].to(decoder.compute_dtype)


def through(decoder: Decoder, x: Tensor, first: int, last: int) -> Tensor:
    """Blocks first to last - 1, written out, without calling a block."""
    positions = torch.arange(TOKENS.shape[1])
    for block in list(decoder.blocks)[first:last]:
        assert isinstance(block, Block)
        x = x + block.attention(block.attention_norm(x), decoder.position, positions, None, None)
        x = x + feed_forward(block, block.feed_forward_norm(x))
    return x


def feed_forward(block: Block, x: Tensor) -> Tensor:
    gate, up, down = (
        module.weight for module in (block.feed_forward.gate, block.feed_forward.up, block.feed_forward.down)
    )
    x = functional.silu(functional.linear(x, gate.to(x.dtype))) * functional.linear(x, up.to(x.dtype))
    return functional.linear(x, down.to(x.dtype))


def hooks(decoder: Decoder) -> int:
    return sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in decoder.modules())


def places(decoder: Decoder) -> list[str]:
    """All that a pass calls."""
    uncalled = ("", "blocks", "position", "head")
    return ["embedding", *(name for name, _ in decoder.named_modules() if name not in uncalled)]


# Reading.


@pytest.mark.parametrize(("position", "window"), VARIANTS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_is_read_of_each_layer_is_the_manual_forward_pass_bit_for_bit(position, window, dtype):
    decoder = small(position, window, dtype=dtype)
    with (
        torch.inference_mode(),
        taps.reading(decoder, ["embedding", "blocks.0", "blocks.1", "blocks.2", "norm"]) as seen,
    ):
        hidden = decoder.hidden(TOKENS)
        for name, layers in {"embedding": 0, "blocks.0": 1, "blocks.1": 2, "blocks.2": 3}.items():
            assert seen[name].dtype == dtype
            assert torch.equal(seen[name], through(decoder, start(decoder), 0, layers))
        assert torch.equal(seen["norm"], hidden)


def test_what_is_read_inside_a_block_is_its_equation_bit_for_bit():
    decoder = small()
    names = [
        "blocks.1.attention_norm",
        "blocks.1.attention",
        "blocks.1.feed_forward_norm",
        "blocks.1.feed_forward.down",
    ]
    with torch.no_grad(), taps.reading(decoder, ["blocks.0", *names]) as seen:
        decoder(TOKENS)
        x, block = seen["blocks.0"], decoder.blocks[1]
        normed = x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-5)
        torch.testing.assert_close(seen[names[0]], normed * block.attention_norm.weight)
        mixed = block.attention(seen[names[0]], decoder.position, torch.arange(TOKENS.shape[1]), None)
        assert torch.equal(seen[names[1]], mixed)
        assert torch.equal(seen[names[2]], block.feed_forward_norm(x + seen[names[1]]))
        assert torch.equal(seen[names[3]], feed_forward(block, seen[names[2]]))


@pytest.mark.parametrize(("position", "window"), VARIANTS)
@pytest.mark.parametrize("kernel", ["reference", "sdpa"])
def test_logits_and_gradients_are_the_same_bits_while_every_place_is_read(position, window, kernel):
    decoder = small(position, window, kernel)
    outcomes = []
    for names in ([], places(decoder)):
        for detach in (True, False):
            with taps.reading(decoder, names, detach) as seen:
                logits = decoder(TOKENS)
                gradients = torch.autograd.grad(logits.square().sum(), list(decoder.parameters()))
            assert sorted(seen) == sorted(names)
            outcomes.append([logits, *gradients])
    for outcome in outcomes[1:]:
        assert all(torch.equal(one, other) for one, other in zip(outcomes[0], outcome, strict=True))


def test_what_is_read_has_no_graph_unless_it_is_kept_and_shares_memory_with_what_the_decoder_has():
    decoder = small()
    with taps.reading(decoder, "blocks.1") as seen, taps.reading(decoder, "blocks.1", detach=False) as kept:
        decoder(TOKENS)
    assert not seen["blocks.1"].requires_grad
    assert kept["blocks.1"].requires_grad
    assert seen["blocks.1"].data_ptr() == kept["blocks.1"].data_ptr()


@pytest.mark.parametrize("layer", range(LAYERS))
def test_a_gradient_with_respect_to_what_is_read_is_that_of_the_rest_of_the_decoder(layer):
    decoder = small(dtype=torch.float64)
    with taps.reading(decoder, [f"blocks.{layer}"], detach=False) as seen:
        loss = decoder.next_token_losses(decoder.hidden(TOKENS), TOKENS).sum()
        (gradient,) = torch.autograd.grad(loss, seen[f"blocks.{layer}"])
    x = through(decoder, start(decoder), 0, layer + 1).detach().requires_grad_()
    hidden = decoder.norm(through(decoder, x, layer + 1, LAYERS))
    log_probability = torch.log_softmax(hidden @ decoder.head.weight.to(torch.float64).T, dim=-1)
    (wanted,) = torch.autograd.grad(-log_probability.gather(2, TOKENS[..., None]).sum(), x)
    torch.testing.assert_close(gradient, wanted, rtol=1e-10, atol=1e-12)


def test_only_the_last_pass_is_kept_and_a_pass_may_be_a_step_of_decoding():
    decoder = small()
    with torch.inference_mode(), taps.reading(decoder, ["blocks.2"]) as seen:
        for length in (11, 4):
            decoder(TOKENS[:, :length])
            assert seen["blocks.2"].shape == (2, length, WIDTH)
    with taps.reading(decoder, ["blocks.2"]) as seen:
        greedy(decoder, TOKENS, 3)
    assert seen["blocks.2"].shape == (2, 1, WIDTH)  # may be looked at afterwards


# Changing.


@pytest.mark.parametrize(("position", "window"), VARIANTS)
@pytest.mark.parametrize("layer", range(LAYERS))
def test_a_layer_that_is_set_to_zero_gives_what_later_blocks_make_of_zeros(position, window, layer):
    decoder = small(position, window)
    with torch.no_grad():
        with taps.changing(decoder, {f"blocks.{layer}": torch.zeros_like}):
            changed = decoder.hidden(TOKENS)
        # Zeros stay zeros in every block, so something is added to tell blocks apart.
        with taps.changing(decoder, {f"blocks.{layer}": lambda x: torch.zeros_like(x) + 1}):
            ones = decoder.hidden(TOKENS)
        zeros = torch.zeros(2, 11, WIDTH)
        assert torch.equal(changed, decoder.norm(through(decoder, zeros, layer + 1, LAYERS)))
        assert torch.equal(ones, decoder.norm(through(decoder, zeros + 1, layer + 1, LAYERS)))


def test_what_enters_the_first_block_can_be_changed():
    decoder = small()
    offset = torch.linspace(-1, 1, WIDTH)
    with torch.inference_mode():
        with taps.changing(decoder, {"embedding": lambda x: x + offset}):
            changed = decoder.hidden(TOKENS)
        assert torch.equal(changed, decoder.norm(through(decoder, start(decoder) + offset, 0, LAYERS)))


def test_attention_that_is_set_to_zero_leaves_the_residual_stream_and_the_feed_forward():
    decoder = small()
    with torch.no_grad():
        with taps.changing(decoder, {"blocks.2.attention": torch.zeros_like}):
            changed = decoder.hidden(TOKENS)
        x, block = through(decoder, start(decoder), 0, 2), decoder.blocks[2]
        assert torch.equal(changed, decoder.norm(x + feed_forward(block, block.feed_forward_norm(x))))


def test_several_places_can_be_changed_at_once_and_gradients_go_through_the_changes():
    decoder = small(dtype=torch.float64)
    factor = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)
    with taps.changing(decoder, {"blocks.0": lambda x: x * factor, "norm": lambda x: x * factor}):
        (gradient,) = torch.autograd.grad(decoder.hidden(TOKENS).square().sum(), factor)

    def value(at: float) -> float:
        with torch.no_grad():
            x = through(decoder, start(decoder), 0, 1) * at
            return (decoder.norm(through(decoder, x, 1, LAYERS)) * at).square().sum().item()

    step = 1e-5
    assert gradient.item() == pytest.approx((value(0.7 + step) - value(0.7 - step)) / (2 * step), rel=1e-6)


@pytest.mark.parametrize("name", ["embedding", "blocks.1", "norm"])
def test_of_two_taps_at_a_place_the_one_entered_first_acts_first(name):
    decoder = small()
    read, changed = partial(taps.reading, decoder, name), partial(taps.changing, decoder, {name: torch.zeros_like})
    with torch.inference_mode():
        with read() as before, changed(), read() as after:
            decoder(TOKENS)
        assert before[name].any()
        assert not after[name].any()
        with (
            taps.changing(decoder, {name: lambda x: x + 1}),
            taps.changing(decoder, {name: lambda x: x * 2}),
            read() as both,
        ):
            decoder(TOKENS)
        assert torch.equal(both[name], (before[name] + 1) * 2)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda x: None, "the change of blocks.1 returned a NoneType: let it return a tensor"),
        (lambda x: x[:, :1], r"the change of blocks.1 returned torch.float32 of \(2, 1, 16\) on cpu"),
        (lambda x: x.double(), "the change of blocks.1 returned torch.float64"),
    ],
)
def test_a_change_that_gives_something_else_than_such_a_tensor_is_an_error(change, told):
    decoder = small()
    with pytest.raises(ValueError, match=told), taps.changing(decoder, {"blocks.1": change}):
        decoder(TOKENS)
    assert hooks(decoder) == 0


# Nothing stays behind.


class Stop(Exception):
    pass


def fail(*_: Tensor) -> Tensor:
    raise Stop


@pytest.mark.parametrize("body", [lambda decoder: None, lambda decoder: decoder(TOKENS), fail])
@pytest.mark.parametrize(
    "tap", [taps.reading, lambda decoder, names: taps.changing(decoder, dict.fromkeys(names, fail))]
)
def test_all_hooks_are_gone_afterwards_also_after_an_exception(tap: Callable, body: Callable):
    decoder = small()
    with torch.no_grad():
        before = decoder(TOKENS)
        try:
            with tap(decoder, places(decoder)):
                assert hooks(decoder) == len(places(decoder)) + 2  # and what begins and ends a pass
                body(decoder)
        except Stop:
            pass
        assert hooks(decoder) == 0
        assert torch.equal(decoder(TOKENS), before)


def test_a_tap_leaves_the_hooks_of_others_alone():
    decoder = small()
    calls: list[str] = []
    decoder.blocks[0].register_forward_hook(lambda *_: calls.append("mine"))
    with taps.reading(decoder, ["blocks.0"]):
        decoder(TOKENS)
    decoder(TOKENS)
    assert calls == ["mine", "mine"]


# Places that there are not, or that are not reached.


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("blocks.7", "blocks.2"),
        ("blocks.1.atention", "blocks.1.attention"),
        ("embeding", "embedding"),
        ("norms", "norm"),
        ("", "embedding or blocks.0 or norm"),
        ("what\never", "embedding or blocks.0 or norm"),
    ],
)
def test_an_unknown_place_is_told_with_near_ones(name, near):
    decoder = small()
    for tap in (taps.reading(decoder, ["norm", name]), taps.changing(decoder, {"norm": fail, name: fail})):
        with pytest.raises(UserError) as told, tap:
            pass
        assert str(told.value).startswith(f"{name!r} is no place in this decoder: did you mean ")
        assert near in str(told.value)
        assert "\n" not in str(told.value)
        assert hooks(decoder) == 0


@pytest.mark.parametrize("name", ["head", "position", "blocks"])
def test_a_place_that_a_pass_does_not_reach_is_an_error(name):
    decoder = small()
    for tap in (taps.reading(decoder, ["blocks.0", name]), taps.changing(decoder, {name: lambda x: x})):
        with pytest.raises(UserError, match=f"^{name}: a pass did not call it"), tap:
            decoder(TOKENS)
        assert hooks(decoder) == 0


def test_a_pass_that_is_left_halfway_is_an_error_for_the_places_behind():
    decoder = small()

    def first_block() -> None:
        decoder.blocks[0](start(decoder), decoder.position, torch.arange(TOKENS.shape[1]), None)

    with taps.reading(decoder, ["blocks.0"]) as seen:
        first_block()
    assert torch.equal(seen["blocks.0"], through(decoder, start(decoder), 0, 1))
    for tap in (taps.reading(decoder, ["blocks.2"]), taps.changing(decoder, {"blocks.2": torch.zeros_like})):
        with pytest.raises(UserError, match=r"^blocks.2: a pass did not call it"), tap:
            first_block()


def test_nothing_of_the_pass_before_is_left_by_one_that_is_not_complete():
    decoder = small()

    def in_part() -> None:
        decoder(TOKENS)
        with pytest.raises(Stop), taps.changing(decoder, {"blocks.1": fail}):
            decoder(TOKENS)

    with taps.reading(decoder, ["blocks.0"]) as seen:
        in_part()
    assert sorted(seen) == ["blocks.0"]
    with pytest.raises(UserError, match=r"^blocks.2: a pass did not call it"):  # noqa: SIM117 it is the outer one's end
        with taps.reading(decoder, ["blocks.0", "blocks.2"]) as seen:
            in_part()
    assert sorted(seen) == ["blocks.0"]


def test_what_was_not_read_is_an_error_to_ask_for():
    decoder = small()
    with taps.reading(decoder, ["blocks.0"]) as seen:
        with pytest.raises(UserError, match=r"nothing was read at 'blocks.0'"):
            seen["blocks.0"]
        decoder(TOKENS)
        with pytest.raises(UserError, match=r"nothing was read at 'blocks.1'"):
            seen["blocks.1"]


def test_a_place_that_gives_a_tuple_is_an_error():
    class Two(nn.Module):
        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            return x, x

    decoder = small()
    decoder.blocks[1].feed_forward = Two()
    for tap in (
        taps.reading(decoder, ["blocks.1.feed_forward"]),
        taps.changing(decoder, {"blocks.1.feed_forward": fail}),
    ):
        with pytest.raises(UserError, match=r"^blocks.1.feed_forward gives a tuple, not one tensor"), tap:
            decoder(TOKENS)
        assert hooks(decoder) == 0


# Compiled blocks, and blocks that are formed again.


def chained(decoder: Decoder, x: Tensor, first: int, last: int) -> Tensor:
    """Blocks first to last - 1, called as they are, compiled or not."""
    positions = torch.arange(TOKENS.shape[1])
    for block in list(decoder.blocks)[first:last]:
        x = block(x, decoder.position, positions, None, None, 1.0)
    return x


def test_a_compiled_block_is_read_and_changed_from_outside_whether_it_was_compiled_before_or_not():
    # Compiled, norms are of plain operations, and round otherwise than those whose gradients are written: another
    # decoder, whose blocks are compiled and whom no tap touches, tells what must be seen.
    other, decoder = small(), small()
    for block in [*other.blocks, *decoder.blocks]:
        block.compile(backend="eager", dynamic=False)
    with torch.no_grad():
        plain = [chained(other, start(other), 0, layers) for layers in range(LAYERS + 1)]
        ones = other.norm(chained(other, torch.ones_like(plain[0]), 2, LAYERS))
        for before in (False, True):
            torch.compiler.reset()
            if before:
                decoder(TOKENS)
            for _ in range(2):
                with taps.reading(decoder, ["embedding", "blocks.1", "blocks.2"]) as seen:
                    decoder(TOKENS)
                assert all(torch.equal(seen[name], plain[k]) for name, k in zip(seen, (0, 2, 3), strict=True))
                with taps.changing(decoder, {"blocks.1": torch.ones_like}):
                    assert torch.equal(decoder.hidden(TOKENS), ones)
                assert torch.equal(decoder.hidden(TOKENS), decoder.norm(plain[3]))
    torch.compiler.reset()


@pytest.mark.parametrize("name", ["blocks.1.attention", "blocks.1.feed_forward.down"])
def test_a_place_inside_a_compiled_block_is_refused(name):
    decoder = small()
    decoder.blocks[1].compile(backend="eager")
    told = rf"^{name} is inside compiled code; set trainer.compile=false, or name blocks.1 itself$"
    with pytest.raises(UserError, match=told), taps.reading(decoder, [name]):
        pass


def test_a_decoder_that_is_compiled_as_a_whole_is_refused():
    decoder = small()
    wrapped = torch.compile(decoder, backend="eager")
    with pytest.raises(UserError, match=r"as torch.compile made it"), taps.reading(wrapped, ["embedding"]):
        pass
    decoder.compile(backend="eager")
    with pytest.raises(UserError, match=r"^norm is inside compiled code"), taps.changing(decoder, {"norm": fail}):
        pass


@pytest.mark.parametrize("choice", ["selective", "all"])
def test_a_block_that_is_formed_again_is_read_at_its_end_and_refused_inside(choice):
    decoder = small()
    wanted = through(decoder, start(decoder), 0, 2)
    recompute(decoder, choice)
    with taps.reading(decoder, ["blocks.1"]) as seen:
        decoder(TOKENS).sum().backward()
    assert torch.equal(seen["blocks.1"], wanted)
    told = r"^blocks.1.attention is formed again in the backward pass; set trainer.recompute=none, or name blocks.1 "
    with pytest.raises(UserError, match=told), taps.changing(decoder, {"blocks.1.attention": fail}):
        pass
