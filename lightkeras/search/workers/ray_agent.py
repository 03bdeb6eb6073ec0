"""What stands for a search on a node of a Ray cluster: it starts a worker process there, and carries what is said.

It imports neither Keras nor the task, so that it costs the node little, and hands on messages as the bytes that they
are. The worker is the one of a search on one machine: it saves its run when it is told to end, says what it does, and
ends with its agent, however that ends.
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

from lightkeras.search.workers.local import how_it_ended, start_worker
from lightkeras.search.workers.process import SHARE_IT, Setup, output_to
from lightkeras.search.workers.protocol import last_lines
from lightkeras.system import memory
from lightkeras.system.environment import versions


@dataclasses.dataclass(frozen=True)
class Origin:
    """What a worker has to know of the search's process to import what that has imported.

    Args:
        main_name: Name of the module that was run; `None` where it was a file.
        main_path: The file that was run; `None` where there is none.
        search_path: `sys.path`.
        environment: Variables of the environment.
        version: Version of lightkeras.
    """

    main_name: str | None
    main_path: str | None
    search_path: tuple[str, ...]
    environment: Mapping[str, str]
    version: str


def origin(environment: Mapping[str, str], version: str) -> Origin:
    """Of this process."""
    found = get_preparation_data("lightkeras")
    name, path = found.get("init_main_from_name"), found.get("init_main_from_path")
    return Origin(name, path, tuple(sys.path), dict(environment), version)


def what_is_missing(origin: Origin, module: str) -> str | None:
    """What this node lacks to work for a search; `None` if nothing. It imports nothing of that.

    Args:
        origin: Where the search comes from.
        module: Name of the task's module.
    """
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


def what_is_not_seen(setup: Setup) -> str | None:
    """The directory of a search, where this node does not see it; `None` if it does."""
    return None if setup.sees_directory() or setup.using is None else f"does not see {setup.using.parent}. {SHARE_IT}"


@dataclasses.dataclass(frozen=True)
class News:
    """What an agent tells.

    Args:
        messages: Pickled messages of the worker.
        ended: How the worker ended; `None` while it lives.
        held: Memory of its own, in bytes.
        last_words: What it said last outside of a run, if it ended.
    """

    messages: tuple[bytes, ...]
    ended: str | None
    held: int
    last_words: str


@final
class Agent:
    """An actor of Ray; its methods may run side by side, and be called again where the answer was lost.

    Args:
        setup: What the worker is started with.
        origin: Where the search comes from.
        name: Name of the worker.

    Raises:
        RuntimeError: The node lacks what the search needs.
    """

    def __init__(self, setup: Setup, origin: Origin, name: str) -> None:
        problem = what_is_missing(origin, setup.module)  # this node may have joined the cluster later
        if problem is not None:
            raise RuntimeError(f"The node {problem}.")
        os.environ.update(origin.environment)
        _find_as(origin)
        descriptor, name_of_file = tempfile.mkstemp(prefix="lightkeras.")
        os.unlink(name_of_file)  # it is never closed, and nothing of it is left when this process is killed
        self._output = Path(f"/proc/{os.getpid()}/fd/{descriptor}")
        here = dataclasses.replace(setup, output=self._output)
        with _run_as(origin), output_to(self._output):  # also of what goes wrong before it is at `main`
            self._process, self._connection = start_worker(here, name)
        self._listening, self._sending = threading.Lock(), threading.Lock()
        self._known, self._untold = 0, list[bytes]()
        self._sent = set[int]()

    def listen(self, known: int, seconds: float) -> News:
        """Waits until the worker says something or ends, at most so long, and tells what it said.

        Args:
            known: Messages that the search has, of all that the worker ever sent. The others are told again, for what
                was told last may be lost.
            seconds: How long at most.
        """
        with self._listening:  # the one before may still be waiting, though the search has lost it
            del self._untold[: max(0, known - self._known)]
            self._known = max(known, self._known)
            if not self._untold:
                wait([self._connection, self._process.sentinel], seconds)
            alive = self._process.is_alive()  # asked first: what it said before it ended is in the pipe by then
            with contextlib.suppress(EOFError, OSError):
                while self._connection.poll():
                    self._untold.append(self._connection.recv_bytes())
            held = 0
            with contextlib.suppress(OSError):
                held = memory.private_bytes(self._process.pid or 0)
            ended = None if alive else how_it_ended(self._process.exitcode)
            return News(tuple(self._untold), ended, held, "" if alive else last_lines(self._output))

    def send(self, number: int, message: bytes) -> None:
        """Sends the worker a pickled message, once.

        Args:
            number: Which of the messages to this worker it is.
            message: The message.
        """
        with self._sending, contextlib.suppress(OSError):  # the worker has died, which `listen` tells
            if number not in self._sent:
                self._sent.add(number)
                self._connection.send_bytes(message)

    def terminate(self) -> None:
        """Tells the worker to save its run and to end."""
        self._process.terminate()


def _find_as(origin: Origin) -> None:
    """Lets this process find modules where the search's process does."""
    sys.path.extend(path for path in origin.search_path if path not in sys.path)


@contextlib.contextmanager
def _run_as(origin: Origin) -> Iterator[None]:
    """With the search's main module for that of this process, which a spawned process imports."""
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
