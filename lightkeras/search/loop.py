"""The loop of a search: hands out runs, and hands on what is said of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping

from lightkeras.data.lookup import Lookup
from lightkeras.runner import Interrupted
from lightkeras.search import trial_run
from lightkeras.search.coordinator import Coordinator
from lightkeras.search.records import FAILED, Outcome
from lightkeras.search.workers.pool import Pool, Said
from lightkeras.system.signals import StopSignals, exit_status
from lightkeras.task import Task


class SearchInterrupted(SystemExit):
    """A search that ended because of a signal, after its runs were saved. Unless caught, it ends the process.

    Args:
        received: The signal's name.
    """

    def __init__(self, received: str) -> None:
        super().__init__(exit_status(received))
        self.received = received


def by_pool(coordinator: Coordinator, pool: Pool, signals: StopSignals, show: Callable[[], None]) -> None:
    """Runs a search on worker processes until there is nothing left to do.

    Args:
        coordinator: Who decides.
        pool: Who works.
        signals: Asked for a signal now and then.
        show: Called now and then, and whenever something happened.

    Raises:
        SearchInterrupted: A signal came; the runs were saved.
        OSError: The disk is full.
    """
    names: dict[int, str] = {}
    while not coordinator.finished:
        for slot in pool.idle():
            job = coordinator.next(slot)
            if job is not None:
                names[slot] = job.name
                pool.hand(slot, job)
        if coordinator.finished:  # what came last was that there is nothing left
            break
        if not coordinator.records.working() and pool.idle():
            raise RuntimeError("The search has not ended, and there is nothing to do: this is a fault of lightkeras.")
        for said in pool.wait():
            _take_in(said, names[said.slot], coordinator, pool)
        show()
        if signals.received is not None:
            _interrupt(names, coordinator, pool)
            raise SearchInterrupted(signals.received)


def in_process(
    coordinator: Coordinator, task: type[Task], lookup: Lookup | None, signals: StopSignals, show: Callable[[], None]
) -> None:
    """Runs a search in this process, one run after the other.

    Raises:
        SearchInterrupted: A signal came; the run was saved.
        OSError: The disk is full.
    """
    while (job := coordinator.next(0)) is not None:
        name = job.name

        def report(epoch: int, value: float, name: str = name) -> str | None:
            why = coordinator.report(name, epoch, value)
            show()
            return why

        trial_run.prepare(job)
        try:
            outcome = trial_run.run(job, task, lookup, report)
        except trial_run.OutOfMemoryError as error:  # tried again it would run out again
            outcome = Outcome(FAILED, str(error))
        except Interrupted as stop:
            coordinator.let_go(name)
            raise SearchInterrupted(str(stop.result.interrupted)) from stop
        coordinator.end(name, outcome)
        show()
        if signals.received is not None:
            raise SearchInterrupted(signals.received)


def export(job: trial_run.Job, pool: Pool | None, task: type[Task], lookup: Lookup | None) -> str | None:
    """Does the end of a run once more, so that its model is written.

    Args:
        job: The run.
        pool: Who works; `None` does it in this process.
        task: The task's class.
        lookup: Where data and modules are looked for.

    Returns:
        Why it could not be done; `None` if it was.
    """
    if pool is None:
        outcome = trial_run.run(job, task, lookup, lambda epoch, value: None)
        return outcome.reason if outcome.status == FAILED else None
    while not (idle := pool.idle()):  # a cluster has lost all its nodes
        pool.wait()
    pool.hand(idle[0], job)
    while True:
        for said in pool.wait():
            if said.kind == "ended":
                return str(said.content.reason) if said.content.status == FAILED else None
            if said.kind in ("lost", "full", "interrupted"):
                return f"its worker {said.kind}: {said.content}"


def _take_in(said: Said, name: str, coordinator: Coordinator, pool: Pool) -> None:
    if said.kind == "epoch":
        pool.answer(said.slot, coordinator.report(name, *said.content))
    elif said.kind == "ended":
        coordinator.end(name, dataclasses.replace(said.content, threads=pool.threads))
    elif said.kind == "lost":
        coordinator.lose(name, said.content)
    elif said.kind == "full":
        coordinator.let_go(name)
        raise OSError(said.content)
    elif said.kind == "interrupted":  # somebody sent the worker alone a signal
        coordinator.lose(name, "was told to end by a signal")


def _interrupt(names: Mapping[int, str], coordinator: Coordinator, pool: Pool) -> None:
    """Lets the workers save their runs. What ends by itself meanwhile is noted."""
    for said in pool.interrupt():
        name = names[said.slot]
        if said.kind in ("epoch", "ended"):
            _take_in(said, name, coordinator, pool)
        else:
            coordinator.let_go(name)
