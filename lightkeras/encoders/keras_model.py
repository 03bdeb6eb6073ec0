"""A frozen Keras model as an encoder."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, final

import keras
import numpy as np

from lightkeras.data.structure import Structure, digest_of
from lightkeras.encoders.base import Encoder, join_models, model_ends
from lightkeras.system.digest import Digest


@final
class KerasEncoder(Encoder):
    """A Keras model that is not trained, run before the model on the backend that Keras runs on.

    It runs in inference mode. Its variables are neither trained nor saved with the run.
    `Task.build_encoder` may return the model itself.

    Args:
        model: A functional or sequential model with known inputs. It is frozen: `trainable` becomes False.

    Raises:
        ValueError: The model is subclassed, so that its inputs are not known.
    """

    def __init__(self, model: keras.Layer) -> None:
        if not isinstance(getattr(model, "inputs", None), list) or not isinstance(model, keras.Model):
            raise ValueError(
                f"build_encoder returned {type(model).__name__} {model.name!r}, whose inputs are not known: "
                "expected a functional or sequential model. Put a layer behind an input: "
                "keras.Sequential([keras.Input(shape), layer]). Or write a subclass of lk.Encoder."
            )
        self._model = model
        model.trainable = False
        # Computed once: weights that change later would not be those of the cached features.
        self._fingerprint = _fingerprint_of(model)

    @property
    def fingerprint(self) -> str:
        return self._fingerprint

    def encode(self, inputs: Structure) -> Structure:
        outputs = self._model(inputs, training=False)
        return keras.tree.map_structure(lambda tensor: np.array(keras.ops.convert_to_numpy(tensor)), outputs)

    def inputs(self) -> Structure:
        outputs = model_ends(self._model)[1]
        # Keras requires that an input in a dict has its key as name.
        named = outputs if isinstance(outputs, dict) else {}
        names = {id(tensor): name for name, tensor in named.items()}
        return keras.tree.map_structure(
            lambda tensor: keras.Input(tensor.shape[1:], dtype=tensor.dtype, name=names.get(id(tensor))), outputs
        )

    def join(self, model: keras.Model) -> keras.Model:
        raw = keras.tree.map_structure(
            lambda tensor: keras.Input(tensor.shape[1:], dtype=tensor.dtype, name=tensor.name),
            model_ends(self._model)[0],
        )
        return join_models(raw, self._model(raw, training=False), model, self._model.name)


def _fingerprint_of(model: keras.Model) -> str:
    """A digest of a model's layers and variables, and of the backend: other backends round differently."""
    serialized = keras.saving.serialize_keras_object(model)
    config = json.dumps(serialized, sort_keys=True, default=str)
    # Keras numbers layers in the order of creation, so that a model that is built again has other names.
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
