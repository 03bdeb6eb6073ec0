"""Worker processes on this machine, and their channels.

Workers are spawned, not forked, because TensorFlow and JAX do not survive a fork: each imports the task's file, Keras
and its backend. The process of the search computes nothing.
"""

from __future__ import annotations

import contextlib
import dataclasses
import multiprocessing
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, final

from lightkeras.search.workers.gpus import environments_of_slots
from lightkeras.search.workers.process import Setup, main
from lightkeras.search.workers.protocol import Channel, Message, environment_of_threads, last_lines
from lightkeras.system import memory, portable
from lightkeras.system.signals import how_it_ended


def start_worker(setup: Setup, name: str) -> tuple[Any, Connection]:
    """Starts a worker as a child process. Returns the process and this end of the pipe."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=main, args=(theirs, setup), name=name)
    process.start()
    theirs.close()
    return process, ours


@final
class LocalChannel:
    """A child process, with more environment variables than this one; see `Channel`."""

    def __init__(self, setup: Setup, name: str, environment: Mapping[str, str]) -> None:
        self._output, self._closed = setup.output, False
        with _environment(environment):
            self.process, self.connection = start_worker(setup, name)

    def started(self) -> bool:
        return True

    def send(self, message: Message) -> None:
        with contextlib.suppress(OSError):
            self.connection.send(message)

    def received(self) -> list[Message]:
        found: list[Message] = []
        with contextlib.suppress(EOFError, OSError):
            while not self._closed and self.connection.poll():
                found.append(self.connection.recv())
        return found

    def ended(self) -> str | None:
        if self._closed or self.process.is_alive():
            return None
        return how_it_ended(self.process.exitcode)

    def last_output(self) -> str:
        return "" if self._output is None else last_lines(self._output)

    def memory_bytes(self) -> int:
        try:
            return memory.private_bytes(self.process.pid or 0)
        except OSError:  # it has ended, or the system is not Linux
            return 0

    def terminate(self) -> None:
        self.process.terminate()

    def end(self) -> None:
        if not self._closed:
            self._closed = True
            self.process.kill()
            self.process.join()
            self.connection.close()
            self.process.close()


@final
class LocalLauncher:
    """Starts worker processes on this machine; see `Launcher`.

    `memory` is the maximum private memory of each in bytes; `None` divides the available memory. `threads` are those of
    each; `None` divides the cores. `gpus` are those of each, or the fraction of one; with 0 they share all. Raises a
    ValueError if there are fewer.
    """

    def __init__(
        self, setup: Setup, workers: int, memory: float | None = None, threads: int | None = None, gpus: float = 0.0
    ) -> None:
        self._gpus = environments_of_slots(gpus, workers)
        self._setup, self._workers = setup, workers
        self.threads = threads or max(1, portable.cores() // workers)
        self.memory = _share(workers) if memory is None else memory
        self._folder = tempfile.TemporaryDirectory(prefix="lightkeras.")
        self._started = 0

    def begin(self) -> None:
        self._setup.mark()

    def capacity(self) -> int:
        return self._workers

    def start(self, slot: int) -> Channel:
        self._started += 1
        setup = dataclasses.replace(self._setup, output=Path(self._folder.name) / f"worker-{self._started}.txt")
        environment = environment_of_threads(self.threads, os.environ) | self._gpus[slot]
        return LocalChannel(setup, f"lightkeras worker {slot}", environment)

    def wait(self, channels: Sequence[Any], seconds: float) -> None:
        with contextlib.suppress(InterruptedError):
            wait([part for one in channels for part in (one.connection, one.process.sentinel)], seconds)

    def close(self) -> None:
        self._folder.cleanup()


def _share(workers: int) -> float | None:
    """Share of each worker of the available memory in bytes; `None` if the system is not Linux."""
    try:
        return 0.9 * memory.available_bytes() / workers
    except OSError:
        return None


@contextlib.contextmanager
def _environment(more: Mapping[str, str]) -> Iterator[None]:
    """Sets environment variables while a process is started."""
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
