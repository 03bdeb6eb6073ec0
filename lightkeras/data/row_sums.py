"""Sums of weighted rows of a table, which an engine may compute in its own way while it traces a step."""

from __future__ import annotations

import contextlib
import contextvars
from collections.abc import Callable, Iterator
from typing import Any

import keras
from keras import ops

Tensor = Any
Sums = Callable[[keras.Variable, Tensor, Tensor, Tensor, Tensor], Tensor | None]
"""Computes what `weighted_row_sums` does, for weights in the dtype of the table; `None` if it cannot."""

_own: contextvars.ContextVar[Sums | None] = contextvars.ContextVar("lightkeras_row_sums", default=None)


def weighted_row_sums(table: keras.Variable, ids: Tensor, weights: Tensor, owners: Tensor, count: Tensor) -> Tensor:
    """Sums of weighted rows, `[count, columns]` in the dtype of the table.

    Args:
        table: Float `[rows, columns]`.
        ids: Integers `[entries]`, the row of each entry, from 0.
        weights: Float `[entries]`.
        owners: Integers `[entries]`, the sum that each entry belongs to, from 0 and below `count`.
        count: Number of sums, a number or an integer scalar.
    """
    weights = ops.cast(weights, table.dtype)
    own = _own.get()
    sums = None if own is None else own(table, ids, weights, owners, count)
    if sums is not None:
        return sums
    weighted = ops.take(table, ids, axis=0) * ops.expand_dims(weights, -1)
    return ops.segment_sum(weighted, owners, num_segments=count)


@contextlib.contextmanager
def row_sums_by(own: Sums) -> Iterator[None]:
    """Context in which `own` computes the sums."""
    token = _own.set(own)
    try:
        yield
    finally:
        _own.reset(token)
