"""Decoders that go in and out are the same numbers there as here: transformers is the oracle, both ways."""

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import tokenizers
import torch
from conftest import VARIANTS
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

from lab.model.decoder import Decoder
from lab.model.decoding import Cache
from lab.runs.imported import Imported

LENGTH = 6 * 64  # contexts C
TOKENS = torch.randint(0, 1024, (2, LENGTH), generator=torch.Generator().manual_seed(0))


def load(folder: Path) -> torch.nn.Module:
    return AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True, dtype=torch.float32).eval()


def bound(variant: str, logits: Tensor) -> float:
    """Of a difference: 1e-5 of the greatest logit; with RoPE more by what float32 angles, which transformers forms, are
    wrong by at the last position (the lab's are of float64): up to position * 2^-24 each."""
    greatest = float(logits.abs().max())
    return greatest * (1e-5 + (LENGTH * 2**-24 * 4 if variant.endswith("rope") else 0.0))


def read_as(take: Callable[..., Imported], llama: Path, variant: str) -> Imported:
    return take(llama, model=variant, **({"window": 20} if variant.startswith("window") else {}))


@pytest.mark.parametrize("variant", VARIANTS)
def test_an_exported_model_gives_the_same_logits_whole_in_pieces_and_padded_beyond_its_context(
    llama: Path, take: Callable[..., Imported], give: Callable[..., Path], variant: str
) -> None:
    model = read_as(take, llama, variant)
    ours, theirs = model.decoder(), load(give(model.path))
    with torch.inference_mode():
        wanted = ours(TOKENS)
        assert wanted.abs().max() > 3
        whole = theirs(TOKENS).logits
        pieces, cache = [], None
        for start, stop in ((0, 7), (7, 64), (64, 200), (200, LENGTH)):
            out = theirs(TOKENS[:, start:stop], past_key_values=cache, use_cache=True)
            cache = out.past_key_values
            pieces.append(out.logits)
        padding = torch.zeros(2, 5, dtype=torch.long)
        mask = torch.cat([padding, torch.ones_like(TOKENS)], 1)
        place = (mask.cumsum(1) - 1).clamp(min=0)
        padded = theirs(torch.cat([padding, TOKENS], 1), attention_mask=mask, position_ids=place).logits[:, 5:]
    for name, found in (("whole", whole), ("pieces", torch.cat(pieces, 1)), ("padded", padded)):
        assert float((found - wanted).abs().max()) < bound(variant, wanted), name


@pytest.mark.parametrize("source", ["llama", "mistral", "smollm3"])
def test_an_imported_model_gives_the_logits_of_transformers(
    request: pytest.FixtureRequest, take: Callable[..., Imported], source: str
) -> None:
    folder = request.getfixturevalue(source)
    model = take(folder)
    assert model.label == {"llama": "rope", "mistral": "window20_rope", "smollm3": "nope"}[source]
    with torch.inference_mode():
        wanted = load(folder)(TOKENS).logits
        found = model.decoder()(TOKENS)
    assert float((found - wanted).abs().max()) < bound(model.label, wanted)


@pytest.mark.parametrize("variant", VARIANTS)
def test_what_is_imported_exported_and_imported_again_is_the_same_model_bit_for_bit(
    llama: Path, take: Callable[..., Imported], give: Callable[..., Path], variant: str, tmp_path: Path
) -> None:
    first = read_as(take, llama, variant)
    again = take(give(first.path), runs=str(tmp_path / "again"))
    assert again.digest == first.digest
    assert again.checkpoint().path != first.checkpoint().path
    assert (again.checkpoint().path / "weights.safetensors").read_bytes() == (
        first.checkpoint().path / "weights.safetensors"
    ).read_bytes()


@pytest.mark.parametrize("variant", ["window_rope", "window_nope", "window_alibi"])
def test_a_window_of_w_keys_sees_the_key_w_minus_1_before_and_not_that_before_it_on_the_other_side_too(
    llama: Path, take: Callable[..., Imported], give: Callable[..., Path], variant: str
) -> None:
    theirs = load(give(read_as(take, llama, variant).path))
    reach = 3 * 19  # through three layers of 20 keys
    with torch.inference_mode():
        for distance, changes in ((reach, True), (reach + 1, False)):
            other = TOKENS[:1].clone()
            other[0, 200 - distance] = (other[0, 200 - distance] + 1) % 1024
            difference = theirs(TOKENS[:1]).logits[0, 200] - theirs(other).logits[0, 200]
            assert bool((difference != 0).any()) is changes


@pytest.mark.parametrize("variant", VARIANTS)
def test_both_write_the_same_text_greedily_beyond_the_context(
    llama: Path, take: Callable[..., Imported], give: Callable[..., Path], variant: str
) -> None:
    model = read_as(take, llama, variant)
    theirs, ours = load(give(model.path)), model.decoder()
    start = TOKENS[:1, :50]
    with torch.inference_mode():
        wanted = theirs.generate(start, max_new_tokens=40, do_sample=False, eos_token_id=-1)
        found = greedy(ours, start, 40)
    assert found.tolist() == wanted.tolist()


def greedy(decoder: Decoder, tokens: Tensor, count: int) -> Tensor:
    """With the lab's cache."""
    cache = Cache(decoder)
    fed = tokens
    for _ in range(count):
        logits = decoder.logits(decoder.hidden(fed, cache=cache)[:, -1])
        fed = logits.argmax(-1, keepdim=True)
        tokens = torch.cat([tokens, fed], 1)
    return tokens


def test_the_exported_tokenizer_gives_the_labs_ids(
    llama: Path, take: Callable[..., Imported], give: Callable[..., Path]
) -> None:
    model = take(llama)
    theirs = AutoTokenizer.from_pretrained(give(model.path))
    for text in ("The state of the Union, 1865.", "  two  spaces\n\n", "émigré — 字"):
        assert theirs(text)["input_ids"] == model.tokenizer().encode(text).tolist()
    assert theirs.eos_token_id == model.tokenizer().end_of_document


def test_what_a_tokenizer_puts_before_a_text_is_left_out_here_and_abroad(
    llama: Path, take: Callable[..., Imported], give: Callable[..., Path], tmp_path: Path
) -> None:
    shutil.copytree(llama, tmp_path / "copy")
    held = tokenizers.Tokenizer.from_file(str(llama / "tokenizer.json"))
    plain = held.encode("The state of the Union").ids
    held.post_processor = tokenizers.processors.TemplateProcessing(
        single="<|endoftext|> $A", special_tokens=[("<|endoftext|>", 0)]
    )
    held.save(str(tmp_path / "copy" / "tokenizer.json"))
    assert held.encode("The state of the Union").ids == [0, *plain]
    model = take(tmp_path / "copy")
    assert model.tokenizer().encode("The state of the Union").tolist() == plain
    folder = give(model.path)
    assert AutoTokenizer.from_pretrained(folder)("The state of the Union")["input_ids"] == plain
    assert take(folder, runs=str(tmp_path / "again")).digest == model.digest


def test_the_page_for_alibi_takes_what_trainers_and_pipelines_of_transformers_give(
    llama: Path, take: Callable[..., Imported], give: Callable[..., Path]
) -> None:
    theirs = load(give(read_as(take, llama, "alibi").path))
    with torch.inference_mode():
        whole = theirs(TOKENS, labels=TOKENS, output_hidden_states=True)
        wanted = torch.nn.functional.cross_entropy(whole.logits[:, :-1].flatten(0, 1), TOKENS[:, 1:].flatten())
        assert torch.allclose(whole.loss, wanted)
        # Over several batches a Trainer gives the count of tokens that the mean is over.
        summed = theirs(TOKENS, labels=TOKENS, num_items_in_batch=torch.tensor(1000)).loss
        assert torch.allclose(summed * 1000, wanted * (TOKENS.numel() - 2))
        assert torch.equal(theirs(TOKENS, logits_to_keep=torch.tensor([3, 9])).logits, whole.logits[:, [3, 9]])
        assert torch.equal(theirs(TOKENS, logits_to_keep=2).logits, whole.logits[:, -2:])
        assert torch.equal(theirs(TOKENS, return_dict=False)[0], whole.logits)
        assert len(whole.hidden_states) == 4
        assert torch.equal(whole.hidden_states[0], theirs.model.embed_tokens(TOKENS))
        assert torch.equal(theirs.lm_head(whole.hidden_states[-1]), whole.logits)


def test_a_card_says_how_weights_were_trained_and_how_they_are_read(
    llama: Path, take: Callable[..., Imported], give: Callable[..., Path], tmp_path: Path
) -> None:
    as_trained = (give(take(llama).path) / "README.md").read_text()
    assert "| trained there as | `rope` |" in as_trained
    assert "| stored there as | float32; here float32, of the same value |" in as_trained
    assert "Its context is 64 tokens. `max_position" in as_trained
    other = (give(take(llama, model="nope").path) / "README.md").read_text()
    assert "read as `nope` and were trained as `rope`: nothing was trained to read them so" in other
    assert str(llama.parent) not in as_trained + other


def test_an_import_of_an_export_is_not_named_twice(
    llama: Path, take: Callable[..., Imported], give: Callable[..., Path], tmp_path: Path
) -> None:
    model = take(llama)
    assert take(give(model.path), runs=str(tmp_path / "again")).path.name.count("rope-3x48-C64") == 1


def test_an_imported_or_exported_folder_executes_nothing_but_the_page_for_alibi(
    llama: Path, take: Callable[..., Imported], give: Callable[..., Path]
) -> None:
    for variant in ("rope", "alibi"):
        folder = give(read_as(take, llama, variant).path)
        assert [path.name for path in folder.rglob("*.py")] == ["modeling_lab_alibi.py"] * (variant == "alibi")
        script = (
            "import sys; from transformers import AutoModelForCausalLM; "
            f"AutoModelForCausalLM.from_pretrained({str(folder)!r}, trust_remote_code=True); "
            "assert not [name for name in sys.modules if name == 'lab' or name.startswith('lab.')]"
        )
        subprocess.run([sys.executable, "-c", script], check=True, capture_output=True)
