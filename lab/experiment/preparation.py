"""Make what is made once, before training: manifests of corpora, written blocks, tokenizers, job scripts."""

import json
import math
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import tokenizers

from lab.base.console import Console, Table
from lab.base.errors import UserError
from lab.base.files import make_folder, refuse_read, writable, write_all, write_whole
from lab.base.parts import build, find
from lab.base.progress import progress
from lab.base.shown import plain
from lab.data.biographies.corpus import Biographies
from lab.data.llama_tokenizer import convert
from lab.data.sources.documents import SPLITS, Corpus, Sotu
from lab.data.sources.file_corpus import Files
from lab.data.sources.file_list import manifest_of, parts_of
from lab.data.sources.overlap import runs_of_words, shared
from lab.data.stream.shards import items_of
from lab.data.stream.tokenised import examined
from lab.data.stream.writing import unwritten, write_blocks
from lab.data.tokenizer import END_OF_DOCUMENT, Tokenizer, train_tokenizer, word_tokenizer
from lab.experiment.child import inherit
from lab.experiment.compose import checked, composed
from lab.experiment.settings import TrainSettings
from lab.experiment.setup import Setup
from lab.runs.manifest import write_json

HELD_OUT_CHARACTERS = 10_000_000  # on which a new tokenizer is tried


@dataclass
class Counts:
    """What the documents of one cluster hold; `found` of its `runs` of words stand in training."""

    documents: int = 0
    characters: int = 0
    tokens: int = 0
    found: int = 0
    runs: int = 0


def documents(corpus: Corpus, split: str) -> Iterator[tuple[str, str]]:
    """Name and text of every usable document of a split in corpus order."""
    for subset in corpus.subsets(split):
        for entry in corpus.documents(split, subset):
            if entry.text is not None:
                yield entry.name, entry.text


def texts(corpus: Corpus, split: str, characters: int) -> Iterator[str]:
    """Texts of a split, in turn from each of its subsets, until they hold so many characters."""
    turns = [
        (entry.text for entry in corpus.documents(split, subset) if entry.text) for subset in corpus.subsets(split)
    ]
    while turns and characters > 0:
        for turn in list(turns):
            text = next(turn, None)
            if text is None:
                turns.remove(turn)
            elif characters > 0:
                characters -= len(text)
                yield text


def write(tokenizer: tokenizers.Tokenizer, output: Path) -> None:
    """Write a tokenizer.json whole or not at all. Raises UserError if it cannot be written."""
    make_folder(output.parent)
    write_whole(output, (tokenizer.to_str(pretty=True) + "\n").encode())


def read_held_out(corpus: Corpus) -> list[str]:
    """Texts of validation, on which a new tokenizer is tried: read before it is made, as one of them may be damaged."""
    return [*texts(corpus, "validation", HELD_OUT_CHARACTERS)]


def report(output: Path, end_of_document: str, held_out: Sequence[str], called: str) -> None:
    """Print what was made: vocabulary, characters per token on held-out texts of a corpus, sha256."""
    tokenizer = Tokenizer(str(output.resolve()), end_of_document)
    tokens = sum(len(ids) for ids in tokenizer.encode_batch(held_out))
    print(plain(output))
    print(f"vocabulary {tokenizer.vocabulary}, end of document {end_of_document} = {tokenizer.end_of_document}")
    if tokens:
        print(f"characters per token on {called} validation {sum(map(len, held_out)) / tokens:.3f}")
    else:
        print(f"{called} validation has no text to try it on")
    print(f"sha256 {tokenizer.digest}")


def make_tokenizer(
    overrides: Sequence[str], vocabulary: int | None, words: bool, characters: int, output: Path, overwrite: bool
) -> None:
    """Train byte-level BPE on the training split of a corpus, or give each of its words a token."""
    refuse_existing(output, overwrite)
    if characters < 1:
        raise UserError(f"--characters is {characters}: give 1 or more")
    settings = checked(TrainSettings, composed("train", overrides)).data.corpus
    corpus: Corpus = build("corpus", settings)
    if isinstance(corpus, Files):
        refuse_read(output, (Path(part.location) for part in parts_of(corpus.files)))
    held_out = read_held_out(corpus)
    # What is made, and not read, can tell all its words, those of texts that nobody has drawn yet too.
    every = corpus.everything() if words and isinstance(corpus, Biographies) else texts(corpus, "train", characters)
    with progress("reading", "documents", every, delay=1, leave=False) as read:
        made = word_tokenizer(read) if words or vocabulary is None else train_tokenizer(read, vocabulary)
    write(made, output)
    report(output, END_OF_DOCUMENT, held_out, settings.label)


def make_llama_tokenizer(model: Path, output: Path, overwrite: bool) -> None:
    """Convert a SentencePiece model of Llama's kind."""
    refuse_existing(output, overwrite)
    refuse_read(output, [model])
    write(convert(model), output)
    report(output, "</s>", read_held_out(Sotu()), "sotu")


def make_slurm(output: Path, overwrite: bool) -> None:
    """Write the scripts for sbatch, as they travel in the package or stand at the top of the source tree."""
    package = Path(__file__).resolve().parents[1]
    inside = package / "slurm"
    files = sorted((inside if inside.is_dir() else package.parent / "slurm").glob("[!_.]*"))
    for file in files:
        refuse_existing(output / file.name, overwrite)
    make_folder(output)
    write_all({output / file.name: file.read_bytes() for file in files})
    told = plain(output)
    print(f"{told}: {', '.join(file.name for file in files)}; edit their tops, then sbatch {told}/train.sbatch ...")


def refuse_existing(output: Path, overwrite: bool) -> None:
    """Raises UserError if a file stands there that shall be kept, or none can be made there: told before any work."""
    if os.path.lexists(output) and not output.is_dir() and not overwrite:
        raise UserError(f"{output}: exists; give another --output, or --overwrite to replace it")
    writable(output, made=True)


def make_manifest(overrides: Sequence[str], output: Path | None, overwrite: bool) -> None:
    """Look at every file of a corpus and write down which they are."""
    settings = checked(TrainSettings, composed("train", overrides)).data.corpus
    corpus = find("corpus", settings.name).load()
    if not hasattr(corpus, "find_files"):
        raise UserError(f"data={settings.name} is not made of files: it needs no manifest")
    keys = settings.arguments()
    output = output or (Path(keys["manifest"]) if keys.get("manifest") else None)
    if output is None:
        raise UserError(
            "--output is missing: name the manifest.json to write, then train with data.corpus.manifest=..."
        )
    refuse_existing(output, overwrite)
    files = corpus.find_files(keys)
    refuse_read(output, (Path(part.location) for part in parts_of(files)))
    make_folder(output.parent)
    write_json(output, manifest_of(files))
    table = Table("split", "subset", title=str(output), title_justify="left")
    for column in ("files", "bytes"):
        table.add_column(column, justify="right")
    for split, subsets in files.items():
        for subset, parts in subsets.items():
            table.add_row(split, subset or "-", f"{len(parts):,}", f"{sum(part.bytes for part in parts):,}")
    Console().print(table)


def make_blocks(overrides: Sequence[str], processes: int, part: str) -> None:
    """Write the blocks that a run with these keys trains on, or of them a part, such as 2/8."""
    if processes < 1:
        raise UserError(f"--processes is {processes}: give 1 or more")
    number, parts = part_of(part)
    overrides = [*overrides, "data.mode=stream", "measure=none"]
    setup = Setup(checked(TrainSettings, inherit(composed("train", overrides), overrides)))
    count, lanes = setup.first_block + setup.block_count, setup.stream.lanes
    examined(setup.stream.corpus, setup.tokenizer)  # what cannot spell the text is refused before anything is written
    blocks = sum(items_of(lane, count, lanes) for lane in range(number - 1, min(lanes, count), parts))
    with progress("blocks", "tokens", total=blocks * (setup.config.scale.context + 1), unit_scale=True) as bar:
        write_blocks(*(setup.stream, setup.blocks_folder, setup.order, count, processes, bar.update), number - 1, parts)
    left = unwritten(setup.blocks_folder, count, lanes)
    if left:
        print(
            f"{setup.blocks_folder}: part {part} is written; {left:,} of {count:,} blocks are missing, of other parts"
        )
    else:
        print(f"{setup.blocks_folder}: {count:,} blocks; train on them with data.mode=blocks")


def part_of(text: str) -> tuple[int, int]:
    """Number and count of a part, 2 and 8 of 2/8. Raises UserError if that is not what is given."""
    found = re.fullmatch(r"(\d{1,6})/(\d{1,6})", text, re.ASCII)
    if found is None or not 1 <= int(found[1]) <= int(found[2]):
        raise UserError(f"--part is {text!r}: give which of how many, such as 2/8")
    return int(found[1]), int(found[2])


def show_overlap(overrides: Sequence[str], words: int) -> None:
    """Print the splits of a corpus, and what of its held-out text stands in training text."""
    if words < 1:
        raise UserError(f"--words is {words}: give 1 or more")
    settings = checked(TrainSettings, composed("train", overrides))
    corpus: Corpus = build("corpus", settings.data.corpus)
    tokenizer: Tokenizer = build("tokenizer", settings.tokenizer)
    training: set[int] = set()
    splits = Table("split", corpus.clusters if corpus.clusters != "documents" else "", title_justify="left")
    for column in ("documents", "characters", "tokens"):
        splits.add_column(column, justify="right")
    held_out = Table("split", corpus.clusters, title="held out", title_justify="left")
    for column in ("documents", "characters", "tokens", f"runs of {words} words in training (%)"):
        held_out.add_column(column, justify="right")
    for split in SPLITS:
        clusters: dict[str, Counts] = {}
        for name, text in progress(split, "documents", documents(corpus, split), delay=1, leave=False):
            counts = clusters.setdefault(corpus.cluster(name), Counts())
            counts.documents += 1
            counts.characters += len(text)
            counts.tokens += len(tokenizer.encode(text))
            if split == "train":
                training.update(runs_of_words(text, words))
            else:
                found, runs = shared(text, training, words)
                counts.found += found
                counts.runs += runs
        whole = [
            sum(getattr(each, name) for each in clusters.values()) for name in ("documents", "characters", "tokens")
        ]
        splits.add_row(split, f"{len(clusters):,}", *(f"{number:,}" for number in whole))
        if split != "train":
            for name, each in clusters.items():
                share = f"{100 * each.found / each.runs:.3f}" if each.runs else "-"
                held_out.add_row(
                    split, name, *(f"{n:,}" for n in (each.documents, each.characters, each.tokens)), share
                )
    Console().print(splits)
    Console().print(held_out)


def make_biographies(overrides: Sequence[str], output: Path, overwrite: bool) -> None:
    """Write the documents of a biography corpus, and print what they hold and how often a run reads of a person."""
    settings = checked(TrainSettings, composed("train", overrides))
    corpus: Corpus = build("corpus", settings.data.corpus)
    if not isinstance(corpus, Biographies):
        raise UserError(f"data={settings.data.corpus.name} is no data=biographies: choose that")
    tokenizer: Tokenizer = build("tokenizer", settings.tokenizer)
    for split in SPLITS:
        refuse_existing(output / f"{split}.jsonl", overwrite)
    tokens: dict[str, int] = {}
    contents: dict[Path, bytes] = {}
    table = Table("split", "documents", "tokens", "tokens a document", title=str(output), title_justify="left")
    for split in SPLITS:
        rows = []
        for subset in corpus.subsets(split):
            for entry in progress(split, "documents", corpus.documents(split, subset), delay=1, leave=False):
                prompt = {"prompt": entry.prompt} if entry.prompt else {}
                rows.append({"name": entry.name, "text": entry.text} | prompt)
        contents[output / f"{split}.jsonl"] = "".join(json.dumps(row) + "\n" for row in rows).encode()
        ids = tokenizer.encode_batch([row["text"] for row in rows])
        tokens[split] = sum(map(len, ids)) + len(rows)  # the end of each document is a token
        table.add_row(split, f"{len(rows):,}", f"{tokens[split]:,}", f"{tokens[split] / max(1, len(rows)):.1f}")
    make_folder(output)
    write_all(contents)
    Console().print(table)
    people = len(corpus.people) + len(corpus.celebrities)
    name_bits, value_bits = math.log2(corpus.pools.names / people), math.log2(corpus.pools.biographies)
    print(f"{people:,} people, {value_bits:.1f} bits of values and {name_bits:.1f} of name each: ", end="")
    print(f"{people * (value_bits + name_bits):,.0f} bits in all")
    entries = sum(len(corpus.recipe_of(person).entries) for person in [*corpus.people, *corpus.celebrities])
    passes = settings.scale.tokens / tokens["train"]
    if corpus.content == "entries" and not settings.data.corpus.text:
        print(
            f"scale.tokens={settings.scale.tokens:,} reads each of {entries:,} entries {passes:.1f} times, of a person "
            f"{passes * entries / people:.1f} times on average"
        )
