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
