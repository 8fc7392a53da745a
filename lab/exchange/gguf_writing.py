"""A decoder with RoPE as a GGUF file of the Llama type, in float32, written with the package gguf tensor by tensor."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from lab.base.errors import UserError
from lab.base.progress import progress
from lab.data.tokenizer import Tokenizer
from lab.exchange.exporting import query_factor, rope_rule, stored
from lab.exchange.gguf import abroad
from lab.exchange.row_order import side_by_side
from lab.runs.model import Model

NORMAL, CONTROL, UNUSED = 1, 3, 5  # kinds of tokens


def export_gguf(model: Model, path: Path, step: int | None) -> None:
    """Write a model to a file, which must not be there.

    Args:
        step: the optimiser step whose weights are written; None: the last.

    Raises:
        UserError: the package is missing; the Llama type has no such decoder or tokenizer; it cannot be written.
    """
    try:
        from gguf import GGUFWriter
    except ImportError:
        raise UserError("writing GGUF needs the package gguf: pip install '.[gguf]'") from None
    config, tokenizer = model.config, model.tokenizer()
    scale, position = config.scale, config.model.position
    factor = query_factor(model)
    if position.name != "rope" or model.window is not None:
        raise UserError(f"{model.path}: a GGUF file of the Llama type has RoPE and full attention, not {model.label}")
    rule = rope_rule(model)
    if rule is not None:
        raise UserError(
            f"{model.path}: no GGUF file is written of a RoPE that turns by {rule.label}, for nothing here proves what "
            "its readers make of that; export the folder for transformers"
        )
    tokens, merges, cut = spelled(tokenizer, scale.vocabulary)
    held, weight = stored(model, step)
    names = {abroad(name): name for name in held}
    writer = GGUFWriter(path, "llama")
    writer.add_name(model.path.resolve().name)
    writer.add_context_length(scale.context)
    writer.add_embedding_length(scale.width)
    writer.add_block_count(scale.layers)
    writer.add_feed_forward_length(scale.hidden)
    writer.add_head_count(scale.heads)
    writer.add_head_count_kv(scale.kv_heads)
    writer.add_key_length(scale.head_dim)
    writer.add_value_length(scale.head_dim)
    writer.add_rope_dimension_count(scale.head_dim)
    writer.add_rope_freq_base(position.base)
    writer.add_layer_norm_rms_eps(config.model.eps)
    writer.add_vocab_size(scale.vocabulary)
    writer.add_file_type(0)  # all of float32
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(cut)
    writer.add_token_list([token for token, _ in tokens])
    writer.add_token_types([kind for _, kind in tokens])
    writer.add_token_merges(merges)
    writer.add_bos_token_id(tokenizer.end_of_document)
    writer.add_eos_token_id(tokenizer.end_of_document)
    writer.add_add_bos_token(False)

    def value_of(name: str) -> Tensor:
        value = weight(name)
        if name.endswith("attention.query.weight"):
            return side_by_side(value * factor if factor != 1.0 else value, scale.heads)
        return side_by_side(value, scale.kv_heads) if name.endswith("attention.key.weight") else value

    try:
        shapes = {theirs: held[ours] for theirs, ours in names.items()}
        for theirs, shape in shapes.items():
            writer.add_tensor_info(theirs, shape, np.dtype(np.float32), 4 * int(np.prod(shape)))
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        for ours in progress("weights", "tensors", names.values(), delay=1):
            writer.write_tensor_data(value_of(ours).contiguous().numpy())
    except OSError as error:
        raise UserError(f"{path} cannot be written ({str(error.strerror).lower()})") from None
    finally:
        writer.close()


def spelled(tokenizer: Tokenizer, rows: int) -> tuple[list[tuple[str, int]], list[str], str]:
    """Tokens with their kinds, as many as the embedding has rows; merges; and what llama.cpp calls how texts are cut.

    Raises:
        UserError: it is no byte-level BPE that cuts texts as GPT-2 or SmolLM do.
    """
    told: dict[str, Any] = json.loads(tokenizer.path.read_text(encoding="utf-8"))
    cutting = told.get("pre_tokenizer") or {}
    steps = cutting.get("pretokenizers", [cutting])
    kinds = [step.get("type") for step in steps]
    level = steps[-1]
    plain = level.get("use_regex", True) and not level.get("add_prefix_space", True)
    digits = len(steps) == 2 and steps[0].get("individual_digits")
    cut = {("ByteLevel",): "gpt-2", ("Digits", "ByteLevel"): "smollm" if digits else None}.get(tuple(kinds))
    if told["model"].get("type") != "BPE" or told.get("normalizer") or cut is None or not plain:
        raise UserError(
            f"{tokenizer.path}: a GGUF file is written with a byte-level BPE that cuts texts as GPT-2 or SmolLM do; "
            "this is none: export for transformers"
        )
    special = {each["id"] for each in told.get("added_tokens", []) if each.get("special")}
    ids = tokenizer.library.get_vocab(with_added_tokens=True)
    by_id = {number: token for token, number in ids.items()}
    tokens = [
        (by_id[number], CONTROL if number in special else NORMAL) if number in by_id else (f"[PAD{number}]", UNUSED)
        for number in range(rows)
    ]
    merges = [each if isinstance(each, str) else " ".join(each) for each in told["model"]["merges"]]
    return tokens, merges, cut
