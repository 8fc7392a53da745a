"""What data costs: the stream against the bare tokenizer and `datasets`, written blocks, resume, checkpoints."""

import argparse
import itertools
import json
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch

from lab.base.console import Console, Table
from lab.benches.timing import seconds, spread
from lab.benches.training import our_step
from lab.data.sources.file_corpus import Files
from lab.data.stream.blocks import StoredBlocks
from lab.data.stream.module import DataModule
from lab.data.stream.order import BlockStream, Cursor
from lab.data.stream.writing import write_blocks
from lab.data.tokenizer import Tokenizer
from lab.experiment.compose import settings_of
from lab.experiment.settings import TrainSettings
from lab.experiment.setup import Setup
from lab.runs.checkpoints import Checkpoints
from lab.runs.environment import hardware
from lab.runs.identity import order_identity, shape_label

PIECE_CHARACTERS = 4000  # of the documents that the rates are measured on: about RedPajama's mean
LONG_STREAM_TOKENS = 100_000_000


def pieces(setup: Setup) -> list[str]:
    """The training text of the corpus in documents of a few thousand characters, cut at paragraphs."""
    corpus, found = setup.data.corpus, []
    for subset in corpus.subsets("train"):
        for entry in corpus.documents("train", subset):
            part = ""
            for paragraph in (entry.text or "").split("\n\n"):
                part += paragraph + "\n\n"
                if len(part) >= PIECE_CHARACTERS:
                    found.append(part)
                    part = ""
            if part.strip():
                found.append(part)
    return found


def files_of(texts: list[str], folder: Path, copies: int = 1) -> Files:
    """A corpus of .jsonl files with these texts for training."""
    lines = "".join(json.dumps({"text": text}) + "\n" for text in texts)
    for index in range(copies):
        (folder / f"train{index:03d}.jsonl").write_text(f"{json.dumps({'text': f'copy {index}'})}\n{lines}")
    for split in ("validation", "test"):
        (folder / f"{split}.jsonl").write_text(
            "".join(json.dumps({"text": split + text}) + "\n" for text in texts[:20])
        )
    train = [str(path) for path in sorted(folder.glob("train*.jsonl"))]
    return Files(train, str(folder / "validation.jsonl"), str(folder / "test.jsonl"), small_bytes=0)


def stream_tokens(corpus: Files, tokenizer: Tokenizer, context: int, tokens: int) -> None:
    """Read blocks of so many tokens from the start of a stream."""
    stream = BlockStream(corpus, "train", tokenizer, context, seed=0)
    for _ in itertools.islice(stream.blocks(), tokens // (context + 1)):
        pass


def datasets_tokens(path: Path, tokenizer: Tokenizer, context: int) -> int:
    """As most people do it: map to tokenise in batches, map to group; the blocks are then read. Returns tokens."""
    import datasets

    datasets.disable_progress_bars()
    datasets.disable_caching()

    def tokenise(batch: dict[str, list[str]]) -> dict[str, list[list[int]]]:
        return {"ids": [list(ids) + [tokenizer.end_of_document] for ids in tokenizer.encode_batch(batch["text"])]}

    def group(batch: dict[str, list[list[int]]]) -> dict[str, list[list[int]]]:
        joined = list(itertools.chain(*batch["ids"]))
        whole = len(joined) - len(joined) % (context + 1)
        return {"tokens": [joined[start : start + context + 1] for start in range(0, whole, context + 1)]}

    with tempfile.TemporaryDirectory() as cache:
        rows = datasets.load_dataset("json", data_files=str(path), split="train", cache_dir=cache)
        rows = rows.map(tokenise, batched=True, remove_columns=rows.column_names)
        blocks = rows.map(group, batched=True, remove_columns=["ids"]).with_format("numpy")
        return sum(len(block["tokens"]) for block in blocks)


def read_blocks(setup: Setup, blocks: StoredBlocks, count: int) -> Callable[[], None]:
    """Read `count` written blocks as micro-batches of tensors, as training does."""

    def run() -> None:
        data = DataModule(setup.data.corpus, setup.data.tokenizer, blocks, blocks.block_length - 1, 8, count // 8, 1)
        for _ in itertools.islice(data.train_dataloader(), count // 8):
            pass

    return run


def rates(setup: Setup, rounds: int, folder: Path, console: Console) -> list[dict[str, Any]]:
    """Tokens per second of the ways to make blocks, in turn."""
    texts, tokenizer, context = pieces(setup), setup.data.tokenizer, setup.config.scale.context
    folder.mkdir()
    corpus = files_of(texts, folder)
    tokens = sum(map(len, tokenizer.encode_batch(texts)))
    stream = BlockStream(corpus, "train", tokenizer, context, seed=0)
    identity = order_identity(setup.config, corpus.manifest()["digest"], tokenizer.digest)
    count = 8 * (tokens // (context + 1) // 8)
    write_blocks(stream, folder / "blocks", identity, count, 2, lambda done: None)
    blocks = StoredBlocks(folder / "blocks", identity, count)
    bare = tokenizer.library
    contestants: dict[str, tuple[Callable[[], Any], int]] = {
        "tokenizers.encode_batch alone": (lambda: bare.encode_batch(texts, add_special_tokens=False), tokens),
        "lab, data.mode=stream": (lambda: stream_tokens(corpus, tokenizer, context, tokens), tokens),
        "datasets, map and group": (
            lambda: datasets_tokens(folder / "train000.jsonl", tokenizer, context),
            tokens,
        ),
        "lab, data.mode=blocks": (read_blocks(setup, blocks, count), count * (context + 1)),
    }
    times: dict[str, list[float]] = {name: [] for name in contestants}
    for done in range(rounds):
        for name, (run, _) in contestants.items():
            times[name].append(seconds(run))
        console.print(f"round {done + 1} of {rounds}")
    table = Table(title=f"{tokens:,} tokens; median (smallest to largest) over the rounds", title_justify="left")
    for column in ("", "tokens/s", "of encode_batch in the same round"):
        table.add_column(column, justify="left" if column == "" else "right")
    rows = []
    base = times["tokenizers.encode_batch alone"]
    for name, (_, number) in contestants.items():
        each = [number / one for one in times[name]]
        shares = [rate * other / tokens for rate, other in zip(each, base, strict=True)]
        table.add_row(name, spread(each), spread(shares, ".0%"))
        rows += [{"what": name, "round": r, "tokens_per_second": rate} for r, rate in enumerate(each)]
    console.print(table)
    return rows


def waiting(setup: Setup, steps: int, console: Console) -> list[dict[str, Any]]:
    """The share of training that is spent waiting for the next micro-batch, after the first of every lane."""
    loader = iter(setup.data.train_dataloader())
    first = next(loader)
    for _ in range(setup.stream.lanes):  # what starting costs is told by `resume`
        next(loader)
    step = our_step(setup, first["tokens"].to(setup.device), compiled=False)
    step()
    waited = worked = 0.0
    for _ in range(steps):
        start = time.perf_counter()
        next(loader)
        middle = time.perf_counter()
        step()
        waited, worked = waited + middle - start, worked + time.perf_counter() - middle
    share = waited / (waited + worked)
    mode = f"data.mode={setup.config.data.mode} data.workers={setup.config.data.workers}"
    console.print(
        f"{mode}: {share:.2%} of a step of {shape_label(setup.config.scale)} is spent waiting for data"
        f" ({1e3 * waited / steps:.2f} of {1e3 * (waited + worked) / steps:.0f} ms, {steps} steps)"
    )
    return [{"what": f"share of a step lost to data, {mode}", "round": 0, "share": share}]


def resume(setup: Setup, folder: Path, rounds: int, console: Console) -> list[dict[str, Any]]:
    """Seconds to the first block of every lane, at 1 % and at 99 % of a long stream."""
    folder.mkdir()
    texts, tokenizer, context = pieces(setup), setup.data.tokenizer, setup.config.scale.context
    copies = -(-LONG_STREAM_TOKENS // sum(map(len, tokenizer.encode_batch(texts))))
    corpus = files_of(texts, folder, copies)
    total = LONG_STREAM_TOKENS // (context + 1)
    stream = BlockStream(corpus, "train", tokenizer, context, seed=0)
    cursors: dict[int, Cursor] = {}
    kept: dict[float, tuple[int, dict[int, Cursor]]] = {}
    console.print(f"reading a stream of {LONG_STREAM_TOKENS:,} tokens once, to have its cursors", highlight=False)
    for g, block in itertools.islice(stream.blocks(), int(0.99 * total) + 1):
        if block.cursor is not None:
            cursors[g % stream.lanes] = block.cursor
        for share in (0.01, 0.99):
            if g == int(share * total):
                kept[share] = (g + 1, dict(cursors))

    def again(share: float) -> None:
        first, state = kept[share]
        new = BlockStream(corpus, "train", tokenizer, context, seed=0)
        new.restore(state)
        for g in range(first, first + new.lanes):
            new.block(g)

    rows: list[dict[str, Any]] = []
    times: dict[float, list[float]] = {0.01: [], 0.99: []}
    for number in range(rounds):
        for share, measured in times.items():
            measured.append(seconds(partial(again, share)))
            rows.append({"what": f"resume at {share:.0%}", "round": number, "seconds": measured[-1]})
    for share, measured in times.items():
        console.print(
            f"resume at {share:.0%}: {spread(measured, '.2f')} s to one block of each of {stream.lanes} lanes"
        )
    return rows


def checkpoint(setup: Setup, folder: Path, rounds: int, console: Console) -> list[dict[str, Any]]:
    """Seconds of a checkpoint with the state of an optimiser of two moments."""
    decoder = setup.fresh_decoder()
    state = {"optimizer": [{name: value.clone() for name, value in decoder.state_dict().items()} for _ in range(2)]}
    checkpoints = Checkpoints(folder)
    times = [seconds(partial(checkpoints.save, step, decoder.state_dict(), state)) for step in range(rounds)]
    size = sum(file.stat().st_size for file in checkpoints.path(rounds - 1).iterdir())
    console.print(f"checkpoint of {size / 1e6:,.0f} MB, synced and read back: {spread(times, '.2f')} s")
    return [{"what": "checkpoint", "round": index, "seconds": each} for index, each in enumerate(times)]


def bench_data(arguments: argparse.Namespace, console: Console) -> list[dict[str, Any]]:
    setup = Setup(settings_of("train", TrainSettings, [*arguments.overrides, "logger=csv", "measure=none"]))
    console.print(
        f"data={setup.config.data.corpus.label} {shape_label(setup.config.scale)}; {hardware()},"
        f" torch {torch.__version__}"
    )
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        rows = rates(setup, arguments.rounds, folder / "rates", console)
        rows += waiting(setup, 20, console)
        rows += checkpoint(setup, folder / "checkpoints", arguments.rounds, console)
        if not arguments.no_resume:
            rows += resume(setup, folder / "resume", arguments.rounds, console)
    keys = ("what", "round", "tokens_per_second", "share", "seconds")
    return [{key: row.get(key, "") for key in keys} for row in rows]
