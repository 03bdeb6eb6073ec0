"""A frozen Keras model as an encoder."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, final

import keras
import numpy as np

from lightkeras.data.structure import Structure, digest_of
from lightkeras.encoders.base import Encoder, JoinError
from lightkeras.system.digest import Digest


@final
class KerasEncoder(Encoder):
    """A Keras model that is not trained, run before the model on the backend that Keras runs on.

    It runs in inference mode. Its variables are no part of the run: they are not saved with it, and not trained.
    `Task.build_encoder` may return the model itself.

    Args:
        model: A functional or sequential model with known inputs. It is frozen: `trainable` becomes False.

    Raises:
        ValueError: The model does not say what its inputs and outputs are.
    """

    def __init__(self, model: keras.Layer) -> None:
        if not isinstance(getattr(model, "inputs", None), list) or not isinstance(model, keras.Model):
            raise ValueError(
                f"build_encoder returned {type(model).__name__} {model.name!r}, which does not say what it takes: "
                "expected a functional or sequential model. Put a layer behind an input: "
                "keras.Sequential([keras.Input(shape), layer]). Or write a subclass of lk.Encoder."
            )
        self._model = model
        model.trainable = False
        # Taken once: weights that were changed afterwards would not be those of the features that are there.
        self._fingerprint = _fingerprint_of(model)

    @property
    def fingerprint(self) -> str:
        return self._fingerprint

    def encode(self, inputs: Structure) -> Structure:
        outputs = self._model(inputs, training=False)
        return keras.tree.map_structure(lambda tensor: np.array(keras.ops.convert_to_numpy(tensor)), outputs)

    def inputs(self) -> Structure:
        outputs = _ends_of(self._model)[1]
        # Keras wants an input in a dict to be called as its key is.
        named = outputs if isinstance(outputs, dict) else {}
        names = {id(tensor): name for name, tensor in named.items()}
        return keras.tree.map_structure(
            lambda tensor: keras.Input(tensor.shape[1:], dtype=tensor.dtype, name=names.get(id(tensor))), outputs
        )

    def join(self, model: keras.Model) -> keras.Model:
        if not isinstance(getattr(model, "inputs", None), list):
            raise JoinError(f"{type(model).__name__} {model.name!r} is neither functional nor sequential.")
        raw = keras.tree.map_structure(
            lambda tensor: keras.Input(tensor.shape[1:], dtype=tensor.dtype, name=tensor.name), _ends_of(self._model)[0]
        )
        # A model of the same layers, without what training may have lent to this one, such as an optimizer.
        rest = keras.Model(*_ends_of(model))
        try:
            return keras.Model(raw, rest(self._model(raw, training=False)), name=model.name)
        except ValueError as error:
            raise JoinError(f"{model.name!r} does not take the features of {self._model.name!r}: {error}") from error


def _ends_of(model: keras.Model) -> tuple[Structure, Structure]:
    """Inputs and outputs of a model, in the structures that it takes and gives."""
    if isinstance(model, keras.Sequential):  # it has no `output` until it is called
        return model.inputs[0], model.outputs[0]
    return model.input, model.output


def _fingerprint_of(model: keras.Model) -> str:
    """A digest of a model's layers and variables, and of the backend: others give other last digits."""
    serialized = keras.saving.serialize_keras_object(model)
    config = json.dumps(serialized, sort_keys=True, default=str)
    # Keras numbers layers as they are made, so that the same model has other names when it is made again.
    for number, name in enumerate(dict.fromkeys(_names_in(serialized))):
        config = config.replace(f'"{name}"', f'"#{number}"')
    values = (digest_of(np.asarray(keras.ops.convert_to_numpy(variable))) for variable in model.variables)
    return Digest(f"{keras.backend.backend()} {config}", *values).hex()


def _names_in(serialized: Any) -> Iterator[str]:
    """Names of a serialized layer and of those inside."""
    config = serialized.get("config", {})
    yield str(config.get("name"))
    for inner in config.get("layers", ()):
        yield from _names_in(inner)
