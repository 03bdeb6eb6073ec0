"""Ranges of batches of one shape, in arrays on the device or in a block."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax

from lightkeras.data.structure import Structure, map_structure
from lightkeras.engine.base import Tensor
from lightkeras.engine.jax.devices import divided
from lightkeras.engine.jax.steps import abstract, form
from lightkeras.engine.jax.streams import BlockStream, placed
from lightkeras.engine.stream import Stream
from lightkeras.engine.streams import ArrayStream


@dataclasses.dataclass(frozen=True)
class BatchRange:
    """Consecutive batches of one shape, and their source.

    Args:
        source: Arrays for `fetch`, with the order of the examples; for a block, with `None`.
        size: Batch size.
        start: First example in the order, or first batch of the block.
        count: Number of batches.
        arrays_form: The `form` of the source's arrays.
    """

    source: Structure
    size: int
    start: int
    count: int
    arrays_form: tuple[Any, ...]

    def key(self, rows: int) -> tuple[Any, ...]:
        """Key of the function compiled for this batch shape and this number of rows of logs."""
        _, order = self.source
        return self.arrays_form, None if order is None else order.shape, self.size, rows

    @property
    def batch(self) -> Structure:
        """A batch as `jax.ShapeDtypeStruct`s."""
        arrays, order = self.source
        return abstract(arrays, 1) if order is None else abstract(arrays, 1, self.size)


def next_ranges(stream: Stream, most: int) -> list[BatchRange]:
    """Returns at most `most` next batches of a stream; none at the end of the epoch."""
    if isinstance(stream, ArrayStream):
        steps = stream.next_steps(most)
        if steps is None:
            return []
        order, arrays_form = placed(stream)
        start = steps.start * stream.batch_size
        size = min(stream.batch_size, order.shape[0] - start)
        return [BatchRange((stream.arrays, order), size, start, len(steps), arrays_form)]
    if isinstance(stream, BlockStream):
        return [
            BatchRange((block.arrays, None), block.size, block.start, block.count, form(block.arrays))
            for block in stream.next_blocks(most)
        ]
    raise TypeError(f"Expected a stream that this engine opened, got {type(stream).__name__}.")


def fetch(source: Structure, size: int, start: Tensor, number: Tensor, divide: bool = True) -> Structure:
    """Returns batch `number` of a source, divided among the devices or whole on each; see `BatchRange`."""
    arrays, order = source
    if order is None:
        batch = map_structure(lambda a: jax.lax.dynamic_index_in_dim(a, start + number, keepdims=False), arrays)
    else:
        indices = jax.lax.dynamic_slice_in_dim(order, start + number * size, size)
        batch = map_structure(lambda a: a.at[indices].get(mode="promise_in_bounds"), arrays)
    batch = divided(batch) if divide else batch
    # Keeps XLA from fusing the step with the lookup, so that batches from every source give the same bits.
    return jax.lax.optimization_barrier(batch)
