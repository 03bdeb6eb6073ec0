"""Keras, without what it imports to see whether it is there."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator


@contextlib.contextmanager
def tensorflow_left_out() -> Iterator[None]:
    """Tells Keras meanwhile that there is no TensorFlow, unless that was imported already.

    On other backends Keras imports it, which takes seconds, to seed it and to see whether an object that is saved
    is one of its own.
    """
    from keras.src.utils import module_utils

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
    """Keeps TensorFlow, where it only reads files, from taking the memory that JAX or PyTorch needs."""
    keras = sys.modules.get("keras")
    if keras is None or keras.backend.backend() == "tensorflow":
        return
    import tensorflow as tf

    # A RuntimeError says that TensorFlow is running already: whoever started it has decided.
    with contextlib.suppress(RuntimeError):
        tf.config.set_visible_devices([], "GPU")
