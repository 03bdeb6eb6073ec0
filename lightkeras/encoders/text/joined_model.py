"""Joins layers that take text and a model of their outputs."""

from __future__ import annotations

from typing import Any, final

import keras
from keras import ops

from lightkeras.encoders.base import join_models


@final
@keras.saving.register_keras_serializable(package="lightkeras")
class LastWords(keras.layers.Layer):  # type: ignore[misc]
    """The last numbers of each row; 0 pads a row at its end and occurs nowhere else.

    Args:
        length: Numbers per row; a shorter row is padded with 0.
        name: The layer's name. `None` means Keras numbers it.
        dtype: Not used, numbers keep their dtype; part of Keras's contract.
    """

    def __init__(self, length: int, name: str | None = None, dtype: Any = None) -> None:
        super().__init__(name=name, dtype=dtype, trainable=False, autocast=False)
        self.length = length
        self.built = True

    def call(self, inputs: Any) -> Any:
        filled = ops.pad(inputs, [[0, 0], [0, self.length]])
        counts = ops.sum(ops.cast(inputs != 0, "int32"), axis=1, keepdims=True)
        places = ops.maximum(counts - self.length, 0) + ops.arange(self.length, dtype="int32")
        return ops.take_along_axis(filled, places, axis=1)

    def compute_output_spec(self, inputs: Any) -> Any:
        return keras.KerasTensor((inputs.shape[0], self.length), inputs.dtype)

    def get_config(self) -> dict[str, Any]:
        config = super().get_config()
        return {"name": config["name"], "dtype": config["dtype"], "length": self.length}


def join_text(layer: keras.Layer, model: keras.Model, then: keras.Layer | None = None) -> keras.Model:
    """Joins a layer that takes texts, a layer `then` if any, and a model to one, which shares its weights.

    A JoinError if the model is subclassed, or does not take these outputs.
    """
    text = keras.Input((), dtype="string", name="text")
    features = layer(text) if then is None else then(layer(text))
    return join_models(text, features, model, layer.name)
