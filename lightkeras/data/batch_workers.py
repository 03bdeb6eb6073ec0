"""Batches that several threads or processes make, in the order of their indices.

A Keras `PyDataset` asks for them with `workers`, `use_multiprocessing` and `max_queue_size`. Processes are spawned,
because TensorFlow and JAX do not survive the fork of Keras's own workers once their threads run.
"""

from __future__ import annotations

import collections
import contextlib
import functools
import itertools
import json
import multiprocessing
import os
import pickle
import queue
import signal
import threading
import time
import traceback
import warnings
import weakref
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, wait
from multiprocessing import connection, util
from typing import Any, final

from lightkeras.data.structure import Structure, owned
from lightkeras.system import random_states
from lightkeras.system.digest import Digest
from lightkeras.system.messages import check_whole
from lightkeras.system.portable import stop_signals_held
from lightkeras.system.signals import how_it_ended

PATIENCE = 5.0
"""Seconds to wait for a worker that is making a batch which nobody needs any more."""

Maker = Callable[[int], Structure]
"""Returns the batch of an index."""

_reading = threading.local()  # `left`: batches that may be read after the one that this thread asks for
_pending: weakref.WeakSet[Future[Structure]] = weakref.WeakSet()  # batches that threads of this process may be making
_pools: dict[int, ProcessPool] = {}  # by the identity of the dataset
_kept = 0


@contextlib.contextmanager
def reading_ahead(left: int | None) -> Iterator[None]:
    """Context of one call of `next`: no more than `left` batches after it are begun; `None` for all."""
    _reading.left = left
    try:
        yield
    finally:
        _reading.left = None


def settle() -> None:
    """Waits until no thread makes a batch, so that another source can be read; at most `PATIENCE`."""
    wait(list(_pending), PATIENCE)


@contextlib.contextmanager
def processes_kept() -> Iterator[None]:
    """Keeps the worker processes of a dataset from one epoch to the next, and ends them on exit.

    Outside of this context they end with the epoch. A new process imports the backend again, which takes seconds.
    """
    global _kept
    _kept += 1
    try:
        yield
    finally:
        _kept -= 1
        if not _kept:
            for pool in list(_pools.values()):
                pool.end()


@final
class Workers:
    """How the batches of a `PyDataset` are made.

    Args:
        dataset: Its `workers` and `use_multiprocessing` select what Keras selects: threads for 2 workers or more,
            processes for 1 or more. At most `max_queue_size` batches are made ahead.
        convert: Called by the worker with what the dataset returns; returns the batch as NumPy arrays.
        draws: Whether the dataset draws from a global random generator.

    Raises:
        ValueError: One of these numbers is out of its range.
    """

    def __init__(self, dataset: Any, convert: Callable[[Any], Structure], draws: bool) -> None:
        self._dataset, self._convert = dataset, convert
        self._name, self._count, self._ahead = type(dataset).__name__, dataset.workers, dataset.max_queue_size
        check_whole(self._name, "workers", self._count, 0, numpy=True)
        check_whole(self._name, "max_queue_size", self._ahead, 1, numpy=True)
        self._processes = bool(dataset.use_multiprocessing) and self._count > 0
        if self._count > 1 and draws and not self._processes:
            warnings.warn(
                f"{self._name} draws from a global random generator, so its batches are made one after the other: with "
                f"workers={self._count} threads, each run would draw other numbers. Draw from "
                "`np.random.default_rng([seed, index])` in `__getitem__`, or set use_multiprocessing=True.",
                stacklevel=2,
            )
            self._count = 1

    def open(self, indices: Iterator[int], epoch: int) -> Iterator[Structure]:
        """Yields the batches of the indices, in their order."""
        if self._processes:
            return self._from_processes(indices, epoch)
        if self._count > 1:
            return in_order([self._make] * self._count, indices, self._ahead, self._name, _pending.add)
        return (self._dataset[index] for index in indices)

    def _make(self, index: int) -> Structure:
        # It is copied now: the thread may fill the same buffers with its next batch.
        return owned(self._convert(self._dataset[index]))

    def _from_processes(self, indices: Iterator[int], epoch: int) -> Iterator[Structure]:
        key = id(self._dataset)
        pool = _pools.get(key)
        if pool is None:
            pool = _pools[key] = ProcessPool(self._dataset, self._convert, self._count, lambda: _pools.pop(key, None))
        try:
            yield from in_order(pool.makers(epoch), indices, self._ahead, self._name)
        finally:
            if not _kept:
                pool.end()


def in_order(
    makers: Sequence[Maker],
    indices: Iterator[int],
    ahead: int,
    name: str,
    begun: Callable[[Future[Structure]], None] = lambda future: None,
) -> Iterator[Structure]:
    """Yields the batches of the indices in their order, whichever maker is the first.

    Args:
        makers: Functions that make batches, each called by a thread of its own.
        indices: Indices of the batches.
        ahead: Number of batches that are made, or held, before they are asked for.
        name: Name of the source, for errors.
        begun: Called with the future of each batch before it is made.

    Raises:
        Exception: A maker raised it; a note has the index of the batch.
    """
    asked: queue.SimpleQueue[tuple[int, Future[Structure]] | None] = queue.SimpleQueue()
    made: collections.deque[Future[Structure]] = collections.deque()
    threads = [
        threading.Thread(target=_work, args=(make, asked, name), name="lightkeras-batches", daemon=True)
        for make in makers
    ]
    for thread in threads:
        thread.start()
    try:
        while True:
            left = getattr(_reading, "left", None)
            free = (ahead if left is None else min(ahead, left + 1)) - len(made)
            for index in itertools.islice(indices, max(free, 0)):
                future: Future[Structure] = Future()
                begun(future)
                made.append(future)
                asked.put((index, future))
            if not made:
                return
            yield made.popleft().result()
    finally:
        for future in made:
            future.cancel()
        for _ in threads:
            asked.put(None)
        deadline = time.monotonic() + PATIENCE
        for thread in threads:
            thread.join(max(0.0, deadline - time.monotonic()))


def _work(make: Maker, asked: queue.SimpleQueue[tuple[int, Future[Structure]] | None], name: str) -> None:
    while (item := asked.get()) is not None:
        index, future = item
        if not future.set_running_or_notify_cancel():
            continue
        try:
            future.set_result(make(index))
        except BaseException as error:
            error.add_note(f"Raised by a worker of {name}, for batch {index}.")
            future.set_exception(error)
        del item, future  # a batch is not held while the next one is waited for


# ---------------------------------------------------------------------- processes


@final
class ProcessPool:
    """Worker processes with a copy of one dataset each.

    They end with this process, however it ends. SIGINT and SIGTERM, which a terminal or a batch system sends to the
    whole group, are left to this process.

    Args:
        dataset: The dataset. It is pickled at each epoch, because its hooks may change it.
        convert: See `Workers`; a function of a module.
        count: Number of processes.
        ended: Called when they have ended.
    """

    def __init__(
        self, dataset: Any, convert: Callable[[Any], Structure], count: int, ended: Callable[[], object]
    ) -> None:
        self._dataset, self._convert, self._count, self._ended = dataset, convert, count, ended
        self._workers: list[_Worker] = []
        util.Finalize(self, _end_all, (self._workers,), exitpriority=100)

    def makers(self, epoch: int) -> Sequence[Maker]:
        """A function for each process that returns a batch of the dataset as it is now.

        Raises:
            ValueError: The dataset cannot be pickled.
        """
        try:
            content = pickle.dumps((self._dataset, self._convert), pickle.HIGHEST_PROTOCOL)
        except Exception as error:
            raise ValueError(
                f"{type(self._dataset).__name__} has use_multiprocessing=True, but it cannot be pickled for its worker "
                f"processes: {error}. Open files and locks in `__getitem__` and define functions at the top of a "
                "module, or set use_multiprocessing=False, which makes the batches in threads."
            ) from error
        digest = Digest(content).hex()
        seed = Digest(json.dumps(random_states.read()), str(epoch)).hex()
        while len(self._workers) < self._count:
            self._workers.append(_Worker(type(self._dataset).__name__))
        return [functools.partial(worker.make, content, digest, seed) for worker in self._workers]

    def end(self) -> None:
        """Kills the processes."""
        _end_all(self._workers)
        self._ended()


class WorkerError(RuntimeError):
    """A worker process of a dataset ended, or raised what cannot be pickled."""


@final
class _Worker:
    """A process that makes batches of a dataset."""

    def __init__(self, name: str) -> None:
        self._name, self._digest = name, ""
        self._using = threading.Lock()
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs,), name=f"worker of {name}", daemon=True)
        # The process inherits the blocked signals, until it ignores them: a thread cannot set handlers.
        with stop_signals_held():
            self._process.start()
        theirs.close()

    def make(self, content: bytes, digest: str, seed: str, index: int) -> Structure:
        with self._using:
            try:
                self._connection.send((None if self._digest == digest else content, seed, index))
                self._digest = digest
                batch, error, text = self._connection.recv()
            except (EOFError, OSError):
                self._process.join(PATIENCE)
                raise WorkerError(
                    f"A worker process of {self._name} {how_it_ended(self._process.exitcode)}. If it could not start, "
                    "its error is printed above: protect what a script runs with `if __name__ == '__main__':`, or set "
                    "use_multiprocessing=False."
                ) from None
        if text is None:
            return batch
        raise _error_of(error, text)

    def end(self) -> None:
        self._process.kill()
        self._process.join()


def _end_all(workers: list[_Worker]) -> None:
    while workers:
        workers.pop().end()


def _error_of(pickled: bytes | None, text: str) -> BaseException:
    """The error of a worker process, with its traceback there as a note."""
    error: BaseException | None = None
    if pickled is not None:
        with contextlib.suppress(Exception):
            error = pickle.loads(pickled)
    if not isinstance(error, BaseException):
        error = WorkerError(text.strip().splitlines()[-1])
    error.add_note(f"In the worker process:\n{text.rstrip()}")
    return error


def _serve(pipe: connection.Connection) -> None:
    """Makes batches until the pipe is closed."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    # Several processes cannot share a GPU, and batches are made on the CPU.
    os.environ.update(CUDA_VISIBLE_DEVICES="-1", JAX_PLATFORMS="cpu")
    threading.Thread(target=_end_with_parent, daemon=True).start()
    dataset: Any = None
    convert: Any = None
    with contextlib.suppress(EOFError, OSError):
        while True:
            content, seed, index = pipe.recv()
            answer: tuple[Any, bytes | None, str | None]
            try:
                if content is not None:
                    dataset, convert = _loaded(content)
                random_states.seed(int(Digest(seed, str(index), size=4).hex(), 16))
                answer = (convert(dataset[index]), None, None)
            except Exception as error:
                answer = (None, _pickled(error), "".join(traceback.format_exception(error)))
            pipe.send(answer)


def _loaded(content: bytes) -> Any:
    try:
        return pickle.loads(content)
    except Exception as error:
        raise WorkerError(
            f"A worker process cannot load the dataset: {error}. Define its class in a file that can be imported, not "
            "in a notebook, or set use_multiprocessing=False."
        ) from error


def _pickled(error: Exception) -> bytes | None:
    with contextlib.suppress(Exception):
        return pickle.dumps(error)
    return None


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        connection.wait([parent.sentinel])
        os._exit(1)
