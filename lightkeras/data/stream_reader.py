"""Reading a stream that has no state of its own: to come to a position again it is read from its start."""

from __future__ import annotations

from collections.abc import Iterator
from typing import final

from lightkeras.data.feed import StreamFeed
from lightkeras.data.structure import Structure, digest_of


@final
class StreamReader:
    """One epoch of a stream.

    Args:
        feed: The stream.
        epoch: The epoch, from 0.
        step: Batches that are read and thrown away first.
        state: What `state` gave at this position; `None` checks nothing.

    Raises:
        ValueError: The epoch begins with another batch than it began with before, or ends too soon.
    """

    def __init__(self, feed: StreamFeed, epoch: int, step: int = 0, state: bytes | None = None) -> None:
        self._feed, self._epoch = feed, epoch
        self._first: str | None = None
        self.error: Exception | None = None
        """What reading it raised, for those who get it in other words."""
        self._batches: Iterator[Structure] = self._read()
        if step:
            self._skip(step, None if state is None else state.decode())

    @property
    def spec(self) -> Structure:
        """As in `Feed.spec`."""
        return self._feed.spec

    def batches(self) -> Iterator[Structure]:
        """The batches that are left."""
        return self._batches

    def state(self) -> bytes | None:
        """A digest of the epoch's first batch; `None` before it was read."""
        return None if self._first is None else self._first.encode()

    def _read(self) -> Iterator[Structure]:
        try:
            for batch in self._feed.open_epoch(self._epoch):
                if self._first is None:
                    self._first = digest_of(batch)
                yield batch
        except Exception as error:
            self.error = error
            raise

    def _skip(self, step: int, expected: str | None) -> None:
        for number in range(step):
            if next(self._batches, None) is None:
                raise ValueError(
                    f"Epoch {self._epoch + 1} of the stream has {number} batches, but {step} of them were trained on "
                    "before: expected the same stream. Give the data the run was started with."
                )
            if number == 0 and expected is not None and self._first != expected:
                raise ValueError(
                    f"Epoch {self._epoch + 1} of the stream begins with another batch than it did before, so the run "
                    "cannot go on inside it. Let the order of an epoch depend on the epoch alone: give a function "
                    "`batches(epoch)` that returns the batches of one epoch, or shuffle with NumPy's or Python's "
                    "global generator, whose states are restored."
                )
