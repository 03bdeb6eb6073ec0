"""Streams for every backend: arrays on the device, and batches that a thread of the host prefetches."""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from collections.abc import Iterator
from typing import Any, final

import numpy as np

from lightkeras.data.bags import Bags
from lightkeras.data.feed import ArrayFeed
from lightkeras.data.stream_reader import PATIENCE
from lightkeras.data.structure import Structure, flatten, map_structure
from lightkeras.engine.stream import Stream

PREFETCH = 8
"""Number of batches that the host prefetches."""


@final
class ArrayStream(Stream):
    """Arrays on the device, and the indices of the next examples."""

    def __init__(self, feed: ArrayFeed, arrays: Structure, epoch: int, step: int, seed: int) -> None:
        super().__init__()
        self.arrays = arrays
        self._feed, self._epoch, self._step, self._seed = feed, epoch, step, seed

    def next_batch(self) -> Structure | None:
        indices = self.next_indices(1)
        return None if indices is None else batch_of(self._feed.arrays, indices[0])

    def next_indices(self, count: int) -> np.ndarray | None:
        """Example indices of the next batches, see `ArrayFeed.indices`; `None` at the end of the epoch."""
        steps = self.next_steps(count)
        if steps is None:
            return None
        return self._feed.indices(self._epoch, steps.start, len(steps), self._seed)

    @property
    def order(self) -> np.ndarray:
        """Order of the examples in the epoch: int32 `[examples]`."""
        return self._feed.order(self._epoch, self._seed)

    @property
    def batch_size(self) -> int:
        """Size of every batch except the last."""
        return self._feed.batch_size

    def next_steps(self, count: int) -> range | None:
        """Returns the positions in the epoch of the next batches of one size; `None` at the end of the epoch."""
        if self._step >= self._feed.steps:
            return None
        whole = self._feed.examples // self._feed.batch_size
        taken = max(1, min(count, whole - self._step))  # the smaller last batch alone
        self._step += taken
        return range(self._step - taken, self._step)


@final
class Prefetcher:
    """Reads an iterator ahead in a thread; its error is raised by the `take` that reaches it.

    Args:
        items: The iterator.
        ahead: Number of items to prefetch.
    """

    def __init__(self, items: Iterator[Any], ahead: int = PREFETCH) -> None:
        self._items: queue.Queue[tuple[Any, BaseException | None]] = queue.Queue(ahead)
        self._ended = False
        # The thread refers to the queue and not to this object, so that it ends when this object is collected.
        self._given_up = threading.Event()
        arguments = (items, self._items, self._given_up)
        self._thread = threading.Thread(target=_make, args=arguments, name="lightkeras-feed", daemon=True)
        self._thread.start()

    def __del__(self) -> None:
        self._given_up.set()

    def __iter__(self) -> Iterator[Any]:
        while (item := self.take()) is not None:
            yield item

    def take(self) -> Any:
        """Returns the next item; `None` at the end."""
        if self._ended:
            return None
        item, error = self._items.get()
        self._ended = item is None
        if error is not None:
            raise error
        return item

    def close(self) -> None:
        """Ends the thread, and waits for it unless the iterator does not return; the prefetched items are dropped."""
        self._given_up.set()
        deadline = time.monotonic() + PATIENCE
        while self._thread.is_alive() and time.monotonic() < deadline:
            self._drop_items()  # so that the thread is not stuck in `put`
            self._thread.join(0.01)
        self._drop_items()
        self._items.put((None, None))  # for a thread of the backend that waits in `take`

    def _drop_items(self) -> None:
        with contextlib.suppress(queue.Empty):
            while True:
                self._items.get_nowait()


def _make(items: Iterator[Any], made: queue.Queue[tuple[Any, BaseException | None]], given_up: threading.Event) -> None:
    def offer(item: Any, error: BaseException | None = None) -> bool:
        while not given_up.is_set():
            try:
                made.put((item, error), timeout=0.5)
            except queue.Full:
                continue
            return True
        return False

    try:
        for item in items:
            if not offer(item):
                return
    except BaseException as error:
        offer(None, error)
    else:
        offer(None)


def batch_of(arrays: Structure, indices: np.ndarray) -> Structure:
    """Gathers a batch as NumPy arrays; bags become the arrays of `Bags.batch`."""

    def rows(array: np.ndarray | Bags) -> Structure:
        return array.take(indices).batch() if isinstance(array, Bags) else array[indices]

    return map_structure(rows, arrays)


def holds_bags(arrays: Structure) -> bool:
    """Whether a leaf is `Bags`, whose batches vary in length and are made on the host."""
    return any(isinstance(leaf, Bags) for _, leaf in flatten(arrays))


def batches_in_memory(feed: ArrayFeed, epoch: int, step: int, seed: int) -> Iterator[Structure]:
    """Yields the batches of a feed in memory, gathered by NumPy."""
    order, size = feed.order(epoch, seed), feed.batch_size
    for start in range(step * size, len(order), size):
        yield batch_of(feed.arrays, order[start : start + size])
