"""The checks that need a GPU, in parts of a few minutes each, and docs/gpu.md with what was measured.

make gpu-check PART=kernels|resume|bench [GPU_SECONDS=300]
"""

import argparse
import csv
import io
import subprocess
import sys
import time
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median

import torch

from lab.base.files import write_whole
from lab.model.flops import peak_flops
from lab.runs.environment import code_digest

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "gpu.md"
VARIANTS = ("rope", "nope", "alibi", "window_nope", "window_rope", "window_alibi", "narrow_window_nope")
PARTS = ("kernels", "resume", "bench")
SECONDS = 300  # in which a call begins benches; the last may take a few minutes
SETTINGS = ("scale=tinyllama_1b", "data=sotu", "tokenizer=llama_32k")
# One of each kind, so that where time is short all kinds of figures are there.
FIRST = ("train-rope", "scoring-memory", "train-window_rope", "attention")
FIGURES = ("tokens", "seconds", "flops_per_token", "flops_per_token_6n_12lhqt", "limit_flops_per_second")
OTHERS = {
    "attention": ("attention", "--lengths", "2048", "8192"),
    "scoring-memory": ("extrapolate", "scale=tinyllama_1b", "--memory-only"),
    "extrapolate": ("extrapolate", "scale=pilot", "--rounds", "3"),
}
NOT_YET = "Nothing of it has run on a GPU yet: there is no figure here."


def surroundings() -> str:
    """Device and versions, in one line."""
    packages = ("torch", "lightning", "triton", "flash-attn", "transformers")
    found = []
    for name in packages:
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            found.append(f"no {name}")
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    return (
        f"{device}, CUDA {torch.version.cuda or 'none'}, {', '.join(found)}, {time.strftime('%Y-%m-%d', time.gmtime())}"
    )


def run(arguments: Sequence[str]) -> str:
    """A command's output, shown as it comes; raises CalledProcessError if it fails."""
    print("$ python -m " + " ".join(arguments), flush=True)
    process = subprocess.Popen(
        [sys.executable, "-m", *arguments], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    assert process.stdout is not None
    told = io.StringIO()
    for line in process.stdout:
        print(line, end="", flush=True)
        told.write(line)
    if process.wait():
        raise subprocess.CalledProcessError(process.returncode, arguments)
    return told.getvalue()


def section(part: str, lines: Sequence[str]) -> None:
    """Put a part's section into the page in place of its last one."""
    page = PAGE.read_text(encoding="utf-8").replace(f"{NOT_YET}\n", "")
    title = f"## make gpu-check PART={part}"
    head, _, rest = page.partition(title)
    after = rest.partition("\n## ")
    others = f"\n## {after[2]}" if after[1] else ""
    body = "\n".join([title, "", surroundings(), "", *lines, ""])
    write_whole(PAGE, (head.rstrip("\n") + "\n\n" + body + others).encode())
    print(f"{PAGE.relative_to(ROOT)}: {part}")


def tests(name: str) -> list[str]:
    """The last line of a test file's run."""
    return [run(["pytest", "-q", f"tests/gpu/test_gpu_{name}.py"]).strip().splitlines()[-1]]


class Measured:
    """What benches of this code have printed and written on this device, in build/: a bench is run once only.

    One that fails is told, and leaves the others alone.
    """

    def __init__(self, begin_within: float) -> None:
        device = torch.cuda.get_device_name().replace(" ", "-")
        self.folder = ROOT / "build" / f"gpu-{device}-{code_digest()[:12]}"
        self.folder.mkdir(parents=True, exist_ok=True)
        self.until = time.monotonic() + begin_within
        self.left: list[str] = []  # benches there was no time for
        self.failed: list[str] = []

    def __call__(self, name: str, *arguments: str) -> tuple[str, list[dict[str, str]]]:
        """A bench's output and the rows of its table; nothing if there is no time to begin it."""
        text, table = self.folder / f"{name}.txt", self.folder / f"{name}.csv"
        if not text.exists():
            if time.monotonic() > self.until:
                self.left.append(name)
                return "", []
            start = time.monotonic()
            try:
                told = run(["lab.bench", *arguments, "--csv", str(table)])
            except subprocess.CalledProcessError as error:
                print(f"{name} failed: exit status {error.returncode}", flush=True)
                self.failed.append(name)
                return "", []
            print(f"{name}: {time.monotonic() - start:.0f} s", flush=True)
            write_whole(text, told.encode())
        with open(table, newline="") as file:
            return text.read_text().rstrip(), list(csv.DictReader(file))


def attention_table(rows: Sequence[dict[str, str]]) -> list[str]:
    """Median milliseconds of each kernel in each case, of those that serve any; a dash where one does not."""
    times: dict[tuple[str, str, int], dict[str, list[float]]] = {}
    for row in rows:
        case = (row["window"] or "full", "slopes" if row["slopes"] == "True" else "", int(row["length_tokens"]))
        times.setdefault(case, {}).setdefault(row["kernel"], []).append(1e3 * float(row["seconds"]))
    kernels = list(dict.fromkeys(kernel for of_case in times.values() for kernel in of_case))
    lines = [f"| window | | length | {' | '.join(kernels)} |", "|---" * (3 + len(kernels)) + "|"]
    for (window, slopes, length), measured in times.items():
        cells = [f"{median(measured[kernel]):.1f}" if kernel in measured else "-" for kernel in kernels]
        lines.append(f"| {window} | {slopes} | {length:,} | {' | '.join(cells)} |")
    return lines


def bench(begin_within: float) -> list[str]:
    """Tokens/s of every variant as a table; attention and extrapolation as they print themselves."""
    train = {
        f"train-{model}": ("train", *SETTINGS, f"model={model}", "--no-peer", "--rounds", "3") for model in VARIANTS
    }
    measured = Measured(begin_within)
    benches = train | OTHERS
    done = {name: measured(name, *benches[name]) for name in dict.fromkeys([*FIRST, *benches])}
    lines = [
        "Whole training steps of `scale=tinyllama_1b`, C = 2048, in bfloat16, compiled. Shares of the bf16",
        "matrix rate are by visible keys only, in the same rounds; those of the data sheet's peak by 6N + 12LHQT.",
        "",
        "| model | sums | tokens/s | of the matrix rate | of the peak | of RoPE |",
        "|---|---|---|---|---|---|",
    ]
    peak = peak_flops(torch.cuda.get_device_name())
    rope: dict[str, float] = {}
    for model in VARIANTS:
        _, rows = done[f"train-{model}"]
        for order, contestant in (("fixed order", "lab compiled"), ("any order", "lab, sums in any order, compiled")):
            chosen = sorted(
                (row for row in rows if row["contestant"] == contestant), key=lambda row: float(row["seconds"])
            )
            if not chosen:
                continue
            middle = {key: float(chosen[len(chosen) // 2][key]) for key in FIGURES}
            rate = middle["tokens"] / middle["seconds"]
            rope.setdefault(order, rate)
            share = rate * middle["flops_per_token"] / middle["limit_flops_per_second"]
            of_peak = f"{rate * middle['flops_per_token_6n_12lhqt'] / peak:.1%}" if peak else "not known"
            lines.append(f"| `{model}` | {order} | {rate:,.0f} | {share:.1%} | {of_peak} | {rate / rope[order]:.2f} |")
    for name, arguments in OTHERS.items():
        told, rows = done[name]
        if rows:
            lines += ["", f"`python -m lab.bench {' '.join(arguments)}`"]
            if name == "attention":
                lines += ["", "Milliseconds forward and backward, the median.", "", *attention_table(rows)]
            else:
                lines += ["", "```", told, "```"]
    if measured.failed:
        lines += ["", f"Failed: {', '.join(measured.failed)}."]
    if measured.left:
        lines += ["", f"Not measured yet: {', '.join(measured.left)}; `make gpu-check PART=bench` again goes on."]
        print(f"{len(measured.left)} benches are left: make gpu-check PART=bench again goes on", flush=True)
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=PARTS)
    parser.add_argument("--seconds", type=float, default=SECONDS, help="in which benches are begun")
    arguments = parser.parse_args()
    part = arguments.part
    if not torch.cuda.is_available():
        if part == "bench":
            print("no GPU here: nothing is measured, docs/gpu.md stays as it is")
            return
        print("no GPU here: what can be checked on a CPU is; docs/gpu.md stays as it is", flush=True)
        tests(part)
        return
    section(part, bench(arguments.seconds) if part == "bench" else tests(part))


if __name__ == "__main__":
    main()
