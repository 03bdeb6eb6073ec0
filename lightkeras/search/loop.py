"""The loop of a search: assigns runs to workers and handles their messages."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping

from lightkeras.data.lookup import Lookup
from lightkeras.runner import Interrupted
from lightkeras.search import trial_run
from lightkeras.search.coordinator import Coordinator
from lightkeras.search.records import FAILED, Outcome
from lightkeras.search.workers.pool import Pool, WorkerMessage
from lightkeras.system.signals import StopSignals, exit_status
from lightkeras.task import Task


class SearchInterrupted(SystemExit):
    """A signal ended the search after its runs were saved. A `SystemExit`: unless caught, it ends the process.

    Args:
        received: The signal's name.

    Examples:
        ```python
        import lightkeras as lk

        runner = lk.Runner(max_epochs=1)
        tuner = lk.Tuner(lk.testing.TwoMoons, trials=2, runner=runner, workers=0, run_dir="runs/search")
        try:
            result = tuner.search()
        except lk.SearchInterrupted as stop:  # SIGTERM or Ctrl-C; `search(resume=True)` goes on
            print(stop)
        ```
    """

    def __init__(self, received: str) -> None:
        super().__init__(exit_status(received))
        self.received = received


def run_on_workers(coordinator: Coordinator, pool: Pool, signals: StopSignals, show: Callable[[], None]) -> None:
    """Runs a search on worker processes until it is finished, and calls `show` after each poll and each message.

    Raises `SearchInterrupted` after SIGTERM or SIGINT, once the runs were saved, and OSError if the disk is full.
    """
    names: dict[int, str] = {}
    while not coordinator.finished:
        for slot in pool.idle():
            job = coordinator.next(slot)
            if job is not None:
                names[slot] = job.name
                pool.assign(slot, job)
        if coordinator.finished:  # asking for the next run may have found that there is none
            break
        if not coordinator.records.working() and pool.idle():
            raise RuntimeError("The search has no run to do, but has not finished. This is a bug in lightkeras.")
        for message in pool.wait():
            _handle(message, names[message.slot], coordinator, pool)
        show()
        if signals.received is not None:
            _interrupt(names, coordinator, pool)
            raise SearchInterrupted(signals.received)


def run_in_process(
    coordinator: Coordinator, task: type[Task], lookup: Lookup | None, signals: StopSignals, show: Callable[[], None]
) -> None:
    """Runs a search in this process, one run after the other. Raises the errors of `run_on_workers`."""
    while (job := coordinator.next(0)) is not None:
        name = job.name

        def report(epoch: int, value: float, name: str = name) -> str | None:
            why = coordinator.report(name, epoch, value)
            show()
            return why

        trial_run.prepare(job)
        try:
            outcome = trial_run.run(job, task, lookup, report)
        except trial_run.OutOfMemoryError as error:  # a retry would run out of memory again
            outcome = Outcome(FAILED, str(error))
        except Interrupted as stop:
            coordinator.release(name)
            raise SearchInterrupted(str(stop.result.interrupted)) from stop
        coordinator.end(name, outcome)
        show()
        if signals.received is not None:
            raise SearchInterrupted(signals.received)


def export(
    job: trial_run.Job, pool: Pool | None, task: type[Task], lookup: Lookup | None, retries: int = 0
) -> str | None:
    """Re-runs the final stage of a finished run to export `model.keras`; returns why it failed, or `None`.

    Without a pool it runs in this process. `retries`: how often it is retried after its worker was lost.
    """
    if pool is None:
        outcome = trial_run.run(job, task, lookup, lambda epoch, value: None)
        return outcome.reason if outcome.status == FAILED else None
    message = _exported(job, pool)
    while message.kind == "lost" and retries > 0:
        retries -= 1
        message = _exported(job, pool)
    if message.kind == "ended":
        return str(message.content.reason) if message.content.status == FAILED else None
    return f"its worker {message.kind}: {message.content}"


def _exported(job: trial_run.Job, pool: Pool) -> WorkerMessage:
    while not (idle := pool.idle()):  # a cluster may have lost all its nodes
        pool.wait()
    pool.assign(idle[0], job)
    while True:
        for message in pool.wait():
            if message.kind in ("ended", "lost", "full", "interrupted"):
                return message


def _handle(message: WorkerMessage, name: str, coordinator: Coordinator, pool: Pool) -> None:
    if message.kind == "epoch":
        pool.answer(message.slot, coordinator.report(name, *message.content))
    elif message.kind == "ended":
        coordinator.end(name, dataclasses.replace(message.content, threads=pool.threads))
    elif message.kind == "lost":
        coordinator.lose(name, message.content)
    elif message.kind == "full":
        coordinator.release(name)
        raise OSError(message.content)
    elif message.kind == "interrupted":  # only the worker received a signal
        coordinator.lose(name, "was ended by a signal")


def _interrupt(names: Mapping[int, str], coordinator: Coordinator, pool: Pool) -> None:
    """Lets the workers save their runs. Runs that end meanwhile are recorded."""
    for message in pool.interrupt():
        name = names[message.slot]
        if message.kind in ("epoch", "ended"):
            _handle(message, name, coordinator, pool)
        else:
            coordinator.release(name)
