"""Who asks a run to stop, and how often: it saves, and ends with code 75."""

import os
import signal
import subprocess
import sys

import pytest

from lab.base.interruption import SIGNALS, AtOnce, Interrupted, Interruption, Process, unbroken


def send(number: signal.Signals) -> None:
    os.kill(os.getpid(), number)


def long_ago(interruption: Interruption) -> None:
    interruption._when -= 5


def test_a_second_ctrl_c_ends_the_run_at_once_but_not_one_that_comes_with_the_first() -> None:
    with Interruption(tells=False) as interruption:
        send(signal.SIGINT)
        send(signal.SIGINT)  # a terminal and a launcher
        assert interruption.received == "SIGINT"
        long_ago(interruption)
        with pytest.raises(AtOnce, match="SIGINT again: stopped at once"):
            send(signal.SIGINT)


def test_what_is_being_saved_is_not_broken_off(capfd: pytest.CaptureFixture[str]) -> None:
    with Interruption() as interruption:
        send(signal.SIGINT)
        long_ago(interruption)
        with unbroken():
            send(signal.SIGINT)
    assert capfd.readouterr().err.splitlines() == [
        "",
        "SIGINT: stopping after this step",
        "SIGINT: a checkpoint is being written; the run ends after it",
    ]


@pytest.mark.parametrize("number", SIGNALS)
def test_a_run_that_is_ending_takes_no_further_signal(number: signal.Signals) -> None:
    def run() -> None:
        with Interruption(tells=False) as interruption:
            send(signal.SIGTERM)
            long_ago(interruption)
            try:
                interruption.check("came")
            finally:
                send(number)

    with pytest.raises(Interrupted):
        run()


ENDING = """
import atexit, os, signal
from lab.base.commandline import run_command
from lab.base.interruption import Interruption

def main():
    with Interruption() as interruption:
        os.kill(os.getpid(), signal.SIGTERM)
        interruption.check("came: saved")

def at_exit():
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGTERM):
        os.kill(os.getpid(), number)

atexit.register(at_exit)
run_command(main)
"""


def test_a_command_that_ends_after_saving_ends_with_code_75_whatever_comes() -> None:
    result = subprocess.run([sys.executable, "-c", ENDING], capture_output=True, text=True, check=False)
    assert result.returncode == 75
    assert result.stderr.splitlines()[-1] == "SIGTERM came: saved; the same command continues it"


def test_a_program_that_uses_the_lab_gets_its_handlers_back() -> None:
    assert not Process.command
    before = {number: signal.getsignal(number) for number in SIGNALS}

    def run() -> None:
        with Interruption(tells=False) as interruption:
            send(signal.SIGUSR1)
            interruption.check("came")

    with pytest.raises(Interrupted):
        run()
    assert {number: signal.getsignal(number) for number in SIGNALS} == before


def test_a_command_that_is_interrupted_while_it_is_loaded_ends_without_a_traceback() -> None:
    # Python tells each module when it has been loaded: these are the first of the lab's own.
    process = subprocess.Popen(
        [sys.executable, "-X", "importtime", "-m", "lab.export", "--help"],
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    assert process.stderr is not None
    for line in process.stderr:
        if line.rstrip().endswith(" lab"):
            process.send_signal(signal.SIGINT)
            break
    told = process.stderr.read()
    assert process.wait() in (-signal.SIGINT, AtOnce.EXIT_CODE)
    assert "Traceback" not in told
