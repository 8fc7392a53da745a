"""Low-rank updates: what they add, what they leave, what is read of a run that was trained with them, and PEFT."""

import hashlib
import json
import re
from functools import partial
from pathlib import Path

import pytest
import torch
from commands import lab, the_one_line
from measure.tiny_decoders import VARIANTS, VOCABULARY, document, tiny
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from lab.base.errors import UserError
from lab.model.decoder import Decoder
from lab.runs.run import open_model
from lab.training.lora import PLACES, LoRA

RANK, EMBEDDING_RANK, ALPHA = 3, 5, 12.0
EVERY = LoRA(RANK, [*PLACES], EMBEDDING_RANK, ALPHA)


class Tied(Decoder):
    """Of the same sizes as any, with a tied head."""

    def __init__(self, **settings) -> None:
        super().__init__(**settings, tied=True)


def adapted(adapter: LoRA, decoder: Decoder, learnt: bool = True) -> Decoder:
    """A decoder with updates in float64, and if they are ``learnt`` with factors of which none is 0."""
    decoder = decoder.double()
    adapter(decoder, seed=0)
    generator = torch.Generator().manual_seed(1)
    for name, parameter in decoder.named_parameters():
        if learnt and "lora_" in name:
            values = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            parameter.data = values / 8
    return decoder


def by_hand(decoder: Decoder, factors: dict[str, torch.Tensor]) -> Decoder:
    """A decoder whose matrices are the sums of weight and update, each entry of these from its definition."""
    decoder = decoder.double()
    weights = dict(decoder.named_parameters())
    for name, a in factors.items():
        if not name.endswith("lora_A"):
            continue
        b = factors[f"{name[:-1]}B"]
        place = name.removesuffix("lora_A")
        matrix = weights[f"{place}weight" if place.endswith(".") else "embedding"].data
        matrix = matrix if place.endswith(".") else matrix.T  # PEFT's embedding_B A is [width, vocabulary]
        for row in range(len(b)):
            for column in range(a.shape[1]):
                matrix[row, column] += ALPHA / len(a) * sum(b[row, k] * a[k, column] for k in range(len(a)))
    return decoder


def factors_of(decoder: Decoder) -> dict[str, torch.Tensor]:
    return {name: each.detach().clone() for name, each in decoder.named_parameters() if "lora_" in name}


TOKENS = torch.tensor(document(24)[None].astype("int64"))


@pytest.mark.parametrize("kind", [Decoder, Tied])
@pytest.mark.parametrize(("position", "window"), VARIANTS)
def test_updates_add_alpha_by_rank_b_a_to_their_matrices_and_are_merged_into_them(position, window, kind) -> None:
    make = partial(tiny, position, window, kind=kind)
    adapter = LoRA(RANK, [*PLACES], EMBEDDING_RANK, ALPHA)
    decoder = adapted(adapter, make())
    wanted = by_hand(make(), factors_of(decoder))
    plain = make().double()
    with torch.inference_mode():
        logits = wanted(TOKENS)
        assert float((logits - plain(TOKENS)).abs().max()) > 0.1
        torch.testing.assert_close(decoder(TOKENS), logits, atol=1e-10, rtol=1e-10)
        adapter.merge(decoder)
        torch.testing.assert_close(decoder(TOKENS), logits, atol=1e-10, rtol=1e-10)
    names = {name for name, _ in plain.named_parameters()}
    assert {name for name, each in decoder.named_parameters() if each.requires_grad} == names
    assert {name for name, _ in decoder.named_parameters()} == names
    for name, weight in wanted.named_parameters():
        torch.testing.assert_close(decoder.get_parameter(name), weight, atol=1e-12, rtol=1e-12)


@pytest.mark.parametrize("kind", [Decoder, Tied])
def test_it_begins_as_the_decoder_was_and_the_gradient_reaches_every_update_and_nothing_else(kind) -> None:
    plain, decoder = tiny(kind=kind).double(), adapted(EVERY, tiny(kind=kind), learnt=False)
    with torch.inference_mode():
        torch.testing.assert_close(decoder(TOKENS), plain(TOKENS), atol=0, rtol=0)

    def loss() -> torch.Tensor:
        return decoder.next_token_losses(decoder.hidden(TOKENS[:, :-1]), TOKENS[:, 1:], chunk=7).mean()

    decoder = adapted(LoRA(RANK, [*PLACES], EMBEDDING_RANK, ALPHA), tiny(kind=kind))
    loss().backward()
    with torch.no_grad():
        for name, parameter in decoder.named_parameters():
            assert (parameter.grad is not None) is ("lora_" in name)
            if "lora_" not in name:
                continue
            entry = parameter.view(-1)[:1]
            slopes = []
            for step in (1e-5, -1e-5):
                entry += step
                slopes.append(float(loss()) / step / 2)
                entry -= step
            assert float(parameter.grad.view(-1)[0]) == pytest.approx(sum(slopes), rel=1e-4, abs=1e-8), name


def test_a_is_drawn_by_seed_name_and_shape_so_that_variants_of_a_seed_share_it() -> None:
    def drawn(seed: int, matrices: list[str], **settings) -> dict[str, torch.Tensor]:
        decoder = tiny(**settings)
        LoRA(RANK, matrices, EMBEDDING_RANK, ALPHA)(decoder, seed)
        return factors_of(decoder)

    few, others = drawn(0, ["value"]), drawn(0, ["query", "value", "down"], position=VARIANTS[1][0], window=5)
    for name, values in few.items():
        torch.testing.assert_close(values, others[name], atol=0, rtol=0)
    again = drawn(1, ["value"])
    assert not torch.equal(few["blocks.0.attention.value.lora_A"], again["blocks.0.attention.value.lora_A"])
    assert not torch.equal(few["blocks.0.attention.value.lora_A"], few["blocks.1.attention.value.lora_A"])
    assert not any(few[f"blocks.{layer}.attention.value.lora_B"].any() for layer in (0, 1))
    assert not few["embedding_lora_A"].any()
    # By the rule itself: the seed, the name, the shape and the deviation.
    for name, shape, deviation in (
        ("blocks.1.attention.value.lora_A", (RANK, 16), 48**-0.5),
        ("embedding_lora_B", (16, EMBEDDING_RANK), 1.0),
    ):
        key = f"0/{name}/{shape[0]}x{shape[1]}/normal({deviation!r})"
        number = int.from_bytes(hashlib.blake2b(key.encode(), digest_size=8).digest(), "little")
        wanted = torch.randn(shape, generator=torch.Generator().manual_seed(number), dtype=torch.float64) * deviation
        torch.testing.assert_close(few[name], wanted.float(), atol=0, rtol=0)


def test_a_token_that_training_does_not_read_keeps_its_embedding() -> None:
    adapter, decoder = LoRA(RANK, [], EMBEDDING_RANK, ALPHA), tiny().double()
    before = decoder.embedding.detach().clone()
    adapter(decoder, seed=0)
    optimizer = torch.optim.AdamW((each for each in decoder.parameters() if each.requires_grad), lr=0.1)
    tokens = torch.tensor([[1, 2, 3, 2, 1, 3]])
    for _ in range(3):
        optimizer.zero_grad()
        decoder.next_token_losses(decoder.hidden(tokens[:, :-1]), tokens[:, 1:]).mean().backward()
        optimizer.step()
    adapter.merge(decoder)
    moved = (decoder.embedding != before).any(1).nonzero().flatten().tolist()
    assert moved == [1, 2, 3]


def test_a_rank_above_the_smaller_side_of_its_matrix_is_refused_by_name_and_shape() -> None:
    LoRA(8, ["value"], 0, ALPHA)(tiny(), seed=0)
    with pytest.raises(
        UserError, match=r"adapter\.rank is 9, above .* blocks\.0\.attention\.value\.weight, which is 8"
    ):
        LoRA(9, ["query", "value"], 0, ALPHA)(tiny(), seed=0)
    LoRA(RANK, ["query"], 16, ALPHA)(tiny(), seed=0)
    with pytest.raises(UserError, match=rf"adapter\.embedding_rank is 17, above .* {VOCABULARY} x 16: give 16 or less"):
        LoRA(RANK, ["query"], 17, ALPHA)(tiny(), seed=0)


RECIPE = ("adapter=lora", "adapter.embedding_rank=5", "optimizer.weight_decay=0", "scale.learning_rate=0.03")
OWN = ("measure=none", "logger=csv", "threads=1", "scale.tokens=8192", "trainer.compute_dtype=float32")
TRAINED = "rope/*-seed0-????????"  # and nothing that is derived of it


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs, children of each that are trained with updates, and a child of such a child that is trained without; a
    parent that is tied, and one that is extended."""
    folder = tmp_path_factory.mktemp("runs")
    for name, settings in {"rope": ("model=rope",), "tied": ("model=nope", "model.tied=true")}.items():
        done(folder, "train", "experiment=smoke", *OWN, *settings, f"runs={name}")
    done(folder, "extend", f"run={path_of(folder, 'rope/*')}", "extension=temperature", "extension.temperature=1.3")
    parents = {"rope": TRAINED, "tied": "tied/*", "extended": "rope/*-temperature-*"}
    for name, pattern in parents.items():
        parent = path_of(folder, pattern)
        told = done(folder, "train", "start=run", f"start.run={parent}", *RECIPE, *OWN, f"runs={name}-lora")
        (folder / f"{name}.txt").write_text(told)
    adapted = path_of(folder, "rope-lora/*")
    done(folder, "train", "start=run", f"start.run={adapted}", *OWN, "runs=after")
    return folder


def done(folder: Path, command: str, *arguments: str) -> str:
    result = lab(command, *arguments, cwd=folder)
    assert result.returncode == 0, result.stderr
    return result.stdout


def path_of(folder: Path, pattern: str) -> Path:
    (path,) = folder.glob(f"{pattern}/manifest.json")
    return path.parent


def parent_of(runs: Path, name: str) -> Path:
    name_of_parent = json.loads((path_of(runs, f"{name}-lora/*") / "manifest.json").read_text())["parent"]["name"]
    return path_of(runs, f"*/{name_of_parent}")


def test_at_its_start_it_says_how_few_numbers_are_trained_beside_each_matrix(runs: Path) -> None:
    scale = open_model(path_of(runs, "rope-lora/*")).config.scale
    query, value = scale.heads * scale.head_dim, scale.kv_heads * scale.head_dim
    factors = [scale.layers * 8 * (scale.width + outputs) for outputs in (query, value)]
    own = [scale.layers * scale.width * outputs for outputs in (query, value)]
    embedding = 5 * (scale.vocabulary + scale.width)
    told = (
        f"lora: {sum(factors) + embedding:,} of 84,128 parameters (query {factors[0]:,} beside {own[0]:,}, "
        f"value {factors[1]:,} beside {own[1]:,}, embedding {embedding:,} beside {scale.vocabulary * scale.width:,})"
    )
    assert told in (runs / "rope.txt").read_text().splitlines()


def test_a_run_keeps_its_parents_weights_and_its_own_factors_and_is_read_as_their_sum(runs: Path) -> None:
    parent, adapted = (open_model(path_of(runs, name)) for name in (TRAINED, "rope-lora/*"))
    stored = adapted.checkpoint().weights()
    for name, weight in parent.checkpoint().weights().items():
        torch.testing.assert_close(stored[name], weight, atol=0, rtol=0)
    factors = {name: each for name, each in stored.items() if "lora_" in name}
    assert len(factors) == 2 * 2 * 2 + 2
    assert all(each.any() for each in factors.values())
    proof = adapted.manifest["proof"]["weights"][f"{adapted.steps}"]
    assert hashlib.sha256((adapted.checkpoint().path / "weights.safetensors").read_bytes()).hexdigest() == proof
    assert adapted.label == "rope+lora"
    decoder, plain = adapted.decoder(), parent.decoder()
    query = "blocks.1.attention.query"
    update = stored[f"{query}.lora_B"] @ stored[f"{query}.lora_A"]
    torch.testing.assert_close(
        decoder.get_parameter(f"{query}.weight"), plain.get_parameter(f"{query}.weight") + update
    )
    update = (stored["embedding_lora_B"] @ stored["embedding_lora_A"]).T * 8 / 5
    torch.testing.assert_close(decoder.embedding, plain.embedding + update)


def test_a_child_of_it_starts_from_what_it_computes_and_trains_all_weights(runs: Path) -> None:
    adapted, after = (open_model(path_of(runs, f"{name}/*")) for name in ("rope-lora", "after"))
    assert "adapter" not in after.identity
    assert after.identity["start"]["parent"]["adapter"]["name"] == "lora"
    hashes = {
        name: hashlib.sha256(each.detach().numpy().tobytes()).hexdigest()
        for name, each in adapted.decoder().named_parameters()
    }
    assert after.manifest["initial_weights"] == hashes
    before, now = adapted.decoder().state_dict(), after.decoder().state_dict()
    assert all(not torch.equal(before[name], now[name]) for name in before)


def test_it_is_scored_extended_and_generated_from_as_any_other(runs: Path) -> None:
    adapted = path_of(runs, "rope-lora/*")
    score = ("measure=truncated_perplexity", "scoring.longest=2", "scoring.documents=2", "threads=1")
    done(runs, "extrapolate", f"runs={adapted}", *score)
    done(runs, "generate", f"run={adapted}", "prompt=The state", "tokens=4")
    done(runs, "extend", f"run={adapted}", "extension=ntk", "extension.factor=2")
    derived = path_of(runs, "rope-lora/*-ntk-*")
    done(runs, "extrapolate", f"runs={derived}", *score)
    done(runs, "export", f"run={derived}", "to=exported/ntk")
    assert not [name for name in load_file(runs / "exported" / "ntk" / "model.safetensors") if "lora" in name]
    line = the_one_line(lab("export", f"run={derived}", "to=exported/none", "format=peft", cwd=runs))
    assert "format=peft writes what was trained with adapter=lora, and this is rope+lora+ntk" in line
    done(runs, "status", str(adapted.parent), "--remove", derived.name, "--yes")


@pytest.mark.parametrize("name", ["rope", "tied", "extended"])
@pytest.mark.filterwarnings("error:.*tie_word_embeddings.*", "error:.*missing adapter keys.*")
def test_peft_loads_the_updates_onto_the_exported_parent_and_computes_the_same(runs: Path, name: str) -> None:
    adapted = path_of(runs, f"{name}-lora/*")
    done(runs, "export", f"run={parent_of(runs, name)}", f"to=exported/{name}")
    done(runs, "export", f"run={adapted}", f"to=exported/{name}-whole")
    done(runs, "export", f"run={adapted}", f"to=exported/{name}-lora", "format=peft")
    tokens = torch.randint(0, 1000, (2, 40), generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        wanted = open_model(adapted).decoder()(tokens)
        base = AutoModelForCausalLM.from_pretrained(runs / "exported" / name).eval()
        before = base(tokens).logits
        loaded = PeftModel.from_pretrained(base, runs / "exported" / f"{name}-lora").eval()
        torch.testing.assert_close(loaded(tokens).logits, wanted, atol=2e-5, rtol=1e-5)
        if name != "tied":  # there PEFT adds the update of the shared matrix twice, and warns of it
            merged = loaded.merge_and_unload()
            torch.testing.assert_close(merged(tokens).logits, wanted, atol=2e-5, rtol=1e-5)
        whole = AutoModelForCausalLM.from_pretrained(runs / "exported" / f"{name}-whole").eval()
        torch.testing.assert_close(whole(tokens).logits, wanted, atol=2e-5, rtol=1e-5)
        assert float((before - wanted).abs().max()) > 0.05
    stored = load_file(runs / "exported" / f"{name}-lora" / "adapter_model.safetensors")
    assert len(stored) == 2 * 2 * 2 + (4 if name == "tied" else 2)
    assert stored["base_model.model.model.embed_tokens.lora_embedding_B"].shape[1] == 5
    told = json.loads((runs / "exported" / f"{name}-lora" / "adapter_config.json").read_text())
    assert told["base_model_name_or_path"] == parent_of(runs, name).name


def test_peft_folders_are_of_low_rank_updates_of_the_same_model_alone(runs: Path) -> None:
    parent = path_of(runs, TRAINED)
    line = the_one_line(lab("export", f"run={parent}", "to=none", "format=peft", cwd=runs))
    assert "format=peft writes what was trained with adapter=lora, and this is rope: leave format out" in line
    start = ("start=run", f"start.run={parent}", "model=nope", "runs=other")
    done(runs, "train", *start, *RECIPE, *OWN, "trainer.checkpoint_every=100")
    line = the_one_line(lab("export", f"run={path_of(runs, 'other/*')}", "to=none", "format=peft", cwd=runs))
    assert re.search(r"its model\.position\.base is absent and its parent's 10000\.0, so .*: leave format out", line)
    assert not (runs / "none").exists()


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ("adapter.matrices=[query,vale]", "'vale': give query, key, value, output, gate, up or down"),
        ("adapter.matrices=[query,query]", "matrices is [query, query]: name each once"),
        (
            "adapter.matrices=[]",
            "matrices is [] and embedding_rank 0, so nothing would be trained: name matrices",
        ),
        ("adapter.rank=0", "adapter.rank is 0: give 1 or more"),
        ("adapter.embedding_rank=-1", "adapter.embedding_rank is -1: give 0 or more"),
        ("adapter.alpha=0", "adapter.alpha is 0"),
        ("adapter.rank=33", "adapter.rank is 33, above the smaller side of blocks.0.attention.query.weight, which is"),
        ("adapter.embedding_rank=33", "adapter.embedding_rank is 33, above the smaller side of embedding, which is"),
    ],
)
def test_what_cannot_be_is_told_in_one_line(runs: Path, given: str, told: str) -> None:
    parent = path_of(runs, TRAINED)
    start = ("start=run", f"start.run={parent}", "adapter=lora", given)
    line = the_one_line(lab("train", *start, *OWN, "runs=no", cwd=runs))
    assert told in line
    assert not (runs / "no").exists()


def test_without_a_parent_there_is_nothing_that_could_stay_as_it_is(tmp_path: Path) -> None:
    line = the_one_line(lab("train", "experiment=smoke", "adapter=lora", cwd=tmp_path))
    assert "adapter=lora trains numbers beside the weights of a parent" in line
