"""The rows of a table that a gradient touches, and how to read and write just them.

A table is a variable whose rows are looked up, such as the weights of an embedding: of a million rows a batch
touches some thousands.

    rows = touched_rows(gradient, is_table=False)      # None: a dense gradient, which touches all of them
    rows.values                                        # the gradient, each row once
    rows.write(table, rows.read(table) - rows.values)
"""

from __future__ import annotations

import abc
import dataclasses
from typing import Any, final

import keras
from keras import ops

Tensor = Any


@dataclasses.dataclass(frozen=True)
class Rows(abc.ABC):
    """The rows of a variable that a gradient touches.

    Args:
        values: `[rows, ...]`, the gradient there. What `read` gives and `write` takes has the same shape.
    """

    values: Tensor

    @abc.abstractmethod
    def read(self, variable: Any) -> Tensor:
        """Values of a variable of the table's shape, at these rows."""

    @abc.abstractmethod
    def write(self, variable: Any, values: Tensor) -> None:
        """Sets a variable of the table's shape at these rows, and leaves all others."""

    def __truediv__(self, scale: float) -> Rows:
        """The same rows, with the gradient divided, as Keras takes the scale of a loss out again."""
        return dataclasses.replace(self, values=self.values / scale)


@final
@dataclasses.dataclass(frozen=True)
class MaskedRows(Rows):
    """All rows, of which only the touched ones are written: for arrays that cannot be changed in place.

    Args:
        touched: Bool `[rows, 1, ...]`.
    """

    touched: Tensor

    def read(self, variable: Any) -> Tensor:
        return ops.convert_to_tensor(variable)

    def write(self, variable: Any, values: Tensor) -> None:
        variable.assign(ops.where(self.touched, values, self.read(variable)))


@final
@dataclasses.dataclass(frozen=True)
class IndexedRows(Rows):
    """The touched rows alone, of torch tensors, written in place as Keras's own torch optimizers do.

    Args:
        indices: int64 `[rows]`, each once.
    """

    indices: Tensor

    def read(self, variable: Any) -> Tensor:
        return variable.value.detach()[self.indices]

    def write(self, variable: Any, values: Tensor) -> None:
        table = variable.value.detach()  # shares the variable's storage
        table.index_copy_(0, self.indices, values.to(table.dtype))


def touched_rows(gradient: Tensor, is_table: bool) -> Rows | None:
    """The rows that a gradient touches.

    Args:
        gradient: A gradient as the backend gives it. Row-sparse ones (`tf.IndexedSlices`, sparse torch tensors)
            touch the rows they name, also where the value is zero; rows named more than once are summed up,
            always in the same order.
        is_table: Whether the variable is known to be a table: a dense gradient then touches those rows in which
            a value is not zero.

    Returns:
        The rows, each once; `None` for the dense gradient of another variable, which touches all.

    Raises:
        NotImplementedError: The rows are spread over several devices.
    """
    backend = keras.backend.backend()
    if backend == "tensorflow":
        from lightkeras.engine.tensorflow.rows import touched_rows_of

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
