"""The engine of the active Keras backend, and the processes that it shares steps with."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import keras

from lightkeras.engine.base import Engine
from lightkeras.engine.launchers import launched
from lightkeras.engine.world import ALONE, World

_joined: World = ALONE  # for the life of this process, once there are others


def make_engine() -> Engine:
    """Returns the engine of the active Keras backend, in the `current_world`.

    Raises:
        NotImplementedError: lightkeras has no engine for this backend.
    """
    engine = _engine_class()()
    engine.enter(_joined)
    return engine


def current_world() -> World:
    """Returns the processes of a run; the first call joins them if a launcher started several.

    Raises:
        ValueError: The variables of the launcher are wrong, or the backend was used before.
        WorldError: Another process did not come.
    """
    global _joined
    if _joined.processes == 1:
        _joined = _engine_class().join(launched())
    return _joined


@contextlib.contextmanager
def over_devices(devices: int | str | None) -> Iterator[None]:
    """Context in which models are built on several devices, see `Engine.over`; `None`: on one of each process."""
    if devices is None and current_world().processes == 1:
        yield
        return
    with make_engine().over(devices):
        yield


def _engine_class() -> type[Engine]:
    backend = keras.backend.backend()
    if backend == "tensorflow":
        from lightkeras.engine.tensorflow import TensorFlowEngine

        return TensorFlowEngine
    if backend == "jax":
        from lightkeras.engine.jax import JaxEngine

        return JaxEngine
    if backend == "torch":
        from lightkeras.engine.torch import TorchEngine

        return TorchEngine
    raise NotImplementedError(
        f"KERAS_BACKEND is {backend!r}; lightkeras trains on 'tensorflow', 'jax' and 'torch'. "
        "Set KERAS_BACKEND to one of them before keras is imported."
    )
