import errno
import fcntl
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from lab.base.errors import UserError
from lab.runs.lock import hold, holder, lock_path

HOLD = """
import os, sys, time
from pathlib import Path
from lab.runs.lock import hold
with hold(Path(sys.argv[1])):
    if sys.argv[2] == "fork" and os.fork() == 0:
        os.write(1, f"{os.getpid()}\\n".encode())  # whole, beside what the parent writes
        time.sleep(60)
        os._exit(0)
    os.write(1, b"held\\n")
    time.sleep(60)
"""


def holding(run: Path, how: str = "alone") -> tuple[subprocess.Popen, list[str]]:
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(run), how], stdout=subprocess.PIPE, text=True)
    lines = [process.stdout.readline().strip() for _ in range(2 if how == "fork" else 1)]
    return process, [line for line in lines if line != "held"]


def test_a_run_that_is_held_is_refused_with_process_host_and_job(tmp_path):
    run = tmp_path / "run"
    process, _ = holding(run)
    try:
        with (
            pytest.raises(
                UserError, match=rf"run is being trained or scored by process {process.pid} on .*, job none; wait"
            ),
            hold(run),
        ):
            pass
        assert f"process {process.pid} on" in holder(run)
    finally:
        process.kill()
        process.wait()


def test_a_run_whose_holder_was_killed_is_free_at_once(tmp_path):
    run = tmp_path / "run"
    process, _ = holding(run)
    process.kill()
    process.wait()
    assert holder(run) is None
    with hold(run):
        pass


def test_a_child_that_outlives_its_killed_parent_does_not_keep_the_lock(tmp_path):
    run = tmp_path / "run"
    process, (child,) = holding(run, "fork")
    process.kill()
    process.wait()
    try:
        os.kill(int(child), 0)
        with hold(run):
            pass
    finally:
        os.kill(int(child), signal.SIGKILL)


def test_a_child_that_ends_leaves_the_lock_with_its_parent(tmp_path):
    run = tmp_path / "run"
    with hold(run):
        child = os.fork()
        if child == 0:
            os._exit(0)
        os.waitpid(child, 0)
        assert holder_from_another_process(run)


LEAVE = """
import os, sys
from pathlib import Path
from lab.runs.lock import hold, lock_path
run, other = Path(sys.argv[1]), Path(sys.argv[2])
child = -1
try:
    with hold(run):
        child = os.fork()
        if child == 0:
            descriptor = os.open(other, os.O_RDWR)
            raise RuntimeError("of the child")
        print("child", os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
        print("held", str(os.getpid()) in lock_path(run).read_text())
except RuntimeError:
    os._exit(0 if os.read(descriptor, 8) == b"precious" else 1)
"""


def test_a_child_that_leaves_by_an_exception_harms_neither_the_lock_nor_its_own_files(tmp_path):
    (tmp_path / "other").write_text("precious")
    command = [sys.executable, "-c", LEAVE, str(tmp_path / "run"), str(tmp_path / "other")]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    assert result.stdout.split() == ["child", "0", "held", "True"]


def test_a_program_that_the_holder_starts_does_not_inherit_the_lock(tmp_path):
    run = tmp_path / "run"
    with hold(run):
        other = subprocess.Popen(["sleep", "60"], close_fds=False)
    try:
        with hold(run):
            pass
    finally:
        other.kill()
        other.wait()


def test_who_asks_for_the_holder_does_not_stop_a_run_from_starting(tmp_path):
    run = tmp_path / "run"
    with hold(run):
        pass
    file = open(lock_path(run))  # noqa: SIM115 closed by the timer
    fcntl.flock(file, fcntl.LOCK_SH)
    timer = threading.Timer(0.1, file.close)
    timer.start()
    with hold(run):
        timer.join()


def holder_from_another_process(run: Path) -> str:
    code = (
        "import sys; from pathlib import Path; from lab.runs.lock import holder; print(holder(Path(sys.argv[1])) or '')"
    )
    result = subprocess.run([sys.executable, "-c", code, str(run)], capture_output=True, text=True, check=True)
    return result.stdout.strip()


def test_the_lock_can_be_taken_again_after_it_was_given_back(tmp_path):
    for _ in range(2):
        with hold(tmp_path / "run"):
            assert json.loads(lock_path(tmp_path / "run").read_text())["process"] == os.getpid()
    assert lock_path(tmp_path / "run").read_text() == ""


def left_by_another_host(run: Path, seconds_ago: float) -> None:
    path = lock_path(run)
    path.write_text(json.dumps({"process": 7, "host": "elsewhere", "job": "12"}))
    then = time.time() - seconds_ago
    os.utime(path, (then, then))


def test_a_holder_on_another_host_is_believed_while_its_heart_beats(tmp_path):
    run = tmp_path / "run"
    left_by_another_host(run, seconds_ago=10)
    with (
        pytest.raises(
            UserError, match=r"process 7 on elsewhere, job 12: it was alive 10 s ago; if it is dead, wait 110 s"
        ),
        hold(run),
    ):
        pass
    assert "elsewhere" in holder(run)
    assert json.loads(lock_path(run).read_text())["host"] == "elsewhere"


def test_a_holder_on_another_host_whose_heart_has_stopped_is_followed(tmp_path):
    run = tmp_path / "run"
    left_by_another_host(run, seconds_ago=121)
    with hold(run):
        assert json.loads(lock_path(run).read_text())["process"] == os.getpid()


def test_a_requeued_job_follows_itself_at_once_on_another_host(tmp_path, monkeypatch):
    run = tmp_path / "run"
    left_by_another_host(run, seconds_ago=10)
    path = lock_path(run)
    path.write_text(json.dumps({"process": 7, "host": "elsewhere", "job": "12", "restarts": 1}))
    monkeypatch.setenv("SLURM_JOB_ID", "12")
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    with pytest.raises(UserError, match="process 7 on elsewhere"), hold(run):
        pass  # another step of the same job
    monkeypatch.setenv("SLURM_RESTART_COUNT", "2")
    with hold(run):
        assert json.loads(path.read_text())["restarts"] == 2


def test_clocks_of_hosts_may_differ_because_age_is_told_by_the_file_system(tmp_path, monkeypatch):
    run = tmp_path / "run"
    left_by_another_host(run, seconds_ago=10)
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() + 10_000)
    with pytest.raises(UserError, match="it was alive 10 s ago"), hold(run):
        pass


def test_the_heart_beats_while_the_run_is_held_and_stops_after(tmp_path):
    run = tmp_path / "run"
    with hold(run, heartbeat_seconds=0.05):
        before = lock_path(run).stat().st_mtime_ns
        time.sleep(0.3)
        assert lock_path(run).stat().st_mtime_ns > before
    before = lock_path(run).stat().st_mtime_ns
    time.sleep(0.2)
    assert lock_path(run).stat().st_mtime_ns == before


def test_a_folder_that_cannot_be_made_is_an_error_that_names_it(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="/file is a file: name a folder"), hold(tmp_path / "file" / "run"):
        pass


def test_a_file_system_without_locks_is_an_error_that_names_the_lock(tmp_path, monkeypatch):
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("fcntl.flock", refuse)
    with pytest.raises(UserError, match=r"\.run\.lock cannot be written: no locks available"), hold(tmp_path / "run"):
        pass


def test_a_full_disk_is_an_error_that_names_the_lock(tmp_path):
    command = ["mount", "-t", "tmpfs", "-o", "size=4k", "none", str(tmp_path)]
    if os.geteuid() != 0 or subprocess.run(command, capture_output=True, check=False).returncode != 0:
        pytest.skip("needs the right to mount")
    try:
        (tmp_path / "filler").write_bytes(b"x" * 4096)
        with pytest.raises(UserError, match=r"\.run\.lock cannot be written: no space left"), hold(tmp_path / "run"):
            pass
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)


def test_a_date_far_ahead_is_of_no_heart_that_beats(tmp_path):
    run = tmp_path / "run"
    left_by_another_host(run, seconds_ago=-60)
    with pytest.raises(UserError, match="it was alive 0 s ago; if it is dead, wait 180 s"), hold(run):
        pass
    left_by_another_host(run, seconds_ago=-86_400)
    with hold(run):
        pass


@pytest.mark.parametrize(
    "content", [b"[" * 200_000, b'{"process": {}, "host": [1], "job": null}', b"\xff", b"x" * 10**6]
)
def test_a_lock_of_any_content_is_followed_or_told(tmp_path, content):
    run = tmp_path / "run"
    lock_path(run).write_bytes(content)
    told = holder(run)
    assert told is None or told.startswith("process unknown on unknown, job unknown")
    try:
        with hold(run):
            assert told is None
    except UserError:
        assert told is not None


def test_what_a_lock_holds_reaches_no_terminal(tmp_path):
    run = tmp_path / "run"
    lock_path(run).write_text(json.dumps({"process": 7, "host": "\x1b[2J\nelsewhere", "job": "12"}))
    assert r"process 7 on \x1b[2J\nelsewhere, job 12" in (holder(run) or "")


def test_a_restart_count_that_is_no_number_is_told(tmp_path, monkeypatch):
    for value in ("x", "²", "-1", "9" * 5000):
        monkeypatch.setenv("SLURM_RESTART_COUNT", value)
        with pytest.raises(UserError, match=r"SLURM_RESTART_COUNT is .* in the environment"), hold(tmp_path / "run"):
            pass
