"""List the runs of a folder: how far each is, whether its last checkpoint is whole, and what SLURM does with it.

python -m lab.status
python -m lab.status runs --verify
python -m lab.status runs --match 'rope-*seed0*' --watch 10
python -m lab.status runs --remove nope-pilot-sotu-seed0-1a2b3c4d
python -m lab.status runs --match '*-seed0-*' --elsewhere --remove
"""

from pathlib import Path

from lab.base.commandline import Parser, run_command


def make_parser() -> Parser:
    parser = Parser(prog="python -m lab.status", description=__doc__)
    parser.add_argument(
        "folder", nargs="?", type=Path, default=Path("runs"), help="that holds the runs (default: runs)"
    )
    parser.add_argument("--verify", action="store_true", help="read every checkpoint and compare its checksums")
    parser.add_argument(
        "--match", metavar="PATTERN", default="*", help="only runs whose name fits, e.g. 'rope-*seed0*'"
    )
    parser.add_argument(
        "--elsewhere", action="store_true", help="only runs that were trained on another kind of machine than this one"
    )
    parser.add_argument("--watch", type=float, metavar="SECONDS", help="print the list again and again, until Ctrl-C")
    parser.add_argument(
        "--remove", nargs="*", metavar="RUN", help="delete these runs, after asking; without names those listed"
    )
    parser.add_argument("--yes", action="store_true", help="with --remove: do not ask")
    return parser


def main() -> None:
    arguments = make_parser().parse_args()
    from lab.report import run_list  # loads torch, which --help does without

    chosen = run_list.Chosen(arguments.folder, arguments.match, arguments.elsewhere)
    if arguments.remove is not None:
        run_list.remove(chosen, arguments.remove, arguments.yes)
    elif arguments.watch is not None:
        run_list.watch(chosen, arguments.verify, arguments.watch)
    else:
        run_list.show(chosen, arguments.verify)


if __name__ == "__main__":
    run_command(main)
