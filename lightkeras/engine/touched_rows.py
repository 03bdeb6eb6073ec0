"""Rows of a table that a gradient touches, on every backend."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from lightkeras.engine.sparse_rows import IndexedRows, MaskedRows, Rows

Tensor = Any


def touched_rows(gradient: Tensor, is_table: bool) -> Rows | None:
    """Returns the rows that a gradient touches.

    Args:
        gradient: Gradient of the backend. Row-sparse ones (`tf.IndexedSlices`, sparse torch tensors) touch all rows
            that they list, also where the value is zero; repeated rows are summed, always in the same order.
        is_table: Whether the variable is known to be a table: a dense gradient then touches the rows that are not
            all zero.

    Returns:
        The rows, each once; `None` for the dense gradient of another variable, which touches all rows.

    Raises:
        NotImplementedError: The rows are spread over several devices.
    """
    backend = keras.backend.backend()
    if backend == "tensorflow":
        from lightkeras.engine.tensorflow.sparse_rows import touched_rows_of

        return touched_rows_of(gradient, is_table)
    if backend == "torch" and gradient.is_sparse:
        summed = gradient.coalesce()
        return IndexedRows(summed.values(), summed.indices()[0])
    if not is_table:
        return None
    others = tuple(range(1, len(gradient.shape)))
    if backend == "torch":
        indices = ops.any(ops.not_equal(gradient, 0), others).nonzero()[:, 0]
        return IndexedRows(gradient[indices], indices)
    return MaskedRows(gradient, ops.any(ops.not_equal(gradient, 0), others, keepdims=True))
