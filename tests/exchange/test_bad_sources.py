"""What is no model, is damaged, or is what no decoder of the lab can be: a line that names it, and nothing is left."""

import json
import pickle
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import LlamaForCausalLM

from lab.base.errors import UserError
from lab.exchange.row_order import half_split, side_by_side
from lab.experiment.compose import settings_of
from lab.experiment.handing_on import hand_on
from lab.experiment.settings import ExportSettings
from lab.runs.imported import Imported
from lab.runs.run import open_model

Take = Callable[..., Imported]


@pytest.fixture
def copy(llama: Path, tmp_path: Path) -> Path:
    """A folder that a test may change."""
    shutil.copytree(llama, tmp_path / "copy")
    return tmp_path / "copy"


def configured(folder: Path, **changes: Any) -> None:
    path = folder / "config.json"
    content = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({key: value for key, value in content.items() if value != "absent"}))


def with_tensors(folder: Path, **changes: Any) -> None:
    path = folder / "model.safetensors"
    held = load_file(path) | changes
    save_file({name: value for name, value in held.items() if value is not None}, path, {"format": "pt"})


def refused(take: Take, source: Path | str, **keys: Any) -> str:
    """The one line; what is in runs/ is as before."""
    with pytest.raises(UserError) as error:
        take(source, **keys)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        (
            {"architectures": ["GPT2LMHeadModel"]},
            "its architecture is GPT2LMHeadModel; the lab reads Llama",
        ),
        ({"architectures": "absent"}, "its architecture is none; the lab reads"),
        ({"attention_bias": True}, "has biases in attention (attention_bias = True), which no decoder of the lab has"),
        ({"mlp_bias": True}, "has biases in the feed-forward"),
        ({"hidden_act": "gelu"}, "has another activation than silu (hidden_act = 'gelu')"),
        ({"num_local_experts": 8}, "has experts (num_local_experts = 8)"),
        ({"use_qk_norm": True}, "has norms of queries and keys"),
        ({"partial_rotary_factor": 0.5}, "rotates 0.5 of each head; the lab rotates all of it"),
        (
            {"rope_parameters": {"rope_type": "llama3", "rope_theta": 5e5, "factor": 8.0}},
            "lacks low_freq_factor; restore the file",
        ),
        (
            {"rope_parameters": "absent", "rope_scaling": {"type": "linear", "factor": 0.5}},
            "its RoPE (linear) cannot be read: factor is 0.5: give a number above 1",
        ),
        (
            {"rope_parameters": {"rope_type": "proportional", "rope_theta": 5e5, "factor": 8.0}},
            "its RoPE is scaled (proportional), which the lab does not read",
        ),
        (
            {"rope_parameters": {"rope_type": "yarn", "factor": 2.0, "truncate": False}},
            "its yarn has truncate false",
        ),
        (
            {"rope_parameters": {"rope_type": "yarn", "factor": 2.0, "mscale": 0.7}},
            "its RoPE (yarn) has mscale, which the lab does not read",
        ),
        (
            {
                "rope_parameters": {
                    "rope_type": "longrope",
                    "factor": 4.0,
                    "short_factor": [1.0] * 4,
                    "long_factor": [4.0, 3, 2, 1],
                }
            },
            "its RoPE (longrope) cannot be read: factors fall from 4 to 3 at pair 1",
        ),
        (
            {"rope_parameters": {"rope_type": "longrope", "short_factor": "all", "long_factor": [1.0]}},
            "its short_factor is all, which is no list of numbers",
        ),
        (
            {"rope_parameters": {"full_attention": {"rope_theta": 1e4}, "sliding_attention": {"rope_theta": 1e6}}},
            "its rope_parameters differs between kinds of layers",
        ),
        ({"hidden_size": "many"}, "its hidden_size is 'many', which is no number"),
        ({"num_hidden_layers": "absent"}, "config.json: lacks num_hidden_layers"),
        ({"num_key_value_heads": 4}, "copy: scale: heads is 6 and kv_heads is 4"),
        ({"intermediate_size": 81}, "mlp.gate_proj.weight has shape (80, 48), and the configuration says (81, 48)"),
        ({"num_hidden_layers": 4}, "has no model.layers.3.self_attn.k_proj.weight, which its configuration asks for"),
        (
            {"num_hidden_layers": 2},
            "model.layers.2.self_attn.k_proj.weight is there, for which the configuration has no",
        ),
    ],
)
def test_what_a_decoder_of_the_lab_cannot_be_is_named(
    copy: Path, take: Take, changes: dict[str, Any], told: str
) -> None:
    configured(copy, **changes)
    assert told in refused(take, copy)
    assert list(copy.parent.glob("runs/*")) == []


def test_layers_that_are_not_all_alike_are_named(copy: Path, take: Take) -> None:
    configured(copy, architectures=["SmolLM3ForCausalLM"], no_rope_layers=[1, 0, 1])
    assert "some of its layers rotate and some do not (no_rope_layers)" in refused(take, copy)
    configured(copy, no_rope_layers="absent", no_rope_layer_interval=3)
    assert "some of its layers rotate and some do not (no_rope_layers)" in refused(take, copy)
    kinds = ["full_attention", "sliding_attention", "full_attention"]
    configured(copy, architectures=["MistralForCausalLM"], sliding_window=20, layer_types=kinds)
    assert "some of its layers see all keys and some a window (layer_types)" in refused(take, copy)


@pytest.mark.parametrize(
    ("file", "content", "told"),
    [
        ("config.json", None, "is no model: it has no config.json"),
        ("config.json", b"{", "config.json cannot be read"),
        ("config.json", b"[]", "config.json holds no mapping"),
        ("config.json", b"\xff", "config.json cannot be read"),
        (
            "model.safetensors",
            None,
            "no weights there; it needs model.safetensors or pytorch_model.bin, or shards",
        ),
        ("model.safetensors", b"12345678", "not a whole safetensors file"),
        ("tokenizer.json", None, "has no tokenizer.json; name one as tokenizer=..."),
        ("tokenizer.json", b"{}", "tokenizer.json: not a tokenizer.json"),
    ],
)
def test_a_file_that_is_missing_or_damaged_is_named(
    copy: Path, take: Take, file: str, content: bytes | None, told: str
) -> None:
    (copy / file).unlink()
    if content is not None:
        (copy / file).write_bytes(content)
    assert told in refused(take, copy)


def test_a_file_that_was_cut_off_is_named(copy: Path, take: Take) -> None:
    path = copy / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1000])
    assert "not a whole safetensors file" in refused(take, copy)


def test_biases_and_tensors_that_no_decoder_has_are_named_by_their_names_there(copy: Path, take: Take) -> None:
    with_tensors(copy, **{"model.layers.0.self_attn.q_proj.bias": torch.zeros(48)})
    assert "has a bias (model.layers.0.self_attn.q_proj.bias)" in refused(take, copy)
    with_tensors(
        copy, **{"model.layers.0.self_attn.q_proj.bias": None, "model.layers.1.self_attn.q_norm.weight": torch.ones(8)}
    )
    assert "has model.layers.1.self_attn.q_norm.weight, which no decoder of the lab has" in refused(take, copy)


def test_numbers_that_are_not_finite_are_named(copy: Path, take: Take) -> None:
    with_tensors(copy, **{"model.norm.weight": torch.full((48,), float("nan"))})
    assert "norm.weight holds numbers that are not finite" in refused(take, copy)


def test_shards_are_read_as_one_and_a_missing_one_is_named(llama: Path, copy: Path, take: Take) -> None:
    shutil.rmtree(copy)
    model = LlamaForCausalLM.from_pretrained(llama)
    model.save_pretrained(copy, max_shard_size="150KB")
    shutil.copy(llama / "tokenizer.json", copy)
    shards = sorted(copy.glob("model-*.safetensors"))
    assert len(shards) > 2
    assert take(copy).digest == take(llama).digest
    shards[1].unlink()
    assert f"{shards[1]}: missing; model.safetensors.index.json lists it" in refused(take, copy)


def test_a_bin_of_tensors_is_read_and_one_that_would_run_something_is_refused(
    llama: Path, copy: Path, take: Take, tmp_path: Path
) -> None:
    tensors = load_file(copy / "model.safetensors")
    (copy / "model.safetensors").unlink()
    torch.save(tensors, copy / "pytorch_model.bin")
    assert take(copy).digest == take(llama).digest

    class Trap:
        def __reduce__(self) -> Any:
            return (Path.touch, (tmp_path / "sprung",))

    with (copy / "pytorch_model.bin").open("wb") as file:
        pickle.dump({"model.norm.weight": Trap()}, file)
    assert "pytorch_model.bin: refused, as it holds more than tensors" in refused(take, copy)
    assert not (tmp_path / "sprung").exists()
    torch.save([1, 2], copy / "pytorch_model.bin")
    assert "holds no mapping from names to tensors" in refused(take, copy)


@pytest.mark.parametrize(
    ("keys", "told"),
    [
        ({"model": "sinusoid"}, "model is sinusoid: give nope, rope, alibi, or window_ before"),
        ({"model": "narrow_rope"}, "model is narrow_rope: give rope, nope, alibi, or window_ and one of these"),
        ({"model": "window_nope"}, "say with window=... how many keys a query sees"),
        ({"window": 12}, "window is 12, and model=rope has none"),
        ({"end_of_document": "<none>"}, "lacks the token '<none>'"),
        ({"tokenizer": "absent.json"}, "absent.json: cannot be read"),
    ],
)
def test_a_reading_that_cannot_be_is_refused(llama: Path, take: Take, keys: dict[str, Any], told: str) -> None:
    assert told in refused(take, llama, **keys)


def test_a_tokenizer_with_more_tokens_than_the_embedding_has_rows_is_refused(copy: Path, take: Take) -> None:
    with_tensors(
        copy,
        **{
            name: value[:1000]
            for name, value in load_file(copy / "model.safetensors").items()
            if name in ("model.embed_tokens.weight", "lm_head.weight")
        },
    )
    configured(copy, vocab_size=1000)
    assert "its embedding has 1000 rows, and" in refused(take, copy)


def test_what_is_neither_here_nor_a_name_of_the_hub_is_refused(take: Take, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "no/such/folder: no such folder or file, and no ORGANISATION/NAME of the hub" in refused(
        take, "no/such/folder"
    )
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert "nobody/nothing: no such folder, and the hub does not give it" in refused(take, "nobody/nothing")


def test_rows_of_queries_and_keys_in_two_orders_are_each_others_inverse() -> None:
    rows = torch.randn(6 * 8, 48)
    assert torch.equal(side_by_side(half_split(rows, 6), 6), rows)
    assert not torch.equal(half_split(rows, 6), rows)


@pytest.mark.parametrize(
    ("to", "format", "told"),
    [
        ("a.gguf", "huggingface", "add format=gguf, or name a folder"),
        ("a", "gguf", "name a file that ends in .gguf"),
    ],
)
def test_a_name_that_is_of_the_other_format_is_refused(
    llama: Path, take: Take, tmp_path: Path, to: str, format: str, told: str
) -> None:
    model = take(llama)
    keys = [f"run={model.path}", f"to={tmp_path / to}", f"format={format}"]
    with pytest.raises(UserError, match=rf"{to} and format {format}: {told}"):
        hand_on(settings_of("export", ExportSettings, keys))
    assert not (tmp_path / to).exists()


def test_an_export_that_would_replace_something_is_refused(llama: Path, take: Take, give: Callable[..., Path]) -> None:
    model = take(llama)
    folder = give(model.path)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(UserError, match="exists; name another, or delete it"):
        give(model.path)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_the_end_of_sequence_is_found_by_its_id_and_asked_for_where_nobody_says_it(copy: Path, take: Take) -> None:
    assert take(copy, end_of_document=None).tokenizer().end_of_document == 0
    configured(copy, eos_token_id="absent")
    (copy / "generation_config.json").unlink()
    told = "does not say its end of sequence; name the token that ends a document"
    assert told in refused(take, copy, end_of_document=None)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"rope_scaling": {"rope_type": "linear", "factor": 4.0}}, "its RoPE is scaled (linear)"),
        ({"rope_scaling": "yarn"}, "its rope_scaling is 'yarn', which is no mapping"),
        ({"rope_parameters": [1, 2]}, "its rope_parameters is [1, 2], which is no mapping"),
        ({"head_dim": "x"}, "its head_dim is 'x', which is no number"),
        ({"head_dim": 8.7}, "its head_dim is 8.7, which is no number of such things"),
        ({"num_hidden_layers": 1_000_000_000}, "its num_hidden_layers is 1000000000"),
        ({"max_position_embeddings": float("inf")}, "its max_position_embeddings is inf"),
        ({"architectures": 5}, "its architectures is 5, which is no list"),
        ({"architectures": "LlamaForCausalLM"}, "its architectures is 'LlamaForCausalLM', which is no list"),
        ({"tie_word_embeddings": "false"}, "its tie_word_embeddings is 'false', which is neither true nor false"),
        ({"quantization_config": {"bits": 4}}, "has quantised weights"),
        ({"architectures": ["SmolLM3ForCausalLM"], "no_rope_layers": 3}, "its no_rope_layers is 3, which is no list"),
        ({"architectures": ["MistralForCausalLM"], "layer_types": 5}, "its layer_types is 5, which is no list"),
    ],
)
def test_a_value_of_another_kind_in_a_configuration_is_named(
    copy: Path, take: Take, changes: dict[str, Any], told: str
) -> None:
    configured(copy, **changes)
    assert told in refused(take, copy)


def test_whole_numbers_are_no_weights(copy: Path, take: Take) -> None:
    with_tensors(copy, **{"model.norm.weight": torch.ones(48, dtype=torch.int8)})
    assert "model.norm.weight is of int8; the lab reads floats of 16, 32 and 64 bits" in refused(take, copy)


def test_a_head_of_its_own_is_read_whatever_the_configuration_says_of_it(copy: Path, take: Take) -> None:
    configured(copy, tie_word_embeddings=True)
    model = take(copy)
    assert not model.config.model.tied
    with_tensors(copy, **{"lm_head.weight": load_file(copy / "model.safetensors")["model.embed_tokens.weight"].clone()})
    assert take(copy).config.model.tied


def test_a_bin_of_before_torch_1_6_is_read_and_one_of_other_things_is_told(copy: Path, take: Take) -> None:
    held = load_file(copy / "model.safetensors")
    before = take(copy)
    (copy / "model.safetensors").unlink()
    torch.save(held, copy / "pytorch_model.bin", _use_new_zipfile_serialization=False)
    assert take(copy).digest == before.digest
    torch.save({name: torch.nn.Parameter(each) for name, each in held.items()}, copy / "pytorch_model.bin")
    assert take(copy).digest == before.digest
    for other in (held | {5: torch.ones(2)}, held | {"model.norm.weight": torch.ones(48).to_sparse()}):
        torch.save(other, copy / "pytorch_model.bin")
        assert "holds no mapping from names to tensors" in refused(take, copy)


def test_a_kernel_that_does_not_exist_is_refused(llama: Path, take: Take) -> None:
    assert "kernel banana does not exist; choose one of auto, matched" in refused(take, llama, kernel="banana")


@pytest.mark.parametrize("damaged", ["weights/step=00000000/weights.safetensors", "tokenizer.json"])
def test_a_model_that_is_there_and_damaged_is_not_taken_for_whole(llama: Path, take: Take, damaged: str) -> None:
    model = take(llama)
    (model.path / damaged).write_bytes(b"")
    assert f"or delete {model.path} and import it again" in refused(take, llama)
    shutil.rmtree(model.path)
    assert take(llama).checkpoint().weights()


def test_two_imports_of_one_source_at_once_make_one_whole_model(llama: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "lab.import_model", f"source={llama}", "end_of_document=<|endoftext|>"]
    for _ in range(2):
        shutil.rmtree(tmp_path / "runs", ignore_errors=True)
        both = [subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True) for _ in range(2)]
        for each in both:
            _, err = each.communicate(timeout=900)
            assert each.returncode == 0, err
        (run,) = (tmp_path / "runs").iterdir()
        model = open_model(run)
        model.check()
        assert model.decoder() is not None
        assert model.tokenizer().vocabulary == 1024


def test_what_a_killed_import_left_is_cleared_away_by_the_next(llama: Path, take: Take, tmp_path: Path) -> None:
    left = tmp_path / "runs" / f".import.999999999@{platform.node()}.new"
    (left / "weights").mkdir(parents=True)
    elsewhere = tmp_path / "runs" / ".import.1@another-host.new"
    elsewhere.mkdir()
    take(llama)
    assert not left.exists()
    assert elsewhere.exists()


def test_numbers_that_are_not_finite_are_named_with_their_file(copy: Path, take: Take) -> None:
    with_tensors(copy, **{"model.norm.weight": torch.full((48,), float("nan"))})
    assert "copy/model.safetensors: model.norm.weight holds numbers that are not finite" in refused(take, copy)


def test_a_file_of_another_format_is_no_source(copy: Path, take: Take) -> None:
    told = "model.safetensors: no GGUF file; of other formats name the folder that has config.json"
    assert told in refused(take, copy / "model.safetensors")


@pytest.mark.parametrize("given", [True, False])
def test_what_is_wrong_with_a_tokenizer_names_the_file_that_it_came_from(copy: Path, take: Take, given: bool) -> None:
    path = copy / "tokenizer.json"
    content = json.loads(path.read_text())
    content["model"]["dropout"] = 0.5
    path.write_text(json.dumps(content))
    message = refused(take, copy, **({"tokenizer": str(path)} if given else {}))
    assert message.startswith(f"{path if given else copy}: its model leaves merges out by chance")
    assert ".import." not in message
    assert "lacks the token 'nothing'" in refused(take, copy, end_of_document="nothing", tokenizer=None)
