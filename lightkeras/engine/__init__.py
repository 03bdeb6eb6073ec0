"""Engines: n train steps in one compiled call, one implementation per backend."""

from __future__ import annotations

import keras

from lightkeras.engine.base import Engine


def make_engine() -> Engine:
    """The engine of the active Keras backend.

    Raises:
        NotImplementedError: There is no engine for it yet.
    """
    backend = keras.backend.backend()
    if backend == "tensorflow":
        from lightkeras.engine.tensorflow import TensorFlowEngine

        return TensorFlowEngine()
    raise NotImplementedError(
        f"KERAS_BACKEND is {backend!r}; lightkeras trains on 'tensorflow' so far. "
        "Set KERAS_BACKEND=tensorflow before keras is imported."
    )
