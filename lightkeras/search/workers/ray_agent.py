"""The agent of a search on a node of a Ray cluster: starts a worker process there, and carries its messages.

It imports neither Keras nor the task, and forwards messages as bytes, so that it is cheap. The worker is the same as on
one machine: it saves its run after SIGTERM, sends heartbeats, and ends with its agent. An actor that ran the trials
itself would need all of this again.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.machinery
import importlib.util
import os
import sys
import tempfile
import threading
import types
from collections.abc import Iterator, Mapping
from multiprocessing.connection import wait
from multiprocessing.spawn import get_preparation_data
from pathlib import Path
from typing import final

from lightkeras.search.workers.local import start_worker
from lightkeras.search.workers.process import SHARE_IT, Setup, output_to
from lightkeras.search.workers.protocol import last_lines
from lightkeras.system import memory
from lightkeras.system.environment import versions
from lightkeras.system.signals import how_it_ended


@dataclasses.dataclass(frozen=True)
class Origin:
    """What a worker needs to import the modules of the search's process.

    `main_name` is `None` if the main module was run as a file, `main_path` if it has none.
    """

    main_name: str | None
    main_path: str | None
    search_path: tuple[str, ...]
    environment: Mapping[str, str]
    version: str


def origin(environment: Mapping[str, str], version: str) -> Origin:
    """Returns the origin for this process."""
    found = get_preparation_data("lightkeras")
    name, path = found.get("init_main_from_name"), found.get("init_main_from_path")
    return Origin(name, path, tuple(sys.path), dict(environment), version)


def missing_requirement(origin: Origin, module: str) -> str | None:
    """Returns what this node lacks to run workers of a search; `None` if nothing. Imports nothing."""
    version = versions().get("lightkeras", "")
    if version != origin.version:
        return f"has lightkeras {version}, and the search has {origin.version}: install the same one on all nodes"
    if origin.main_path is not None and not Path(origin.main_path).exists():
        return f"does not have the file {origin.main_path}: put it there, or on a file system that all nodes share"
    _find_as(origin)
    for name in (origin.main_name, module):
        package = (name or "__main__").partition(".")[0]
        if package != "__main__" and importlib.util.find_spec(package) is None:
            return f"cannot import {package}: install it there, or put it on a file system that all nodes share"
    return None


def unseen_directory(setup: Setup) -> str | None:
    """Returns an error if this node cannot see the directory of the search; `None` if it can.

    A path that exists may be on the node's own disk, hence the token in the file.
    """
    return None if setup.sees_directory() or setup.using is None else f"cannot see {setup.using.parent}. {SHARE_IT}"


@dataclasses.dataclass(frozen=True)
class AgentReport:
    """Pickled messages of a worker, how it ended (`None` while alive), and what it printed last if it has ended."""

    messages: tuple[bytes, ...]
    ended: str | None
    memory_bytes: int
    last_output: str


@final
class Agent:
    """A Ray actor. Its methods may run concurrently, and are called again if an answer was lost.

    Raises a RuntimeError if the node lacks something that the search needs.
    """

    def __init__(self, setup: Setup, origin: Origin, name: str) -> None:
        problem = missing_requirement(
            origin, setup.module
        )  # the node may have joined the cluster after the first check
        if problem is not None:
            raise RuntimeError(f"The node {problem}.")
        os.environ.update(origin.environment)
        _find_as(origin)
        descriptor, name_of_file = tempfile.mkstemp(prefix="lightkeras.")
        os.unlink(name_of_file)  # stays open, and leaves nothing behind when this process is killed
        self._output = Path(f"/proc/{os.getpid()}/fd/{descriptor}")
        here = dataclasses.replace(setup, output=self._output)
        with _run_as(origin), output_to(self._output):  # for errors before `main` too
            self._process, self._connection = start_worker(here, name)
        self._listening, self._sending = threading.Lock(), threading.Lock()
        self._known, self._unsent = 0, list[bytes]()
        self._sent = set[int]()

    def listen(self, known: int, seconds: float) -> AgentReport:
        """Waits up to `seconds` until the worker sends a message or ends, and returns the messages.

        The search has received `known` of them. The others are sent again, because the last answer may be lost.
        """
        with self._listening:  # an earlier call may still be waiting, though its answer is lost
            del self._unsent[: max(0, known - self._known)]
            self._known = max(known, self._known)
            if not self._unsent:
                wait([self._connection, self._process.sentinel], seconds)
            alive = self._process.is_alive()  # checked first: all messages are in the pipe if it has ended
            with contextlib.suppress(EOFError, OSError):
                while self._connection.poll():
                    self._unsent.append(self._connection.recv_bytes())
            memory_bytes = 0
            with contextlib.suppress(OSError):
                memory_bytes = memory.private_bytes(self._process.pid or 0)
            ended = None if alive else how_it_ended(self._process.exitcode)
            return AgentReport(tuple(self._unsent), ended, memory_bytes, "" if alive else last_lines(self._output))

    def send(self, number: int, message: bytes) -> None:
        """Sends the worker a pickled message, once: a number that was sent before is ignored."""
        with self._sending, contextlib.suppress(OSError):  # the worker has ended, which `listen` reports
            if number not in self._sent:
                self._sent.add(number)
                self._connection.send_bytes(message)

    def terminate(self) -> None:
        """Makes the worker save its run and end (SIGTERM)."""
        self._process.terminate()


def _find_as(origin: Origin) -> None:
    """Adds the search's module path to the one of this process."""
    sys.path.extend(path for path in origin.search_path if path not in sys.path)


@contextlib.contextmanager
def _run_as(origin: Origin) -> Iterator[None]:
    """Replaces the main module, which a spawned process imports, by the search's."""
    mine, theirs = sys.modules["__main__"], types.ModuleType("__main__")
    theirs.__spec__ = None
    if origin.main_name is not None:
        theirs.__spec__ = importlib.machinery.ModuleSpec(origin.main_name, None)
    if origin.main_path is not None:
        theirs.__file__ = origin.main_path
    sys.modules["__main__"] = theirs
    try:
        yield
    finally:
        sys.modules["__main__"] = mine
