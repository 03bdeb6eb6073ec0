"""Batches of one form that a compiled function takes: from arrays on the device, or from a block."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax

from lightkeras.data.structure import Structure, map_structure
from lightkeras.engine.base import Stream, Tensor
from lightkeras.engine.jax.steps import abstract, form
from lightkeras.engine.jax.streams import BlockStream, order_of
from lightkeras.engine.streams import ArrayStream


@dataclasses.dataclass(frozen=True)
class Work:
    """Some batches of one form, and where they are.

    Args:
        source: Arrays that `fetch` takes a batch from: with an order, or a block.
        size: Examples of each batch.
        start: The first.
        count: How many.
    """

    source: Structure
    size: int
    start: int
    count: int

    def key(self, rows: int) -> tuple[Any, ...]:
        """Identifies a function compiled for this form of batch, and for that many rows of logs."""
        arrays, order = self.source
        return form(arrays), None if order is None else order.shape, self.size, rows

    @property
    def batch(self) -> Structure:
        """A batch, abstractly."""
        arrays, order = self.source
        return abstract(arrays, 1) if order is None else abstract(arrays, 1, self.size)


def work_of(stream: Stream, most: int) -> list[Work]:
    """Takes the next batches of a stream, `most` at most; none at the end of the epoch."""
    if isinstance(stream, ArrayStream):
        steps = stream.next_steps(most)
        if steps is None:
            return []
        order = order_of(stream)
        size = min(stream.batch_size, len(order) - steps.start * stream.batch_size)
        return [Work((stream.arrays, order), size, steps.start * stream.batch_size, len(steps))]
    if isinstance(stream, BlockStream):
        return [Work((block.arrays, None), block.size, block.start, block.count) for block in stream.next_blocks(most)]
    raise TypeError(f"Expected a stream that this engine opened, got {type(stream).__name__}.")


def fetch(source: Structure, size: int, start: Tensor, number: Tensor) -> Structure:
    """A batch of a source; see `Work`."""
    arrays, order = source
    if order is None:
        batch = map_structure(lambda a: jax.lax.dynamic_index_in_dim(a, start + number, keepdims=False), arrays)
    else:
        indices = jax.lax.dynamic_slice_in_dim(order, start + number * size, size)
        batch = map_structure(lambda a: a.at[indices].get(mode="promise_in_bounds"), arrays)
    # What comes next is compiled as it is for a batch from anywhere else, so that it gives the same bits.
    return jax.lax.optimization_barrier(batch)
