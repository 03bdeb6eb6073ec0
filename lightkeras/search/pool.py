"""Worker processes of one machine, watched over: one that dies, hangs or takes too much memory is one lost attempt.

They are started anew (spawned, not forked): each imports the task's file, Keras and its backend by itself, and the
process of the search computes nothing.
"""

from __future__ import annotations

import contextlib
import dataclasses
import multiprocessing
import os
import pickle
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, final

from lightkeras import memory
from lightkeras.data.lookup import Lookup
from lightkeras.search.work import Job, Look
from lightkeras.search.worker import Setup, main
from lightkeras.task import Task

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
        if isinstance(self.runs, bool) or not isinstance(self.runs, int) or self.runs < 1:
            raise ValueError(f"WorkerLimits(runs={self.runs!r}): expected a whole number of at least 1.")


@dataclasses.dataclass(frozen=True)
class Said:
    """What a worker said, or what became of it.

    Args:
        slot: Which worker, from 0.
        kind: As in `lightkeras.search.worker`; `"lost"` also where the pool found out.
        content: What belongs to it.
    """

    slot: int
    kind: str
    content: Any


@final
class _Worker:
    def __init__(self, process: Any, connection: Connection, output: Path) -> None:
        self.process, self.connection, self.output = process, connection, output
        self.job: Job | None = None
        self.busy = False
        self.runs = 0
        self.heard = time.monotonic()


@final
class Pool:
    """Workers, each doing one run at a time; a context manager, at whose end none is left.

    Args:
        task: The task's class; it must be importable.
        lookup: Where data and modules are looked for.
        workers: How many.
        limits: What each may take.
        using: File that the workers hold together from their first run on, as long as they live.
        threads: Threads that each computes with; `None` divides the cores between them.

    Raises:
        TypeError: The task's class cannot be found by another process.
    """

    def __init__(
        self,
        task: type[Task],
        lookup: Lookup | None,
        workers: int,
        limits: WorkerLimits,
        using: Path | None = None,
        threads: int | None = None,
    ) -> None:
        check_importable(task)
        self._task, self._lookup, self._limits, self.using = task, lookup, limits, using
        self._workers: list[_Worker | None] = [None] * workers
        self._threads = threads or max(1, len(os.sched_getaffinity(0)) // workers)
        self._memory = _share(limits, workers)
        self._folder = tempfile.TemporaryDirectory(prefix="lightkeras.")
        self._started = 0

    def __enter__(self) -> Pool:
        return self

    def __exit__(self, *_: object) -> None:
        for worker in self._workers:
            if worker is not None:
                _end(worker)
        self._folder.cleanup()

    @property
    def threads(self) -> int:
        """Threads that each worker computes with."""
        return self._threads

    def idle(self) -> list[int]:
        """Slots of the workers that have nothing to do."""
        return [slot for slot, worker in enumerate(self._workers) if worker is None or not worker.busy]

    def pids(self) -> dict[int, int]:
        """Process ids of the workers there are, by slot."""
        return {slot: worker.process.pid for slot, worker in enumerate(self._workers) if worker is not None}

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
            with contextlib.suppress(OSError):  # it has died meanwhile, which is found out next
                worker.connection.send(why)

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
        workers = [worker for worker in self._workers if worker is not None]
        with contextlib.suppress(InterruptedError):
            wait([part for worker in workers for part in (worker.connection, worker.process.sentinel)], POLL)
        return [said for slot in range(len(self._workers)) for said in self._heard(slot)]

    def interrupt(self) -> Iterator[Said]:
        """Lets the workers save their runs and end; gives what they still say."""
        until = time.monotonic() + GRACE
        for worker in self._workers:
            if worker is not None:
                worker.process.terminate()
        while any(worker is not None for worker in self._workers) and time.monotonic() < until:
            yield from self.wait()
            for slot, worker in enumerate(self._workers):
                if worker is not None and not worker.busy:
                    self._dismiss(slot)

    # ------------------------------------------------------------------ one worker

    def _tell(self, slot: int, kind: str, content: Any) -> None:
        worker = self._workers[slot] or self._start(slot)
        worker.busy, worker.heard = True, time.monotonic()
        with contextlib.suppress(OSError):  # it has died meanwhile, which is found out next
            worker.connection.send((kind, content))

    def _start(self, slot: int) -> _Worker:
        self._started += 1
        output = Path(self._folder.name) / f"worker-{self._started}.txt"
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        setup = Setup(self._task, self._lookup, output, self.using)
        process = context.Process(target=main, args=(theirs, setup), name=f"lightkeras worker {slot}")
        with _environment(_threads_in(self._threads)):
            process.start()
        theirs.close()
        worker = self._workers[slot] = _Worker(process, ours, output)
        return worker

    def _heard(self, slot: int) -> Iterator[Said]:
        worker = self._workers[slot]
        if worker is None:
            return
        alive = worker.process.is_alive()  # asked first: what it said before it ended is in the pipe by then
        while True:
            try:
                if not worker.connection.poll():
                    break
                kind, content = worker.connection.recv()
            except (EOFError, OSError):
                alive = False
                break
            worker.heard = time.monotonic()
            if kind in ("ended", "looked", "raised", "full"):
                worker.busy, worker.job = False, None
            if kind in ("lost", "interrupted") or (kind == "ended" and worker.runs >= self._limits.runs):
                self._dismiss(slot)
                yield Said(slot, kind, content)
                return
            if kind != "alive":
                yield Said(slot, kind, content)
        reason = self._what_is_wrong(worker) if alive else _how_it_ended(worker)
        if reason is not None:
            busy = worker.busy
            self._dismiss(slot)
            if busy:
                yield Said(slot, "lost", reason)

    def _what_is_wrong(self, worker: _Worker) -> str | None:
        silent = time.monotonic() - worker.heard
        limit = self._limits.silence
        if worker.busy and limit is not None and silent > limit:
            return f"hung: it gave no sign of life for {silent:.0f} s, more than silence={limit:g}"
        if self._memory is not None and (held := _held(worker)) > self._memory:
            return f"ran out of memory: it held {held / 1e9:.2f} GB, more than its {self._memory / 1e9:.2f} GB"
        return None

    def _dismiss(self, slot: int) -> None:
        worker, self._workers[slot] = self._workers[slot], None
        if worker is not None:
            _end(worker)


def check_importable(task: type[Task]) -> None:
    """Refuses a class that another process cannot import.

    Raises:
        TypeError: It cannot.
    """
    advice = (
        "Worker processes import the task by its name: define it at the top of a file, or search in this process "
        "with workers=0."
    )
    if task.__module__ == "__main__" and not getattr(sys.modules["__main__"], "__file__", None):
        raise TypeError(f"{task.__qualname__} was not defined in a file. {advice}")
    try:
        pickle.dumps(task)
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise TypeError(f"{task.__qualname__} cannot be imported from {task.__module__}: {error}. {advice}") from error


def _end(worker: _Worker) -> None:
    """Ends a worker at once: one that is idle has nothing to save, and one that is not was told before."""
    worker.process.kill()
    worker.process.join()
    worker.connection.close()
    worker.process.close()


def _how_it_ended(worker: _Worker) -> str:
    worker.process.join(5.0)
    code = worker.process.exitcode
    if code is not None and code < 0:
        name = signal.Signals(-code).name
        ended = f"was killed by {name}" + (", perhaps because memory ran out" if name == "SIGKILL" else "")
    else:
        ended = f"ended with status {code}"
    last = (_last_lines(worker.job.run_dir / "output.txt") if worker.job else "") or _last_lines(worker.output)
    return f"{ended}{f', saying: {last}' if last else ''}"


def _last_lines(path: Path, most: int = 300) -> str:
    try:
        text = path.read_text(errors="replace")
    except OSError:
        return ""
    return " / ".join(text.strip().splitlines()[-3:])[-most:]


def _share(limits: WorkerLimits, workers: int) -> float | None:
    """Memory of each worker's own, in bytes; `None` where the system does not tell."""
    if limits.memory_gb is not None:
        return limits.memory_gb * 1e9
    try:
        return 0.9 * memory.available_bytes() / workers
    except OSError:
        return None


def _held(worker: _Worker) -> int:
    try:
        return memory.private_bytes(worker.process.pid)
    except OSError:  # it has ended meanwhile, or the system does not tell
        return 0


def _threads_in(count: int) -> dict[str, str]:
    """What makes the backends, and what they use, compute with so many threads."""
    names: Sequence[str] = (
        "TF_NUM_INTRAOP_THREADS",
        "TF_NUM_INTEROP_THREADS",
        "OMP_NUM_THREADS",
        "OPENBLAS_NUM_THREADS",
        "MKL_NUM_THREADS",
        "NPROC",  # what XLA asks for
    )
    return {name: str(count) for name in names if name not in os.environ}


@contextlib.contextmanager
def _environment(more: Mapping[str, str]) -> Iterator[None]:
    """With more in the environment, for a process that is started."""
    before = {name: os.environ.get(name) for name in more}
    os.environ.update(more)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
