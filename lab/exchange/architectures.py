"""What configurations of pretrained decoders mean here, or why a decoder of the lab cannot be that.

A Hugging Face ``config.json`` of the Llama family (Llama, Mistral, SmolLM3, and what the lab itself exports with ALiBi)
becomes position encoding, attention and shape. What is left out there has the default that transformers gives it, not
ours. Whatever would change the numbers and has no place in the lab's decoder is refused by name.
"""

import math
from collections.abc import Mapping
from typing import Any

from lab.base.errors import UserError
from lab.base.parts import find

ALIBI = "LabAlibiForCausalLM"
KNOWN = ("LlamaForCausalLM", "MistralForCausalLM", "SmolLM3ForCausalLM", ALIBI)
# Keys that must have this value, or be left out, for the decoder to be the lab's.
PLAIN: dict[str, tuple[Any, str]] = {
    "attention_bias": (False, "biases in attention"),
    "mlp_bias": (False, "biases in the feed-forward"),
    "hidden_act": ("silu", "another activation than silu"),
    "num_local_experts": (None, "experts"),
    "num_experts": (None, "experts"),
    "use_qk_norm": (False, "norms of queries and keys"),
    "qk_norm": (False, "norms of queries and keys"),
    "residual_multiplier": (1.0, "a factor on what blocks add"),
    "embedding_multiplier": (1.0, "a factor on the embedding"),
    "logits_scaling": (1.0, "a factor on the logits"),
    "attention_multiplier": (None, "a factor of its own on attention"),
    "quantization_config": (None, "quantised weights"),
    "final_logit_softcapping": (None, "capped logits"),
    "attn_logit_softcapping": (None, "capped attention"),
}
DEFAULT_BASE = {"LlamaForCausalLM": 10_000.0, "MistralForCausalLM": 10_000.0, "SmolLM3ForCausalLM": 2_000_000.0}
DEFAULT_EPS = {"LlamaForCausalLM": 1e-6, "MistralForCausalLM": 1e-6, "SmolLM3ForCausalLM": 1e-6, ALIBI: 1e-5}
DEFAULT_TIED = {"SmolLM3ForCausalLM": True}
MISTRAL_WINDOW = 4_096  # where a Mistral's configuration leaves it out


def read_architecture(config: Mapping[str, Any], source: str) -> dict[str, Any]:
    """Keys of ``model`` and ``scale`` that a config.json stands for, and of the ``extension`` by which its RoPE turns.

    Raises:
        UserError: an unknown architecture, or something that the lab's decoder cannot express; named.
    """
    named = config.get("architectures") or ["none"]
    if not isinstance(named, list):
        raise UserError(f"{source}: its architectures is {named!r}, which is no list; restore the file")
    architecture = str(named[0])
    if len(named) != 1 or architecture not in KNOWN:
        raise UserError(f"{source}: its architecture is {', '.join(map(str, named))}; the lab reads {', '.join(KNOWN)}")
    for key, (value, what) in PLAIN.items():
        if key in config and config[key] not in (value, None):
            raise UserError(f"{source}: has {what} ({key} = {config[key]!r}), which no decoder of the lab has")
    scale = _shape(config, source)
    position, rule = _position(architecture, config, scale["layers"], source)
    window = _window(architecture, config, scale["layers"], position["name"] == "rope", source)
    return {
        "model": {
            "position": position,
            "attention": {"name": "full" if window is None else "window", "window": window},
            "tied": _flag(config, "tie_word_embeddings", source, DEFAULT_TIED.get(architecture, False)),
            "eps": float(_number(config, "rms_norm_eps", source, DEFAULT_EPS[architecture])),
        },
        "scale": scale,
        "extension": None if rule is None else _rule(rule, config, scale["context"], source),
    }


def _number(config: Mapping[str, Any], key: str, source: str, default: float | None = None) -> float:
    value = config.get(key, default)
    if value is None:
        raise UserError(f"{source}: lacks {key}; restore the file")
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise UserError(f"{source}: its {key} is {value!r}, which is no number; restore the file")
    return value


def _whole(config: Mapping[str, Any], key: str, source: str, default: int | None = None, most: int = 2**24) -> int:
    value = _number(config, key, source, default)
    if value != value or not 1 <= value <= most or value != int(value):
        raise UserError(f"{source}: its {key} is {value!r}, which is no number of such things; restore the file")
    return int(value)


def _flag(config: Mapping[str, Any], key: str, source: str, default: bool) -> bool:
    value = config.get(key)
    if value is None:
        return default
    if not isinstance(value, bool):
        raise UserError(f"{source}: its {key} is {value!r}, which is neither true nor false; restore the file")
    return value


def _shape(config: Mapping[str, Any], source: str) -> dict[str, int]:
    width, heads = (_whole(config, key, source) for key in ("hidden_size", "num_attention_heads"))
    given = config.get("head_dim") is not None
    return {
        "vocabulary": _whole(config, "vocab_size", source),
        "context": _whole(config, "max_position_embeddings", source, most=2**40),
        "layers": _whole(config, "num_hidden_layers", source, most=10_000),
        "width": width,
        "hidden": _whole(config, "intermediate_size", source),
        "heads": heads,
        "kv_heads": _whole(config, "num_key_value_heads", source, heads),
        "head_dim": _whole(config, "head_dim", source) if given else max(1, width // heads),
    }


def _position(
    architecture: str, config: Mapping[str, Any], layers: int, source: str
) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """The position encoding, and the parameters of RoPE if it is scaled."""
    if architecture == ALIBI:
        return {"name": "alibi"}, None
    if architecture == "SmolLM3ForCausalLM":
        # The name says the contrary: 1 stands for a layer that rotates.
        every = _whole(config, "no_rope_layer_interval", source, 4)
        rotated = config.get("no_rope_layers") or [int((layer + 1) % int(every) != 0) for layer in range(layers)]
        if not (isinstance(rotated, list) and all(each in (0, 1) for each in rotated)):
            raise UserError(
                f"{source}: its no_rope_layers is {rotated!r}, which is no list of 0 and 1; restore the file"
            )
        if len(set(rotated)) != 1 or len(rotated) != layers:
            raise UserError(
                f"{source}: some of its layers rotate and some do not (no_rope_layers); a decoder of the lab has one "
                "position encoding"
            )
        if not rotated[0]:
            return {"name": "nope"}, None
    # transformers 5 has all in rope_parameters; before, rope_theta and rope_scaling stood beside each other.
    # Where both are there transformers 5 reads the elder one.
    parameters: dict[str, Any] = {}
    for key in ("rope_scaling", "rope_parameters"):
        told = config.get(key) or {}
        if not isinstance(told, Mapping):
            raise UserError(f"{source}: its {key} is {told!r}, which is no mapping; restore the file")
        if any(isinstance(value, Mapping) for value in told.values()):
            raise UserError(f"{source}: its {key} differs between kinds of layers; a decoder of the lab has one RoPE")
        kinds = [each.get("rope_type", each.get("type")) or "default" for each in (parameters, told) if each]
        if len(set(map(str, kinds))) > 1:
            raise UserError(
                f"{source}: its RoPE is scaled ({kinds[0]}) by rope_scaling and is {kinds[1]} by rope_parameters; make "
                "them one"
            )
        parameters = dict(told) | parameters
    for where in (config, parameters):
        if where.get("partial_rotary_factor", 1.0) != 1.0:
            raise UserError(
                f"{source}: rotates {where['partial_rotary_factor']} of each head; the lab rotates all of it"
            )
    base = parameters.get("rope_theta", config.get("rope_theta", DEFAULT_BASE[architecture]))
    kind = parameters.get("rope_type", parameters.get("type")) or "default"
    position = {"name": "rope", "base": float(_number({"rope_theta": base}, "rope_theta", source))}
    return position, None if kind == "default" else parameters | {"rope_type": kind}


def _rule(parameters: Mapping[str, Any], config: Mapping[str, Any], longest: int, source: str) -> dict[str, Any]:
    """Keys of the extension that scaled RoPE stands for.

    Args:
        longest: ``max_position_embeddings``.
    """
    kind = parameters["rope_type"]
    told = {name: value for name, value in parameters.items() if name not in ("rope_type", "type", "rope_theta")}
    original = config.get("original_max_position_embeddings")
    if original is not None:  # as transformers has it: that of the whole goes before
        told["original_max_position_embeddings"] = original
    told.pop("partial_rotary_factor", None)

    def number(key: str, default: float | None = None) -> float:
        given = told.pop(key, None)
        return float(_number({key: default if given is None else given}, key, source))

    def factors(key: str) -> list[float]:
        given = told.pop(key, None)
        if not (isinstance(given, list) and all(isinstance(each, int | float) for each in given)):
            raise UserError(f"{source}: its {key} is {str(given)[:60]}, which is no list of numbers; restore the file")
        return [float(each) for each in given]

    context = int(number("original_max_position_embeddings", longest))
    if kind == "linear":
        rule: dict[str, Any] = {"name": "position_interpolation", "factor": number("factor")}
    elif kind == "dynamic":
        # Of a dynamic rule transformers takes max_position_embeddings for L, whatever else there is.
        rule = {"name": "dynamic_ntk", "factor": number("factor"), "per": "text"}
        context = longest
    elif kind == "yarn":
        if told.pop("truncate", True) is not True:
            raise UserError(
                f"{source}: its yarn has truncate false, a ramp between indices that are not whole: not read"
            )
        rule = {"name": "yarn", "ramp": "code", "factor": number("factor")}
        rule |= {"beta_fast": number("beta_fast", 32.0), "beta_slow": number("beta_slow", 1.0)}
        rule["temperature"] = None if told.get("attention_factor") is None else number("attention_factor")
    elif kind == "llama3":
        names = ("factor", "low_freq_factor", "high_freq_factor")
        rule = {"name": "llama3"} | {name: number(name) for name in names}
    elif kind == "longrope":
        short, long = factors("short_factor"), factors("long_factor")
        factor = number("factor", longest / context)
        # What transformers takes where none is given.
        usual = math.sqrt(1 + math.log(factor) / math.log(context)) if factor > 1 else 1.0
        attention = number("attention_factor", usual)
        sets = [short] if short == long else [short, long]
        rule = {"name": "longrope", "factor": factor, "factors": sets, "up_to": [context][: len(sets) - 1]}
        rule |= {"kept": [], "attention_factors": [attention] * len(sets)}
    else:
        raise UserError(f"{source}: its RoPE is scaled ({kind}), which the lab does not read")
    left = sorted(name for name, value in told.items() if value is not None and name != "attention_factor")
    if left or told.get("attention_factor") is not None:
        raise UserError(
            f"{source}: its RoPE ({kind}) has {(left or ['attention_factor'])[0]}, which the lab does not read"
        )
    rule["context"] = context
    try:
        checked: dict[str, Any] = find("extension", rule["name"]).settings.check(rule).plain()
    except UserError as error:
        raise UserError(f"{source}: its RoPE ({kind}) cannot be read: {error.args[0].lstrip(': ')}") from None
    return checked


def _window(architecture: str, config: Mapping[str, Any], layers: int, rotates: bool, source: str) -> int | None:
    """Keys that a query sees; None for all."""
    default = MISTRAL_WINDOW if architecture == "MistralForCausalLM" else None
    window = config.get("attention_window" if architecture == ALIBI else "sliding_window", default)
    kinds = config.get("layer_types")
    if architecture == "SmolLM3ForCausalLM" and not (
        config.get("use_sliding_window", False) and (kinds or not rotates)
    ):
        window = None  # of rotating layers transformers has a window only where layer_types says so
    if architecture == "LlamaForCausalLM":
        window = None
    if window is None:
        return None
    if kinds and not (isinstance(kinds, list) and all(isinstance(each, str) for each in kinds)):
        raise UserError(f"{source}: its layer_types is {kinds!r}, which is no list of words; restore the file")
    if kinds and len(set(kinds)) > 1:
        raise UserError(
            f"{source}: some of its layers see all keys and some a window (layer_types); all layers of a "
            "decoder of the lab are alike"
        )
    if kinds and kinds[0] == "full_attention":
        return None
    return int(_number({"sliding_window": window}, "sliding_window", source))
