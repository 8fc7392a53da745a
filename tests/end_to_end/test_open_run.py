"""What the README shows: ``open_run(path)``, its decoder, and text to tokens and back."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from known import DOCUMENT, VARIANTS
from oracles.llama_names import llama_names
from transformers import LlamaConfig, LlamaForCausalLM

from lab import open_run
from lab.base.errors import UserError

TEXTS = [
    "the state of the union",
    "  two blanks, \t a tab\n\nand\r\nlines  ",
    DOCUMENT,
    "<|endoftext|>",
    "x" * 5000,
    "",
]


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_decoder_takes_what_encode_gives_and_gives_logits_of_each_token(variant: str, seven: dict[str, Path]) -> None:
    run = open_run(str(seven[variant]))
    decoder = run.decoder()
    for text in ("a", "The state of the union is strong. " * 20):
        tokens = run.encode(text)
        assert tokens.dtype == torch.int64
        assert tokens.shape == (1, len(run.tokenizer().encode(text)))
        logits = decoder(tokens)
        assert logits.shape == (*tokens.shape, run.config.scale.vocabulary)
        assert logits.dtype == torch.float32
        assert logits.isfinite().all()
    assert tokens.shape[1] > 2 * run.context  # beyond the context, too


def test_a_decoder_comes_ready_to_be_measured_and_the_same_each_time(seven: dict[str, Path]) -> None:
    run = open_run(str(seven["rope"]))
    one, other = run.decoder(), run.decoder()
    assert not one.training
    assert one is not other
    tokens = run.encode(TEXTS[0])
    assert torch.equal(one(tokens), other(tokens))
    assert torch.equal(one(torch.cat((tokens, tokens))), one(tokens).repeat(2, 1, 1))


@pytest.mark.parametrize("text", TEXTS)
def test_what_is_encoded_is_decoded_to_the_same_text(text: str, by_heart: Path) -> None:
    run = open_run(str(by_heart))
    tokens = run.encode(text)
    assert run.decode(tokens) == run.decode(tokens[0]) == text
    assert run.tokenizer().end_of_document not in tokens  # a text that spells it means its letters


def test_the_logits_of_a_trained_rope_run_are_those_of_transformers_llama_with_its_weights(
    seven: dict[str, Path],
) -> None:
    run = open_run(str(seven["rope"]))
    decoder, scale = run.decoder(), run.config.scale
    llama = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=scale.vocabulary,
            hidden_size=scale.width,
            intermediate_size=scale.hidden,
            num_hidden_layers=scale.layers,
            num_attention_heads=scale.heads,
            num_key_value_heads=scale.kv_heads,
            head_dim=scale.head_dim,
            max_position_embeddings=scale.context,
            rms_norm_eps=run.config.model.eps,
            tie_word_embeddings=False,
            rope_parameters=dict(rope_type="default", rope_theta=run.config.model.position.base),
            attn_implementation="eager",
        )
    ).eval()
    names = llama_names(scale.layers)
    llama.load_state_dict({names[name]: value for name, value in decoder.state_dict().items()}, strict=True)
    tokens = run.encode("Fellow citizens of the Senate and of the House of Representatives: " * 10)
    assert tokens.shape[1] > 2 * run.context
    with torch.no_grad():
        expected = llama(tokens).logits
        torch.testing.assert_close(decoder(tokens), expected, rtol=1e-4, atol=1e-4)
    assert expected.std() > 0.1


def test_where_there_is_no_run_a_line_says_so(by_heart: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("")
    damaged = tmp_path / "damaged"
    damaged.mkdir()
    (damaged / "manifest.json").write_bytes((by_heart / "manifest.json").read_bytes()[:-50])
    for name, told in {
        "nowhere": "no such run",
        "empty": "is not a run directory",
        "file": "file",
        "damaged": "manifest.json is damaged",
    }.items():
        with pytest.raises(UserError, match=told) as refusal:
            open_run(str(tmp_path / name))
        assert str(tmp_path / name) in str(refusal.value)
        assert "\n" not in str(refusal.value)


def test_import_lab_alone_loads_neither_torch_nor_anything_else_that_is_slow(tmp_path: Path) -> None:
    program = (
        "import sys, lab; heavy = {'torch', 'numpy', 'hydra', 'omegaconf', 'lightning', 'pydantic', 'tokenizers'}; "
        "print(heavy & set(sys.modules), lab.open_run.__doc__ is not None)"
    )
    result = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert result.stdout == "set() True\n"
