"""Layers that take text, and a model of what they give, as one model."""

from __future__ import annotations

from typing import Any, final

import keras
from keras import ops

from lightkeras.encoders.base import JoinError


@final
@keras.saving.register_keras_serializable(package="lightkeras")
class LastWords(keras.layers.Layer):  # type: ignore[misc]
    """The last numbers of each row, which is filled up with 0 at its end and has no other 0.

    Args:
        length: How many; a row that has fewer is filled up.
        name: The layer's name. `None` means Keras numbers it.
        dtype: Not used: numbers stay what they are. Part of Keras's contract.
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


def joined(layer: keras.Layer, model: keras.Model, then: keras.Layer | None = None) -> keras.Model:
    """A model from texts to outputs.

    Args:
        layer: Takes texts, `keras.Input((), dtype="string")`.
        model: A functional or sequential model, with the weights that the joined one is to have.
        then: What comes between the two; `None` for nothing.

    Raises:
        JoinError: The model is another one, or takes something else.
    """
    if not isinstance(getattr(model, "inputs", None), list):
        raise JoinError(f"{type(model).__name__} {model.name!r} is neither functional nor sequential.")
    text = keras.Input((), dtype="string", name="text")
    # A model of the same layers, without what training may have lent to this one, such as an optimizer.
    rest = keras.Model(*_ends_of(model), name=f"{model.name}_of_{layer.name}")
    made = layer(text) if then is None else then(layer(text))
    try:
        return keras.Model(text, rest(made), name=model.name)
    except ValueError as error:
        raise JoinError(f"{model.name!r} does not take what {layer.name!r} makes of texts: {error}") from error


def _ends_of(model: keras.Model) -> tuple[Any, Any]:
    """Inputs and outputs of a model, in the structures that it takes and gives."""
    if isinstance(model, keras.Sequential):  # it has no `output` until it is called
        return model.inputs[0], model.outputs[0]
    return model.input, model.output
