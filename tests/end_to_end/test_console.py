"""The one command ``lab``: the same door as ``python -m lab.<command>``; and the shell's completion of its words."""

import os
import pty
import re
import resource
import select
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from commands import the_one_line

from lab.experiment.completion import candidates
from lab.experiment.compose import choices, settings_of
from lab.experiment.settings import TrainSettings
from lab.experiment.setup import Setup

BIN = Path(sys.executable).parent


def run(*command: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=600, check=False)


# One door.


def test_lab_alone_and_lab_help_tell_every_command_with_what_it_is_for(tmp_path: Path) -> None:
    told = run(f"{BIN}/lab", cwd=tmp_path)
    assert (told.returncode, told.stderr) == (0, "")
    for other in ([f"{BIN}/lab", "--help"], [f"{BIN}/lab", "-h"], [sys.executable, "-m", "lab"]):
        assert run(*other, cwd=tmp_path).stdout == told.stdout
    lines = dict(re.findall(r"^  lab (\w+) +(.+)$", told.stdout, re.MULTILINE))
    assert lines.keys() >= {"train", "extrapolate", "compare", "extend", "generate", "plan", "status", "prepare"}
    assert all(line.endswith(".") for line in lines.values())
    assert {"__init__", "base", "completion"}.isdisjoint(lines)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["trian"], "lab trian: no such command; did you mean train?"),
        (["nonsense"], "lab nonsense: no such command; there are "),
        (["--version"], "lab --version: no such command; there are "),
        (["model=rope"], "lab model=rope: no such command; there are "),
        ([""], "lab : no such command; there are "),
        (["base"], "lab base: no such command"),
        (["completion", "tcsh"], "lab completion tcsh: choose one of bash, zsh, fish"),
        (["completion", "bash", "zsh"], "lab completion bash zsh: choose one of bash, zsh, fish"),
    ],
)
def test_a_word_that_is_no_command_is_one_line(arguments: list[str], told: str, tmp_path: Path) -> None:
    assert told in the_one_line(run(f"{BIN}/lab", *arguments, cwd=tmp_path))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "arguments",
    [
        ["train", "--help"],
        ["generate", "--help"],
        ["extend", "rnu=a"],
        ["generate", "--nonsense"],
        ["plan", "model=transformer_xl"],
    ],
)
def test_lab_and_python_m_lab_are_the_same_door(arguments: list[str], tmp_path: Path) -> None:
    name, *rest = arguments
    doors = [[f"{BIN}/lab", name], [sys.executable, "-m", "lab", name], [sys.executable, "-m", f"lab.{name}"]]
    told = [run(*door, *rest, cwd=tmp_path) for door in doors]
    assert {each.returncode for each in told} == {0 if "--help" in rest else 1}
    assert len({each.stdout for each in told}) == 1
    assert len({each.stderr for each in told}) == 1
    assert not any("Traceback" in each.stderr for each in told)
    assert list(tmp_path.iterdir()) == []


def test_lab_train_makes_the_run_that_its_overrides_name(tmp_path: Path) -> None:
    overrides = ["experiment=smoke", "measure=none", "logger=csv", "scale.tokens=1024", "scale.warmup_steps=0"]
    made = run(f"{BIN}/lab", "train", *overrides, cwd=tmp_path)
    assert made.returncode == 0, made.stderr
    setup = Setup(settings_of("train", TrainSettings, [*overrides, f"runs={tmp_path}/runs"]))
    assert setup.run.state(setup.digest) == "finished"


def test_a_reader_that_has_enough_ends_a_command_silently(tmp_path: Path) -> None:
    script = f"{BIN}/lab completion | head -c 0; echo ${{PIPESTATUS[0]}}; {BIN}/lab | head -n 1; echo $?"
    told = run("bash", "-c", script, cwd=tmp_path)
    assert told.stderr == ""
    assert told.stdout.splitlines()[0] in ("0", "141")  # head may have come too late
    assert told.stdout.splitlines()[1].startswith("One door")


# Completion, by argcomplete's own protocol: what the functions that `lab completion` prints say to the command.


def completed(line: str, cwd: Path) -> list[str]:
    """What ``lab`` offers at the end of a line."""
    answer = cwd / "answer"
    given = os.environ | {
        "_ARGCOMPLETE": "1",
        "_ARGCOMPLETE_IFS": "\013",
        "_ARGCOMPLETE_STDOUT_FILENAME": str(answer),
        "_ARGCOMPLETE_COMP_WORDBREAKS": " \t\n\"'@><=;|&(:",  # of bash
        "COMP_LINE": line,
        "COMP_POINT": str(len(line.encode())),
        "COMP_TYPE": "9",
    }
    told = subprocess.run(
        [f"{BIN}/lab"],
        cwd=cwd,
        env=given,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert (told.stdout, told.stderr) == ("", "")
    text = answer.read_text() if answer.exists() else ""
    answer.unlink(missing_ok=True)
    return [each.strip() for each in text.split("\013") if each]


def test_commands_are_completed(tmp_path: Path) -> None:
    assert completed("lab tr", tmp_path) == ["train"]
    assert {"extend", "extrapolate"} == set(completed("lab ext", tmp_path))
    assert {"train", "status", "completion"} <= set(completed("lab ", tmp_path))
    assert completed("lab nonsense", tmp_path) == []
    assert completed("lab completion ", tmp_path) == ["bash", "zsh", "fish"]


def test_groups_and_keys_are_completed_and_what_stands_before_does_not_matter(tmp_path: Path) -> None:
    before = "lab train -m --config-dir somewhere data.corpus.train=https://a.b/c=d?e:f "
    for begun in ("lab train ", before):
        found = completed(f"{begun}mod", tmp_path)
        assert {"model=", "model/position=", "model/attention=", "model.position.base="} <= set(found)
        assert all(each.startswith("mod") for each in found)
    assert completed("lab train optimizer.lea", tmp_path) == ["optimizer.learning_rate="]
    assert completed("lab generate temp", tmp_path) == ["temperature="]
    assert "extension.temperature=" in completed("lab extend extension", tmp_path)


def test_choices_are_completed_behind_the_equals_sign_that_breaks_bashs_words(tmp_path: Path) -> None:
    assert completed("lab train model=", tmp_path) == choices("model")
    assert completed("lab train model=window_r", tmp_path) == ["window_rope"]
    assert completed("lab train model/position=", tmp_path) == choices("model/position")
    assert completed("lab extrapolate preset=pi_p", tmp_path) == ["pi_pg19", "pi_proof_pile"]
    assert completed("lab train seed=", tmp_path) == []
    assert completed("lab train data.corpus.train=https://a.b/c=", tmp_path) == []


def test_every_command_with_keys_offers_them_and_the_others_leave_files_to_the_shell() -> None:
    for command in ("train", "extrapolate", "compare", "extend", "generate", "plan"):
        found = candidates(command, "")
        assert len(found) == len(set(found)) > 1
        assert all(each.endswith("=") for each in found)
    for command in ("status", "prepare", "bench", "nonsense"):
        assert candidates(command, "") == []


def test_each_of_several_choices_is_completed() -> None:
    assert candidates("extrapolate", "measure=[copy,pass") == ["measure=[copy,passkey"]
    assert candidates("train", "model=nope,window_r") == ["model=nope,window_rope"]


def seconds_of_children(called: Callable[[], object]) -> float:
    """The CPU seconds of the processes that a call starts."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    called()
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def test_a_key_press_takes_no_longer_than_twenty_starts_of_python_and_loads_neither_torch_nor_hydra(tmp_path: Path):
    start = min(seconds_of_children(lambda: run(sys.executable, "-c", "", cwd=tmp_path)) for _ in range(3))
    assert seconds_of_children(lambda: completed("lab train model=ro", tmp_path)) < 20 * start
    assert completed("lab train model=ro", tmp_path) == ["rope"]
    program = (
        "import sys; from lab.experiment.completion import candidates; assert candidates('train', 'mod'); "
        "assert candidates('plan', 'model='); print({'torch', 'hydra', 'omegaconf'} & set(sys.modules))"
    )
    assert run(sys.executable, "-c", program, cwd=tmp_path).stdout == "set()\n"


def test_completion_is_written_for_bash_and_zsh_and_fish(tmp_path: Path) -> None:
    default, bash, zsh, fish = (
        run(f"{BIN}/lab", "completion", *shell, cwd=tmp_path) for shell in ([], ["bash"], ["zsh"], ["fish"])
    )
    assert {each.returncode for each in (default, bash, zsh, fish)} == {0}
    assert default.stdout == bash.stdout
    assert "#compdef lab" in zsh.stdout
    assert "complete --command lab" in fish.stdout
    for name, code in {"bash": bash.stdout, "zsh": zsh.stdout, "fish": fish.stdout}.items():
        shell = shutil.which(name)  # where it is there, it reads the code
        if shell is not None:
            assert subprocess.run([shell, "-n"], input=code, text=True, capture_output=True, check=False).stderr == ""


# Completion in a real bash at a real terminal.


class Bash:
    """An interactive bash, to which keys are sent."""

    def __init__(self, folder: Path) -> None:
        self.process, self.terminal = pty.fork()
        if self.process == 0:
            os.chdir(folder)
            environment = {"PATH": f"{BIN}:{os.environ['PATH']}", "TERM": "dumb", "INPUTRC": "/dev/null", "PS1": "> "}
            os.execvpe("bash", ["bash", "--norc", "--noprofile", "-i"], environment)
        self.send('bind "set enable-bracketed-paste off"; eval "$(lab completion)"; echo re""ady\n')
        self.until(r"ready\r\n> ")

    def send(self, keys: str) -> None:
        os.write(self.terminal, keys.encode())

    def until(self, expected: str) -> str:
        """What a pattern's group, or the whole of it, is on the screen; fails if it does not come."""
        shown, deadline = "", time.monotonic() + 120
        while (found := re.search(expected, shown)) is None:
            ready, _, _ = select.select([self.terminal], [], [], max(0, deadline - time.monotonic()))
            assert ready, f"{expected!r} did not come: {shown!r}"
            shown += os.read(self.terminal, 4096).decode()
        return found[found.re.groups]

    def line(self, begun: str) -> str:
        """What a line becomes by a press of the tab key: as bash then reads it."""
        self.send(f"{begun}\t\x01printf '<%s>\\n' '\x05'\n")  # completed, then quoted and printed
        return self.until(r"\n<(.*)>\r\n> ")

    def end(self) -> None:
        os.close(self.terminal)  # bash hangs up
        os.waitpid(self.process, 0)


@pytest.fixture(scope="module")
def bash(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bash]:
    folder = tmp_path_factory.mktemp("bash")
    (folder / "runs" / "rope-2x32").mkdir(parents=True)
    (folder / "prompts.txt").write_text("The\n")
    made = Bash(folder)
    yield made
    made.end()


@pytest.mark.parametrize(
    ("begun", "expected"),
    [
        ("lab tra", "lab train "),
        ("lab train model/pos", "lab train model/position="),
        ("lab train model/position=ro", "lab train model/position=rope "),
        ("lab train model=window_r", "lab train model=window_rope "),
        ("lab train optimizer.lea", "lab train optimizer.learning_rate="),
        ("lab train -m model=nope,window_r", "lab train -m model=nope,window_rope "),
        ("lab train data.corpus.train=https://a.b/c=d sched", "lab train data.corpus.train=https://a.b/c=d schedule"),
        ("lab extend run=ru", "lab extend run=runs/"),
        ("lab extend run=runs/", "lab extend run=runs/rope-2x32/"),
        ("lab generate prompts=pro", "lab generate prompts=prompts.txt "),
        ("lab status ru", "lab status runs/"),
        ("lab status runs/ro", "lab status runs/rope-2x32/"),
        ("lab train colour=r", "lab train colour=runs/"),
    ],
)
def test_a_real_bash_completes_words_choices_and_the_names_of_runs(begun: str, expected: str, bash: Bash) -> None:
    assert bash.line(begun) == expected
