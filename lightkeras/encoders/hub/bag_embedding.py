"""Layer that sums weighted rows of a table: the trainable part of a text module, on every backend."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from keras import ops

from lightkeras.data.row_sums import weighted_row_sums

INPUTS = {"counts": "int32", "ids": "int32", "weights": "float32", "rows": "int32"}
"""Names and dtypes of the arrays of `Bags.batch`."""


@keras.saving.register_keras_serializable(package="lightkeras")
class BagEmbedding(keras.layers.Layer):  # type: ignore[misc]
    """Sums of weighted rows of a trainable table, one sum for each bag of a batch.

    The gradient with respect to the table is as sparse as the batch where the backend has sparse gradients.

    Args:
        rows: Rows of the table.
        width: Columns of the table.
        name: The layer's name. `None` means Keras numbers it.
        dtype: Dtype or policy of the output; sums are taken in the table's own dtype. `None` means Keras's policy.
        trainable: Whether the table is trained.
        initializer: Keras initializer of the table.
        regularizer: Keras regularizer of the table; `None` for none.

    Examples:
        >>> layer = BagEmbedding(rows=1000, width=8)
        >>> bags = {  # two examples: the first has the rows 3 and 5, the second has row 7
        ...     "ids": np.array([3, 5, 7]),
        ...     "weights": np.array([0.5, 0.5, 1.0], "float32"),
        ...     "rows": np.array([0, 0, 1]),
        ...     "counts": np.array([2, 1]),
        ... }
        >>> tuple(layer(bags).shape)
        (2, 8)
    """

    def __init__(
        self,
        rows: int,
        width: int,
        name: str | None = None,
        dtype: Any = None,
        trainable: bool = True,
        initializer: Any = "zeros",
        regularizer: Any = None,
    ) -> None:
        # Without autocast: weights in half precision would not be the weights of the bags.
        super().__init__(name=name, dtype=dtype, trainable=trainable, autocast=False)
        self.rows, self.width = rows, width
        self.initializer = keras.initializers.get(initializer)
        self.regularizer = keras.regularizers.get(regularizer)
        # Created here, not in `build`: the shape is known, and `join` reads the table before the layer was called.
        self.table = self.add_weight(
            shape=(rows, width),
            initializer=self.initializer,
            regularizer=self.regularizer,
            name="table",
            autocast=False,
        )
        self.built = True

    def set_table(self, values: np.ndarray) -> None:
        """Sets the table: float `[rows, width]`."""
        self.table.assign(values)

    def call(self, inputs: dict[str, Any]) -> Any:
        """Sums of rows, float `[examples, width]`, for the arrays of `Bags.batch`."""
        count = ops.shape(inputs["counts"])[0]
        sums = weighted_row_sums(self.table, inputs["ids"], inputs["weights"], inputs["rows"], count)
        return ops.cast(sums, self.compute_dtype)

    def compute_output_spec(self, inputs: dict[str, Any]) -> Any:
        return keras.KerasTensor((inputs["counts"].shape[0], self.width), self.compute_dtype)

    def compute_output_shape(self, input_shape: dict[str, Any]) -> tuple[int | None, int]:
        return (input_shape["counts"][0], self.width)

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "rows": self.rows,
            "width": self.width,
            "initializer": keras.initializers.serialize(self.initializer),
            "regularizer": keras.regularizers.serialize(self.regularizer),
        }


def bag_inputs() -> dict[str, Any]:
    """New `keras.Input`s for the arrays of `Bags.batch`."""
    return {name: keras.Input((), dtype=dtype, name=name) for name, dtype in INPUTS.items()}
