"""Keeps Keras from importing TensorFlow just to check whether it is installed, and TensorFlow from taking GPUs."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator


@contextlib.contextmanager
def tensorflow_left_out() -> Iterator[None]:
    """Makes Keras treat TensorFlow as not installed, unless it is imported already.

    With other backends Keras imports TensorFlow, which takes seconds, to seed it and to check whether an object that
    is saved is one of TensorFlow's.
    """
    from lightkeras.system.keras_internals.modules import module_utils

    lazy = module_utils.tensorflow
    if "tensorflow" in sys.modules:
        yield
        return
    found, lazy._available = lazy._available, False
    try:
        yield
    finally:
        lazy._available = found


def keep_gpus_free() -> None:
    """Hides the GPUs from TensorFlow if another backend computes: TensorFlow would take their memory."""
    keras = sys.modules.get("keras")
    if keras is None or keras.backend.backend() == "tensorflow":
        return
    import tensorflow as tf

    # A RuntimeError means that TensorFlow has been initialized already.
    with contextlib.suppress(RuntimeError):
        tf.config.set_visible_devices([], "GPU")
