"""A model as a folder that transformers loads: `AutoModelForCausalLM.from_pretrained(folder)`.

    config.json, generation_config.json
    model.safetensors           float32, names as of Llama
    tokenizer.json, tokenizer_config.json
    README.md                   a model card
    modeling_lab_alibi.py       with ALiBi only, which transformers has no class for

RoPE is Llama, windowed RoPE Mistral, no position encoding SmolLM3 none of whose layers rotate. Every field that decides
a number is written: what is left out would have the class's default.
"""

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from safetensors import safe_open
from torch import Tensor

from lab.base.errors import UserError
from lab.base.files import write_whole
from lab.base.progress import progress
from lab.data.tokenizer import Tokenizer
from lab.exchange import abroad as shipped
from lab.exchange.architectures import ALIBI
from lab.exchange.names import abroad
from lab.exchange.weights import write_tensors
from lab.model.settings import ShapeSettings
from lab.runs.extensions import ExtensionSettings
from lab.runs.model import Model

ALIBI_FILE = "modeling_lab_alibi.py"


def configuration(
    config: Any, window: int | None, end_of_document: int, rule: ExtensionSettings | None = None
) -> dict[str, Any]:
    """config.json of a decoder.

    Args:
        config: has its ``model`` and ``scale``.
        window: that it has in the end.
        rule: by which its RoPE turns.

    Raises:
        UserError: a position encoding or a rule that transformers does not have.
    """
    scale: ShapeSettings = config.scale
    position = config.model.position
    told: dict[str, Any] = {
        "vocab_size": scale.vocabulary,
        "hidden_size": scale.width,
        "intermediate_size": scale.hidden,
        "num_hidden_layers": scale.layers,
        "num_attention_heads": scale.heads,
        "num_key_value_heads": scale.kv_heads,
        "head_dim": scale.head_dim,
        "hidden_act": "silu",
        "max_position_embeddings": scale.context,
        "rms_norm_eps": config.model.eps,
        "tie_word_embeddings": config.model.tied,
        "attention_bias": False,
        "mlp_bias": False,
        "attention_dropout": 0.0,
        "bos_token_id": end_of_document,
        "eos_token_id": end_of_document,
        "pad_token_id": None,
        "use_cache": True,
        "initializer_range": 0.02,
        "dtype": "float32",
        "torch_dtype": "float32",
        "sliding_window": window,
        "layer_types": ["full_attention" if window is None else "sliding_attention"] * scale.layers,
    }
    if position.name == "alibi":
        kind: dict[str, Any] = {"architectures": [ALIBI], "model_type": "lab_alibi"}
        del told["sliding_window"], told["layer_types"]  # by which transformers would choose a cache that forgets keys
        kind["attention_window"] = window
        names = {"AutoConfig": "LabAlibiConfig", "AutoModelForCausalLM": ALIBI}
        return told | kind | {"auto_map": {auto: f"{ALIBI_FILE[:-3]}.{name}" for auto, name in names.items()}}
    if position.name == "nope":
        rotations: dict[str, Any] = {
            "no_rope_layers": [0] * scale.layers,  # the name says the contrary: 0 is a layer that does not rotate
            "no_rope_layer_interval": 1,
            "use_sliding_window": window is not None,
        }
        return told | {"architectures": ["SmolLM3ForCausalLM"], "model_type": "smollm3"} | rotations | _rope(10_000.0)
    if position.name != "rope":
        raise UserError(f"transformers has no position encoding {position.name}: it cannot be exported")
    if window is None:
        kind = {"architectures": ["LlamaForCausalLM"], "model_type": "llama"}
    else:
        del told["layer_types"]  # with it transformers takes the folder for a Ministral's
        kind = {"architectures": ["MistralForCausalLM"], "model_type": "mistral"}
    return told | kind | (_rope(position.base) if rule is None else _ruled(rule, position.base, scale.head_dim))


def _rope(base: float) -> dict[str, Any]:
    """As transformers 5 reads it, and as 4 does."""
    return {"rope_parameters": {"rope_type": "default", "rope_theta": base}, "rope_theta": base, "rope_scaling": None}


def _ruled(rule: ExtensionSettings, base: float, head_dim: int) -> dict[str, Any]:
    told = rule.rope_abroad(base, head_dim)
    reached = told.pop("max_position_embeddings")
    lengths = {"max_position_embeddings": reached}
    if "original_max_position_embeddings" in told:
        lengths["original_max_position_embeddings"] = told["original_max_position_embeddings"]
    if told["rope_type"] == "default":
        return _rope(told["rope_theta"]) | lengths
    before = {name: value for name, value in told.items() if name != "rope_theta"}
    return {"rope_parameters": told, "rope_theta": told["rope_theta"], "rope_scaling": before} | lengths


def rope_rule(model: Model) -> ExtensionSettings | None:
    """The rule by which a model's RoPE turns, if it has one: the last."""
    return next((each for each in reversed(model.extensions) if each.turns), None)


def query_factor(model: Model) -> float:
    """What extensions ask queries to be multiplied with, but for a rule of RoPE's.

    Raises:
        UserError: an extension that transformers cannot express.
    """
    factor = 1.0
    for each in model.extensions:
        if each.turns:
            continue
        if each.logit_factor is None:
            raise UserError(f"{model.path}: transformers cannot express the extension {each.name}; export its parent")
        factor *= each.logit_factor
    return factor


def stored(model: Model, step: int | None) -> tuple[dict[str, tuple[int, ...]], Callable[[str], Tensor]]:
    """The shapes of a checkpoint's weights by name, and what gives them, one at a time: a large model is never held
    whole, unless an adapter was trained, whose numbers are put into its weights. What edits have changed stands in
    their place."""
    if getattr(model.config, "adapter", None) is not None:
        merged = model.weights(step)
        return {name: tuple(each.shape) for name, each in merged.items()}, merged.__getitem__
    file = safe_open(model.checkpoint(step).path / "weights.safetensors", framework="pt")
    changed = model.changed

    def weight(name: str) -> Tensor:
        return changed[name] if name in changed else file.get_tensor(name)

    return {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}, weight  # noqa: SIM118


def export(model: Model, folder: Path, step: int | None, card: str) -> None:
    """Write the folder, which must be there and empty.

    Args:
        step: the optimiser step whose weights are written; None: the last.
        card: README.md.

    Raises:
        UserError: it cannot be expressed abroad, or cannot be written.
    """
    tokenizer = model.tokenizer()
    factor = query_factor(model)
    told = configuration(model.config, model.window, tokenizer.end_of_document, rope_rule(model))
    held, weight = stored(model, step)
    ours = {abroad(name): name for name in held}
    shapes = {theirs: held[name] for theirs, name in ours.items()}
    with progress("weights", "numbers", total=sum(map(math.prod, shapes.values())), unit_scale=True, delay=1) as bar:

        def tensor(name: str) -> Tensor:
            value = weight(ours[name])
            bar.update(value.numel())
            return value * factor if factor != 1.0 and name.endswith("q_proj.weight") else value

        write_tensors(folder / "model.safetensors", shapes, tensor, {"format": "pt"})
    generation = {"bos_token_id": told["bos_token_id"], "eos_token_id": told["eos_token_id"], "pad_token_id": None}
    _write_json(folder / "config.json", told)
    _write_json(folder / "generation_config.json", generation)
    export_tokenizer(tokenizer, folder, told["max_position_embeddings"])
    write_whole(folder / "README.md", card.encode())
    if "auto_map" in told:
        write_whole(folder / ALIBI_FILE, (Path(shipped.__path__[0]) / ALIBI_FILE).read_bytes())


def export_tokenizer(tokenizer: Tokenizer, folder: Path, context: int) -> None:
    """Write what `AutoTokenizer` loads to a folder. Raises UserError if it cannot be written."""
    end = tokenizer.library.id_to_token(tokenizer.end_of_document)
    tokens = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": end,
        "eos_token": end,
        "add_bos_token": False,
        "add_eos_token": False,
        "clean_up_tokenization_spaces": False,
        "model_max_length": context,
    }
    _write_json(folder / "tokenizer_config.json", tokens)
    write_whole(folder / "tokenizer.json", tokenizer.path.read_bytes())


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    write_whole(path, (json.dumps(content, indent=2) + "\n").encode())
