"""How fast, against what the machine can do and against a peer, in one run.

python -m lab.bench train model=rope scale=small
python -m lab.bench attention
python -m lab.bench data
python -m lab.bench extrapolate
python -m lab.bench extrapolate evaluation=sotu --run runs/A --contexts 4
python -m lab.bench taps
python -m lab.bench positions --windows 16 --contexts 8
python -m lab.bench extend --run runs/A
python -m lab.bench knowledge
python -m lab.bench lens scale=pilot
python -m lab.bench contention
"""

import sys
from pathlib import Path

from lab.base.commandline import Parser, run_command
from lab.base.console import Console
from lab.base.errors import UserError
from lab.base.files import writable
from lab.base.tables import write_table


def make_parser() -> Parser:
    parser = Parser(prog="python -m lab.bench", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    train = commands.add_parser(
        "train", help="training step of a model and scale, against transformers and the machine's matrix rate"
    )
    train.add_argument(
        "overrides", nargs="*", metavar="key=value", help="as for lab.train, e.g. model=rope scale=small"
    )
    train.add_argument("--no-peer", action="store_true", help="leave transformers out")
    train.add_argument("--no-compile", action="store_true", help="leave the compiled versions out")
    attention = commands.add_parser("attention", help="attention kernels by length, window and slopes")
    attention.add_argument("--lengths", type=int, nargs="+", default=[1024, 2048, 4096, 8192], help="tokens")
    attention.add_argument(
        "--windows", type=int, nargs="+", default=[256], help="keys seen; full attention is always measured"
    )
    attention.add_argument("--heads", type=int, default=9)
    attention.add_argument("--kv-heads", type=int, default=3)
    attention.add_argument("--head-dim", type=int, default=64)
    attention.add_argument(
        "--score-bytes", type=float, default=2e9, help="leave out kernels whose score matrix would be larger"
    )
    data = commands.add_parser("data", help="tokenising, packing and order, written blocks, resume, checkpoints")
    data.add_argument("overrides", nargs="*", metavar="key=value", help="as for lab.train, e.g. scale=pilot")
    data.add_argument("--no-resume", action="store_true", help="leave out the stream of 100 million tokens (minutes)")
    extrapolate = commands.add_parser("extrapolate", help="the length curve, against a pass a length and transformers")
    extrapolate.add_argument("overrides", nargs="*", metavar="key=value", help="as for lab.train, e.g. scale=pilot")
    extrapolate.add_argument("--documents", type=int, default=2, help="held-out documents that are scored")
    extrapolate.add_argument("--contexts", type=int, default=16, help="contexts C in the longest text of the curve")
    extrapolate.add_argument("--run", help="a run or imported model; overrides are then as for lab.extrapolate")
    extrapolate.add_argument("--longest", type=int, default=131_072, help="tokens of the pass whose memory is told")
    extrapolate.add_argument("--memory-only", action="store_true", help="tell only the memory of one long pass")
    taps = commands.add_parser("taps", help="a forward pass of which a layer is read, against one without")
    taps.add_argument("overrides", nargs="*", metavar="key=value", help="as for lab.train, e.g. scale=pilot")
    positions = commands.add_parser("positions", help="positional vectors: their fold, their replacement, the sweep")
    positions.add_argument("overrides", nargs="*", metavar="key=value", help="as for lab.train, e.g. scale=pilot")
    positions.add_argument("--windows", type=int, default=16, help="that are folded")
    positions.add_argument("--contexts", type=int, default=8, help="contexts C in a window")
    extend = commands.add_parser("extend", help="RoPE's extensions: a pass, a step of decoding, the search")
    extend.add_argument("overrides", nargs="*", metavar="key=value", help="as for lab.train, e.g. scale=pilot")
    extend.add_argument("--contexts", type=int, default=4, help="contexts C in a text, and s")
    extend.add_argument("--run", help="a run of model=rope: the search is measured on it, too")
    knowledge = commands.add_parser(
        "knowledge", help="biographies made against trained on; questions answered together against one by one"
    )
    knowledge.add_argument("overrides", nargs="*", metavar="key=value", help="as for lab.train experiment=biographies")
    knowledge.add_argument("--questions", type=int, default=240, help="that are answered")
    lens = commands.add_parser("lens", help="factors of gradients together, one by one, and beside a plain pass")
    lens.add_argument("overrides", nargs="*", metavar="key=value", help="as for lab.train, e.g. scale=pilot")
    lens.add_argument("--prompts", type=int, default=64, help="that are looked at")
    lens.add_argument("--tokens", type=int, default=8, help="of each")
    lens.add_argument("--batch-tokens", type=int, default=1024, help="read together, at most")
    lens.add_argument("--dtype", choices=("float64", "float32"), default="float64", help="that is computed in")
    contention = commands.add_parser("contention", help="a training step beside other processes that are busy")
    contention.add_argument("overrides", nargs="*", metavar="key=value", help="as for lab.train, e.g. scale=pilot")
    contention.add_argument(
        "--busy", type=int, nargs="+", default=[0, 1, 2], help="busy processes beside; the first: idle"
    )
    contention.add_argument("--seconds", type=float, default=8, help="of each measurement")
    for command in (train, attention, data, extrapolate, taps, positions, extend, knowledge, lens, contention):
        command.add_argument("--rounds", type=int, default=5, help="measurements of each, in turn")
        command.add_argument("--csv", type=Path, help="also write every measurement to this file")
    return parser


def main() -> None:
    arguments = make_parser().parse_args()
    if arguments.rounds < 1:
        raise UserError(f"--rounds is {arguments.rounds}: give 1 or more")
    if arguments.csv:
        writable(arguments.csv)
    # Imported when the arguments are right: they load torch.
    from lab.benches.attention import bench_attention
    from lab.benches.contention import bench_contention
    from lab.benches.data import bench_data
    from lab.benches.extensions import bench_extend
    from lab.benches.extrapolation import bench_extrapolate
    from lab.benches.knowledge import bench_knowledge
    from lab.benches.lens import bench_lens
    from lab.benches.positions import bench_positions
    from lab.benches.taps import bench_taps
    from lab.benches.training import bench_train

    benches = {
        "train": bench_train,
        "attention": bench_attention,
        "data": bench_data,
        "extrapolate": bench_extrapolate,
        "taps": bench_taps,
        "positions": bench_positions,
        "extend": bench_extend,
        "knowledge": bench_knowledge,
        "lens": bench_lens,
        "contention": bench_contention,
    }
    run = benches[arguments.command]
    # Tables of ranges are wide: outside a terminal, where rich assumes 80 columns, they get what they need.
    console = Console() if sys.stdout.isatty() else Console(width=120)
    rows = run(arguments, console)
    if arguments.csv:
        write_table(arguments.csv, rows)


if __name__ == "__main__":
    run_command(main)
