"""Rows of a table that a gradient touches, and how to read and write them.

A table is a variable whose rows are looked up, such as the weights of an embedding: a batch touches some thousands
of a million rows.

    rows = touched_rows(gradient, is_table=False)      # None: a dense gradient, which touches all rows
    rows.values                                        # gradient, each row once
    rows.write(table, rows.read(table) - rows.values)
"""

from __future__ import annotations

import abc
import dataclasses
from typing import Any, final

from keras import ops

Tensor = Any


@dataclasses.dataclass(frozen=True)
class Rows(abc.ABC):
    """Rows of a variable that a gradient touches.

    Args:
        values: `[rows, ...]`, gradient of these rows. `read` returns and `write` takes the same shape.
    """

    values: Tensor

    @abc.abstractmethod
    def read(self, variable: Any) -> Tensor:
        """Returns these rows of a variable of the table's shape."""

    @abc.abstractmethod
    def write(self, variable: Any, values: Tensor) -> None:
        """Sets only these rows of a variable of the table's shape."""

    def __truediv__(self, scale: float) -> Rows:
        """Returns the same rows with the gradient divided: Keras divides the loss scale out this way."""
        return dataclasses.replace(self, values=self.values / scale)


@final
@dataclasses.dataclass(frozen=True)
class MaskedRows(Rows):
    """All rows, of which only the touched ones change; for arrays that cannot be changed in place.

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
    """Only the touched rows, of torch tensors, written in place like in Keras's own torch optimizers.

    Args:
        indices: int64 `[rows]`, unique.
    """

    indices: Tensor

    def read(self, variable: Any) -> Tensor:
        return variable.value.detach()[self.indices]

    def write(self, variable: Any, values: Tensor) -> None:
        table = variable.value.detach()  # shares the variable's storage
        table.index_copy_(0, self.indices, values.to(table.dtype))
