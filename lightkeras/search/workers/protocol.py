"""Interfaces between the pool and worker processes, wherever these run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

THREADS = (
    "TF_NUM_INTRAOP_THREADS",
    "TF_NUM_INTEROP_THREADS",
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "NPROC",  # read by XLA
)
"""Environment variables that set the number of threads of the backends and their libraries. CPU affinity would pin
workers to cores that other processes use."""

Message = tuple[str, Any]
"""Kind and content of a message; see `lightkeras.search.workers.process`."""


class Channel(Protocol):
    """A two-way connection to a worker process."""

    def started(self) -> bool:
        """Returns False while the process waits for a free place on a cluster."""

    def send(self, message: Message) -> None:
        """Sends a message; it is lost if the worker has ended, see `ended`."""

    def received(self) -> list[Message]:
        """Returns the messages since the last call, in order."""

    def ended(self) -> str | None:
        """Returns how the process ended, such as `"was killed by SIGKILL"`; `None` while it lives.

        Call it before `received`, which then has all messages that the process sent.
        """

    def last_output(self) -> str:
        """Returns the last output of the process outside of a run; may be empty."""

    def memory_bytes(self) -> int:
        """Returns the private memory of the process; 0 if not known."""

    def terminate(self) -> None:
        """Makes the process save its run and end (SIGTERM)."""

    def end(self) -> None:
        """Kills the process."""


class Launcher(Protocol):
    """Starts worker processes."""

    threads: int
    """Threads of each worker."""
    memory: float | None
    """Maximum private memory of a worker in bytes; `None` if it is not limited."""

    def begin(self) -> None:
        """Marks the directory of the search, which now exists; an OSError if a machine cannot see it."""

    def capacity(self) -> int:
        """Returns the number of workers that can run now."""

    def start(self, slot: int) -> Channel:
        """Starts the worker of a slot."""

    def wait(self, channels: Sequence[Any], seconds: float) -> None:
        """Waits until a channel has messages or has ended, or for the timeout."""

    def close(self) -> None:
        """Releases its resources, after all workers have ended."""


def environment_of_threads(count: int, environment: Mapping[str, str]) -> dict[str, str]:
    """Returns the variables that make a process compute with `count` threads, without those that are set already."""
    return {name: str(count) for name in THREADS if name not in environment}


def last_lines(path: Path, most: int = 300) -> str:
    """Returns the last lines of a text file as one line; empty if the file cannot be read."""
    try:
        text = path.read_text(errors="replace")
    except OSError:
        return ""
    return " / ".join(text.strip().splitlines()[-3:])[-most:]
