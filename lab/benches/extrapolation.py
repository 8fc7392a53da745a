"""The full length curve at C, 2 C, ..., 16 C: one pass, against a pass a length and transformers' sliding windows."""

import argparse
import multiprocessing
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from lab.base.console import Console, Table
from lab.base.errors import UserError
from lab.benches.timing import peak_memory, seconds, spread
from lab.experiment.compose import settings_of
from lab.experiment.settings import TrainSettings
from lab.experiment.setup import Setup
from lab.model.decoder import Decoder
from lab.model.precision import DTYPES
from lab.observe.losses import losses_in_one_pass
from lab.runs.environment import hardware
from lab.runs.identity import shape_label

LENGTHS = 16  # equally spaced, in contexts
STRIDE = 256  # of Position Interpolation's sliding windows

Curve = Callable[[], list[float]]


def one_pass(decoder: Decoder, documents: list[Tensor], lengths: list[int]) -> list[float]:
    """Mean loss of the first L tokens for every L, each document read once."""
    sums = torch.zeros(len(lengths), dtype=torch.float64)
    for tokens in documents:
        losses = losses_in_one_pass(decoder, tokens).double().cpu()
        sums += torch.stack([losses[:length].mean() for length in lengths])
    return [float(each) for each in sums / len(documents)]


def pass_a_length(decoder: Decoder, documents: list[Tensor], lengths: list[int]) -> list[float]:
    """The same numbers, each document read anew for every L."""
    return [
        sum(float(losses_in_one_pass(decoder, tokens[: length + 1]).double().mean()) for tokens in documents)
        / len(documents)
        for length in lengths
    ]


def sliding_windows(model: nn.Module, documents: list[Tensor], lengths: list[int]) -> list[float]:
    """transformers' recipe (its documentation, "Perplexity of fixed-length models"), for windows of every L.

    Windows of L that move on by STRIDE; of each only the tokens not scored before have labels. These are other
    numbers than the truncated ones: what is compared is the cost of a curve over lengths.
    """
    curve = []
    for length in lengths:
        total, scored = 0.0, 0
        for tokens in documents:
            ids = tokens[None]
            before = 0
            for start in range(0, ids.shape[1], STRIDE):
                stop = min(start + length, ids.shape[1])
                inputs = ids[:, start:stop]
                labels = inputs.clone()
                labels[:, : -(stop - before)] = -100
                fresh = int((labels[:, 1:] != -100).sum())
                total += float(model(input_ids=inputs, labels=labels).loss) * fresh
                scored += fresh
                before = stop
                if stop == ids.shape[1]:
                    break
        curve.append(total / scored)
    return curve


def llama_of(setup: Setup, decoder: Decoder) -> nn.Module:
    """transformers' LlamaForCausalLM with the decoder's weights, in the type that the lab computes in."""
    try:
        from transformers import AutoModelForCausalLM, LlamaConfig
    except ImportError:
        raise UserError("the peer needs transformers: pip install 'context-window-lab[bench]'") from None
    scale = setup.config.scale
    if setup.config.model.position.name != "rope":
        raise UserError(f"the position encoding is {setup.config.model.position.name}: Llama is the peer of model=rope")
    config = LlamaConfig(
        vocab_size=scale.vocabulary,
        hidden_size=scale.width,
        intermediate_size=scale.hidden,
        num_hidden_layers=scale.layers,
        num_attention_heads=scale.heads,
        num_key_value_heads=scale.kv_heads,
        head_dim=scale.head_dim,
        max_position_embeddings=scale.context * LENGTHS,
        rms_norm_eps=setup.config.model.eps,
        tie_word_embeddings=False,
        use_cache=False,
    )
    names = {
        "model.embed_tokens.weight": "embedding",
        "model.norm.weight": "norm.weight",
        "lm_head.weight": "head.weight",
    }
    layer = {
        **{f"self_attn.{theirs}_proj": f"attention.{ours}" for theirs, ours in zip("qkvo", PROJECTIONS, strict=True)},
        **{f"mlp.{name}_proj": f"feed_forward.{name}" for name in ("gate", "up", "down")},
        "input_layernorm": "attention_norm",
        "post_attention_layernorm": "feed_forward_norm",
    }
    for index in range(scale.layers):
        names |= {f"model.layers.{index}.{a}.weight": f"blocks.{index}.{b}.weight" for a, b in layer.items()}
    ours = decoder.state_dict()
    model = AutoModelForCausalLM.from_config(
        config, attn_implementation="sdpa", dtype=DTYPES[setup.config.trainer.compute_dtype]
    )
    model.load_state_dict({theirs: ours[name] for theirs, name in names.items()})
    return model.to(setup.device).eval()


PROJECTIONS = ("query", "key", "value", "output")


def bench_extrapolate(arguments: argparse.Namespace, console: Console) -> list[dict[str, Any]]:
    if arguments.documents < 1:
        raise UserError(f"--documents is {arguments.documents}: give 1 or more")
    if arguments.memory_only:
        return memory(arguments, console)
    overrides = ["model=rope", *arguments.overrides, "logger=csv", "measure=none"]
    setup = Setup(settings_of("train", TrainSettings, overrides))
    context = setup.config.scale.context
    needed = LENGTHS * context + 1
    found = [
        torch.from_numpy(item.ids[:needed].astype("int64")).to(setup.device)
        for item in setup.source.long_enough(needed, arguments.documents)
    ]
    lengths = [context * number for number in range(1, LENGTHS + 1)]
    decoder = setup.fresh_decoder().to(setup.device).eval()
    peer = llama_of(setup, decoder)
    contestants: dict[str, Curve] = {
        "lab, one pass": lambda: one_pass(decoder, found, lengths),
        "a pass a length": lambda: pass_a_length(decoder, found, lengths),
        f"transformers, windows, S = {STRIDE}": lambda: sliding_windows(peer, found, lengths),
    }
    times: dict[str, list[float]] = {name: [] for name in contestants}
    with torch.inference_mode():
        one, other = contestants["lab, one pass"](), contestants["a pass a length"]()
        worst = max(abs(a - b) for a, b in zip(one, other, strict=True))
        for done in range(arguments.rounds):
            for name, curve in contestants.items():
                times[name].append(seconds(curve))
            console.print(
                f"round {done + 1} of {arguments.rounds}: {', '.join(f'{each[-1]:.1f} s' for each in times.values())}"
            )
        growth = doubling(arguments, console)
    used = setup.config.trainer.compute_dtype
    console.print(
        f"model=rope {shape_label(setup.config.scale)}, {len(found)} documents, {LENGTHS} lengths to "
        f"{needed - 1:,} tokens, {used}; {hardware()}, torch {torch.__version__}; one pass and a pass a length differ "
        f"by {worst:.1e} nats at most"
    )
    table = Table(title="Median (smallest to largest) over the rounds; ratios within a round", title_justify="left")
    for column in ("", "seconds", "times the lab's"):
        table.add_column(column, justify="left" if column == "" else "right")
    rows = []
    for name, measured in times.items():
        ratios = [theirs / ours for theirs, ours in zip(measured, times["lab, one pass"], strict=True)]
        table.add_row(name, spread(measured, ".2f"), spread(ratios, ".1f"))
        rows += [
            {"contestant": name, "length_tokens": needed - 1, "round": number, "seconds": each, "bytes": ""}
            for number, each in enumerate(measured)
        ]
    console.print(table)
    return rows + growth + memory(arguments, console)


def doubling(arguments: argparse.Namespace, console: Console) -> list[dict[str, Any]]:
    """Cost of one pass of a windowed decoder when the length doubles."""
    setup = Setup(
        settings_of("train", TrainSettings, [*arguments.overrides, "model=window_rope", "logger=csv", "measure=none"])
    )
    decoder = setup.fresh_decoder().to(setup.device).eval()
    lengths = [setup.config.scale.context * count for count in (16, 32, 64)]
    tokens = torch.randint(0, setup.config.scale.vocabulary, (lengths[-1] + 1,), device=setup.device)
    passes = [lambda length=length: losses_in_one_pass(decoder, tokens[: length + 1]) for length in lengths]
    times: list[list[float]] = [[] for _ in lengths]
    for done in range(arguments.rounds + 1):
        for number, each in enumerate(passes):
            elapsed = min(seconds(each) for _ in range(3))  # a fraction of a second is easily disturbed
            if done:
                times[number].append(elapsed)
    for before, after, half, whole in zip(times, times[1:], lengths, lengths[1:], strict=False):
        ratios = [b / a for a, b in zip(before, after, strict=True)]
        console.print(
            f"window {setup.window}: {half:,} to {whole:,} tokens costs {spread(ratios, '.2f')} times as much "
            f"({spread(after, '.2f')} s, the fastest of three a round)"
        )
    return [
        {"contestant": "lab, window_rope", "length_tokens": length, "round": number, "seconds": each, "bytes": ""}
        for length, measured in zip(lengths, times, strict=True)
        for number, each in enumerate(measured)
    ]


def memory(arguments: argparse.Namespace, console: Console) -> list[dict[str, Any]]:
    """Largest memory of a process of its own that scores one text with a windowed and a full decoder."""
    rows = []
    # Full attention over the longest text would take minutes on a CPU.
    full = arguments.longest if torch.cuda.is_available() else arguments.longest // 4
    for model, length in (("window_rope", arguments.longest), ("rope", full)):
        # A process of its own: the largest size of a process never shrinks.
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            before, after = pool.apply(_peak, (model, list(arguments.overrides), length))
        console.print(
            f"model={model}, one pass over {length:,} tokens: {(after - before) / 1e9:.2f} GB beside the "
            f"{before / 1e9:.2f} GB of the decoder and its libraries"
        )
        rows.append(
            {
                "contestant": f"memory {model}",
                "length_tokens": length,
                "round": 0,
                "seconds": "",
                "bytes": after - before,
            }
        )
    return rows


def _peak(model: str, overrides: list[str], length: int) -> tuple[float, float]:
    """Peak memory in bytes before and after one pass."""
    setup = Setup(settings_of("train", TrainSettings, [*overrides, f"model={model}", "logger=csv", "measure=none"]))
    decoder = setup.fresh_decoder().to(setup.device).eval()
    tokens = torch.randint(0, setup.config.scale.vocabulary, (length + 1,), device=setup.device)
    with torch.inference_mode():
        losses_in_one_pass(decoder, tokens[:257])
        before = peak_memory(setup.device)
        losses_in_one_pass(decoder, tokens)
    return before, peak_memory(setup.device)
