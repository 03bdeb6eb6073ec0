"""A worker answers over its pipe; here it works in a thread, with made-up runs."""

import contextlib
import multiprocessing
import os
import pickle
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest

from lightkeras.data import reuse
from lightkeras.runner import Interrupted
from lightkeras.search import trial_run
from lightkeras.search.records import COMPLETED, Outcome
from lightkeras.search.workers import process
from lightkeras.search.workers.process import Setup, output_to
from lightkeras.system.messages import check_whole
from lightkeras.testing import TwoMoons


def setup_of(folder, using="using"):
    return Setup(pickle.dumps(TwoMoons), "lightkeras.testing", "lookup", None, using and folder / using, "token")


def test_the_directory_of_a_search_is_seen_if_its_file_holds_the_token(tmp_path):
    setup = setup_of(tmp_path)
    assert not setup.sees_directory()
    setup.mark()
    assert setup.sees_directory()
    (tmp_path / "using").write_text("of another machine")
    assert not setup.sees_directory()
    nowhere = setup_of(tmp_path, None)
    nowhere.mark()
    assert nowhere.sees_directory()


def test_output_goes_to_a_file_also_that_of_native_code(tmp_path, capfd, monkeypatch):
    path = tmp_path / "output.txt"
    path.write_text("before\n")
    with open(1, "w", closefd=False) as stdout, monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", stdout)
        print("zero")  # still in the buffer
        with output_to(path):
            os.write(2, b"one\n")
            print("two")
        print("three")
    os.write(2, b"four\n")
    assert path.read_text() == "before\none\ntwo\n"
    assert capfd.readouterr() == ("zero\nthree\n", "four\n")


class UnportableError(Exception):
    def __init__(self, first, second):
        super().__init__(f"{first} and {second}")


def raised(make):
    try:
        make()
    except Exception as error:
        return process._portable(error)


def test_an_error_that_can_be_pickled_is_sent_with_its_traceback():
    error = raised(lambda: {}["key"])
    assert isinstance(error, KeyError)
    (note,) = error.__notes__
    assert note.startswith("In the worker: Traceback")
    assert '{}["key"]' in note


def test_an_error_of_lightkeras_is_sent_without_a_traceback():
    error = raised(lambda: check_whole("Tuner", "trials", 0, 1))
    assert str(error) == "Tuner(trials=0): expected a whole number of at least 1."
    assert not hasattr(error, "__notes__")


def test_an_error_that_cannot_be_pickled_is_sent_as_its_text():
    def fail():
        raise UnportableError("a", "b")

    error = raised(fail)
    assert type(error) is RuntimeError
    assert str(error) == "UnportableError: a and b"
    assert [note.split(":")[0] for note in error.__notes__] == ["In the worker", "(UnportableError cannot be pickled"]


class Runs:
    """What `trial_run` does for a worker, made up."""

    OutOfMemoryError = trial_run.OutOfMemoryError
    raises = None

    def prepare(self, job):
        if job.name == "disk":
            raise OSError("no space")

    def run(self, job, task, lookup, report):
        assert (task, lookup) == (TwoMoons, "lookup")
        if self.raises is not None:
            raise self.raises
        answer = report(1, 0.25)
        return Outcome(COMPLETED, str(answer))

    def summarize_task(self, task, lookup, values, runner):
        if values is None:
            raise ValueError("no values")
        return (task.__name__, values)


@contextlib.contextmanager
def worker(setup, monkeypatch):
    """The other end of the pipe of a worker, and its thread."""
    runs = Runs()
    for name in ("prepare", "run", "summarize_task"):
        monkeypatch.setattr(trial_run, name, getattr(runs, name))
    monkeypatch.setattr(reuse, "enable", lambda: None)
    monkeypatch.setattr(process.heartbeat, "listen", lambda function: None)
    monkeypatch.setattr(process.gc, "freeze", lambda: None)
    monkeypatch.setattr(process, "output_to", lambda path: contextlib.nullcontext())
    monkeypatch.setattr(process, "ALIVE_EVERY", 0.0)
    monkeypatch.setattr(process.locks, "hold_shared", lambda path: held.append(path))
    held = []
    ours, theirs = multiprocessing.Pipe()

    def work():
        with contextlib.suppress(EOFError):
            process._Worker(theirs, setup).work()

    thread = threading.Thread(target=work)
    thread.start()
    yield SimpleNamespace(pipe=ours, thread=thread, held=held, runs=runs)
    ours.close()
    thread.join(timeout=30)
    assert not thread.is_alive()
    theirs.close()


def job(name="trials/0000"):
    return SimpleNamespace(name=name, run_dir=Path("nowhere"))


def ask(worker, message, answers=()):
    """The messages of a worker until it has none for now."""
    worker.pipe.send(message)
    found, answers = [], list(answers)
    while not found or found[-1][0] in ("alive", "epoch"):
        assert worker.pipe.poll(30)
        found.append(worker.pipe.recv())
        if found[-1][0] == "epoch":
            worker.pipe.send(("answer", answers.pop(0)))
    return found


def test_a_worker_summarizes_tasks_and_runs_jobs_one_after_the_other(tmp_path, monkeypatch):
    setup = setup_of(tmp_path)
    setup.mark()
    with worker(setup, monkeypatch) as one:
        assert ask(one, ("summarize", ({"x": 1}, None))) == [("summary", ("TwoMoons", {"x": 1}))]
        ((kind, error),) = ask(one, ("summarize", (None, None)))
        assert (kind, str(error)) == ("raised", "no values")
        found = ask(one, ("run", job()), ["worse"])
        assert found == [("alive", None), ("epoch", (1, 0.25)), ("ended", Outcome(COMPLETED, "worse"))]
        assert ask(one, ("run", job()), [None])[-1] == ("ended", Outcome(COMPLETED, "None"))
        assert one.held == [tmp_path / "using"]  # once, until it ends


def test_a_full_disk_and_a_directory_that_is_not_seen_leave_the_worker_usable(tmp_path, monkeypatch):
    setup = setup_of(tmp_path)
    with worker(setup, monkeypatch) as one:
        kind, text = ask(one, ("run", job()))[-1]
        assert kind == "full"
        assert f"cannot see {tmp_path}. Give a run_dir on a file system that all nodes share" in text
        setup.mark()
        assert ask(one, ("run", job("disk")))[-1] == ("full", "no space")
        assert ask(one, ("run", job()), [None])[-1][0] == "ended"


@pytest.mark.parametrize(
    ("raises", "expected"),
    [
        (Interrupted(SimpleNamespace(interrupted="SIGTERM")), ("interrupted", None)),
        (trial_run.OutOfMemoryError("9 GB"), ("lost", "ran out of memory (9 GB)")),
    ],
)
def test_after_a_signal_or_without_memory_a_worker_ends(tmp_path, monkeypatch, raises, expected):
    with worker(setup_of(tmp_path, None), monkeypatch) as one:
        one.runs.raises = raises
        assert ask(one, ("run", job()))[-1] == expected
        one.thread.join(timeout=30)
        assert not one.thread.is_alive()
        assert one.held == []


def test_heartbeats_are_at_least_a_second_apart(tmp_path, monkeypatch):
    sent, now = [], 100.0
    one = process._Worker(SimpleNamespace(send=sent.append), setup_of(tmp_path))
    monkeypatch.setattr(process.time, "monotonic", lambda: now)
    one._alive()
    now = 100.9
    one._alive()
    assert sent == [("alive", None)]
    now = 101.0
    one._alive()
    assert len(sent) == 2
