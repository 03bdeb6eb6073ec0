"""One run at a time, with real processes."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from lightkeras.system.locks import RunLockedError, check_free, exclusive_lock, run_lock, wait_until_free, waiting_lock

HOLD = """
import pathlib, sys
from lightkeras.system.locks import run_lock
with run_lock(pathlib.Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""
FORK = """
import os, pathlib, sys
from lightkeras.system.locks import run_lock
with run_lock(pathlib.Path(sys.argv[1])):
    if os.fork() == 0:
        print("forked", os.getpid(), flush=True)
        sys.stdin.read()
        os._exit(0)
    sys.stdin.read()
"""
FORK_AND_LEAVE = """
import os, pathlib, sys
from lightkeras.system.locks import run_lock
lock = run_lock(pathlib.Path(sys.argv[1]))
with lock:
    child = os.fork()
    if child:
        os.waitpid(child, 0)
        print(pathlib.Path(sys.argv[1]).read_text(), flush=True)
        sys.stdin.read()
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "run" / "run.lock"


@contextlib.contextmanager
def running(program: str, path: Path):
    """A process that holds the lock, after its first line; and that line."""
    path.parent.mkdir(exist_ok=True)
    command = [sys.executable, "-c", program, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process, process.stdout.readline().strip()
        finally:
            process.kill()


def test_a_second_process_is_refused_with_the_holder(path):
    with running(HOLD, path) as (process, _):
        expected = (
            rf"run is in use by another run \(process {process.pid} on {socket.gethostname()}, since 2\d{{3}}-.*\)"
        )
        with pytest.raises(RunLockedError, match=expected + r"\. Two runs .*: wait until that one has ended"):
            run_lock(path).__enter__()
        assert json.loads(path.read_text())["pid"] == process.pid  # the refused one has changed nothing
        process.communicate("")
        assert process.returncode == 0
    assert path.read_text() == ""
    with run_lock(path):
        assert json.loads(path.read_text())["pid"] == os.getpid()


def test_a_lock_whose_process_was_killed_is_free(path):
    with running(HOLD, path) as (process, _):
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert json.loads(path.read_text())["pid"] == process.pid
        with run_lock(path):
            assert json.loads(path.read_text())["pid"] == os.getpid()


def test_a_forked_child_that_outlives_its_parent_does_not_hold_the_lock(path):
    with running(FORK, path) as (process, line):
        child = int(line.removeprefix("forked "))
        process.send_signal(signal.SIGKILL)
        process.wait()
        os.kill(child, 0)  # it is there, and waits for the end of its input
        with run_lock(path):
            os.kill(child, 0)


def test_a_forked_child_that_leaves_the_block_takes_nothing_from_its_parent(path):
    with running(FORK_AND_LEAVE, path) as (process, line):
        assert json.loads(line)["pid"] == process.pid
        with pytest.raises(RunLockedError, match=rf"process {process.pid} on"):
            run_lock(path).__enter__()


def test_a_program_that_was_started_does_not_hold_the_lock(path):
    path.parent.mkdir()
    command = [sys.executable, "-c", "import sys; print(1, flush=True); sys.stdin.read()"]
    with run_lock(path):
        started = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, close_fds=False)
        started.stdout.readline()
    with started, run_lock(path):
        started.stdin.close()


def test_a_second_runner_of_the_same_process_is_refused(path):
    path.parent.mkdir()
    with run_lock(path):
        with pytest.raises(RunLockedError, match=rf"process {os.getpid()} on"):
            run_lock(path).__enter__()
        assert json.loads(path.read_text())["pid"] == os.getpid()
    with run_lock(path), pytest.raises(RunLockedError, match="in use"):
        run_lock(path).__enter__()


def test_of_many_that_come_at_once_one_is_let_in(path):
    path.parent.mkdir()
    barrier, done = threading.Barrier(8), threading.Barrier(8)
    found = []

    def come():
        barrier.wait()
        try:
            with run_lock(path):
                found.append("let in")
                done.wait()
        except RunLockedError:
            found.append("refused")
            done.wait()

    threads = [threading.Thread(target=come) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(found) == ["let in"] + ["refused"] * 7


@pytest.mark.parametrize("content", ["", "{", "[]", '{"pid": 1}'])
def test_a_holder_that_has_not_written_its_id_yet_is_another_process(path, content):
    path.parent.mkdir()
    with run_lock(path):
        path.write_text(content)
        with pytest.raises(RunLockedError, match=r"\(another process, which has not written its id yet\)"):
            run_lock(path).__enter__()


def test_a_file_system_without_locks_is_named(path, monkeypatch):
    def unsupported(descriptor, operation):
        raise OSError(errno.ENOTSUP, "Operation not supported")

    path.parent.mkdir()
    monkeypatch.setattr(fcntl, "flock", unsupported)
    expected = r"run\.lock cannot be locked: Operation not supported\. The file system must have locks \(flock\)"
    with pytest.raises(OSError, match=expected) as caught:
        run_lock(path).__enter__()
    assert not isinstance(caught.value, RunLockedError)


def test_a_folder_that_is_not_there_is_named(path):
    with pytest.raises(FileNotFoundError, match=r"could not write .*run\.lock"):
        run_lock(path).__enter__()


def test_a_lock_is_checked_without_taking_it(tmp_path):
    path = tmp_path / "run.lock"
    check_free(path)
    assert not path.exists()
    with run_lock(path), pytest.raises(RunLockedError, match=rf"is in use by another run \(process {os.getpid()} on"):
        check_free(path)
    before = path.stat()
    check_free(path)
    assert path.stat().st_mtime_ns == before.st_mtime_ns
    with run_lock(path):
        pass


def test_a_lock_is_waited_for_until_its_process_has_ended(path):
    assert wait_until_free(path, 0.0)  # it is not even there
    with running(HOLD, path) as (process, _):
        assert not wait_until_free(path, 0.2)
        threading.Timer(0.3, process.kill).start()
        assert wait_until_free(path, 60.0)


def test_a_lock_is_taken_once_its_process_has_ended(path):
    with running(HOLD, path) as (process, _):
        with pytest.raises(RunLockedError, match=f"process {process.pid}"):
            waiting_lock(path, 0.2).__enter__()
        threading.Timer(0.3, process.kill).start()
        with waiting_lock(path, 60.0), pytest.raises(RunLockedError, match=f"process {os.getpid()}"):
            check_free(path)


def test_what_ended_the_run_is_reported_before_a_lock_file_that_could_not_be_written(tmp_path, monkeypatch):
    def fails(descriptor, size):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    def run():
        with run_lock(tmp_path / "run.lock"):
            monkeypatch.setattr(os, "ftruncate", fails)
            raise KeyError("the end")

    with pytest.raises(KeyError, match="the end") as caught:
        run()
    assert "could not write" in caught.value.__notes__[0]
    assert "run.lock" in caught.value.__notes__[0]
    monkeypatch.undo()
    with run_lock(tmp_path / "run.lock"):  # it was let go of all the same
        pass


def test_a_held_lock_is_waited_for_after_a_call(path):
    waited = []
    with running(HOLD, path) as (process, _):
        with exclusive_lock(path, lambda: (waited.append("once"), process.kill())):
            assert process.wait() == -signal.SIGKILL
        with exclusive_lock(path, lambda: waited.append("never")), pytest.raises(RunLockedError, match="in use"):
            exclusive_lock(path).__enter__()
    assert waited == ["once"]


def test_a_free_lock_is_not_waited_for(path):
    path.parent.mkdir()
    with exclusive_lock(path, pytest.fail):
        pass
