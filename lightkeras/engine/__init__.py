"""Engines: n train steps in one compiled call, one implementation per backend."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

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


def over_devices(devices: int | str | None) -> AbstractContextManager[None]:
    """Context in which models are built on several devices; see `Engine.over`. `None` changes nothing."""
    return nullcontext() if devices is None else make_engine().over(devices)
