"""Rows of a `tf.Variable`, read and written in place."""

from __future__ import annotations

import dataclasses
from typing import Any, final

import keras
import tensorflow as tf

from lightkeras.engine.sparse_rows import Rows

Tensor = Any


@final
@dataclasses.dataclass(frozen=True)
class TensorFlowRows(Rows):
    """The touched rows alone.

    Args:
        indices: int32 or int64 `[rows]`, each once: writing rows twice would leave open which comes last.
    """

    indices: Tensor

    def read(self, variable: Any) -> Tensor:
        return tf.gather(_backend_variable(variable), self.indices)

    def write(self, variable: Any, values: Tensor) -> None:
        table = _backend_variable(variable)
        table.scatter_update(tf.IndexedSlices(tf.cast(values, table.dtype), self.indices))


def touched_rows_of(gradient: Tensor, is_table: bool) -> Rows | None:
    """See `lightkeras.engine.touched_rows.touched_rows`."""
    if not isinstance(gradient, tf.IndexedSlices):
        if not is_table:
            return None
        others = list(range(1, len(gradient.shape)))
        indices = tf.where(tf.reduce_any(tf.not_equal(gradient, 0), others))[:, 0]
        return TensorFlowRows(tf.gather(gradient, indices), indices)
    if tf.distribute.get_strategy().num_replicas_in_sync > 1:
        raise NotImplementedError(
            "Row-sparse updates with tf.distribute: the rows of several replicas would have to be brought "
            f"together, which is not done; got {tf.distribute.get_strategy().num_replicas_in_sync} replicas. "
            "Train on one device, or use Keras's own optimizer."
        )
    summed = sum_of_rows(gradient)
    return TensorFlowRows(summed.values, summed.indices)


@final
class SummedRows(tf.IndexedSlices):  # type: ignore[misc]
    """Slices with every row once."""


def rows_summed(gradient: Tensor | tf.IndexedSlices | None) -> Tensor | tf.IndexedSlices | None:
    """A gradient whose parts for the same row of a table are summed up.

    A table that is looked up gets one part for each look-up. Keras's optimizers and its clipping square the parts as
    they are, and the square of a sum is another number: a word twice in a batch would be learned in another way than
    on the other backends.
    """
    return sum_of_rows(gradient) if isinstance(gradient, tf.IndexedSlices) else gradient


def sum_of_rows(slices: tf.IndexedSlices) -> SummedRows:
    if isinstance(slices, SummedRows):
        return slices
    # `scatter_add` of repeated rows sums them up in any order; a sum over segments does not.
    indices, segments = tf.unique(slices.indices)
    values = tf.math.unsorted_segment_sum(slices.values, segments, tf.shape(indices)[0])
    return SummedRows(values, indices, slices.dense_shape)


def _backend_variable(variable: Any) -> tf.Variable:
    return variable.value if isinstance(variable, keras.Variable) else variable
