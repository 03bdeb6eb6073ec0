"""Engines: n train steps in one compiled call, one implementation per backend."""

from __future__ import annotations

import keras

from lightkeras.engine.base import Engine


def make_engine() -> Engine:
    """Returns the engine of the active Keras backend.

    Raises:
        NotImplementedError: lightkeras has no engine for this backend.
    """
    backend = keras.backend.backend()
    if backend == "tensorflow":
        from lightkeras.engine.tensorflow import TensorFlowEngine

        return TensorFlowEngine()
    if backend == "jax":
        from lightkeras.engine.jax import JaxEngine

        return JaxEngine()
    if backend == "torch":
        from lightkeras.engine.torch import TorchEngine

        return TorchEngine()
    raise NotImplementedError(
        f"KERAS_BACKEND is {backend!r}; lightkeras trains on 'tensorflow', 'jax' and 'torch'. "
        "Set KERAS_BACKEND to one of them before keras is imported."
    )
