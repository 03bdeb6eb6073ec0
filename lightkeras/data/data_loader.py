"""A torch `DataLoader` of which a process loads some rows of every batch."""

from __future__ import annotations

import collections
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any, final

import numpy as np

from lightkeras.data.feed import Rows
from lightkeras.data.structure import Structure, map_structure
from lightkeras.system import random_states


def parts_of(loader: Any, as_batch: Callable[[Any], Structure]) -> Callable[[Rows], Iterator[Structure]] | None:
    """Makes the function that opens a `DataLoader` for some rows of each batch.

    Args:
        loader: Anything.
        as_batch: Converts what it yields.

    Returns:
        A function as `StreamFeed.open_parts`, without the epoch; `None` for anything but a `DataLoader` that asks a
        data set for examples by their indices, in order.
    """
    torch = sys.modules.get("torch")
    # A subclass may do more with the examples than collect them.
    if torch is None or type(loader) is not torch.utils.data.DataLoader or loader.batch_sampler is None:
        return None
    if isinstance(loader.dataset, torch.utils.data.IterableDataset) or not getattr(loader, "in_order", True):
        return None
    return _Parts(loader, as_batch).open


@final
class _Parts:
    def __init__(self, loader: Any, as_batch: Callable[[Any], Structure]) -> None:
        self._given, self._as_batch = loader, as_batch
        self._sampler: _RowsSampler | None = None
        self._loader: Any = None  # made once, because it may keep its processes

    def open(self, rows: Rows) -> Iterator[Structure]:
        if self._sampler is None:
            self._sampler = _RowsSampler(self._given.batch_sampler)
            self._loader = _copied(self._given, self._sampler)
        sampler = self._sampler
        sampler.rows, sampler.random = rows, None
        try:
            for part in self._loader:
                yield _placed(self._as_batch(part), *sampler.taken.popleft())
        finally:
            # What the data set drew for its examples is not the same in each process; the next order must be.
            if sampler.random is not None:
                random_states.write(sampler.random)


@final
class _RowsSampler:
    """Batches of indices, reduced to some rows.

    Attributes:
        rows: See `Rows`.
        taken: Size and rows of each batch that was asked for and not taken out.
        random: States of the global random generators after the order was drawn; `None` before.
    """

    rows: Rows

    def __init__(self, batches: Any) -> None:
        self._batches = batches
        self.taken: collections.deque[tuple[int, slice]] = collections.deque()
        self.random: Mapping[str, Any] | None = None

    def __len__(self) -> int:
        return len(self._batches)

    def __iter__(self) -> Iterator[list[Any]]:
        batches = [list(indices) for indices in self._batches]  # drawn before the data set draws for its examples
        self.random = random_states.read()
        self.taken.clear()
        for indices in batches:
            rows = self.rows(len(indices))
            self.taken.append((len(indices), rows))
            yield indices[rows]


def _copied(loader: Any, sampler: _RowsSampler) -> Any:
    return type(loader)(
        loader.dataset,
        batch_sampler=sampler,
        num_workers=loader.num_workers,
        collate_fn=loader.collate_fn,
        pin_memory=loader.pin_memory,
        timeout=loader.timeout,
        worker_init_fn=loader.worker_init_fn,
        multiprocessing_context=loader.multiprocessing_context,
        generator=loader.generator,
        prefetch_factor=loader.prefetch_factor,
        persistent_workers=loader.persistent_workers,
    )


def _placed(part: Structure, size: int, rows: slice) -> Structure:
    """A batch of `size` rows, zero but for the loaded ones."""
    count = len(range(*rows.indices(size)))

    def placed(array: np.ndarray) -> np.ndarray:
        if not array.ndim or len(array) != count:
            found = f"{len(array)} rows" if array.ndim else "an array without rows"
            raise ValueError(
                f"The collate function of the DataLoader returned {found} for {count} examples: expected one row for "
                "each, because each process loads a part of every batch. Give a function that returns the DataLoader, "
                "and every process loads whole batches."
            )
        if count == size:
            return array
        whole = np.full((size, *array.shape[1:]), b"" if array.dtype == object else 0, array.dtype)
        whole[rows] = array
        return whole

    return map_structure(placed, part)
