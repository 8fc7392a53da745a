"""GGUF out and in: bit for bit here, and the same logits in transformers, which has a reader of its own."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tokenizers
import torch
from gguf import GGUFReader, GGUFValueType, GGUFWriter
from transformers import AutoModelForCausalLM, AutoTokenizer

from lab.base.errors import UserError
from lab.experiment.compose import settings_of
from lab.experiment.handing_on import hand_on
from lab.experiment.settings import ExportSettings
from lab.runs.imported import Imported


@pytest.fixture
def give_gguf(tmp_path: Path) -> Callable[[Path], Path]:
    def give(run: Path) -> Path:
        to = tmp_path / "exported" / f"{run.name}.gguf"
        hand_on(settings_of("export", ExportSettings, [f"run={run}", f"to={to}", "format=gguf"]))
        return to

    return give


def test_what_is_written_as_gguf_and_imported_again_is_the_same_decoder_bit_for_bit(
    llama: Path, take: Callable[..., Imported], give_gguf: Callable[[Path], Path], tmp_path: Path
) -> None:
    first = take(llama)
    again = take(give_gguf(first.path), runs=str(tmp_path / "again"))
    assert again.identity["weights"] == first.identity["weights"]
    assert again.identity["model"] == first.identity["model"]
    assert again.identity["scale"] == first.identity["scale"]
    for text in ("The state of the Union, 1865.", "  two  spaces\n\n", "émigré — 字"):
        assert again.tokenizer().encode(text).tolist() == first.tokenizer().encode(text).tolist()
    assert again.tokenizer().end_of_document == first.tokenizer().end_of_document


def test_transformers_reads_the_file_as_the_same_decoder(
    llama: Path, take: Callable[..., Imported], give_gguf: Callable[[Path], Path]
) -> None:
    model = take(llama)
    path = give_gguf(model.path)
    theirs = AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=torch.float32).eval()
    tokens = torch.randint(0, 1024, (2, 200), generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        wanted, found = model.decoder()(tokens), theirs(tokens).logits
    assert float((wanted - found).abs().max()) < 1e-4 * float(wanted.abs().max())
    spelled = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    text = "The state of the Union, 1865."
    assert spelled(text, add_special_tokens=False)["input_ids"] == model.tokenizer().encode(text).tolist()


@pytest.mark.parametrize(
    ("field", "value", "told"),
    [
        ("llama.attention.head_count", [6, 6, 3], "its layers differ (llama.attention.head_count)"),
        ("llama.attention.head_count", "six", "its llama.attention.head_count is 'six', which is no number"),
        ("llama.attention.head_count", 0, "its llama.attention.head_count is 0, which is no number of such things"),
        ("llama.context_length", "long", "its llama.context_length is 'long', which is no number"),
        ("llama.context_length", None, "lacks llama.context_length, which a file of the Llama type has"),
        ("llama.attention.value_length", 4, "its values are not as wide as its keys"),
        ("llama.rope.scaling.factor", 4.0, "its RoPE is scaled (by 4), which the lab does not read yet"),
        ("llama.expert_count", 8, "has experts"),
        ("general.architecture", "qwen2", "its architecture is qwen2; of GGUF files the lab reads llama"),
        ("tokenizer.ggml.tokens", None, "does not say all its tokens and of what kind each is"),
        ("tokenizer.ggml.tokens", 5, "its tokenizer.ggml.tokens is 5, which is no list"),
        ("tokenizer.ggml.token_type", None, "does not say all its tokens and of what kind each is"),
        ("tokenizer.ggml.merges", ["a b c", "d"], "its tokenizer.ggml.merges are none of its tokens"),
        ("tokenizer.ggml.pre", "llama-bpe", "its tokenizer cuts texts as llama-bpe does"),
        ("tokenizer.ggml.eos_token_id", -1, "does not say its end of sequence"),
    ],
)
def test_a_field_that_is_no_such_thing_is_named(
    llama: Path,
    take: Callable[..., Imported],
    give_gguf: Callable[[Path], Path],
    tmp_path: Path,
    field: str,
    value: Any,
    told: str,
) -> None:
    written = rewritten(give_gguf(take(llama).path), tmp_path / "other.gguf", {field: value})
    with pytest.raises(UserError) as error:
        take(written, runs=str(tmp_path / "again"), end_of_document=None)
    assert f"{written}: {told}" in str(error.value)


@pytest.mark.parametrize(
    ("tensor", "told"),
    [
        ("blk", "has blk, which no decoder of the lab has"),
        ("blk.0.attn_norm.bias", "has blk.0.attn_norm.bias, which no decoder of the lab has"),
        ("rope_freqs.weight", "its RoPE is scaled (rope_freqs)"),
        ("output_norm.weight", "output_norm.weight is of whole numbers (I32), which are no weights"),
    ],
)
def test_a_tensor_that_is_no_weight_of_a_decoder_is_named(
    llama: Path,
    take: Callable[..., Imported],
    give_gguf: Callable[[Path], Path],
    tmp_path: Path,
    tensor: str,
    told: str,
) -> None:
    added = {tensor: np.ones(48, dtype=np.int32)}
    written = rewritten(give_gguf(take(llama).path), tmp_path / "other.gguf", {}, added)
    with pytest.raises(UserError) as error:
        take(written, runs=str(tmp_path / "again"))
    assert f"{written}: {told}" in str(error.value)


def rewritten(path: Path, to: Path, fields: dict[str, Any], tensors: dict[str, np.ndarray] | None = None) -> Path:
    """A file with other fields, None for none, and with tensors added or in the place of those of their names."""
    held, added = GGUFReader(path), dict(tensors or {})
    writer = GGUFWriter(to, fields.get("general.architecture", "llama"))
    kept = {name: field for name, field in held.fields.items() if not name.startswith(("GGUF.", "general.arch"))}
    for name, field in kept.items():
        if name not in fields:
            kind = field.types[0]
            writer.add_key_value(name, field.contents(), kind, field.types[-1] if kind == GGUFValueType.ARRAY else None)
    for name, value in fields.items():
        if value is not None and not name.startswith("general.arch"):
            writer.add_key_value(name, value, GGUFValueType.get_type(value))
    for each in held.tensors:
        if each.name not in added:
            writer.add_tensor(each.name, np.array(each.data))
    for name, value in added.items():
        writer.add_tensor(name, value)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return to


@pytest.mark.parametrize("keys", [{"model": "nope"}, {"model": "alibi"}, {"model": "window_rope", "window": 20}])
def test_what_the_llama_type_is_not_is_refused(
    llama: Path, take: Callable[..., Imported], give_gguf: Callable[[Path], Path], keys: dict[str, Any], tmp_path: Path
) -> None:
    model = take(llama, **keys)
    with pytest.raises(UserError, match=f"has RoPE and full attention, not {model.label}"):
        give_gguf(model.path)
    assert not (tmp_path / "exported").exists()


def test_a_tokenizer_that_cuts_otherwise_is_refused(
    llama: Path, take: Callable[..., Imported], give_gguf: Callable[[Path], Path], tmp_path: Path
) -> None:
    held = tokenizers.Tokenizer.from_file(str(llama / "tokenizer.json"))
    held.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    other = tmp_path / "other.json"
    held.save(str(other))
    model = take(llama, tokenizer=str(other))
    with pytest.raises(UserError, match="a byte-level BPE that cuts texts as GPT-2 or SmolLM do"):
        give_gguf(model.path)
