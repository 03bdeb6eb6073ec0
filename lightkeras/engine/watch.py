"""Watch: heartbeats of the processes of a run, in a store that all of them reach.

    watch = Watch(store, rank, processes)
    watch.begin()
    with watch.active():             # an error here ends the other processes, and one of theirs this one
        ...

Beside the work, a thread of each process writes a count to the store once a second, and reads that of the next rank. So
a process that was killed or stopped is noticed on every backend and transport. A process that waits for it in a
collective operation, which Python cannot interrupt, is ended.
"""

from __future__ import annotations

import abc
import contextlib
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol, final

from lightkeras.engine.world import LOST_SECONDS, World, WorldError

STUCK_SECONDS = float(os.environ.get("LIGHTKERAS_STUCK_SECONDS", "1800"))
"""Time that a process waits for another one that lives, such as one that writes a large checkpoint."""
GRACE_SECONDS = 5.0
"""Time for a process to end by itself, once it is known that another one failed."""
_BEAT_SECONDS = 1.0


Explained = Callable[[], contextlib.AbstractContextManager[None]]


def stuck(ranks: str, processes: int) -> WorldError:
    """The error of a process that waited too long for others that live."""
    return WorldError(
        f"Rank {ranks} of {processes} lives, but has not come to the same place within {STUCK_SECONDS:.0f} s. Set "
        "LIGHTKERAS_STUCK_SECONDS if it needs more."
    )


class Store(Protocol):
    """Texts by key that all processes share. Its methods raise RuntimeError when the store is lost."""

    def set(self, key: str, value: str) -> None: ...

    def get(self, key: str) -> bytes:
        """Waits for the key."""

    def multi_get(self, keys: list[str]) -> list[bytes]:
        """As `get`."""

    def check(self, keys: list[str]) -> bool:
        """Whether all keys have values."""

    def compare_set(self, key: str, expected: str, value: str) -> object:
        """With `""` as `expected`: sets a key that has no value."""


@final
class Watch:
    """Heartbeats of the processes, in the store of their group.

    Args:
        store: The store.
        rank: Number of this process.
        processes: Number of processes.
    """

    def __init__(self, store: Store, rank: int, processes: int) -> None:
        self._store, self._rank, self._processes = store, rank, processes
        self._session = 0  # number of `active` contexts so far, the same in all processes
        self._depth = 0
        self._failed = False
        self._ended = threading.Event()
        store.set(self._beat_of(rank), "0")

    def begin(self) -> None:
        """Begins to watch, when all processes have come."""
        threading.Thread(target=self._run, name="lightkeras-watch", daemon=True).start()

    def end(self) -> None:
        """Ends to watch, with the process."""
        self._ended.set()

    @contextlib.contextmanager
    def active(self, explained: Explained = contextlib.nullcontext) -> Iterator[None]:
        """Context in which a process that is lost or fails ends this one, and an error of this one the others.

        The outermost one enters the context `explained`, which explains errors of the backend.
        """
        outermost = not self._depth
        if outermost:
            self._session, self._failed = self._session + 1, False
        self._depth += 1
        try:
            with explained() if outermost else contextlib.nullcontext():
                yield
        except BaseException as error:
            if outermost:
                error.add_note(f"(on rank {self._rank} of {self._processes})")
                self.fail(f"Rank {self._rank} ended with {type(error).__name__}: {error}")
            raise
        finally:
            self._depth -= 1

    @property
    def has_failed(self) -> bool:
        """Whether this process ended the others."""
        return self._failed

    def fail(self, words: str) -> None:
        """Tells the other processes why this one ends, unless another one failed before."""
        self._failed = True
        with contextlib.suppress(RuntimeError):  # the store is gone, with its process
            self._store.compare_set(self._failure, "", words)

    def last_words(self) -> str | None:
        """Why another process ended; `None` if none did."""
        return self._words() if self._store.check([self._failure]) else None

    def explain(self, error: Exception) -> str | None:
        """Why a collective operation failed: the last words of another process, or the one without a sign of life.

        `None` if all other processes live.
        """
        deadline = time.monotonic() + GRACE_SECONDS
        store, before, beats = self._store, None, list[bytes]()
        try:
            while time.monotonic() < deadline:
                if (words := self.last_words()) is not None:
                    return words
                beats = store.multi_get([self._beat_of(rank) for rank in range(self._processes)])
                before = beats if before is None else before
                time.sleep(0.1)
        except RuntimeError:
            return f"Rank 0 is lost, or torchrun, which keeps the store of the process group. ({first_line(error)})"
        silent = [rank for rank, beat in enumerate(beats) if before is not None and beat == before[rank]]
        lost = [rank for rank in silent if rank != self._rank]
        if not lost:
            return None
        self.fail(found := self._lost(lost))
        return found

    def _run(self) -> None:
        """Writes heartbeats and reads those of the next rank, until the process ends."""
        store = self._store
        other = (self._rank + 1) % self._processes
        count, seen, last = 0, time.monotonic(), None
        while not self._ended.wait(_BEAT_SECONDS):
            count += 1
            try:
                store.set(self._beat_of(self._rank), str(count))
                beat = store.get(self._beat_of(other))
                seen, last = (seen, last) if beat == last else (time.monotonic(), beat)
                words = self.last_words() if self._depth else None
            except RuntimeError:  # the store is gone: of a run that has ended, or with its process
                words = "The store of the process group is lost, which rank 0 keeps, or torchrun."
            if words is None and self._depth and time.monotonic() - seen > LOST_SECONDS:
                words = self._lost([other])
            if words is not None and self._depth and not self._failed:
                self._end(words)

    def _end(self, words: str) -> None:
        """Ends this process, unless it ends by itself: the main thread may wait for ever in native code."""
        session = self._session
        with contextlib.suppress(RuntimeError):
            self._store.compare_set(self._failure, "", words)
        time.sleep(GRACE_SECONDS)
        if self._depth and self._session == session and not self._failed:
            print(f"lightkeras: {words} Rank {self._rank} ends too.", file=sys.stderr, flush=True)
            os._exit(1)

    def _words(self) -> str:
        words: str = self._store.get(self._failure).decode()
        return words

    def _lost(self, ranks: Sequence[int]) -> str:
        names = ", ".join(map(str, ranks))
        return (
            f"Rank {names} of {self._processes} gives no sign of life: it was killed, perhaps because memory ran out, "
            "was stopped, or its host is lost. Resume the run with resume=True (--resume)."
        )

    @property
    def _failure(self) -> str:
        return f"failed/{self._session}"

    @staticmethod
    def _beat_of(rank: int) -> str:
        return f"beat/{rank}"


def first_line(error: BaseException) -> str:
    """The first line of an error's message."""
    return (str(error).splitlines() or [type(error).__name__])[0]


class WatchedWorld(World):
    """Processes whose errors are explained by what the watch knows of the others."""

    _watch: Watch

    @contextlib.contextmanager
    def watched(self) -> Iterator[None]:
        with self._watch.active(self._explained):
            yield

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        """Context that names the process that was lost in errors of collective operations."""
        try:
            yield
        except Exception as error:
            if not self._is_of_collectives(error) or (found := self._watch.explain(error)) is None:
                raise
            raise self._lost(found) from error

    @abc.abstractmethod
    def _is_of_collectives(self, error: Exception) -> bool:
        """Whether a collective operation may have raised an error, which knows no ranks."""

    def _lost(self, words: str) -> WorldError:
        """The error of a process that was lost."""
        return WorldError(words)
