"""lab.generate: what a decoder writes is what it says, comes as it is said, and what is given to it is taken as it is.

Most tests call the command in this process, which gives what a process of its own would, without its seconds.
"""

import io
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import NamedTuple, TextIO

import numpy as np
import pytest
import torch
from known import DOCUMENT, VARIANTS
from terminals import read_all, terminal

import lab.generate
from lab import open_run
from lab.base.tables import read_table
from lab.experiment.compose import settings_of
from lab.experiment.generation import pieces
from lab.experiment.settings import GenerateSettings
from lab.model.decoder import Decoder


class Told(NamedTuple):
    """How a command has ended."""

    code: int
    out: str
    err: str

    @property
    def line(self) -> str:
        """The one line of a refusal."""
        assert (self.code, self.out) == (1, ""), self
        (line,) = self.err.splitlines()
        assert line.startswith("error: ")
        return line


class Generate:
    """Calls ``lab generate`` in this process."""

    def __init__(self, patch: pytest.MonkeyPatch, captured: pytest.CaptureFixture[str]) -> None:
        self.patch, self.captured = patch, captured

    def __call__(self, *arguments: str, given: bytes | TextIO | None = b"") -> Told:
        self.patch.setattr(sys, "argv", ["lab.generate", *arguments])
        piped = io.TextIOWrapper(io.BytesIO(given)) if isinstance(given, bytes) else given
        self.patch.setattr(sys, "stdin", piped)
        self.captured.readouterr()
        code: object = 0
        try:
            lab.generate.main()
        except SystemExit as end:
            code = end.code
        return Told(int(str(code)), *self.captured.readouterr())


@pytest.fixture
def generate(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Generate:
    return Generate(monkeypatch, capsys)


def nucleus(logits: np.ndarray, temperature: float, top_p: float) -> dict[int, float]:
    """The tokens that may be drawn, the likeliest first, and how likely each of them is: one after the other."""
    likely = np.exp(logits / temperature - (logits / temperature).max())
    likely /= likely.sum()
    kept, together = {}, 0.0
    for token in sorted(range(len(likely)), key=lambda each: (-likely[each], each)):
        if together >= top_p:
            break
        kept[token] = float(likely[token])
        together += kept[token]
    return {token: share / together for token, share in kept.items()}


@torch.inference_mode()
def without_cache(
    decoder: Decoder, tokens: torch.Tensor, count: int, temperature: float | None, top_p: float, seed: int, end: int
) -> list[int]:
    """What follows tokens, by a full forward pass for each."""
    draw = torch.Generator().manual_seed(seed)
    found: list[int] = []
    for _ in range(count):
        logits = decoder(torch.cat((tokens, torch.tensor([found], dtype=torch.int64)), dim=1))[0, -1].double().numpy()
        if temperature is None:
            found.append(int(logits.argmax()))
        else:
            kept = nucleus(logits, temperature, top_p)
            padded = [*kept.values(), *[0.0] * (len(logits) - len(kept))]  # drawing takes a number for every token
            found.append([*kept][int(torch.multinomial(torch.tensor(padded, dtype=torch.float64), 1, generator=draw))])
        if found[-1] == end:
            return found[:-1]
    return found


# What it writes.


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize(
    ("options", "temperature", "top_p"),
    [(["greedy=true"], None, 1.0), (["temperature=0.7", "top_p=0.9", "seed=5"], 0.7, 0.9)],
)
def test_every_variant_writes_on_beyond_its_context_what_full_passes_without_a_cache_say(
    variant: str,
    options: list[str],
    temperature: float | None,
    top_p: float,
    seven: dict[str, Path],
    generate: Generate,
) -> None:
    run = open_run(str(seven[variant]))
    prompt = "We the people of the United States, in order to form a more perfect union, "
    count = 130
    given = run.encode(prompt)
    assert given.shape[1] < run.context < given.shape[1] + count > 2 * run.context
    end = run.tokenizer().end_of_document
    expected = without_cache(run.decoder(), given, count, temperature, top_p, seed=5, end=end)
    assert len(expected) > run.context
    told = generate(f"run={run.path}", f"prompt={prompt}", f"tokens={count}", *options)
    assert (told.code, told.err) == (0, "")
    assert told.out == prompt + run.tokenizer().decode(expected) + "\n"


def test_a_prompt_longer_than_the_context_is_read_whole(seven: dict[str, Path], generate: Generate) -> None:
    run = open_run(str(seven["alibi"]))
    prompt = "the state of the union and " * 1000
    given = run.encode(prompt)
    assert given.shape[1] > 50 * run.context
    expected = without_cache(run.decoder(), given, 3, None, 1.0, 0, run.tokenizer().end_of_document)
    told = generate(f"run={run.path}", f"prompt={prompt}", "tokens=3", "greedy=true")
    assert told.out == prompt + run.tokenizer().decode(expected) + "\n"


def test_it_ends_with_the_document_however_many_tokens_are_asked_for(by_heart: Path, generate: Generate) -> None:
    for prompt in ("", "naïve", DOCUMENT[:-1], DOCUMENT):
        told = generate(f"run={by_heart}", f"prompt={prompt}", "greedy=true", "tokens=1000")
        assert told == (0, DOCUMENT + "\n", "")


def test_as_many_tokens_are_written_as_are_asked_for(seven: dict[str, Path]) -> None:
    run = open_run(str(seven["rope"]))
    prompt = "The state of"
    for count in (1, 7):
        settings = settings_of("generate", GenerateSettings, [f"run={run.path}", f"tokens={count}", "greedy=true"])
        text = "".join(pieces(run, run.decoder(), prompt, settings, 0))
        end = run.tokenizer().end_of_document
        assert text == run.tokenizer().decode(without_cache(run.decoder(), run.encode(prompt), count, None, 1, 0, end))


def test_a_character_of_several_tokens_comes_as_one_piece(by_heart: Path) -> None:
    run = open_run(str(by_heart))
    settings = settings_of("generate", GenerateSettings, [f"run={by_heart}", "greedy=true"])
    found = [*pieces(run, run.decoder(), "n", settings, 0)]
    assert "".join(found) == DOCUMENT[1:]
    assert {"ï", "é", "—", "€", "😀", "東", "京"} <= set(found)
    assert len(found) < run.encode(DOCUMENT).shape[1]  # some pieces are of several tokens


def test_bytes_that_are_no_character_are_told_as_such_and_nothing_is_lost_or_told_twice(by_heart: Path) -> None:
    run = open_run(str(by_heart))
    broken = 0
    for seed in range(5):  # at a high temperature bytes stand where they make no character
        settings = settings_of("generate", GenerateSettings, [f"run={by_heart}", "temperature=2.5", "tokens=60"])
        text = "".join(pieces(run, run.decoder(), DOCUMENT[:9], settings, seed))
        end, given = run.tokenizer().end_of_document, run.encode(DOCUMENT[:9])
        tokens = without_cache(run.decoder(), given, 60, 2.5, 1.0, seed, end)
        assert text == run.tokenizer().decode(tokens)
        broken += text.rstrip("\ufffd").count("\ufffd")
    assert broken > 0


def test_the_same_seed_gives_the_same_text_and_another_seed_another(seven: dict[str, Path], generate: Generate) -> None:
    def text(*options: str) -> str:
        return generate(f"run={seven['rope']}", "prompt=The", "tokens=30", *options).out

    assert text() == text("seed=0") == text("seed=0")
    assert len({text(f"seed={seed}") for seed in (0, 1, 2, 2**64 - 1)}) == 4
    cold = {text("greedy=true"), text("temperature=1e-6"), text("top_p=1e-9"), text("greedy=true", "seed=1")}
    assert len(cold) == 1
    assert cold != {text()}


# What it is given.

LITERAL = {
    "comma": "a,b",
    "equals": "a=b",
    "key": "tokens=3",
    "again": "prompt=x",
    "quote": "it's",
    "quotes": '"a" and \'b',
    "angles": "a > b < c",
    "brackets": "([{",
    "list": "[a,b]",
    "mapping": "{a:1}",
    "number": "12",
    "null": "null",
    "missing": "???",
    "hash": "a # b",
    "dollar": "$HOME",
    "resolver": "${oc.env:HOME}",
    "interpolation": "${seed}",
    "backslash": "a\\b\\\\",
    "escape": "a\\n",
    "blank_before": "  a",
    "blank_behind": "a  ",
    "newline": "a\nb\n",
    "tab": "\ta\r",
    "empty": "",
    "accents": "naïve 東京 😀",
    "option": "--help",
    "end": "<|endoftext|>",
    "long": "word " * 4000,
}


@pytest.mark.parametrize("name", LITERAL)
def test_a_prompt_is_taken_as_it_is_typed(name: str, seven: dict[str, Path], generate: Generate) -> None:
    run, prompt = open_run(str(seven["window_rope"])), LITERAL[name]
    end = run.tokenizer().end_of_document
    given = run.encode(prompt) if prompt else torch.tensor([[end]])
    expected = run.tokenizer().decode(without_cache(run.decoder(), given, 2, None, 1.0, 0, end))
    options = (f"run={run.path}", "tokens=2", "greedy=true")
    assert generate(*options, f"prompt={prompt}") == (0, prompt + expected + "\n", "")
    # Of standard input the last line break is the shell's.
    assert generate(*options, given=prompt.encode() + b"\n") == (0, prompt + expected + "\n", "")


def test_a_prompt_passes_through_a_real_shell_as_an_argument_and_through_a_pipe(
    by_heart: Path, path_with_lab: dict[str, str], tmp_path: Path
) -> None:
    prompt = 'it\'s "5 €" #1, a=b > ${oc.env:HOME} $HOME [({\\\nnaïve '
    command = f"lab generate run={by_heart} greedy=true tokens=4"
    by_argument = f"{command} prompt={shlex.quote(prompt)}"
    by_pipe = f"printf '%s\\n' {shlex.quote(prompt)} | {command}"
    script = f"{by_argument} > argument & {by_pipe} > pipe & wait"
    result = subprocess.run(
        ["bash", "-c", script], cwd=tmp_path, env=path_with_lab, capture_output=True, timeout=600, check=False
    )
    assert (result.stdout, result.stderr) == (b"", b"")
    text = (tmp_path / "argument").read_text()
    assert text.startswith(prompt)
    assert len(text) > len(prompt) + 1
    assert (tmp_path / "pipe").read_text() == text


@pytest.mark.parametrize(
    ("arguments", "given", "told"),
    [
        (["prompt=x", "prompt=y"], b"", "prompt is given twice: give it once"),
        (["prompt=\udcff"], b"", "prompt is not UTF-8"),
        ([], b"\xff\xfe", "standard input is not UTF-8"),
        (["prompt=x", "prompts=p.txt", "to=t.csv"], b"", "prompt and prompts are both given"),
        (["prompts=p.txt"], b"", "prompts and to belong together"),
        (["prompt=x", "to=t.csv"], b"", "prompts and to belong together"),
        (["prompts=nowhere.txt", "to=t.csv"], b"", "nowhere.txt cannot be read: no such file"),
        (["prompts=folder", "to=t.csv"], b"", "folder cannot be read: is a directory"),
        (["prompts=binary.txt", "to=t.csv"], b"", "binary.txt cannot be read: it is not UTF-8"),
        (["prompts=empty.txt", "to=t.csv"], b"", "empty.txt is empty"),
        (["prompts=p.txt", "to=nowhere/t.csv"], b"", "nowhere/t.csv cannot be written"),
        (["prompts=p.txt", "to=folder"], b"", "folder is a folder: name a file"),
        (["prompts=p.txt", "to=./p.txt"], b"", "which holds the prompts: name another file"),
        (["prompt=x", "temperature=0"], b"", "temperature is 0: give a number above 0"),
        (["prompt=x", "temperature=-1"], b"", "temperature is -1: give a number above 0"),
        (["prompt=x", "temperature=nan"], b"", "temperature is nan"),
        (["prompt=x", "temperature=inf"], b"", "temperature is inf"),
        (["prompt=x", "top_p=0"], b"", "top_p is 0: give a number above 0"),
        (["prompt=x", "top_p=2"], b"", "top_p is 2: give 1 or less"),
        (["prompt=x", "tokens=0"], b"", "tokens is 0: give 1 or more"),
        (["prompt=x", "tokens=-1"], b"", "tokens is -1: give 1 or more"),
        (["prompt=x", "tokens=1000000000"], b"", "tokens is 1000000000: give 1000000 or less"),
        (["prompt=x", "tokens=many"], b"", "tokens is 'many': give a whole number"),
        (["prompt=x", "seed=-1"], b"", "seed is -1: give 0 or more"),
        (["prompt=x", "seed=18446744073709551616"], b"", "seed is 18446744073709551616"),
        (["prompt=x", "greedy=yes_please"], b"", "greedy is 'yes_please': give true or false"),
        (["prompt=x", "checkpoint=3"], b"", "step=00000003"),
        (["prompt=x", "checkpoint=first"], b"", "checkpoint is 'first'"),
        (["prompt=x", "run=nowhere"], b"", "nowhere: no such run"),
        (["prompt=x", "run=folder"], b"", "folder is not a run directory"),
        (["prompt=x", "--temperature"], b"", "--temperature: no such option"),
        (["propmt=x"], b"", "propmt is a key that nothing reads; did you mean prompt"),
    ],
)
def test_what_cannot_be_is_one_line_and_nothing_is_written(
    arguments: list[str],
    given: bytes,
    told: str,
    by_heart: Path,
    generate: Generate,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("folder").mkdir()
    Path("p.txt").write_text("naïve\n")
    Path("empty.txt").write_bytes(b"\n\n")
    Path("binary.txt").write_bytes(b"\xff\xfe")
    before = {path: path.is_file() and path.read_bytes() for path in tmp_path.rglob("*")}
    run = [] if any(each.startswith("run=") for each in arguments) else [f"run={by_heart}"]
    assert told in generate(*run, *arguments, given=given).line
    assert {path: path.is_file() and path.read_bytes() for path in tmp_path.rglob("*")} == before


def test_without_a_prompt_at_a_terminal_or_with_a_closed_input_it_says_so(by_heart: Path, generate: Generate) -> None:
    ours, theirs = os.openpty()
    with open(theirs) as terminal:
        for given in (terminal, None):
            told = generate(f"run={by_heart}", given=given).line
            assert "prompt must be given: add prompt=... to the command" in told
    os.close(ours)


def test_a_file_of_prompts_becomes_a_table_a_row_a_line(
    seven: dict[str, Path], generate: Generate, tmp_path: Path
) -> None:
    run = seven["rope"]
    lines = ["The people", 'said "a, b"', "  naïve 東京  ", "${oc.env:HOME}", "12", "The people"]
    for name, text in {
        "plain": "\n".join(lines),
        "ended": "\n".join(lines) + "\n",
        "with_empty_lines": "\n\n" + "\n\n".join(lines) + "\n\n",
        "of_windows": "\ufeff" + "\r\n".join(lines) + "\r\n",
    }.items():
        (tmp_path / name).write_bytes(text.encode())
        table = tmp_path / f"{name}.csv"
        told = generate(f"run={run}", f"prompts={tmp_path / name}", f"to={table}", "tokens=5", "seed=3")
        assert told.code == 0
        assert told.out == f"{table}: 6 prompts continued\n"
        assert [row["prompt"] for row in read_table(table)] == lines
    assert len({path.read_bytes() for path in tmp_path.glob("*.csv")}) == 1
    rows = read_table(tmp_path / "plain.csv")
    assert [row["seed"] for row in rows] == [3, 4, 5, 6, 7, 8]  # so equal prompts are continued otherwise
    assert rows[0]["continuation"] != rows[-1]["continuation"]
    for row in rows:
        alone = generate(f"run={run}", f"prompt={row['prompt']}", "tokens=5", f"seed={row['seed']}")
        assert alone.out == row["prompt"] + row["continuation"] + "\n"


def test_a_table_that_is_there_is_replaced(by_heart: Path, generate: Generate, tmp_path: Path) -> None:
    (tmp_path / "p.txt").write_text("naïve")
    (tmp_path / "t.csv").write_text("old")
    options = (f"run={by_heart}", f"prompts={tmp_path / 'p.txt'}", f"to={tmp_path / 't.csv'}", "greedy=true")
    assert generate(*options).code == 0
    expected = [{"prompt": "naïve", "continuation": DOCUMENT.removeprefix("naïve"), "seed": 0}]
    assert read_table(tmp_path / "t.csv") == expected


def test_a_sign_that_the_terminal_cannot_show_is_a_question_mark_there(
    by_heart: Path, generate: Generate, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding="ascii"))
    assert generate(f"run={by_heart}", "prompt=naïve", "greedy=true").code == 0
    sys.stdout.flush()
    assert raw.getvalue() == DOCUMENT.encode("ascii", "replace") + b"\n"


# How it comes, and how it is stopped.


def start(
    run: Path, environment: dict[str, str], *arguments: str, stderr: int = subprocess.PIPE
) -> subprocess.Popen[bytes]:
    command = ["lab", "generate", f"run={run}", "tokens=1000000", "greedy=true", *arguments]
    # A shell's background job has Ctrl-C switched off, and the tests may be in one.
    listening = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    pipes = {"stdout": subprocess.PIPE, "stderr": stderr}
    return subprocess.Popen(command, env=environment, preexec_fn=listening, **pipes)


def test_text_comes_through_a_pipe_as_it_is_said_and_ctrl_c_ends_it_with_what_is_written(
    seven: dict[str, Path], path_with_lab: dict[str, str]
) -> None:
    process = start(seven["window_alibi"], path_with_lab, "prompt=We the people")
    assert process.stdout is not None
    said = b""
    while len(said) < 200:
        some = os.read(process.stdout.fileno(), 1000)
        assert some, said
        said += some
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    rest, told = process.communicate(timeout=300)
    assert process.returncode == 130
    assert told == b""
    assert said.startswith(b"We the people")
    assert (said + rest).endswith(b"\n")
    assert (said + rest).count(b"We the people") == 1


def test_a_reader_that_has_enough_ends_it_silently(seven: dict[str, Path], path_with_lab: dict[str, str]) -> None:
    options = f"run={seven['window_alibi']} tokens=1000000 greedy=true prompt='We the people'"
    script = f"lab generate {options} | head -c 10; echo ${{PIPESTATUS[0]}}"
    result = subprocess.run(["bash", "-c", script], env=path_with_lab, capture_output=True, timeout=300, check=False)
    assert result.stdout == b"We the peo141\n"
    assert result.stderr == b""


def test_a_table_that_is_stopped_is_not_written(
    seven: dict[str, Path], path_with_lab: dict[str, str], tmp_path: Path
) -> None:
    (tmp_path / "p.txt").write_text("The people\n" * 1000)
    files = (f"prompts={tmp_path / 'p.txt'}", f"to={tmp_path / 't.csv'}")
    ours, its = terminal()
    process = start(seven["rope"], path_with_lab, *files, stderr=its)
    os.close(its)
    told = b""
    while b"0%" not in told:
        told += os.read(ours, 1000)
    time.sleep(0.3)
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=300)
    told += read_all(ours)
    assert process.returncode == 130
    assert out == b""
    assert b"Traceback" not in told
    assert re.search(rb"\rprompts: +0%", told)
    assert [path.name for path in tmp_path.iterdir()] == ["p.txt"]
