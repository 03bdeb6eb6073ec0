"""Feeds on the device: resident arrays, and blocks of batches that are copied while steps run."""

from __future__ import annotations

import abc
import dataclasses
import itertools
import math
import operator
import time
import weakref
from collections.abc import Iterator
from typing import Any, final

import jax
import numpy as np

from lightkeras.data.bags import Bags
from lightkeras.data.feed import LARGE_BYTES, ArrayFeed
from lightkeras.data.stream_reader import StreamReader
from lightkeras.data.structure import ALIGNMENT, Structure, aligned, flatten, map_structure, may_change
from lightkeras.engine.jax.devices import distributed_too, put
from lightkeras.engine.jax.scope import device_dtype
from lightkeras.engine.jax.steps import check_no_text, form
from lightkeras.engine.stream import Stream
from lightkeras.engine.streams import ArrayStream, Prefetcher, batch_of

BLOCK_BYTES = 1 << 22
"""Maximum size of a block of more than one batch."""

BLOCK_BATCHES = 16
"""Maximum number of batches in a block."""

ARRAY_BLOCK_BYTES, ARRAY_BLOCK_BATCHES = 1 << 24, 128
"""The same for batches of arrays in memory, which are gathered many at a time."""

BLOCK_SECONDS = 0.02
"""A block that took longer than this to fill is used as it is, so that a slow source does not delay steps."""

PREFETCHED_BLOCKS = 2
"""Number of blocks that are prefetched."""


@dataclasses.dataclass(frozen=True)
class Block:
    """Batches of one shape, on the device.

    Args:
        arrays: Arrays `[capacity, batch, ...]`.
        start: Index of the first batch to use.
        count: Number of batches to use.
        size: Batch size.
    """

    arrays: Structure
    start: int
    count: int
    size: int


class BlockStream(Stream):
    """Batches in blocks, made by the host."""

    @abc.abstractmethod
    def next_blocks(self, most: int) -> list[Block]:
        """Returns at most `most` next batches; none at the end of the epoch."""


@final
class PrefetchedStream(BlockStream):
    """Blocks that a thread reads and prefetches while steps run.

    Args:
        batches: The batches as NumPy arrays; or blocks, as `blocks_in_memory` yields them.
        reader: The reader of the source; `None` for arrays.
        reread: See `Stream.reread`.
        in_blocks: Whether `batches` are blocks.
    """

    def __init__(
        self,
        batches: Iterator[Any],
        reader: StreamReader | None = None,
        reread: int = 0,
        in_blocks: bool = False,
    ) -> None:
        super().__init__(reread, reader)
        self._blocks = Prefetcher(distributed_too(batches if in_blocks else _blocks(batches)), PREFETCHED_BLOCKS)
        self._block: tuple[list[Structure], Structure] | None = None
        self._used = 0  # number of its batches that were returned

    def allow(self, count: int | None) -> None:
        if self._reader is not None:
            self._blocks = Prefetcher(distributed_too(_blocks(self._reader.batches(count))), PREFETCHED_BLOCKS)

    def close(self) -> None:
        super().close()
        self._blocks.close()

    def next_blocks(self, most: int) -> list[Block]:
        batches = self._current()
        if batches is None or self._block is None:
            return []
        start, count = self._used, min(most, len(batches) - self._used)
        self._used += count
        return [Block(self._block[1], start, count, _size(batches[0]))]

    def next_batch(self) -> Structure | None:
        batches = self._current()
        if batches is None:
            return None
        self._used += 1
        return batches[self._used - 1]

    def _current(self) -> list[Structure] | None:
        if self._block is None or self._used == len(self._block[0]):
            self._block, self._used = self._blocks.take(), 0
        return None if self._block is None else self._block[0]


@final
class OnDemandStream(BlockStream):
    """Blocks made on demand, from a source that must not be read ahead of the steps.

    Args:
        source: The batches as NumPy arrays.
    """

    def __init__(self, source: Stream) -> None:
        super().__init__(source.reread)
        self._source = source

    def state(self) -> bytes | None:
        return self._source.state()

    def close(self) -> None:
        self._source.close()

    def next_batch(self) -> Structure | None:
        batch = self._source.next_batch()
        return None if batch is None else narrowed(batch)

    def next_blocks(self, most: int) -> list[Block]:
        batch = self.next_batch()
        if batch is None:
            return []
        capacity = _capacity(batch)
        found = [[batch]]
        for _ in range(min(most, capacity) - 1):
            batch = self.next_batch()
            if batch is None:
                break
            if form(batch) == form(found[-1][0]):
                found[-1].append(batch)
            else:
                found.append([batch])
        return [Block(on_device(alike, capacity), 0, len(alike), _size(alike[0])) for alike in found]


def _blocks(batches: Iterator[Structure]) -> Iterator[tuple[list[Structure], Structure]]:
    """Yields lists of batches of one shape, each with its copy on the device."""
    found: list[Structure] = []
    capacity, began = 1, 0.0
    alone = jax.process_count() == 1  # several processes must divide a stream into the same blocks
    try:
        for given in batches:
            batch = narrowed(given)
            if found and form(batch) != form(found[0]):
                yield found, on_device(found, capacity)
                found = []
            if not found:
                capacity, began = _capacity(batch), time.monotonic()
            found.append(batch)
            if len(found) == capacity or (alone and time.monotonic() - began > BLOCK_SECONDS):
                yield found, on_device(found, capacity)
                found = []
    except Exception:
        if found:  # batches before the error are still used
            yield found, on_device(found, capacity)
        raise
    if found:
        yield found, on_device(found, capacity)


def _capacity(batch: Structure, most_bytes: int = BLOCK_BYTES, most: int = BLOCK_BATCHES) -> int:
    size = sum(array.nbytes for _, array in flatten(batch))
    return int(min(most, max(1, most_bytes // max(size, 1))))


def on_device(batches: list[Structure], capacity: int) -> Structure:
    """Stacks batches of one shape, `[capacity, batch, ...]`, on the device; the unfilled rest is never read."""
    leaves = [[array for _, array in flatten(batch)] for batch in batches]

    def joined(position: int) -> np.ndarray:
        first: np.ndarray = leaves[0][position]
        if capacity == 1:
            return first[None]
        block = np.empty((capacity, *first.shape), first.dtype)
        for number, found in enumerate(leaves):
            block[number] = found[position]
        return block

    positions = iter(range(len(leaves[0])))
    return map_structure(lambda _: put(joined(next(positions))), batches[0])


def narrowed(arrays: Structure) -> Structure:
    """Converts arrays to their dtypes on the device.

    Raises:
        ValueError: An array holds text, or integers that do not fit.
    """
    leaves = {id(leaf): _narrowed(path, leaf) for path, leaf in flatten(arrays)}
    return map_structure(lambda leaf: leaves[id(leaf)], arrays)


def _narrowed(path: str, given: Any) -> np.ndarray:
    array: np.ndarray = np.asarray(given)
    check_no_text(path, array.dtype)
    dtype: np.dtype = device_dtype(array.dtype)
    if dtype == array.dtype:
        return array
    _check_fits(path, array, dtype)
    return array.astype(dtype)


def _check_fits(path: str, array: np.ndarray, dtype: np.dtype) -> None:
    """Raises a ValueError if an array holds integers that do not fit into a dtype."""
    if array.dtype.kind in "iu" and array.size:
        limits = np.iinfo(dtype)
        low, high = int(array.min()), int(array.max())
        if low < limits.min or high > limits.max:
            raise ValueError(
                f"Array {path or '0'} is {array.dtype} and holds {low if low < limits.min else high}, which JAX would "
                f"cut to {dtype}. Renumber the values from 0, or set JAX_ENABLE_X64=true."
            )


def stays_on_host(feed: ArrayFeed) -> bool:
    """Whether the batches of a feed are gathered by the host: on a CPU, where copying it would take much memory.

    XLA uses NumPy's memory as it is only if it is aligned, which that of large arrays hardly ever is.

    Raises:
        ValueError: An array holds text, or integers that do not fit.
    """
    if feed not in _stays:
        large = jax.default_backend() == "cpu" and sum(map(_copied_bytes, flatten(feed.arrays))) > LARGE_BYTES
        for path, array in flatten(feed.arrays) if large else []:
            _check_fits(path, array, device_dtype(array.dtype))
        _stays[feed] = large
    return _stays[feed]


_stays: weakref.WeakKeyDictionary[ArrayFeed, bool] = weakref.WeakKeyDictionary()


def _copied_bytes(leaf: tuple[str, np.ndarray]) -> int:
    path, array = leaf
    check_no_text(path, array.dtype)
    in_place = array.flags.c_contiguous and array.ctypes.data % ALIGNMENT == 0 and not may_change(array)
    return 0 if in_place and device_dtype(array.dtype) == array.dtype else array.nbytes


def blocks_in_memory(feed: ArrayFeed, epoch: int, step: int, seed: int) -> Iterator[tuple[list[Structure], Structure]]:
    """Yields lists of batches of one size, gathered by NumPy, each with its block on the device, which shares memory.

    Args:
        feed: The arrays.
        epoch: Epoch, from 0.
        step: First batch, from 0.
        seed: Seed of the run.
    """
    order, size = feed.order(epoch, seed), feed.batch_size
    capacity = _capacity(narrowed(batch_of(feed.arrays, order[:size])), ARRAY_BLOCK_BYTES, ARRAY_BLOCK_BATCHES)
    whole = len(order) - len(order) % size
    for start in range(step * size, whole, capacity * size):
        yield _gathered(feed.arrays, order[start : min(start + capacity * size, whole)], size, capacity)
    if whole < len(order):
        yield _gathered(feed.arrays, order[whole:], len(order) - whole, 1)


def _gathered(arrays: Structure, rows: np.ndarray, size: int, capacity: int) -> tuple[list[Structure], Structure]:
    def gathered(array: np.ndarray) -> np.ndarray:
        block = aligned((capacity * size, *array.shape[1:]), device_dtype(array.dtype))
        if block.dtype == array.dtype:
            # With "raise" NumPy would gather into another array first. All rows are in range.
            array.take(rows, axis=0, out=block[: len(rows)], mode="clip")
        else:
            block[: len(rows)] = array[rows]
        return block.reshape(capacity, size, *array.shape[1:])

    block = map_structure(gathered, arrays)
    batches = [map_structure(operator.itemgetter(number), block) for number in range(len(rows) // size)]
    return batches, map_structure(put, block)


def padded_batches(feed: ArrayFeed, epoch: int, step: int, seed: int) -> Iterator[Structure]:
    """Yields the batches of a feed with bags, padded to one of a few lengths, because JAX compiles for each length.

    Almost all batches fit a length that is computed from the whole split; longer ones are rounded up by a fifth each.
    """
    order, size = feed.order(epoch, seed), feed.batch_size
    common = {id(leaf): _common_length(leaf, size) for _, leaf in flatten(feed.arrays) if isinstance(leaf, Bags)}
    for start in range(step * size, len(order), size):
        yield _padded(feed.arrays, order[start : start + size], common)


def _padded(arrays: Structure, indices: np.ndarray, common: dict[int, int]) -> Structure:
    def rows(leaf: np.ndarray | Bags) -> Structure:
        if not isinstance(leaf, Bags):
            return leaf[indices]
        bags = leaf.take(indices)
        return bags.batch(padded_length(len(bags.ids), common[id(leaf)]))

    return map_structure(rows, arrays)


def padded_length(entries: int, common: int) -> int:
    """Returns `common`, or the smallest `common * 2 ** (n / 4)` that is at least `entries`."""
    lengths = (math.ceil(common * 2 ** (n / 4)) for n in itertools.count())
    return next(length for length in lengths if length >= entries)


def _common_length(bags: Bags, batch_size: int) -> int:
    """Number of entries that all but one in ten thousand batches of random examples fit in."""
    lengths = np.diff(bags.splits)
    most = int(np.sort(lengths)[-batch_size:].sum())  # the largest possible batch
    usual = batch_size * float(lengths.mean()) + 4 * math.sqrt(batch_size) * float(lengths.std())
    return max(1, min(most, math.ceil(usual)))


def _size(batch: Structure) -> int:
    return len(flatten(batch)[0][1])


_placed: weakref.WeakKeyDictionary[ArrayStream, tuple[jax.Array, Any]] = weakref.WeakKeyDictionary()


def placed(stream: ArrayStream) -> tuple[jax.Array, Any]:
    """Returns the order of a stream's epoch on the device, which is copied once, and the `form` of its arrays."""
    found = _placed.get(stream)
    if found is None:
        found = _placed[stream] = put(stream.order), form(stream.arrays)
    return found
