"""The loop of a search gives runs to workers and handles their messages, here made up."""

from types import SimpleNamespace

import pytest

from lightkeras.runner import Interrupted
from lightkeras.search import loop, trial_run
from lightkeras.search.records import COMPLETED, FAILED, Outcome
from lightkeras.search.workers.pool import WorkerMessage


class Coordinator:
    """Has some runs, and records the calls that it gets."""

    def __init__(self, *names):
        self.waiting, self.at_work, self.told = list(names), [], []
        self.records = SimpleNamespace(working=lambda: self.at_work)

    @property
    def finished(self):
        return not self.waiting and not self.at_work

    def next(self, worker):
        if not self.waiting:
            return None
        self.at_work.append(self.waiting.pop(0))
        return SimpleNamespace(name=self.at_work[-1])

    def report(self, name, epoch, value):
        self.told.append(("report", name, epoch, value))
        return "worse" if value > 1 else None

    def end(self, name, outcome):
        self._over("end", name, outcome)

    def lose(self, name, reason):
        self._over("lose", name, reason)

    def release(self, name):
        self._over("release", name)

    def _over(self, what, name, *more):
        self.at_work.remove(name)
        self.told.append((what, name, *more))


class Pool:
    """Two workers, whose messages come in batches."""

    threads = 3

    def __init__(self, *batches, last=()):
        self.batches, self.last, self.assigned, self.answers = list(batches), last, {}, []
        self.busy = set()

    def idle(self):
        return [slot for slot in (0, 1) if slot not in self.busy]

    def assign(self, slot, job):
        self.assigned[slot] = job.name
        self.busy.add(slot)

    def answer(self, slot, why):
        self.answers.append((slot, why))

    def wait(self):
        found = [WorkerMessage(*message) for message in self.batches.pop(0)]
        self.busy -= {message.slot for message in found if message.kind != "epoch"}
        return found

    def interrupt(self):
        return [WorkerMessage(*message) for message in self.last]


DONE = Outcome(COMPLETED, "max_epochs", 0.5)
IN_TIME = Outcome(COMPLETED, "max_epochs", 0.5, threads=3)


def search(coordinator, pool, received=None):
    shown = []
    loop.run_on_workers(coordinator, pool, SimpleNamespace(received=received), lambda: shown.append(1))
    return len(shown)


def test_runs_are_given_to_idle_workers_until_all_have_ended():
    coordinator = Coordinator("a", "b", "c")
    pool = Pool(
        [(0, "epoch", (1, 0.5)), (1, "epoch", (1, 2.0))],
        [(0, "ended", DONE)],
        [(1, "ended", DONE)],
        [(0, "ended", DONE)],
    )
    assert search(coordinator, pool) == 4
    assert pool.answers == [(0, None), (1, "worse")]
    assert coordinator.told == [
        ("report", "a", 1, 0.5),
        ("report", "b", 1, 2.0),
        ("end", "a", IN_TIME),
        ("end", "b", IN_TIME),
        ("end", "c", IN_TIME),
    ]


def test_a_lost_run_and_one_whose_worker_got_a_signal_are_lost():
    coordinator = Coordinator("a", "b")
    search(coordinator, Pool([(0, "lost", "hung"), (1, "interrupted", None)]))
    assert coordinator.told == [("lose", "a", "hung"), ("lose", "b", "was ended by a signal")]


def test_a_full_disk_ends_the_search_and_leaves_the_run_unfinished():
    coordinator = Coordinator("a")
    with pytest.raises(OSError, match="no space"):
        search(coordinator, Pool([(0, "full", "no space")]))
    assert coordinator.told == [("release", "a")]


def test_a_signal_ends_the_search_when_the_workers_have_saved_their_runs():
    coordinator = Coordinator("a", "b")
    last = [(0, "epoch", (2, 0.4)), (0, "interrupted", None), (1, "ended", DONE)]
    with pytest.raises(loop.SearchInterrupted) as stop:
        search(coordinator, Pool([(0, "epoch", (1, 0.5))], last=last), "SIGTERM")
    assert (stop.value.code, stop.value.received) == (143, "SIGTERM")
    assert coordinator.told[1:] == [("report", "a", 2, 0.4), ("release", "a"), ("end", "b", IN_TIME)]


def test_a_search_that_cannot_continue_is_a_bug():
    coordinator = Coordinator("a")
    coordinator.next = lambda worker: None
    with pytest.raises(RuntimeError, match="has no run to do, but has not finished"):
        search(coordinator, Pool())


def test_a_search_that_is_found_to_be_finished_when_it_asks_waits_for_nothing():
    coordinator = Coordinator("a")
    coordinator.next = lambda worker: coordinator.waiting.clear()
    assert search(coordinator, Pool()) == 0


@pytest.fixture
def runs(monkeypatch):
    """Outcomes, or errors, of the runs in this process by name."""
    outcomes = {}

    def run(job, task, lookup, report):
        assert job.prepared
        found = outcomes[job.name]
        if isinstance(found, BaseException):
            raise found
        report(1, 2.0)
        return found

    monkeypatch.setattr(trial_run, "prepare", lambda job: setattr(job, "prepared", True))
    monkeypatch.setattr(trial_run, "run", run)
    return outcomes


def search_here(coordinator, received=None):
    shown = []
    signals = SimpleNamespace(received=received)
    loop.run_in_process(coordinator, object, None, signals, lambda: shown.append(1))
    return len(shown)


def test_in_this_process_runs_follow_each_other_and_one_without_memory_has_failed(runs):
    runs |= {"a": DONE, "b": trial_run.OutOfMemoryError("too large")}
    coordinator = Coordinator("a", "b")
    assert search_here(coordinator) == 3
    failed = Outcome(FAILED, "too large")
    assert coordinator.told == [("report", "a", 1, 2.0), ("end", "a", DONE), ("end", "b", failed)]


def test_in_this_process_a_signal_leaves_the_run_unfinished_or_ends_the_search_after_it(runs):
    runs |= {"a": Interrupted(SimpleNamespace(interrupted="SIGINT")), "b": DONE}
    coordinator = Coordinator("a")
    with pytest.raises(loop.SearchInterrupted) as stop:
        search_here(coordinator)
    assert (stop.value.received, coordinator.told) == ("SIGINT", [("release", "a")])
    coordinator = Coordinator("b", "c")
    with pytest.raises(loop.SearchInterrupted):
        search_here(coordinator, "SIGTERM")
    assert coordinator.told[-1] == ("end", "b", DONE)


@pytest.mark.parametrize(
    ("messages", "expected"),
    [
        ([[(0, "epoch", (1, 0.5))], [(0, "ended", DONE)]], None),
        ([[(0, "ended", Outcome(FAILED, "no model"))]], "no model"),
        ([[(0, "lost", "hung")]], "its worker lost: hung"),
        ([[(0, "full", "no space")]], "its worker full: no space"),
    ],
)
def test_an_export_fails_with_its_reason(messages, expected):
    pool = Pool(*messages)
    assert loop.export(SimpleNamespace(name="refit"), pool, object, None) == expected
    assert pool.assigned == {0: "refit"}


def test_an_export_in_this_process_waits_for_no_worker(runs):
    runs |= {"a": DONE, "b": Outcome(FAILED, "no model")}
    assert loop.export(SimpleNamespace(name="a", prepared=True), None, object, None) is None
    assert loop.export(SimpleNamespace(name="b", prepared=True), None, object, None) == "no model"
