"""What is made once: manifests of corpora, written blocks, tokenizers, a cloze task, job scripts; overlap of splits.

python -m lab.prepare manifest data=redpajama
python -m lab.prepare blocks data=redpajama scale=tinyllama_120m --processes 8
python -m lab.prepare overlap data=sotu
python -m lab.prepare biographies experiment=biographies --output texts
python -m lab.prepare tokenizer data=files data.corpus.train=mytexts --vocabulary 2048 --output my/tokenizer.json
python -m lab.prepare cloze data=sotu --output my_tasks
python -m lab.prepare slurm
"""

import importlib
import os
from pathlib import Path

from lab.base.commandline import Parser, run_command


def usable_cores() -> int:
    """Cores that this process may run on: in a job those that it was given, where the cluster holds it to them."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


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
    manifest.set_defaults(make="make_manifest")
    blocks = commands.add_parser(
        "blocks",
        help="tokenise a corpus once, for data.mode=blocks",
        description="Write the blocks that a run with these keys trains on. Stopped or killed and started again, it "
        "goes on.",
    )
    blocks.add_argument("overrides", nargs="*", metavar="key=value", help="as for lab.train, e.g. scale=small")
    blocks.add_argument("--processes", type=int, default=usable_cores(), help="default: all cores that it may use")
    blocks.add_argument(
        "--part",
        default="1/1",
        help="a share of the work, such as 2/8, for one of several machines that write the same folder at the same "
        "time (slurm/prepare.sbatch); default: 1/1, all",
    )
    blocks.set_defaults(make="make_blocks")
    overlap = commands.add_parser(
        "overlap",
        help="how much of held-out text stands in training text",
        description="Read a corpus whole and print its splits, and of each author (or document, where authors are not "
        "known) that is held out the share of runs of words that stand in training text too.",
    )
    overlap.add_argument("overrides", nargs="*", metavar="key=value", help="as for lab.train, e.g. data=files")
    overlap.add_argument("--words", type=int, default=13, help="of a run; default: 13")
    overlap.set_defaults(make="show_overlap")
    biographies = commands.add_parser(
        "biographies",
        help="write out the texts of data=biographies, and tell what they hold",
        description="Write the documents of data=biographies, a row each, and print people, tokens, how often a run "
        "with these keys reads of a person, and the bits that it could store.",
    )
    biographies.add_argument("overrides", nargs="*", metavar="key=value", help="as for lab.train")
    biographies.add_argument("--output", type=Path, required=True, help="folder for train.jsonl, validation.jsonl, ...")
    biographies.set_defaults(make="make_biographies")
    paraphrases = commands.add_parser(
        "paraphrases",
        help="have a model write biographies for data=biographies",
        description="Have a model write about each person of data=biographies, again until a text has the name and all "
        "six values in it, and print how many have. Stopped and started again, it goes on.",
    )
    paraphrases.add_argument("overrides", nargs="*", metavar="key=value", help="as for lab.train")
    paraphrases.add_argument("--run", required=True, help="the model: an imported one, or a run")
    paraphrases.add_argument("--people", type=int, help="the first so many; default: all, celebrities too")
    paraphrases.add_argument("--texts", type=int, default=1, help="of each person; default: 1")
    paraphrases.add_argument("--tries", type=int, default=128, help="texts drawn about a person, at most; default: 128")
    paraphrases.add_argument("--temperature", type=float, default=0.5, help="of what is drawn; default: 0.5")
    paraphrases.add_argument("--seed", type=int, default=0, help="of what is drawn; default: 0")
    paraphrases.add_argument(
        "--prompt",
        type=Path,
        help="file with the prompt, in it {name}, {birth_date} and all others; its last line begins the text; default: "
        "one in ChatML, as SmolLM2 reads it",
    )
    paraphrases.add_argument("--output", type=Path, required=True, help="the file to write, .jsonl")
    paraphrases.set_defaults(make="make_paraphrases", made_in="paraphrasing")
    train = commands.add_parser(
        "tokenizer",
        help="train byte-level BPE on the training split of a corpus, or give each of its words a token",
        description="Train byte-level BPE on the training split of a corpus (default: sotu), or give each of its words "
        "a token, and print its characters per token on the validation split.",
    )
    train.add_argument("overrides", nargs="*", metavar="key=value", help="as for lab.train, e.g. data=files")
    train.add_argument(
        "--characters",
        type=int,
        default=200_000_000,
        help="read at most, in turn from each subset; default: 200,000,000",
    )
    kind = train.add_mutually_exclusive_group(required=True)
    kind.add_argument("--vocabulary", type=int, help="number of tokens, at least 258")
    kind.add_argument(
        "--words", action="store_true", help="a token for each word instead, for small vocabularies of made texts"
    )
    train.set_defaults(make="make_tokenizer")
    llama = commands.add_parser(
        "llama-tokenizer",
        help="convert a SentencePiece BPE model of Llama's kind",
        description="Convert a SentencePiece BPE model of Llama's kind to a tokenizer.json of the same ids.",
    )
    llama.add_argument("--model", type=Path, required=True, help="the SentencePiece model file")
    llama.set_defaults(make="make_llama_tokenizer")
    cloze = commands.add_parser(
        "cloze",
        help="write a cloze task of a corpus's test split, for lab.evaluate",
        description="Write a task for lab.evaluate: passages of a corpus's test split that lack the last word of a "
        "sentence, and four words, of like frequency, one of which is it.",
    )
    cloze.add_argument("overrides", nargs="*", metavar="key=value", help="as for lab.train, e.g. data=sotu")
    cloze.add_argument("--count", type=int, default=500, help="of questions, at most; default: 500")
    cloze.add_argument("--characters", type=int, default=500, help="of a passage; default: 500")
    cloze.add_argument("--seed", type=int, default=0, help="of what is drawn; default: 0")
    cloze.add_argument("--output", type=Path, required=True, help="folder for cloze.yaml and cloze.jsonl")
    cloze.set_defaults(make="make_cloze", made_in="cloze")
    slurm = commands.add_parser(
        "slurm",
        help="write out the scripts for sbatch",
        description="Write the job scripts for SLURM, and a recipe for a container, into a folder: the same that a "
        "source tree has in slurm/, for those who have installed the lab without one.",
    )
    slurm.add_argument("--output", type=Path, default=Path("slurm"), help="the folder to make; default: slurm")
    slurm.set_defaults(make="make_slurm")
    for command in (train, llama):
        command.add_argument("--output", type=Path, required=True, help="the tokenizer.json to write")
    for command in (manifest, biographies, paraphrases, train, llama, cloze, slurm):
        command.add_argument("--overwrite", action="store_true", help="replace what exists")
    return root


def main(arguments: list[str] | None = None) -> None:
    given = vars(parser().parse_args(arguments))
    del given["command"]
    # Only now, as it loads torch, which --help does without.
    room = importlib.import_module(f"lab.experiment.{given.pop('made_in', 'preparation')}")
    getattr(room, given.pop("make"))(**given)


if __name__ == "__main__":
    run_command(main)
