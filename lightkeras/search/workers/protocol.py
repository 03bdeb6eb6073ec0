"""What the pool knows of a worker process, wherever that runs, and of what starts one."""

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
    "NPROC",  # what XLA asks for
)
"""Variables of the environment that make the backends, and what they use, compute with so many threads."""

Message = tuple[str, Any]
"""What is said, and what belongs to it: see `lightkeras.search.workers.process`."""


class Channel(Protocol):
    """The way to a worker process and back."""

    def started(self) -> bool:
        """Whether the process was started; not yet where it waits for a place."""

    def send(self, message: Message) -> None:
        """Sends a message; one to a worker that has died is lost, which `ended` tells."""

    def received(self) -> list[Message]:
        """What came since it was asked last, in order."""

    def ended(self) -> str | None:
        """How the process ended, as in `"was killed by SIGKILL"`; `None` while it lives.

        Asked before `received`: what it said before it ended is there by then.
        """

    def last_words(self) -> str:
        """What the process said last outside of a run; may be empty."""

    def held(self) -> int:
        """Memory that it holds for itself, in bytes; 0 where that is not known."""

    def terminate(self) -> None:
        """Tells the process to save its run and to end."""

    def end(self) -> None:
        """Ends the process at once."""


class Launcher(Protocol):
    """Starts worker processes."""

    threads: int
    """Threads that each computes with."""
    memory: float | None
    """Most memory of each worker's own, in bytes; `None` where it is not watched."""

    def begin(self) -> None:
        """Makes the directory of the search, which is there now, known to where workers may be put.

        Raises:
            OSError: A machine does not see it.
        """

    def places(self) -> int:
        """How many workers there is a place for now."""

    def start(self, slot: int) -> Channel:
        """Starts the worker of a slot."""

    def wait(self, channels: Sequence[Any], seconds: float) -> None:
        """Waits until one of the channels has news, at most so long."""

    def close(self) -> None:
        """Gives back what it took. All workers have ended."""


def environment_of_threads(count: int, environment: Mapping[str, str]) -> dict[str, str]:
    """What to set so that a process computes with `count` threads; what is set already stays."""
    return {name: str(count) for name in THREADS if name not in environment}


def last_lines(path: Path, most: int = 300) -> str:
    """The end of a text file, in one line; empty where there is none."""
    try:
        text = path.read_text(errors="replace")
    except OSError:
        return ""
    return " / ".join(text.strip().splitlines()[-3:])[-most:]
