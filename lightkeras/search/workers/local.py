"""Worker processes of this machine, and their channels.

They are started anew (spawned, not forked): each imports the task's file, Keras and its backend by itself, and the
process of the search computes nothing.
"""

from __future__ import annotations

import contextlib
import dataclasses
import multiprocessing
import os
import signal
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, final

from lightkeras.search.workers.process import Setup, main
from lightkeras.search.workers.protocol import Channel, Message, environment_of_threads, last_lines
from lightkeras.system import memory


def start_worker(setup: Setup, name: str) -> tuple[Any, Connection]:
    """Starts a worker as a process of this one; gives the process, and the end of the pipe to it."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=main, args=(theirs, setup), name=name)
    process.start()
    theirs.close()
    return process, ours


@final
class LocalChannel:
    """A process that was started here; see `Channel`.

    Args:
        setup: What it is started with.
        name: Its name.
        environment: What it gets in its environment beside what this process has.
    """

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

    def last_words(self) -> str:
        return "" if self._output is None else last_lines(self._output)

    def held(self) -> int:
        try:
            return memory.private_bytes(self.process.pid or 0)
        except OSError:  # it has ended meanwhile, or the system does not tell
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
    """Starts worker processes here; see `Launcher`.

    Args:
        setup: What each is started with.
        workers: How many there are at most.
        memory: Most memory of each, in bytes; `None` divides what is free now.
        threads: Threads of each; `None` divides the cores.
    """

    def __init__(self, setup: Setup, workers: int, memory: float | None = None, threads: int | None = None) -> None:
        self._setup, self._workers = setup, workers
        self.threads = threads or max(1, len(os.sched_getaffinity(0)) // workers)
        self.memory = _share(workers) if memory is None else memory
        self._folder = tempfile.TemporaryDirectory(prefix="lightkeras.")
        self._started = 0

    def begin(self) -> None:
        self._setup.mark()

    def places(self) -> int:
        return self._workers

    def start(self, slot: int) -> Channel:
        self._started += 1
        setup = dataclasses.replace(self._setup, output=Path(self._folder.name) / f"worker-{self._started}.txt")
        environment = environment_of_threads(self.threads, os.environ)
        return LocalChannel(setup, f"lightkeras worker {slot}", environment)

    def wait(self, channels: Sequence[Any], seconds: float) -> None:
        with contextlib.suppress(InterruptedError):
            wait([part for one in channels for part in (one.connection, one.process.sentinel)], seconds)

    def close(self) -> None:
        self._folder.cleanup()


def how_it_ended(code: int | None) -> str:
    """In words, how a process ended with an exit code of `multiprocessing`."""
    if code is None or code >= 0:
        return f"ended with status {code}"
    name = signal.Signals(-code).name
    return f"was killed by {name}" + (", perhaps because memory ran out" if name == "SIGKILL" else "")


def _share(workers: int) -> float | None:
    """Memory of each worker's own, in bytes; `None` where the system does not tell."""
    try:
        return 0.9 * memory.available_bytes() / workers
    except OSError:
        return None


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
