"""List the runs of a folder: how far each is, whether its last checkpoint is whole, and what SLURM does with it.

python -m lab.status
python -m lab.status runs --verify
python -m lab.status runs --remove nope-pilot-sotu-seed0-1a2b3c4d
"""

from pathlib import Path

from lab.base.commandline import Parser, run_command


def make_parser() -> Parser:
    parser = Parser(prog="python -m lab.status", description=__doc__)
    parser.add_argument(
        "folder", nargs="?", type=Path, default=Path("runs"), help="that holds the runs (default: runs)"
    )
    parser.add_argument("--verify", action="store_true", help="read every checkpoint and compare its checksums")
    parser.add_argument("--remove", nargs="+", metavar="RUN", help="delete these runs, after asking")
    parser.add_argument("--yes", action="store_true", help="with --remove: do not ask")
    return parser


def main() -> None:
    arguments = make_parser().parse_args()
    from lab.report import run_list  # loads torch, which --help does without

    if arguments.remove:
        run_list.remove(arguments.folder, arguments.remove, arguments.yes)
    else:
        run_list.show(arguments.folder, arguments.verify)


if __name__ == "__main__":
    run_command(main)
