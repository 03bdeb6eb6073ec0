"""Reads a stream whose position cannot be saved: to resume, it is read again from its start."""

from __future__ import annotations

import dataclasses
import inspect
import threading
import weakref
from collections.abc import Generator, Iterator, Mapping
from typing import Any, final

from lightkeras.data import batch_workers
from lightkeras.data.feed import StreamFeed, raw_feed
from lightkeras.data.structure import Structure, digest_of, owned
from lightkeras.system import random_states


@dataclasses.dataclass(frozen=True)
class Continued:
    """Where an epoch begins in a stream that epochs continue, see `StreamFeed.continues`.

    Args:
        batches: Batches that earlier epochs took since the stream was opened.
        openings: Times it was opened before, because it had come to its end.
        random: States of the global random generators when it was opened, see `random_states.read`.
    """

    batches: int
    openings: int
    random: Mapping[str, Any]


PATIENCE = 5.0
"""Seconds that the end of a run, or another source, waits for a source that does not return its batch."""

_open: weakref.WeakSet[StreamReader] = weakref.WeakSet()


@final
class StreamReader:
    """A stream that was opened: its only reader, which owns the batches that it returns.

    The source may write to the memory of a batch again as soon as it is asked for the next one, so each batch is
    copied, once. A reader of the same feed that is still open is closed. Readers of other feeds wait until this one is
    closed, so that no source is read by two threads at once: two generators may share a file or a random generator,
    which nothing shows. A reader whose source makes no batch for `PATIENCE` is not waited for, unless it has the same
    source.

    A generator or a `DataLoader` has no position: the batches before `step`, and those that earlier epochs took of a
    stream that they continue, are read and discarded. Whether they are the same batches as in the run before cannot be
    checked, only the first one, by its digest in `state`. A ValueError if that differs, or the epoch ends too soon.
    """

    def __init__(
        self,
        feed: StreamFeed,
        epoch: int,
        step: int = 0,
        state: bytes | None = None,
        continued: Continued | None = None,
    ) -> None:
        self._feed, self._epoch = feed, epoch
        self._source: Iterator[Structure] | None = None
        self._reading = threading.Lock()  # held while the source makes a batch, and while another reader has its turn
        self._closed, self._holds = False, 0
        self._first: str | None = None
        self._count = 0  # batches read
        self.error: Exception | None = None
        """The exception that the stream raised, which a backend may wrap in one of its own."""
        self._held: list[StreamReader] = []
        self._take_turn()
        before = 0 if continued is None else continued.batches
        expected = None if state is None else state.decode(errors="replace")
        if continued is not None and before:
            now = random_states.read()
            random_states.write(continued.random)
            self._skip(before, expected)
            random_states.write(now)
        self._skip(before + step, expected)

    @property
    def spec(self) -> Structure:
        """As in `Feed.spec`."""
        return self._feed.spec

    def batches(self, limit: int | None = None) -> Iterator[Structure]:
        """The next batches: `limit` of them, and no more are read; `None` for all that remain."""
        while limit is None or limit > 0:
            limit = None if limit is None else limit - 1
            batch = self._next(limit)
            if batch is None:
                return
            yield batch

    def state(self) -> bytes | None:
        """A digest of the first batch; `None` before that was read."""
        return None if self._first is None else self._first.encode()

    def close(self, patience: float = PATIENCE) -> None:
        """Ends the reading: waits until the source has made the batch that it is making, and closes it.

        Args:
            patience: Seconds to wait, -1 without end. After that the source is closed when it has made the batch, and
                the next reader waits for that.
        """
        self._closed = True
        try:
            if not self._holds and not self._reading.acquire(timeout=patience):
                return
            self._holds = 0
            try:
                self._end()
            finally:
                self._reading.release()
        finally:
            self._release_others()

    def __del__(self) -> None:
        self._release_others()  # of a stream that was read to its end, or left

    def _take_turn(self) -> None:
        for other in list(_open):
            if raw_feed(other._feed) is raw_feed(self._feed):
                other.close(patience=-1)
            elif other._hold(-1 if _same_source(other._feed.origin, self._feed.origin) else PATIENCE):
                self._held.append(other)
        batch_workers.settle()  # their threads may still make batches
        _open.add(self)

    def _hold(self, patience: float) -> bool:
        if not self._holds and not self._reading.acquire(timeout=patience):
            return False
        self._holds += 1
        return True

    def _release_others(self) -> None:
        while self._held:
            self._held.pop()._release()

    def _release(self) -> None:
        if self._holds:
            self._holds -= 1
            if not self._holds:
                self._reading.release()

    def _next(self, left: int | None) -> Structure | None:
        """The next batch; `None` at the end. At most `left` more will be asked for."""
        with self._reading:
            if self._closed:
                return None
            try:
                if self._source is None:
                    self._source = iter(self._feed.open_epoch(self._epoch))
                with batch_workers.reading_ahead(left):
                    batch = next(self._source, None)
                if batch is None or self._closed:
                    self._closed = True
                    self._end()
                    return None
                batch = owned(batch)
            except Exception as error:
                self.error = error
                raise
            self._count += 1
            if self._first is None:
                self._first = digest_of(batch)
            return batch

    def _end(self) -> None:
        _open.discard(self)
        source, self._source = self._source, None
        if isinstance(source, Generator):
            source.close()
        self._release_others()

    def _skip(self, count: int, expected: str | None) -> None:
        """Reads and discards batches up to the first `count`."""
        while self._count < count:
            if self._next(count - self._count - 1) is None:
                raise ValueError(
                    f"Epoch {self._epoch + 1} of the stream has {self._count} batches, but the run was saved after "
                    f"{count} of them: expected the same stream. Give the data the run was started with."
                )
            if self._count == 1 and expected is not None and self._first != expected:
                raise ValueError(
                    f"Epoch {self._epoch + 1} of the stream begins with another batch than it did before, so the run "
                    "cannot resume inside it. Let the order of an epoch depend on the epoch alone: give a function "
                    "`batches(epoch)` that returns the batches of one epoch, or shuffle with NumPy's or Python's "
                    "global generator, whose states are restored."
                )


def _same_source(one: Any, other: Any) -> bool:
    """Whether two origins are one object; a bound method is read from its object."""
    found = [origin.__self__ if inspect.ismethod(origin) else origin for origin in (one, other)]
    return found[0] is not None and found[0] is found[1]
