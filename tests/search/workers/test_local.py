"""Worker processes on this machine."""

from __future__ import annotations

import multiprocessing
import os

import pytest

from lightkeras.search.workers import local
from lightkeras.search.workers.launch import make_pool
from lightkeras.search.workers.pool import WorkerLimits
from lightkeras.search.workers.process import Setup
from lightkeras.testing import TwoMoons


def test_workers_divide_the_cores():
    cores = len(os.sched_getaffinity(0))
    with make_pool(TwoMoons, None, 2, WorkerLimits()) as pool:
        assert pool.threads == max(1, cores // 2)
        assert pool.idle() == [0, 1]


def test_variables_are_set_while_a_process_is_started_and_then_restored(monkeypatch):
    monkeypatch.setenv("LIGHTKERAS_ONE", "1")
    monkeypatch.delenv("LIGHTKERAS_TWO", raising=False)
    with local._environment({"LIGHTKERAS_ONE": "x", "LIGHTKERAS_TWO": "y"}):
        assert (os.environ["LIGHTKERAS_ONE"], os.environ["LIGHTKERAS_TWO"]) == ("x", "y")
    assert os.environ["LIGHTKERAS_ONE"] == "1"
    assert "LIGHTKERAS_TWO" not in os.environ


def setup_of(folder):
    return Setup(b"", "task", None, None, folder / "using", "token")


def test_a_launcher_divides_memory_and_cores_unless_they_are_given(monkeypatch, tmp_path):
    monkeypatch.setattr(local.memory, "available_bytes", lambda: 8e9)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(7)))
    launchers = [
        local.LocalLauncher(setup_of(tmp_path), 2),
        local.LocalLauncher(setup_of(tmp_path), 9),
        local.LocalLauncher(setup_of(tmp_path), 2, 1e9, 5),
    ]
    assert [launcher.threads for launcher in launchers] == [3, 1, 5]
    assert [launcher.memory for launcher in launchers] == [pytest.approx(3.6e9), pytest.approx(0.8e9), 1e9]
    assert [launcher.capacity() for launcher in launchers] == [2, 9, 2]
    launchers[0].begin()
    assert (tmp_path / "using").read_text() == "token"
    for launcher in launchers:
        launcher.close()


def test_on_a_system_without_figures_memory_is_not_limited(monkeypatch, tmp_path):
    def unknown():
        raise OSError

    monkeypatch.setattr(local.memory, "available_bytes", unknown)
    launcher = local.LocalLauncher(setup_of(tmp_path), 2)
    assert launcher.memory is None
    launcher.close()


class Process:
    """A process that is asked to end."""

    pid, exitcode, alive = 7, None, True

    def __init__(self):
        self.calls = []

    def is_alive(self):
        return self.alive

    def __getattr__(self, name):
        return lambda: self.calls.append(name)


@pytest.fixture
def channel(monkeypatch, tmp_path):
    """A channel to a made-up process, and the other end of its pipe."""
    ours, theirs = multiprocessing.Pipe()
    seen = []

    def start(setup, name):
        seen.append((name, os.environ.get("LIGHTKERAS_ONE")))
        return Process(), ours

    monkeypatch.setattr(local, "start_worker", start)
    launcher = local.LocalLauncher(setup_of(tmp_path), 2, threads=1)
    monkeypatch.setattr(local, "environment_of_threads", lambda count, environment: {"LIGHTKERAS_ONE": str(count)})
    made = launcher.start(1)
    assert seen == [("lightkeras worker 1", "1")]
    assert launcher.start(0)._output != made._output
    yield made, theirs
    launcher.close()


def test_a_channel_gives_messages_in_order_and_how_the_process_ended(channel):
    ours, theirs = channel
    assert ours.started()
    assert ours.received() == []
    theirs.send(("alive", None))
    theirs.send(("ended", 1))
    assert ours.received() == [("alive", None), ("ended", 1)]
    ours.send(("run", "job"))
    assert theirs.recv() == ("run", "job")
    assert ours.ended() is None
    theirs.close()
    assert ours.received() == []
    ours.send(("run", "lost"))  # the worker has ended
    ours.process.alive, ours.process.exitcode = False, -9
    assert ours.ended() == "was killed by SIGKILL, perhaps because memory ran out"
    assert ours.last_output() == ""
    ours._output.write_text("a\nb")
    assert ours.last_output() == "a / b"


def test_a_channel_is_ended_once(channel):
    ours, _theirs = channel
    ours.terminate()
    ours.end()
    ours.end()
    assert ours.process.calls == ["terminate", "kill", "join", "close"]
    assert (ours.ended(), ours.received()) == (None, [])


def test_the_memory_of_a_process_that_is_gone_is_none(channel, monkeypatch):
    def gone(pid):
        raise OSError

    monkeypatch.setattr(local.memory, "private_bytes", lambda pid: 100 + pid)
    assert channel[0].memory_bytes() == 107
    monkeypatch.setattr(local.memory, "private_bytes", gone)
    assert channel[0].memory_bytes() == 0
