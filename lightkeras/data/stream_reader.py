"""Reads a stream whose position cannot be saved: to resume, it is read again from its start."""

from __future__ import annotations

from collections.abc import Iterator
from typing import final

from lightkeras.data.feed import StreamFeed
from lightkeras.data.structure import Structure, digest_of


@final
class StreamReader:
    """One epoch of a stream, from batch `step`; `state` is from the saved run, or `None` to skip its check.

    A generator or a `DataLoader` has no position: the batches before `step` are read and discarded. Whether they are
    the same batches as in the run before cannot be checked, only the first one, by its digest. A ValueError if that
    differs, or the epoch ends too soon.
    """

    def __init__(self, feed: StreamFeed, epoch: int, step: int = 0, state: bytes | None = None) -> None:
        self._feed, self._epoch = feed, epoch
        self._first: str | None = None
        self.error: Exception | None = None
        """The exception that the stream raised, which a backend may wrap in one of its own."""
        self._batches: Iterator[Structure] = self._read()
        if step:
            self._skip(step, None if state is None else state.decode(errors="replace"))

    @property
    def spec(self) -> Structure:
        """As in `Feed.spec`."""
        return self._feed.spec

    def batches(self) -> Iterator[Structure]:
        """The remaining batches."""
        return self._batches

    def state(self) -> bytes | None:
        """A digest of the epoch's first batch; `None` before that was read."""
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
                    f"Epoch {self._epoch + 1} of the stream has {number} batches, but the run was saved after {step} "
                    "of them: expected the same stream. Give the data the run was started with."
                )
            if number == 0 and expected is not None and self._first != expected:
                raise ValueError(
                    f"Epoch {self._epoch + 1} of the stream begins with another batch than it did before, so the run "
                    "cannot resume inside it. Let the order of an epoch depend on the epoch alone: give a function "
                    "`batches(epoch)` that returns the batches of one epoch, or shuffle with NumPy's or Python's "
                    "global generator, whose states are restored."
                )
