"""Pool of supervised worker processes: one that dies, hangs or takes too much memory costs one attempt."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator, Mapping
from typing import Any, final

from lightkeras.search.trial_run import Job, TaskSummary
from lightkeras.search.workers.protocol import Channel, Launcher, last_lines
from lightkeras.system.messages import announce, check_whole

POLL = 0.25  # seconds between checks of signals, memory and heartbeats
GRACE = 120.0  # seconds for a worker to save its run after SIGTERM


@dataclasses.dataclass(frozen=True)
class WorkerLimits:
    """Limits of a worker process.

    Args:
        silence: Seconds without a heartbeat after which a worker counts as hung and is killed. Workers send one with
            each compiled call, block of encoded data and report: reading data and each compilation must take less.
            `None` waits forever.
        memory_gb: Private memory in 10**9 bytes above which a worker is killed; mapped files do not count. `None`
            divides the memory that is available when the search starts.
        runs: Runs after which a worker is replaced, to release its memory.

    Raises:
        ValueError: A setting out of its range.

    Examples:
        >>> from lightkeras import Tuner
        >>> from lightkeras.testing import TwoMoons
        >>> tuner = Tuner(TwoMoons, workers=2, limits=WorkerLimits(silence=1800, memory_gb=8))
        >>> tuner.limits.runs
        50
    """

    silence: float | None = 600.0
    memory_gb: float | None = None
    runs: int = 50

    def __post_init__(self) -> None:
        for name in ("silence", "memory_gb"):
            value = getattr(self, name)
            if value is not None and not 0 < value < float("inf"):
                raise ValueError(f"WorkerLimits({name}={value!r}): expected a number above 0, or None.")
        check_whole("WorkerLimits", "runs", self.runs, 1)


@dataclasses.dataclass(frozen=True)
class WorkerMessage:
    """A message of the worker in a slot, see `process.py`; the pool adds those of the kind `"lost"`."""

    slot: int
    kind: str
    content: Any


@final
class _Worker:
    def __init__(self, channel: Channel) -> None:
        self.channel = channel
        self.job: Job | None = None
        self.busy = False
        self.runs = 0
        self.last_message_at = time.monotonic()


@final
class Pool:
    """Context manager of worker processes, each of which does one run at a time. All are ended on exit."""

    def __init__(self, launcher: Launcher, workers: int, limits: WorkerLimits) -> None:
        self._launcher, self._limits = launcher, limits
        self._workers: list[_Worker | None] = [None] * workers

    def __enter__(self) -> Pool:
        return self

    def __exit__(self, *_: object) -> None:
        for worker in self._workers:
            if worker is not None:
                worker.channel.end()
        self._launcher.close()

    @property
    def threads(self) -> int:
        """Threads of each worker."""
        return self._launcher.threads

    def begin(self) -> None:
        """Must be called when the search's directory exists; an OSError if a node of the cluster cannot see it."""
        self._launcher.begin()

    def idle(self) -> list[int]:
        """Returns the slots of idle workers, and of those that can be started."""
        empty = [slot for slot, worker in enumerate(self._workers) if worker is None]
        free = self._launcher.capacity() - (len(self._workers) - len(empty)) if empty else 0
        startable = set(empty[: max(0, free)])
        return [slot for slot, one in enumerate(self._workers) if slot in startable or (one and not one.busy)]

    def assign(self, slot: int, job: Job) -> None:
        """Assigns a run to an idle worker."""
        self._send(slot, "run", job)
        worker = self._workers[slot]
        if worker is not None:
            worker.job, worker.runs = job, worker.runs + 1

    def answer(self, slot: int, why: str | None) -> None:
        """Answers a report with the reason to stop the run, or `None`."""
        worker = self._workers[slot]
        if worker is not None:
            worker.channel.send(("answer", why))

    def summarize_task(
        self, values: Mapping[str, Any], runner: Any, retries: int, folds: int | None = None, stratified: bool = False
    ) -> TaskSummary:
        """Lets a worker check the task, and returns its summary.

        It is retried `retries` times if its worker is lost. Raises the task's own error, or a RuntimeError if too many
        workers were lost.
        """
        message = self._checked_by_worker(dict(values), runner, folds, stratified)
        while message.kind == "lost" and retries > 0:
            retries -= 1
            announce(f"checking the task again, because its worker {message.content}")
            message = self._checked_by_worker(dict(values), runner, folds, stratified)
        if message.kind == "raised":
            raise message.content
        if message.kind == "lost":
            raise RuntimeError(f"The task could not be checked: its worker {message.content}.")
        found: TaskSummary = message.content
        return found

    def _checked_by_worker(self, *asked: Any) -> WorkerMessage:
        self._send(0, "summarize", asked)
        while True:
            for message in self.wait():
                if message.kind in ("summary", "raised", "lost"):
                    return message

    def wait(self) -> list[WorkerMessage]:
        """Waits for a short time, and returns the messages."""
        self._launcher.wait([worker.channel for worker in self._workers if worker is not None], POLL)
        return [message for slot in range(len(self._workers)) for message in self._messages_of(slot)]

    def interrupt(self) -> Iterator[WorkerMessage]:
        """Makes the workers save their runs and end; yields their last messages."""
        until = time.monotonic() + GRACE
        for worker in self._workers:
            if worker is not None:
                worker.channel.terminate()
        while any(worker is not None for worker in self._workers) and time.monotonic() < until:
            yield from self.wait()
            for slot, worker in enumerate(self._workers):
                if worker is not None and not worker.busy:
                    self._dismiss(slot)

    # ------------------------------------------------------------------ one worker

    def _send(self, slot: int, kind: str, content: Any) -> None:
        worker = self._workers[slot] or self._start(slot)
        worker.busy, worker.last_message_at = True, time.monotonic()
        worker.channel.send((kind, content))

    def _start(self, slot: int) -> _Worker:
        worker = self._workers[slot] = _Worker(self._launcher.start(slot))
        return worker

    def _messages_of(self, slot: int) -> Iterator[WorkerMessage]:
        worker = self._workers[slot]
        if worker is None:
            return
        ended = worker.channel.ended()  # before `received`, which then has all messages
        for kind, content in worker.channel.received():
            worker.last_message_at = time.monotonic()
            if kind in ("ended", "summary", "raised", "full"):
                worker.busy, worker.job = False, None
            if kind in ("lost", "interrupted") or (kind == "ended" and worker.runs >= self._limits.runs):
                self._dismiss(slot)
                yield WorkerMessage(slot, kind, content)
                return
            if kind != "alive":
                yield WorkerMessage(slot, kind, content)
        reason = self._problem_of(worker) if ended is None else _with_last_output(ended, worker)
        if reason is not None:
            busy = worker.busy
            self._dismiss(slot)
            if busy:
                yield WorkerMessage(slot, "lost", reason)

    def _problem_of(self, worker: _Worker) -> str | None:
        if not worker.channel.started():
            worker.last_message_at = time.monotonic()
        silent = time.monotonic() - worker.last_message_at
        limit = self._limits.silence
        if worker.busy and limit is not None and silent > limit:
            return f"hung: it sent no heartbeat for {silent:.0f} s, more than silence={limit:g}"
        most = self._launcher.memory
        if most is not None and (held := worker.channel.memory_bytes()) > most:
            return f"ran out of memory: it held {held / 1e9:.2f} GB, more than its {most / 1e9:.2f} GB"
        return None

    def _dismiss(self, slot: int) -> None:
        worker, self._workers[slot] = self._workers[slot], None
        if worker is not None:
            worker.channel.end()  # idle workers have nothing to save, others were terminated before


def _with_last_output(ended: str, worker: _Worker) -> str:
    last = (last_lines(worker.job.run_dir / "output.txt") if worker.job else "") or worker.channel.last_output()
    return f"{ended}{f', with the output: {last}' if last else ''}"
