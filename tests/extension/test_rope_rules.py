"""RoPE's rules, against transformers' own frequencies and logits, published numbers, and float64 by definition."""

import math
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from lab.base.errors import UserError
from lab.base.parts import build
from lab.exchange.names import here
from lab.extension.longrope import LongRoPE
from lab.extension.rope_rules import (
    NTK,
    DynamicNTK,
    Llama3,
    NTKByParts,
    PositionInterpolation,
    RopeRule,
    YaRN,
    ntk_base,
    plain_frequencies,
)
from lab.extension.settings import AttentionScalingSettings, InitialScalingSettings, WindowExtensionSettings
from lab.model.attention import Attention
from lab.model.building import load_weights
from lab.model.decoder import Decoder
from lab.model.decoding import Cache, greedy
from lab.model.position import ALiBi, RoPE
from lab.runs.extensions import ExtensionSettings

BASE, HEADS, KV_HEADS, HEAD_DIM, CONTEXT = 10_000.0, 4, 2, 16, 32
PARTS: dict[str, Any] = {"ramp": "code", "beta_fast": 4.0, "beta_slow": 0.5, "context": CONTEXT}
SHORT, LONG = [1.0] * 8, [1.0, 1.5, 2.0, 2.5, 3.0, 3.5, 4.0, 4.5]
SETS: dict[str, Any] = {"factor": 4.0, "context": CONTEXT, "attention_factors": []}
STATIC: dict[str, RopeRule] = {
    "pi": PositionInterpolation(factor=4.0, context=CONTEXT),
    "ntk": NTK(factor=4.0, context=CONTEXT),
    "by_parts_code": NTKByParts(factor=4.0, **PARTS),
    "by_parts_paper": NTKByParts(factor=4.0, **(PARTS | {"ramp": "paper"})),
    "yarn_code": YaRN(factor=4.0, **PARTS),
    "yarn_paper": YaRN(factor=4.0, **(PARTS | {"ramp": "paper"})),
    "yarn_published": YaRN(factor=8.0, **(PARTS | {"beta_fast": 32.0, "beta_slow": 1.0})),
    "llama3": Llama3(factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, context=CONTEXT),
    "longrope": LongRoPE(factors=[LONG], up_to=[], kept=[], **SETS),
    "longrope_scaled": LongRoPE(factors=[LONG], up_to=[], kept=[], **(SETS | {"attention_factors": [1.2]})),
}
SWITCHED = LongRoPE(factors=[SHORT, LONG], up_to=[CONTEXT], kept=[], **SETS)
TOKENS = torch.randint(0, 61, (2, 4 * CONTEXT), generator=torch.Generator().manual_seed(1))


def decoder(rule: RopeRule | None, dtype: torch.dtype = torch.float64, window: int | None = None) -> Decoder:
    made = Decoder(
        vocabulary=61,
        layers=3,
        width=HEADS * HEAD_DIM,
        hidden=96,
        position=RoPE(HEADS, HEAD_DIM, BASE),
        attention=partial(Attention, HEADS * HEAD_DIM, HEADS, KV_HEADS, HEAD_DIM, window, "auto"),
        seed=3,
        compute_dtype=dtype,
    ).eval()
    with torch.no_grad():
        for block in made.blocks:
            block.attention.query.weight *= 20  # so that attention is sharp, and frequencies show
    if rule is not None:
        build("extension", rule)(made)
    return made


def abroad(rule: RopeRule) -> LlamaForCausalLM:
    """transformers' decoder with the same weights, told of the rule by its name there."""
    ours = decoder(None, torch.float32)
    parameters = rule.rope_abroad(BASE, HEAD_DIM)
    config = LlamaConfig(
        vocab_size=61,
        hidden_size=HEADS * HEAD_DIM,
        intermediate_size=96,
        num_hidden_layers=3,
        num_attention_heads=HEADS,
        num_key_value_heads=KV_HEADS,
        head_dim=HEAD_DIM,
        rms_norm_eps=1e-5,
        max_position_embeddings=parameters.pop("max_position_embeddings"),
        rope_parameters=parameters,
    )
    theirs = LlamaForCausalLM(config).eval()
    held = ours.state_dict()
    theirs.load_state_dict({name: held[str(here(name))] for name in theirs.state_dict()})
    return theirs


@pytest.mark.parametrize("name", STATIC)
def test_frequencies_and_factor_are_those_of_transformers(name: str) -> None:
    rule = STATIC[name]
    parameters = rule.rope_abroad(BASE, HEAD_DIM)
    reached = parameters.pop("max_position_embeddings")
    config = LlamaConfig(head_dim=HEAD_DIM, max_position_embeddings=reached, rope_parameters=parameters)
    found = rule.frequencies(BASE, HEAD_DIM, CONTEXT)
    if parameters["rope_type"] == "default":
        theirs, factor = torch.from_numpy(plain_frequencies(parameters["rope_theta"], HEAD_DIM)), 1.0
    else:
        theirs, factor = ROPE_INIT_FUNCTIONS[parameters["rope_type"]](config, "cpu")
    ours = plain_frequencies(BASE, HEAD_DIM) / found.divisors
    np.testing.assert_allclose(ours, theirs.double().numpy(), rtol=2e-6)
    assert found.attention_factor == pytest.approx(factor)


@pytest.mark.parametrize("name", STATIC)
def test_logits_beyond_the_context_are_those_of_transformers(name: str) -> None:
    with torch.inference_mode():
        ours, theirs = decoder(STATIC[name], torch.float32)(TOKENS), abroad(STATIC[name])(TOKENS).logits
    assert (ours - theirs).abs().max() < 2e-4 * theirs.abs().max()


@pytest.mark.parametrize("length", [CONTEXT // 2, CONTEXT, CONTEXT + 1, 3 * CONTEXT])
@pytest.mark.parametrize("rule", [SWITCHED, DynamicNTK(factor=1.0, per="text", context=CONTEXT)], ids=["sets", "ntk"])
def test_a_rule_by_the_length_of_a_text_is_transformers_of_a_fresh_model(rule: RopeRule, length: int) -> None:
    tokens = TOKENS[:, :length]
    with torch.inference_mode():
        # A fresh one for each: that of transformers keeps frequencies from pass to pass.
        ours, theirs = decoder(rule, torch.float32)(tokens), abroad(rule)(tokens).logits
    assert (ours - theirs).abs().max() < 2e-4 * theirs.abs().max()


@pytest.mark.parametrize("factor", [1.0, 2.0, 4.0])
def test_dynamic_ntk_by_text_with_any_factor_is_that_of_transformers(factor: float) -> None:
    rule = DynamicNTK(factor=factor, per="text", context=CONTEXT)
    with torch.inference_mode():
        ours, theirs = decoder(rule, torch.float32)(TOKENS), abroad(rule)(TOKENS).logits
    assert (ours - theirs).abs().max() < 2e-4 * theirs.abs().max()
    assert rule.scaling(4 * CONTEXT) == 4 * factor - (factor - 1)


def by_steps(model: Decoder, tokens: torch.Tensor, pieces: list[int]) -> torch.Tensor:
    cache, parts = Cache(model), []
    with torch.inference_mode():
        for piece in tokens.split(pieces, dim=1):
            parts.append(model.logits(model.hidden(piece, cache=cache)))
    return torch.cat(parts, dim=1)


RULES = {
    **STATIC,
    "kept": LongRoPE(factors=[LONG], up_to=[], kept=[5], **SETS),
    "dynamic": DynamicNTK(factor=1.0, per="position", context=CONTEXT),
}


@pytest.mark.parametrize("window", [None, 11])
@pytest.mark.parametrize("name", RULES)
def test_decoding_with_a_cache_gives_the_logits_of_one_pass(name: str, window: int | None) -> None:
    model = decoder(RULES[name], window=window)
    with torch.inference_mode():
        whole = model(TOKENS)
    pieces = [20, 1, 25, *[1] * 30, 52]
    assert (by_steps(model, TOKENS, pieces) - whole).abs().max() < 1e-6 * whole.abs().max()


@pytest.mark.parametrize("per", ["position", "text"])
def test_a_step_of_decoding_by_dynamic_ntk_is_the_last_position_of_a_pass_over_so_many_tokens(per: Any) -> None:
    model = decoder(DynamicNTK(factor=2.0, per=per, context=CONTEXT))
    cache = Cache(model)
    with torch.inference_mode():
        model.hidden(TOKENS[:, : CONTEXT - 3], cache=cache)
        for length in range(CONTEXT - 2, CONTEXT + 12):
            step = model.logits(model.hidden(TOKENS[:, length - 1 : length], cache=cache))
            whole = model(TOKENS[:, :length])[:, -1:]
            assert (step - whole).abs().max() < 1e-6 * whole.abs().max()


def test_sets_of_factors_change_while_decoding_as_in_passes_of_each_length() -> None:
    model = decoder(SWITCHED)
    prompts = TOKENS[:, : CONTEXT - 4]
    found, tokens = greedy(model, prompts, 12), prompts
    for _ in range(12):
        with torch.inference_mode():
            tokens = torch.cat((tokens, model(tokens)[:, -1:].argmax(-1)), dim=1)
    assert torch.equal(found, tokens[:, -12:])
    plain = decoder(None)
    with torch.inference_mode():
        assert torch.equal(model(prompts), plain(prompts))
        assert not torch.allclose(model(TOKENS), plain(TOKENS))


def test_a_whole_pass_at_one_scale_is_not_what_decoding_computes() -> None:
    rules = [DynamicNTK(factor=1.0, per=per, context=CONTEXT) for per in ("position", "text")]
    with torch.inference_mode():
        each, whole = (decoder(rule)(TOKENS) for rule in rules)
    assert (each - whole)[:, :CONTEXT].abs().max() > 0.01 * whole.abs().max()  # inside too: the whole text is scaled


def by_definition(layer: Attention, x: np.ndarray, rule: DynamicNTK) -> np.ndarray:
    """Attention of each query with the frequencies of the text that ends with it, pair by pair as complex numbers."""
    weight = {name: each.detach().double().numpy() for name, each in layer.named_parameters()}
    query, key, value = (x @ weight[f"{name}.weight"].T for name in ("query", "key", "value"))
    mixed, half = np.zeros((len(x), HEADS * HEAD_DIM)), HEAD_DIM // 2
    for time, head in np.ndindex(len(x), HEADS):
        shared = head // (HEADS // KV_HEADS)
        mine = query[time, head * HEAD_DIM :][:half] + 1j * query[time, head * HEAD_DIM + half :][:half]
        theirs = key[: time + 1, shared * HEAD_DIM :]
        theirs = theirs[:, :half] + 1j * theirs[:, half:HEAD_DIM]
        scaled = max(1.0, (time + 1) / CONTEXT)
        turning = (BASE * scaled ** (HEAD_DIM / (HEAD_DIM - 2))) ** (-np.arange(half) * 2 / HEAD_DIM)
        distance = time - np.arange(time + 1)
        logits = (mine * theirs.conj() * np.exp(1j * distance[:, None] * turning)).real.sum(1) / math.sqrt(HEAD_DIM)
        shares = np.exp(logits - logits.max())
        own = slice(shared * HEAD_DIM, (shared + 1) * HEAD_DIM)
        mixed[time, head * HEAD_DIM : (head + 1) * HEAD_DIM] = shares / shares.sum() @ value[: time + 1, own]
    return mixed @ weight["output.weight"].T


def test_dynamic_ntk_by_position_is_its_definition_query_by_query() -> None:
    rule = DynamicNTK(factor=1.0, per="position", context=CONTEXT)
    model = decoder(rule)
    x = torch.randn(1, 3 * CONTEXT, HEADS * HEAD_DIM, generator=torch.Generator().manual_seed(5)).double()
    layer = model.blocks[0].attention
    with torch.inference_mode():
        found = layer(x, model.position, torch.arange(3 * CONTEXT), None)[0]
    wanted = by_definition(layer, x[0].numpy(), rule)
    np.testing.assert_allclose(found.numpy(), wanted, atol=1e-6 * np.abs(wanted).max())


def test_gradients_of_keys_that_turn_anew_are_those_of_finite_differences() -> None:
    model = decoder(DynamicNTK(factor=1.0, per="position", context=4))
    layer = model.blocks[0].attention
    x = torch.randn(1, 9, HEADS * HEAD_DIM, generator=torch.Generator().manual_seed(5)).double().requires_grad_()
    weigh = torch.randn(1, 9, HEADS * HEAD_DIM, generator=torch.Generator().manual_seed(6)).double()

    def loss(given: torch.Tensor) -> torch.Tensor:
        return (layer(given, model.position, torch.arange(9), None) * weigh).sum()

    (gradient,) = torch.autograd.grad(loss(x), x)
    step = torch.randn(x.shape, generator=torch.Generator().manual_seed(7)).double()
    with torch.no_grad():
        slope = (loss(x + 1e-4 * step) - loss(x - 1e-4 * step)) / 2e-4
    assert float((gradient * step).sum()) == pytest.approx(float(slope), rel=1e-4)


def test_position_interpolation_at_s_positions_is_rope_at_one_and_no_distance_is_beyond_training() -> None:
    plain, rule = decoder(None).position, STATIC["pi"]
    extended = decoder(rule).position
    for each in (plain, extended):
        each.reach(4 * CONTEXT)
    torch.testing.assert_close(extended.table[:, ::4], plain.table[:, :CONTEXT], rtol=0, atol=1e-6)
    assert float(extended.angles(4 * CONTEXT)[-1, 0]) < CONTEXT  # the fastest pair turns a radian a position


@given(
    st.sampled_from([name for name in RULES if name not in ("kept", "dynamic")]),
    st.integers(0, 60),
    st.integers(0, 60),
    st.integers(0, 60),
)
def test_scores_depend_on_relative_positions_only(name: str, query_at: int, key_at: int, shift: int) -> None:
    position = decoder(RULES[name]).position
    position.reach(200)
    q, k = torch.randn(2, 1, 1, 1, HEAD_DIM, generator=torch.Generator().manual_seed(2)).double()

    def score(first: int, second: int) -> float:
        turned = [position.rotate(each, each, torch.tensor([at]))[0] for each, at in ((q, first), (k, second))]
        return float((turned[0] * turned[1]).sum())

    assert score(query_at, key_at) == pytest.approx(score(query_at + shift, key_at + shift), abs=1e-5)


@pytest.mark.parametrize("name", RULES)
def test_a_rule_adds_no_weights(name: str) -> None:
    def names(model: Decoder) -> list[str]:
        return [*model.state_dict()]

    assert names(decoder(RULES[name])) == names(decoder(None))


def test_the_first_tokens_that_are_kept_turn_as_without_a_rule() -> None:
    plain, extended = decoder(None).position, decoder(RULES["kept"]).position
    for each in (plain, extended):
        each.reach(CONTEXT)
    assert torch.equal(extended.table[:, :5], plain.table[:, :5])
    assert not torch.equal(extended.table[:, 5:], plain.table[:, 5:])


def test_the_boundaries_of_the_ramp_are_those_that_were_published() -> None:
    def bounds(base: float, head_dim: int, context: int, fast: float = 32.0, slow: float = 1.0) -> list[float]:
        given = {"ramp": "paper", "beta_fast": fast, "beta_slow": slow, "context": context}
        return [*YaRN(factor=2.0, **given).boundaries(base, head_dim).values()]

    assert bounds(1e4, 128, 4096) == pytest.approx([20.9, 45.0], abs=0.06)  # Llama 2, of which 20 and 46 are the code's
    assert bounds(1e4, 64, 256) == pytest.approx([0.84, 12.88], abs=0.01)  # a pilot's
    assert bounds(1e4, 64, 256, 4.0, 0.5) == pytest.approx([8.06, 15.29], abs=0.01)
    rule = YaRN(factor=2.0, ramp="code", beta_fast=32.0, beta_slow=1.0, context=4096)
    assert [*rule.boundaries(1e4, 128).values()] == [20, 46]


def test_temperatures_are_those_that_were_published() -> None:
    published = {8: 1.208, 32: 1.347, 64: 1.416, 512: 1.624}
    for factor, wanted in published.items():
        assert YaRN(factor=float(factor), **PARTS).attention_factor == pytest.approx(wanted, abs=6e-4)
    model = decoder(YaRN(factor=8.0, **PARTS))
    assert model.position.scale(100) == pytest.approx((0.1 * math.log(8) + 1) ** 2)


def test_ntk_leaves_the_fastest_pair_and_divides_the_slowest_by_s() -> None:
    divisors = STATIC["ntk"].frequencies(BASE, HEAD_DIM, CONTEXT).divisors
    assert divisors[0] == 1
    assert divisors[-1] == pytest.approx(4)
    assert ntk_base(10_000.0, 2.0, 128) == pytest.approx(10_000 * 2 ** (128 / 126))


@pytest.mark.parametrize("name", [each for each in STATIC if each != "longrope_scaled"])
def test_no_pair_is_interpolated_less_than_none_or_more_than_s_and_slower_ones_are_no_less(name: str) -> None:
    rule = STATIC[name]
    divisors = rule.frequencies(BASE, HEAD_DIM, CONTEXT).divisors
    assert (np.diff(divisors) >= -1e-12).all()
    assert divisors.min() >= 1 - 1e-12
    assert divisors.max() <= (4.5 if name == "longrope" else rule.factor) + 1e-12  # type: ignore[attr-defined]


REFUSED: list[tuple[type[ExtensionSettings], dict[str, Any], str]] = [
    (PositionInterpolation, {"factor": 1.0}, "factor is 1.0: give a number above 1"),
    (PositionInterpolation, {"factor": "four"}, "factor is 'four'"),
    (NTK, {"factor": 0.5}, "factor is 0.5"),
    (PositionInterpolation, {"factor": 1e308}, "factor is 1e+308: give 1e+06 or less"),
    (DynamicNTK, {"factor": 1e308, "per": "text"}, "factor is 1e+308"),
    (WindowExtensionSettings, {"ratio": 1e308, "scale": 1.0}, "ratio is 1e+308"),
    (AttentionScalingSettings, {"factor": 1e308, "k": 0.3}, "factor is 1e+308"),
    (InitialScalingSettings, {"factor": 1e308, "k": 0.3, "first": 1}, "factor is 1e+308"),
    (YaRN, {"factor": 2.0, **PARTS, "beta_fast": 1.0, "beta_slow": 4.0}, "beta_slow is 4 and beta_fast 1"),
    (Llama3, {"factor": 2.0, "low_freq_factor": 4.0, "high_freq_factor": 4.0}, "low_freq_factor is 4"),
    (LongRoPE, {**SETS, "factors": [[1.0, 3.0, 2.0]], "up_to": [], "kept": []}, "fall from 3 to 2 at pair 2"),
    (LongRoPE, {**SETS, "factors": [[0.5, 3.0]], "up_to": [], "kept": []}, "factors has 0.5"),
    (LongRoPE, {**SETS, "factors": [], "up_to": [], "kept": []}, "give a set"),
    (LongRoPE, {**SETS, "factors": [SHORT, LONG], "up_to": [], "kept": []}, "give 1 rising lengths"),
    (LongRoPE, {**SETS, "factors": [SHORT, LONG[:3]], "up_to": [32], "kept": []}, "8 and 3 values"),
    (LongRoPE, {**SETS, "factors": [SHORT], "up_to": [], "kept": [1, 2]}, "kept has 2 values"),
]


@pytest.mark.parametrize(("kind", "keys", "told"), REFUSED)
def test_values_that_a_rule_cannot_have_are_refused_in_one_line(
    kind: type[ExtensionSettings], keys: dict[str, Any], told: str
) -> None:
    with pytest.raises(UserError) as refused:
        kind.check(keys, "extension")
    assert len(refused.value.args) == 1
    assert told in refused.value.args[0]


def test_a_decoder_without_rope_and_factors_of_another_head_are_refused() -> None:
    model = decoder(None)
    model.position = ALiBi(HEADS, HEAD_DIM)
    with pytest.raises(UserError, match="for decoders with RoPE, and this one has ALiBi"):
        build("extension", STATIC["pi"])(model)
    few = LongRoPE(factors=[[1.0, 2.0]], up_to=[], kept=[], **SETS)
    with pytest.raises(UserError, match="2 values, and a head of 16 dimensions has 8 pairs"):
        build("extension", few)(decoder(None))


def test_what_transformers_cannot_express_is_refused_with_the_reason() -> None:
    for rule, told in (
        (RULES["kept"], "leaves the first 5"),
        (RULES["dynamic"], "only dynamic_ntk with extension.per=text"),
        (LongRoPE(factors=[SHORT, LONG], up_to=[40], kept=[], **SETS), "up to L = 32"),
        (
            LongRoPE(factors=[SHORT, LONG], up_to=[32], kept=[], **(SETS | {"attention_factors": [1.0, 1.2]})),
            "one attention factor",
        ),
    ):
        with pytest.raises(UserError, match=told):
            rule.rope_abroad(BASE, HEAD_DIM)


def test_weights_are_loaded_into_an_extended_decoder_by_their_names() -> None:
    model = decoder(STATIC["yarn_code"])
    load_weights(model, dict(decoder(None).state_dict()), "plain")
