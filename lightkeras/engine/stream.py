"""Stream: a feed that an engine has opened at a position."""

from __future__ import annotations

import abc

from lightkeras.data.stream_reader import StreamReader
from lightkeras.data.structure import Structure


class Stream(abc.ABC):
    """A feed, opened at a position.

    Args:
        reread: Number of batches that were read and discarded to reach the position.
        reader: Source of the batches, which holds the state; `None` if the position suffices.
    """

    def __init__(self, reread: int = 0, reader: StreamReader | None = None) -> None:
        self.reread, self._reader = reread, reader

    def state(self) -> bytes | None:
        """State that `Engine.open` needs to resume here, in addition to the position; `None` if it needs none."""
        return None if self._reader is None else self._reader.state()

    @abc.abstractmethod
    def next_batch(self) -> Structure | None:
        """Returns the next batch as NumPy arrays; `None` at the end of the epoch."""

    def shapes(self) -> list[list[int | None]] | None:
        """Shapes that a step is compiled for, `None` for each size that it does not know; `None` if it knows all.

        A step that is compiled without a size may compute in another order and differ in the last digits.
        """
        return None

    def allow(self, count: int | None) -> None:  # noqa: B027, most streams are not read ahead of the steps
        """Continues after the batches that `Engine.open` was limited to, with `count` more; `None` for all."""

    def close(self) -> None:
        """Ends the stream, and waits until nothing reads its source any more."""
        if self._reader is not None:
            self._reader.close()
