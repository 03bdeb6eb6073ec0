"""Worker processes, watched over: one that dies, hangs or takes too much memory is one lost attempt."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator, Mapping
from typing import Any, final

from lightkeras.search.trial_run import Job, Look
from lightkeras.search.workers.protocol import Channel, Launcher, last_lines
from lightkeras.system.messages import check_whole

POLL = 0.25  # seconds between two looks at signals, memory and signs of life
GRACE = 120.0  # seconds in which a worker that was told to end saves its run


@dataclasses.dataclass(frozen=True)
class WorkerLimits:
    """What a worker may take.

    Args:
        silence: Seconds without a sign of life, such as a compiled call, after which a worker counts as hung and is
            killed; the reading of data and each compilation must take less. `None` waits for ever.
        memory_gb: Memory of its own, in 10**9 bytes, above which a worker is killed; files that are mapped do not
            count. `None` divides what is free when the search begins.
        runs: Runs after which a worker gives back its memory, and is replaced by a new one.

    Raises:
        ValueError: A setting out of its range.
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
class Said:
    """What a worker said, or what became of it.

    Args:
        slot: Which worker, from 0.
        kind: As in `lightkeras.search.workers.process`; `"lost"` also where the pool found out.
        content: What belongs to it.
    """

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
        self.heard = time.monotonic()


@final
class Pool:
    """Workers, each doing one run at a time; a context manager, at whose end none is left.

    Args:
        launcher: Starts a worker when there is something to do for it; closed at the end.
        workers: How many.
        limits: What each may take.
    """

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
        """Threads that each worker computes with."""
        return self._launcher.threads

    def begin(self) -> None:
        """Says that the directory of the search is there. It comes before the first run.

        Raises:
            OSError: A node of the cluster does not see it.
        """
        self._launcher.begin()

    def idle(self) -> list[int]:
        """Slots of the workers that have nothing to do, and of those that could be started."""
        empty = [slot for slot, worker in enumerate(self._workers) if worker is None]
        free = self._launcher.places() - (len(self._workers) - len(empty)) if empty else 0
        startable = set(empty[: max(0, free)])
        return [slot for slot, one in enumerate(self._workers) if slot in startable or (one and not one.busy)]

    def hand(self, slot: int, job: Job) -> None:
        """Hands a run to an idle worker."""
        self._tell(slot, "run", job)
        worker = self._workers[slot]
        if worker is not None:
            worker.job, worker.runs = job, worker.runs + 1

    def answer(self, slot: int, why: str | None) -> None:
        """Answers a report: why the run is to stop, or `None`."""
        worker = self._workers[slot]
        if worker is not None:
            worker.channel.send(("answer", why))

    def look(self, values: Mapping[str, Any], runner: Any) -> Look:
        """Lets the first worker look at the task.

        Raises:
            Exception: Whatever the task made it raise.
            RuntimeError: The worker was lost.
        """
        self._tell(0, "look", (dict(values), runner))
        while True:
            for said in self.wait():
                if said.kind == "looked":
                    found: Look = said.content
                    return found
                if said.kind == "raised":
                    raise said.content
                if said.kind == "lost":
                    raise RuntimeError(f"The task could not be tried: its worker {said.content}.")

    def wait(self) -> list[Said]:
        """Waits, at most for a moment, and gives what was said or became of the workers meanwhile."""
        self._launcher.wait([worker.channel for worker in self._workers if worker is not None], POLL)
        return [said for slot in range(len(self._workers)) for said in self._heard(slot)]

    def interrupt(self) -> Iterator[Said]:
        """Lets the workers save their runs and end; gives what they still say."""
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

    def _tell(self, slot: int, kind: str, content: Any) -> None:
        worker = self._workers[slot] or self._start(slot)
        worker.busy, worker.heard = True, time.monotonic()
        worker.channel.send((kind, content))

    def _start(self, slot: int) -> _Worker:
        worker = self._workers[slot] = _Worker(self._launcher.start(slot))
        return worker

    def _heard(self, slot: int) -> Iterator[Said]:
        worker = self._workers[slot]
        if worker is None:
            return
        ended = worker.channel.ended()  # asked first: what it said before it ended is there by then
        for kind, content in worker.channel.received():
            worker.heard = time.monotonic()
            if kind in ("ended", "looked", "raised", "full"):
                worker.busy, worker.job = False, None
            if kind in ("lost", "interrupted") or (kind == "ended" and worker.runs >= self._limits.runs):
                self._dismiss(slot)
                yield Said(slot, kind, content)
                return
            if kind != "alive":
                yield Said(slot, kind, content)
        reason = self._what_is_wrong(worker) if ended is None else _with_last_words(ended, worker)
        if reason is not None:
            busy = worker.busy
            self._dismiss(slot)
            if busy:
                yield Said(slot, "lost", reason)

    def _what_is_wrong(self, worker: _Worker) -> str | None:
        if not worker.channel.started():
            worker.heard = time.monotonic()
        silent = time.monotonic() - worker.heard
        limit = self._limits.silence
        if worker.busy and limit is not None and silent > limit:
            return f"hung: it gave no sign of life for {silent:.0f} s, more than silence={limit:g}"
        most = self._launcher.memory
        if most is not None and (held := worker.channel.held()) > most:
            return f"ran out of memory: it held {held / 1e9:.2f} GB, more than its {most / 1e9:.2f} GB"
        return None

    def _dismiss(self, slot: int) -> None:
        worker, self._workers[slot] = self._workers[slot], None
        if worker is not None:
            worker.channel.end()  # one that is idle has nothing to save, and one that is not was told before


def _with_last_words(ended: str, worker: _Worker) -> str:
    last = (last_lines(worker.job.run_dir / "output.txt") if worker.job else "") or worker.channel.last_words()
    return f"{ended}{f', saying: {last}' if last else ''}"
