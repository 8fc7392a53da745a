"""The checks that need a GPU, in parts of a few minutes each, and docs/gpu.md with what was measured.

make gpu-check PART=kernels|resume|bench
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

import torch

from lab.files import write_whole

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "gpu.md"
VARIANTS = ("nope", "rope", "alibi", "window_nope", "window_rope", "window_alibi", "narrow_window_nope")
PARTS = ("kernels", "resume", "bench")


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
    page = PAGE.read_text(encoding="utf-8") if PAGE.exists() else "# On a GPU\n"
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


def bench() -> list[str]:
    """Tokens/s of every variant as a table; attention and extrapolation as they print themselves."""
    lines = ["| model | tokens/s | share of the bf16 matrix rate | of RoPE |", "|---|---|---|---|"]
    rates: dict[str, float] = {}
    for model in ("rope", *(name for name in VARIANTS if name != "rope")):
        path = ROOT / "build" / f"gpu_train_{model}.csv"
        path.parent.mkdir(exist_ok=True)
        settings = ["scale=tinyllama_1b", "data=sotu", "tokenizer=llama_32k", f"model={model}"]
        run(["lab.bench", "train", *settings, "--no-peer", "--rounds", "3", "--csv", str(path)])
        with open(path, newline="") as file:
            rows = [row for row in csv.DictReader(file) if row["contestant"] == "lab compiled"]
        best = sorted(rows, key=lambda row: float(row["seconds"]))[len(rows) // 2]
        rates[model] = float(best["tokens"]) / float(best["seconds"])
        share = rates[model] * float(best["flops_per_token"]) / float(best["limit_flops_per_second"])
        lines.append(f"| `{model}` | {rates[model]:,.0f} | {share:.1%} | {rates[model] / rates['rope']:.2f} |")
    lines += ["", "```", run(["lab.bench", "attention", "--lengths", "2048", "8192"]).rstrip(), "```"]
    lines += ["", "```", run(["lab.bench", "extrapolate", "scale=pilot"]).rstrip(), "```"]
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=PARTS)
    part = parser.parse_args().part
    if not torch.cuda.is_available():
        if part == "bench":
            print("no GPU here: nothing is measured, docs/gpu.md stays as it is")
            return
        print("no GPU here: what can be checked on a CPU is; docs/gpu.md stays as it is", flush=True)
        tests(part)
        return
    section(part, bench() if part == "bench" else tests(part))


if __name__ == "__main__":
    main()
