"""A layer that takes text, and a model of what it gives, as one model."""

from __future__ import annotations

from typing import Any

import keras

from lightkeras.data.encoder import JoinError


def joined(layer: keras.Layer, model: keras.Model) -> keras.Model:
    """A model from texts to outputs.

    Args:
        layer: From texts, `keras.Input((), dtype="string")`, to what the model takes.
        model: A functional or sequential model, with the weights that the joined one is to have.

    Raises:
        JoinError: The model is another one, or takes something else.
    """
    if not isinstance(getattr(model, "inputs", None), list):
        raise JoinError(f"{type(model).__name__} {model.name!r} is neither functional nor sequential.")
    text = keras.Input((), dtype="string", name="text")
    # A model of the same layers, without what training may have lent to this one, such as an optimizer.
    rest = keras.Model(*_ends_of(model), name=f"{model.name}_of_{layer.name}")
    try:
        return keras.Model(text, rest(layer(text)), name=model.name)
    except ValueError as error:
        raise JoinError(f"{model.name!r} does not take what {layer.name!r} makes of texts: {error}") from error


def _ends_of(model: keras.Model) -> tuple[Any, Any]:
    """Inputs and outputs of a model, in the structures that it takes and gives."""
    if isinstance(model, keras.Sequential):  # it has no `output` until it is called
        return model.inputs[0], model.outputs[0]
    return model.input, model.output
