"""What papers claim, held against what was measured: a verdict for each claim, with effect, interval and command.

python -m lab.claims --documents docs/pilot/documents.csv.gz --output docs/claims.md

The claims stand as data in conf/claim/, written down before the runs that test them. The numbers are those that
lab.compare has published, documents.csv.gz, and lab.analyze of several runs, STUDY_documents.csv.gz.
"""

import shlex
import sys
from pathlib import Path

from lab.base.commandline import Parser, run_command


def make_parser() -> Parser:
    parser = Parser(prog="python -m lab.claims", description=__doc__)
    parser.add_argument(
        "--documents",
        nargs="*",
        default=[],
        metavar="[NAME=]PATH",
        help="documents.csv.gz of comparisons; without, nothing was run. With a name its variants are called "
        "'VARIANT, NAME', so that those of several comparisons can be held against each other",
    )
    parser.add_argument("--study", help="one file of the folder alone, by its name without .yaml, on a page of its own")
    parser.add_argument("--claims", type=Path, help="folder of claims (default: those of the lab)")
    parser.add_argument(
        "--output", type=Path, default=Path("claims.md"), help="page to write, its table beside as .csv"
    )
    return parser


def main() -> None:
    arguments = make_parser().parse_args()
    from lab.experiment.claiming import claim  # loads numpy and scipy, which --help does without

    command = shlex.join(["python", "-m", "lab.claims", *sys.argv[1:]])
    claim(arguments.documents, arguments.claims, arguments.study, arguments.output, command)


if __name__ == "__main__":
    run_command(main)
