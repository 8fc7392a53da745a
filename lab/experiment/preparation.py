"""Make what is made once, before training: manifests of corpora, written blocks, tokenizers."""

from collections.abc import Sequence
from pathlib import Path

import tokenizers
from rich.console import Console
from rich.table import Table
from tqdm import tqdm

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
from lab.runs.manifest import write_json


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


def make_tokenizer(vocabulary: int, output: Path, overwrite: bool) -> None:
    """Train byte-level BPE on sotu."""
    refuse_existing(output, overwrite)
    make_folder(output.parent)
    writable(output)
    write(train_tokenizer(texts(Sotu(), "train"), vocabulary), output)
    report(output, END_OF_DOCUMENT)


def make_llama_tokenizer(model: Path, output: Path, overwrite: bool) -> None:
    """Convert a SentencePiece model of Llama's kind."""
    refuse_existing(output, overwrite)
    write(convert(model), output)
    report(output, "</s>")


def refuse_existing(output: Path, overwrite: bool) -> None:
    if output.exists() and not overwrite:
        raise UserError(f"{output}: exists; give another --output, or --overwrite to replace it")


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
    make_folder(output.parent)
    write_json(output, manifest_of(files))
    table = Table("split", "subset", title=str(output), title_justify="left")
    for column in ("files", "bytes"):
        table.add_column(column, justify="right")
    for split, subsets in files.items():
        for subset, parts in subsets.items():
            table.add_row(split, subset or "-", f"{len(parts):,}", f"{sum(part.bytes for part in parts):,}")
    Console().print(table)


def make_blocks(overrides: Sequence[str], processes: int) -> None:
    """Write the blocks that a run with these keys trains on."""
    if processes < 1:
        raise UserError(f"--processes is {processes}: give 1 or more")
    overrides = [*overrides, "data.mode=stream", "measure=none"]
    setup = Setup(checked(TrainSettings, inherit(composed("train", overrides), overrides)))
    count = setup.first_block + setup.block_count
    with tqdm(total=count * (setup.config.scale.context + 1), unit=" tokens", unit_scale=True, mininterval=1) as bar:
        write_blocks(setup.stream, setup.blocks_folder, setup.order, count, processes, bar.update)
    print(f"{setup.blocks_folder}: {count:,} blocks; train on them with data.mode=blocks")
