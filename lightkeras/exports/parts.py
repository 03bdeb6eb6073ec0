"""The parts of a model of text that can be exported by themselves."""

from __future__ import annotations

import keras

from lightkeras.exports.errors import ExportError
from lightkeras.exports.ports import Ports


def check_takes_text(model: keras.Model, inputs: Ports, name: str) -> None:
    """Checks that a model takes no text, before anything is written in a format that cannot hold string operators.

    Raises:
        ExportError: It takes text; the message names the layer that does.
    """
    texts = [port.name for port in inputs.each if port.is_text]
    if not texts:
        return
    layers = [f"{layer.name} ({type(layer).__name__})" for layer in model.layers if _reads_text(layer)]
    raise ExportError(
        f"--format {name} has no operators for text, which the input {', '.join(map(repr, texts))} takes; it is read "
        f"by {', '.join(layers) or 'the model'}. Give --format saved_model, which takes text, or --part numbers for "
        "the part of the model after that layer."
    )


def _reads_text(layer: keras.Layer) -> bool:
    if isinstance(layer, keras.layers.InputLayer):
        return False
    taken = keras.tree.flatten(getattr(layer, "input", None))
    return any(getattr(tensor, "dtype", None) == "string" for tensor in taken)
